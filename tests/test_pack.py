"""`atrous pack` from end to end: what it writes, how it goes on after a kill, and what it refuses."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import atrous
from atrous import cli, data, pack, train
from atrous.config import Config, load
from atrous.data import shards, tfrecord
from atrous.errors import ConfigError, DataError
from atrous.interrupt import Interrupted
from atrous.packing.encoding import encoded
from atrous.packing.job import Item, checked_options
from atrous.packing.shards import Written, note, write_split
from tests.conftest import SHARED, SMALL_MODEL, write_folder_data
from tests.runs import QUIET, assert_same, leftover, losses, stop_after, weights

QUICK = ("augment.crop=33,49", "train.batch=2", "train.steps=6", "train.eval_every=6", "train.save_every=2")


def failure(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """The last line that a failing call prints."""
    assert cli.run([*map(str, arguments)]) == code
    return capsys.readouterr().err.strip().splitlines()[-1].removeprefix("atrous: ")


def packed(source: Path | str, out: Path, *overrides: str, **options: object) -> pack.Summary:
    return pack.run(str(source), out, overrides, checked_options(**options), console=QUIET)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder_data(tmp_path / "MYDATA")


# ---- what it writes


def test_the_verb_packs_trains_and_evaluates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = tmp_path / "shards", tmp_path / "run"
    assert cli.run(["pack", str(folder), "--out", str(out), "--workers", "0"]) == 0
    assert f"train with data.format=shards data.root={out}" in capsys.readouterr().out
    settings = [*SMALL_MODEL, *QUICK, "data.format=shards", f"data.root={out}", "--workers", "0", "--device", "cpu"]
    assert cli.run(["train", "folder/deeplab_v3plus", *settings, "--out", str(run)]) == 0
    assert cli.run(["evaluate", str(run), "--workers", "0"]) == 0


def test_the_function_does_what_the_verb_does(folder: Path, tmp_path: Path) -> None:
    index = atrous.pack(folder, out=tmp_path / "a", workers=0, console=QUIET, quality=90)  # type: ignore[operator]
    samples = data.samples(shards.Config(root=tmp_path / "a"), "train")
    assert index.splits["train"].samples == len(samples)


@pytest.mark.parametrize("options", [{}, {"for_crops": True}, {"to": "tfrecord"}], ids=str)
def test_the_index_counts_what_is_there(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    split = packed(folder, tmp_path / "out", **options).packed.splits["train"]
    originals = data.samples(load("folder/deeplab_v3plus", [f"data.root={folder}"]).data, "train")
    labels = np.concatenate([sample.semantic.ravel() for sample in originals if sample.semantic is not None])
    space = data.label_space(load("folder/deeplab_v3plus", [f"data.root={folder}"]).data)
    assert split.pixels == {name: int((labels == index).sum()) for index, name in enumerate(space.names)}
    assert split.ignored == int((labels == space.ignore).sum())
    assert sum(split.sizes.values()) == split.samples == sum(shard.samples for shard in split.shards) == len(originals)


@pytest.mark.parametrize("options", [{}, {"for_crops": True}, {"quality": 80}, {"to": "tfrecord"}], ids=str)
def test_equal_data_are_equal_bytes(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        pack.run(str(folder), tmp_path / name, (), checked_options(**options), workers=workers, console=QUIET)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    packed(folder, tmp_path / "a", **options)
    assert contents(tmp_path / "a") == contents(tmp_path / "b"), "packing once more changes nothing"


def test_images_are_kept_unless_something_else_is_asked_for(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path / "MYDATA")
    (source,) = list((root / "images" / "train").iterdir())[:1]
    name = source.stem
    out = packed(root, tmp_path / "a").out
    entry = next(one for one in data.samples(shards.Config(root=out), "train").entries if one.name == name)  # type: ignore[attr-defined]
    member = entry.files[source.suffix[1:]]
    assert entry.shard.read_bytes()[member.start :][: member.size] == source.read_bytes()
    small = data.samples(shards.Config(root=packed(root, tmp_path / "b", max_size=20, quality=90).out), "train")[0]
    assert max(small.image.shape) == 20 and small.semantic is not None
    assert small.semantic.shape == small.image.shape[:2]
    assert set(np.unique(small.semantic)) <= {0, 1, 2, 255}


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, shards.Config),
        ({"for_crops": True}, shards.Config),
        ({"to": "tfrecord", "style": "deeplab2", "num_shards": 2}, tfrecord.Config),
    ],
)
def test_things_come_back(
    tmp_path: Path, options: dict[str, object], config: Callable[..., shards.Config | tfrecord.Config]
) -> None:
    settings = ("data.num_train=3", "data.num_val=1")
    out = packed("synthetic/panoptic_demo", tmp_path / "out", *settings, **options).out
    source = load("synthetic/panoptic_demo", settings)
    originals = data.samples(source.data, "train")
    assert data.label_space(config(root=out)) == data.label_space(source.data)
    for one, other in zip(originals, data.samples(config(root=out), "train"), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.semantic, other.semantic)
        assert one.instance is not None and other.instance is not None
        pairs = set(zip(one.instance.ravel().tolist(), other.instance.ravel().tolist(), strict=True))
        assert len(pairs) == len(np.unique(one.instance)) == len(np.unique(other.instance)), "the same things"
        assert (0, 0) in pairs and other.instance.dtype == np.int32


@pytest.mark.filterwarnings("ignore::atrous.errors.AtrousWarning")
def test_a_turned_photo_is_stored_upright_for_tensorflow(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path / "MYDATA")
    path = next((root / "images" / "train").iterdir())
    image = PIL.Image.open(path).convert("RGB")
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    image.save(path.with_suffix(".png"), exif=exif)
    if path.suffix != ".png":
        path.unlink()
    for to, config in (("tfrecord", tfrecord.Config), ("shards", shards.Config)):
        out = packed(root, tmp_path / to, to=to).out
        originals = data.samples(load("folder/deeplab_v3plus", [f"data.root={root}"]).data, "train")
        for one, other in zip(originals, data.samples(config(root=out), "train"), strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.semantic, other.semantic)
    record = next(iter((tmp_path / "tfrecord").glob("train-00000*"))).read_bytes()
    assert b"eXIf" not in record


# ---- training


def training(root: Path, form: str) -> Config:
    return load("folder/deeplab_v3plus", [*SMALL_MODEL, *QUICK, f"data.format={form}", f"data.root={root}"])


@pytest.mark.parametrize("options", [{}, {"for_crops": True}, {"to": "tfrecord"}], ids=str)
def test_a_training_on_shards_is_that_on_the_folder(folder: Path, tmp_path: Path, options: dict[str, object]) -> None:
    out, form = packed(folder, tmp_path / "packed", **options).out, str(options.get("to", "shards"))
    one = train.train(training(folder, "folder"), tmp_path / "one", device="cpu", console=QUIET)
    other = train.train(training(out, form), tmp_path / "other", device="cpu", console=QUIET)
    assert [row["loss"] for row in losses(one)] == [row["loss"] for row in losses(other)]
    assert_same(weights(one), weights(other))


@pytest.mark.parametrize("buffer", [0, 2])
def test_a_training_on_shards_that_is_killed_in_an_epoch_is_resumed_bit_for_bit(
    folder: Path, tmp_path: Path, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = packed(folder, tmp_path / "packed", for_crops=True).out
    config = load(
        "folder/deeplab_v3plus",
        [*SMALL_MODEL, *QUICK, "data.format=shards", f"data.root={out}", f"data.shuffle_buffer={buffer}"],
    )
    straight = train.train(config, tmp_path / "one", device="cpu", console=QUIET)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Interrupted):
            train.train(config, tmp_path / "two", device="cpu", console=QUIET)
    resumed = train.train(config, tmp_path / "two", resume=True, device="cpu", workers=2, console=QUIET)
    assert_same(weights(straight), weights(resumed))


def test_a_resumed_training_notices_other_shards(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = packed(folder, tmp_path / "packed").out
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Interrupted):
            train.train(training(out, "shards"), tmp_path / "run", device="cpu", console=QUIET)
    for path in out.iterdir():
        path.unlink()
    packed(folder, out, quality=50)
    with pytest.raises(DataError, match="the data is not that of the run"):
        train.train(training(out, "shards"), tmp_path / "run", resume=True, device="cpu", console=QUIET)


# ---- going on


def test_a_packing_that_was_stopped_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"shard_size": 0.001}
    whole = contents(packed(folder, tmp_path / "whole", **options).out)
    inner, num_encoded = encoded, 0

    def stopping(*arguments: object) -> Item:
        nonlocal num_encoded
        num_encoded += 1
        if num_encoded == 3:
            raise KeyboardInterrupt
        return inner(*arguments)  # type: ignore[arg-type]

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("atrous.packing.shards.encoded", stopping)
        with pytest.raises(KeyboardInterrupt):
            packed(folder, out, **options)
    assert not (out / "index.json").exists() and (out / ".packing.json").exists()
    first = out / "train-000000.tar"
    time_of_first = first.stat().st_mtime_ns
    leftover(out / "train-000009.tar")
    with pytest.raises(ConfigError, match="holds the beginning of another packing"):
        packed(folder, out, quality=90, **options)
    packed(folder, out, **options)
    assert contents(out) == whole
    assert first.stat().st_mtime_ns == time_of_first, "a finished shard is kept"


def test_a_shard_that_was_damaged_meanwhile_is_written_again(folder: Path, tmp_path: Path) -> None:
    whole = contents(packed(folder, tmp_path / "whole", shard_size=0.001).out)
    out = tmp_path / "whole"
    rows: dict[str, list[Written]] = {}
    planned = pack.planned(pack.data_config(str(folder), ()), checked_options(shard_size=0.001))
    for name, samples in planned.splits.items():
        place = tmp_path / "rows"
        place.mkdir(exist_ok=True)
        rows[name] = list(write_split(place, name, samples, planned, [], 0, lambda number: None))
    (out / "index.json").unlink()
    note(out, planned, rows)
    shard = out / "train-000001.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    packed(folder, out, shard_size=0.001)
    assert contents(out) == whole


@pytest.mark.slow
def test_a_killed_packing_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atrous", "pack", "synthetic/demo", "data.num_train=200", "data.num_val=20"]
    options = ["--shard-size", "0.05", "--workers", "0"]
    subprocess.run([*command, *options, "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "out"
    for number in range(3):
        process = subprocess.Popen([*command, *options, "--out", str(out)], stderr=subprocess.DEVNULL)
        while len(list(out.glob("*.tar"))) < 2 * number + 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    leftover(out / ".packing.json")
    subprocess.run([*command, *options, "--out", str(out)], check=True, capture_output=True)
    assert contents(out) == contents(tmp_path / "whole")


# ---- what it refuses


def test_an_unreadable_image_stops_or_is_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(list((folder / "images" / "train").iterdir()))
    bad = sorted((folder / "images" / "train").iterdir())[0]
    bad.write_bytes(b"junk")
    call = ["pack", folder, "--out", tmp_path / "out", "--workers", "0"]
    assert failure(capsys, *call).startswith(f"cannot read image {bad}")
    (tmp_path / "out" / ".packing.json").unlink()
    assert "1 samples could not be read" in failure(capsys, *call, "data.on_error=skip", code=1)
    split = json.loads((tmp_path / "out" / "index.json").read_text())["splits"]["train"]
    assert split["samples"] == count - 1 and str(bad) in split["skipped"][0]
    assert len(data.samples(shards.Config(root=tmp_path / "out"), "train")) == count - 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--quality", "0"), "--quality 0: "),
        (("--quality", "101"), "--quality 101: "),
        (("--max-size", "0"), "--max-size 0: "),
        (("--to", "zip"), "--to zip: should be 'shards' or 'tfrecord'"),
        (("--style", "v3"), "--style v3: "),
        (("--shard-size", "0"), "--shard-size 0"),
        (("--num-shards", "0"), "--num-shards 0: "),
        (("--num-shards", "3"), "--num-shards: --to shards has no such option"),
        (("--style", "deeplab2"), "--style: --to shards has no such option"),
        (("--to", "tfrecord", "--shard-size", "9"), "--shard-size: --to tfrecord has no such option"),
        (("--for-crops", "--quality", "90"), "--for-crops keeps the pixels"),
        (("--for-crops", "--to", "tfrecord"), "--for-crops keeps the pixels"),
        (("--split", "tset"), "no split 'tset'"),
        (("train.steps=3",), "train.steps=3: atrous pack takes settings of data only"),
        (("data.format=voc",), "is not a dataset of data.format=voc"),
        (("data.rot=x",), "data.rot"),
    ],
)
def test_a_wrong_call_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str
) -> None:
    assert reason in failure(capsys, "pack", folder, *words, "--out", tmp_path / "out", "--workers", "0")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_taken_or_unknown_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    call = "--workers", "0", "--out"
    assert "is not empty: it holds notes.txt" in failure(capsys, "pack", folder, *call, tmp_path / "out")
    assert "no such folder" in failure(capsys, "pack", tmp_path / "nowhere", *call, tmp_path / "b")
    (tmp_path / "empty").mkdir()
    assert "has no layout that is known" in failure(capsys, "pack", tmp_path / "empty", *call, tmp_path / "b")
    packed(folder, tmp_path / "c")
    assert "holds another packed dataset" in failure(capsys, "pack", folder, "--quality", "9", *call, tmp_path / "c")
    shard = tmp_path / "c" / "train-000000.tar"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "a shard has changed since" in failure(capsys, "pack", folder, *call, tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".packing.json").write_text("[1")
    assert ".packing.json is damaged" in failure(capsys, "pack", folder, *call, tmp_path / "d")


def test_shards_can_be_packed_again(folder: Path, tmp_path: Path) -> None:
    first = packed(folder, tmp_path / "a").out
    again = packed(first, tmp_path / "b", to="tfrecord").out
    back = packed(again, tmp_path / "c").out
    for one, other in zip(*(data.samples(shards.Config(root=root), "train") for root in (first, back)), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.semantic, other.semantic)
    assert data.label_space(shards.Config(root=first)) == data.label_space(shards.Config(root=back))


VOC = SHARED / "data" / "VOCdevkit"


@pytest.mark.slow
@pytest.mark.skipif(not VOC.is_dir(), reason="the shared data are not here")
def test_real_photos_come_back(tmp_path: Path) -> None:
    out = pack.run(str(VOC), tmp_path / "voc", splits=["val"], workers=2, console=QUIET).out
    originals = data.samples(data.voc.Config(root=VOC), "val")
    for one, other in zip(originals, data.samples(shards.Config(root=out), "val"), strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.semantic, other.semantic)
