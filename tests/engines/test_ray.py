"""Predictions on many machines: the same files as on one, each once, whatever dies on the way.

One cluster of two nodes serves all tests that need one; predictions are processes of their own, as people start them.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from atrous import cli, predict, segmenter
from atrous.data.finding import NamedImage
from atrous.data.voc import VOC
from atrous.engines import ray as engine
from atrous.engines.contract import Outcome, Predict, Work
from atrous.errors import AtrousWarning, ConfigError
from tests.conftest import noise, save
from tests.runs import QUIET

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0  # seconds, on a busy machine
SLOW = ("evaluate.scales=0.75,1,1.25,1.5", "evaluate.flip=true")
NUM_IMAGES = 24
Nodes: TypeAlias = Any  # of Ray: its Cluster
IMAGE = NamedImage(Path("a.png"), Path("a"))


# ---- without a cluster


def test_without_ray_a_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "ray.data", raising=False)
    work = Work([IMAGE], lambda image: Outcome(), lambda device: lambda image: Outcome(), None, None)
    with pytest.raises(ConfigError, match=r'--engine ray needs Ray: pip install "atrous\[ray\]"'):
        list(engine.run(work))


@pytest.mark.parametrize(
    ("resources", "kind", "slots"),
    [
        ({"CPU": 8.0}, None, (8, "cpu")),
        ({"CPU": 8.0}, "cpu", (8, "cpu")),
        ({"CPU": 8.0, "GPU": 2.0}, None, (2, "cuda")),
        ({"CPU": 8.0, "GPU": 2.0}, "cpu", (8, "cpu")),
        ({"CPU": 0.5}, None, (1, "cpu")),
    ],
)
def test_a_gpu_is_taken_where_there_is_one(
    resources: dict[str, float], kind: str | None, slots: tuple[int, str]
) -> None:
    assert engine.slots_of(resources, kind) == slots
    needs = {"num_gpus": 1} if slots[1] == "cuda" else {"num_cpus": 1}
    assert engine.slots_of(resources, kind).needs == needs


def test_devices_and_addresses_that_are_not_there_are_refused() -> None:
    for name in (None, "auto", "cpu", "cuda"):
        assert engine.device_kind(name) == (None if name == "auto" else name)
    with pytest.raises(ConfigError, match="--device cuda:1: with --engine ray it is cpu or cuda"):
        engine.device_kind("cuda:1")
    with pytest.raises(ConfigError, match="--device cuda: the Ray cluster has no GPU"):
        engine.slots_of({"CPU": 8.0}, "cuda")
    for address, reason in (
        ("ray://head:10001", "Ray's client can't do this"),
        ("head", "expected HOST:PORT of a Ray cluster, or auto, or local"),
        ("head:six", "expected HOST:PORT"),
        ("head:99999", "expected HOST:PORT"),
        (":6379", "expected HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster answers there: Connection refused"),
        ("[::1]:1", "no Ray cluster answers there: "),
    ):
        with pytest.raises(ConfigError, match=f"--address {re.escape(address)}: {reason}"):
            engine.contact(None, address)


def test_what_a_process_returns_raises_and_warns_of_arrives() -> None:
    def work(what: str) -> Outcome:
        warnings.warn(f"about {what}", AtrousWarning, stacklevel=1)
        if what == "bad":
            raise OSError(28, "cannot write x: No space left on device")
        return Outcome({Path("x/a"): Path("x")})

    good, bad = (engine.sent(*engine.attempted(work, what)) for what in ("good", "bad"))
    with pytest.warns(AtrousWarning, match="about good"):
        assert engine.received(good) == Outcome({Path("x/a"): Path("x")})
    with pytest.warns(AtrousWarning, match="about bad"), pytest.raises(OSError, match="No space left") as error:
        engine.received(bad)
    assert error.value.errno == 28
    with pytest.raises(RuntimeError, match="lambda"):
        engine.received(engine.sent(TypeError(lambda: 0), []))


def test_paths_are_right_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert engine.absolute(IMAGE).path == tmp_path / "a.png"


def test_engines_and_addresses_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--engine rai: no such engine; did you mean ray\?"):
        predict.run(tmp_path / "m", ["x"], tmp_path, engine="rai", console=QUIET)
    with pytest.raises(ConfigError, match="--address auto is that of a cluster; it needs --engine ray"):
        predict.run(tmp_path / "m", ["x"], tmp_path, address="auto", console=QUIET)


# ---- on a cluster


class Place(NamedTuple):
    """A model and images, with what the local engine makes of them."""

    model: Path
    images: Path
    expected: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    segmenter.create("deeplab_v3", num_classes=3, output_stride=32).save(folder / "model.safetensors")
    for number in range(NUM_IMAGES):
        name = f"{'deep/' if number % 2 else ''}{number}.png"
        save(folder / "images" / name, rng.integers(0, 256, (90 + number, 120, 3), dtype=np.uint8))
    predict.run(folder / "model.safetensors", [str(folder / "images")], folder / "local", SLOW, console=QUIET)
    return Place(folder / "model.safetensors", folder / "images", folder / "local")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head and one more node, each with one core. Its processes end with the tests."""
    os.environ.update(engine.QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, while it is imported
        ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        nodes = ray_cluster.Cluster(initialize_head=True, head_node_args=options)
    try:
        yield nodes
    finally:
        nodes.shutdown()


def start(cluster: Nodes, *arguments: str | Path) -> "subprocess.Popen[str]":
    words = [sys.executable, "-m", "atrous", "predict", *map(str, arguments), "--engine", "ray"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*words, "--address", cluster.address],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def results(folder: Path) -> dict[str, bytes]:
    """All that is not hidden, but the record, which names the model's place."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "atrous.json")
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: content for name, content in names.items() if not name.startswith(".")}


def rows(folder: Path) -> dict[str, list[str]]:
    """The names of the images that each process has written."""
    logs = {path.name: path.read_text().splitlines() for path in (folder / ".atrous").glob("*.jsonl")}
    return {name: [json.loads(line)["name"] for line in lines] for name, lines in logs.items()}


def wait_until(is_so: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, "it hangs"
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_machine_that_dies_half_way_changes_nothing(cluster: Nodes, place: Place, tmp_path: Path) -> None:
    (place.images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    process = start(cluster, place.model, place.images, *SLOW, "--out", tmp_path / "out")
    wait_until(lambda: [len(names) > 1 for names in rows(tmp_path / "out").values()] == [True, True], process)
    cluster.remove_node(node, allow_graceful=False)
    at_death = sum(map(len, rows(tmp_path / "out").values()))
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, errors
    assert at_death < NUM_IMAGES
    assert errors.splitlines()[-1] == f"atrous: 1 of {NUM_IMAGES + 1} failed, each named above"
    assert any(f"cannot read image {place.images}/broken.png" in line for line in errors.splitlines())
    assert f"{NUM_IMAGES} images: " in out
    assert results(tmp_path / "out") == results(place.expected)
    counts = Counter(name for names in rows(tmp_path / "out").values() for name in names)
    assert len(counts) == NUM_IMAGES
    assert set(counts.values()) == {1}

    (place.images / "broken.png").unlink()
    again = start(cluster, place.model, place.images, *SLOW, "--out", tmp_path / "out")
    out, errors = again.communicate(timeout=PATIENCE)
    assert (again.returncode, errors) == (0, "")
    assert f"with these settings: {NUM_IMAGES} of {NUM_IMAGES} images; to predict" in out
    assert out.splitlines()[-1] == "nothing was left to do"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ctrl_c_ends_it_and_the_next_one_goes_on(cluster: Nodes, place: Place, tmp_path: Path) -> None:
    first = start(cluster, place.model, place.images, *SLOW, "--out", tmp_path / "out")
    wait_until(lambda: sum(map(len, rows(tmp_path / "out").values())) > 4, first)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130
    assert errors.splitlines()[-1].startswith("atrous: interrupted; ")
    assert f" of {NUM_IMAGES} images are done" in errors
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "masks").rglob("[!.]*.png")}
    done = {name for names in rows(tmp_path / "out").values() for name in names}
    assert 4 < len(done) < NUM_IMAGES

    second = start(cluster, place.model, place.images, *SLOW, "--out", tmp_path / "out")
    _, errors = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, errors
    assert results(tmp_path / "out") == results(place.expected)
    for name in done:
        path = tmp_path / "out" / "masks" / f"{name}.png"
        assert path.stat().st_mtime_ns == times[path], name


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_archive_is_that_of_the_local_engine(cluster: Nodes, tmp_path: Path) -> None:
    for number in range(4):
        save(tmp_path / "images" / f"2008_00000{number}.png", noise(40 + number))
    segmenter.create("deeplab_v3", label_space=VOC, output_stride=32).save(tmp_path / "model.safetensors")
    words = [str(tmp_path / "images"), "--format", "voc", "--overlays", "--out"]
    assert cli.run(["predict", str(tmp_path / "model.safetensors"), *words, str(tmp_path / "local")]) == 0
    process = start(cluster, tmp_path / "model.safetensors", *words, tmp_path / "ray")
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")
    expected = results(tmp_path / "local")
    assert len(expected) == 9  # four masks and overlays, and the archive
    assert results(tmp_path / "ray") == expected


def poisoned(device: str) -> Predict:
    """A process that dies of one image."""

    def predict_one(image: NamedImage) -> Outcome:
        if image.name.name == "poison":
            os._exit(1)
        return Outcome({image.path: image.path.parent})

    return predict_one


def predict_poison(address: str) -> None:
    """In a process of its own: the outcomes as JSON."""
    images = [NamedImage(Path(f"{name}.png"), Path(name)) for name in ("a", "b", "poison", "c")]
    work = Work(images, lambda image: Outcome(), poisoned, "cpu", address)
    print(json.dumps({str(image.name): outcome.failure for image, outcome in engine.run(work)}))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_image_that_no_process_survives_is_named_and_the_others_are_done(cluster: Nodes) -> None:
    call = f"from tests.engines.test_ray import predict_poison; predict_poison({cluster.address!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", call], env=environment, text=True, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    failures = json.loads(done.stdout.splitlines()[-1])
    assert [failures[name] for name in ("a", "b", "c")] == ["", "", ""]
    assert failures["poison"].endswith(f"poison.png: {engine.DEADLY}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_of_its_own_ends_with_a_prediction_that_is_stopped(place: Place, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    words = [sys.executable, "-m", "atrous", "predict", place.model, place.images, *SLOW, "--out", tmp_path / "out"]
    mark = str(tmp_path)  # in the environment of all that it starts
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MARK_OF_THIS_TEST": mark}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [*map(str, words), "--engine", "ray"],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: sum(map(len, rows(tmp_path / "out").values())) > 1, process)
    assert len(living(mark)) > 3
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143
    assert errors.splitlines()[-1].startswith("atrous: interrupted; ")
    assert "raylet" not in out
    end = time.monotonic() + PATIENCE
    while living(mark) and time.monotonic() < end:
        time.sleep(0.2)
    assert living(mark) == []


def living(mark: str) -> list[str]:
    """The command lines of processes whose environment holds the text."""
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
