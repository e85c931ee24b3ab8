"""`atrous bench`: figures of known times, processes that fail, what is refused, and one real measurement."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import atrous
from atrous import bench, cli
from atrous.benching import entries, page, process, turns
from atrous.benching.rows import Bench, Entry, Options, Row
from atrous.deployed import Export
from atrous.run_folder import RunFolder
from atrous.runtimes import RUNTIMES
from atrous.runtimes.pytorch import has_bf16
from atrous.segmenter import Segmenter
from tests.runs import QUIET

STAND_IN = """
import json, sys
order = json.loads(sys.stdin.readline())
print("a line of some library")
print(json.dumps({"opened": 0.5, "size": order["size"] or [33, 49]}), flush=True)
for line in sys.stdin:
    turn = json.loads(line)
    FAILURE
    times = {"single": [0.1, 0.3], "batch": [0.8], "score": []}[turn["kind"]]
    scores = {"evaluation": {"scores": {"miou": 0.75}, "protocol": {"images": "2"}}, "title": "mIoU"}
    print(json.dumps({"times": times, "peak": 2**20 if turn["kind"] == "single" else 2**21, **scores}), flush=True)
"""
FAILURES = {
    "batch": """if turn["kind"] == "batch":
        print(json.dumps({"error": "it needs more memory"}), flush=True)
        continue""",
    "dies": """sys.exit("a library is broken")""",
}
ROW = Row(Entry(Path("m.safetensors"), "pytorch", "fp32"), size=(33, 49))


@pytest.fixture
def model(small: Segmenter, tmp_path: Path) -> Path:
    small.save(tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In place of the processes that measure, one that needs no time, and answers what is known."""
    use_stand_in(monkeypatch, "")
    yield


def use_stand_in(monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    script = STAND_IN.replace("FAILURE", failure or "pass")
    monkeypatch.setattr(turns, "COMMAND", (sys.executable, "-c", script))


def only_pytorch(path: Path, *words: str) -> list[str]:
    return ["bench", str(path), "--runtimes", "pytorch", "--precisions", "fp32", "--device", "cpu", *words]


# ---- figures


def test_median_and_ninth_of_ten() -> None:
    row = ROW._replace(times=tuple(n / 10 for n in (9, 1, 2, 3, 4, 5, 6, 7, 8, 100)))
    assert row.latency == 0.55 and row.p90 == 0.9
    assert row.throughput == pytest.approx(10 / 14.5)
    assert ROW._replace(times=(0.3,)).p90 == 0.3


def test_throughput_of_a_batch_counts_its_images() -> None:
    row = ROW._replace(batch=4, batch_times=(0.5, 1.5))
    assert row.batch_throughput == 4.0


def test_rows_that_failed_come_last_and_the_fastest_first() -> None:
    slow, fast, failed = (ROW._replace(times=times) for times in ((0.4,), (0.2,), ()))
    assert page.ranked([failed, slow, fast]) == (fast, slow, failed)


def test_single_images_come_before_the_batches_that_raise_the_peak() -> None:
    assert list(turns.turns(2, is_scored=True)) == [
        ("single", 0),
        ("single", 1),
        ("batch", 0),
        ("batch", 1),
        ("score", 0),
    ]


# ---- the verb, with processes that answer what is known


@pytest.mark.usefixtures("stand_in")
def test_table_json_and_page(model: Path, folder_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, html = model.with_name("a.json"), model.with_name("a.html")
    words = ["--rounds", "3", "--batch", "2", "--json", str(figures), "--html", str(html)]
    data = [f"data.root={folder_data}", "data.format=folder", "data.names=[sky,road,car]", "data.ignore=255"]
    assert cli.run(only_pytorch(model, *words, *data)) == 0
    output = capsys.readouterr().out
    assert re.search(r"median ms +p90 ms +images/s +images/s, batch +peak MiB +mIoU", output)
    assert re.search(r"pytorch +fp32 +200.0 +300.0 +5.00 +2.50 +1 +0.750", output)
    tree = json.loads(figures.read_text())
    (row,) = tree["rows"]
    assert row["seconds"] == [0.1, 0.3] * 3 and row["batch_seconds"] == [0.8] * 3
    assert row["peak_bytes"] == 2**20 and row["batch_peak_bytes"] == 2**21
    assert row["evaluation"]["scores"]["miou"] == 0.75
    assert tree["protocol"]["input"] == "33 x 49, a painted street"
    page = html.read_text()
    assert "<svg" in page and "mIoU against latency" in page and "pytorch fp32" in page


@pytest.mark.usefixtures("stand_in")
def test_without_data_there_is_no_plot(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html = model.with_name("a.html")
    assert cli.run(only_pytorch(model, "--html", str(html), "--size", "40,50")) == 0
    assert "<svg" not in html.read_text()
    output = capsys.readouterr().out
    assert "mIoU" not in output and "40 x 50" in output


@pytest.mark.parametrize(
    ("failure", "message"),
    [("batch", "failed: it needs more memory"), ("dies", "exit code 1: a library is broken")],
)
def test_a_row_that_fails_says_why(
    failure: str, message: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_stand_in(monkeypatch, FAILURES[failure])
    figures = model.with_name("a.json")
    assert cli.run(only_pytorch(model, "--json", str(figures))) == 1
    assert message in capsys.readouterr().out
    (row,) = json.loads(figures.read_text())["rows"]
    assert bool(row["seconds"]) == (failure == "batch"), "what was measured before it failed is kept"


def test_the_others_are_measured_where_one_fails(
    small: Segmenter, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = model.with_name("other.safetensors")
    small.save(other)
    use_stand_in(monkeypatch, 'if order["path"].endswith("other.safetensors"): sys.exit("broken")')
    assert cli.run([*only_pytorch(model), str(other)]) == 1
    output = capsys.readouterr().out
    assert re.search(r"^m.safetensors: pytorch +fp32 +200.0", output, re.MULTILINE)
    assert re.search(r"^other.safetensors: pytorch +fp32 +failed: .*broken", output, re.MULTILINE)


def test_a_process_that_hangs_is_given_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_stand_in(monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(turns, "MAX_SECONDS", 1.0)
    result = bench.run([model], options=Options(device="cpu"), runtimes=["pytorch"], console=QUIET)
    assert all(re.match("no answer within 1 s", row.error) for row in result.rows)
    assert not result.is_complete


@pytest.mark.usefixtures("stand_in")
def test_a_runtime_that_is_missing_is_said_and_refused_by_name(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, row in RUNTIMES.items():
        missing = ("no_such_package",) if name != "pytorch" else ()
        monkeypatch.setitem(RUNTIMES, name, row._replace(packages=missing))
    assert cli.run(["bench", str(model), "--precisions", "fp32", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "onnx: not installed; pip install 'atrous[onnx]'" in output and output.count("fp32") == 1
    assert cli.run(["bench", str(model), "--runtimes", "onnx", "--device", "cpu"]) == 2
    assert "--runtimes onnx needs no_such_package: pip install 'atrous[onnx]'" in capsys.readouterr().err


# ---- what is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--runtimes", "tensorrt"), "--runtimes tensorrt: expected some of pytorch, "),
        (("--precisions", "fp8"), "--precisions fp8: expected some of fp32, bf16, int8"),
        (("--runtimes", "pytorch", "--precisions", "int8"), "--precisions int8: nothing here computes "),
        (("--batch", "0"), "--batch 0: must be 1 or more"),
        (("--rounds", "-1"), "--rounds -1: must be 1 or more"),
        (("--repeats", "0"), "--repeats 0: must be 1 or more"),
        (("--threads", "0"), "--threads 0: must be 1 or more"),
        (("--seconds", "0"), "--seconds 0: must be above 0"),
        (("--seconds", "nan"), "--seconds nan: must be above 0"),
        (("--seconds", "inf"), "--seconds inf: must be above 0"),
        (("--size", "0,9"), "--size 0,9: must be height and width"),
        (("--image", "missing.jpg"), "missing.jpg"),
        (("--json", "/proc/none/a.json"), "/proc/none"),
        (("evaluate.flop=true",), "evaluate.flop: unknown key; did you mean evaluate.flip?"),
        (("train.steps=3",), "train.steps=3: only settings of data, evaluate and decode apply to a benchmark"),
        (("data.root=missing", "data.format=folder"), "missing"),
        (("missing.safetensors",), "missing.safetensors"),
        (("--device", "tpu"), "tpu"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_a_wrong_call_is_one_line(
    words: tuple[str, ...], message: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["bench", str(model), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07\x12\x04", b"PK\x03\x04rest"])
def test_a_file_that_is_no_model_is_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    assert cli.run(["bench", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---- the process that measures


def answers(order: dict[str, Any], turns: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    lines = io.StringIO("".join(json.dumps(turn) + "\n" for turn in turns))
    monkeypatch.setattr("sys.stdin", lines)
    told: list[Any] = []
    monkeypatch.setattr(process, "tell", told.append)
    process.answer(lambda: process.serve(order))
    return told


def order_of(path: Path, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    plain: dict[str, Any] = {"size": None, "image": None, "batch": 2, "threads": 1, "device": "cpu", "overrides": []}
    return {"path": str(path), "runtime": "pytorch", "precision": "fp32", **plain, **changes}


TURN = {"kind": "single", "is_first": True, "seconds": 0.0, "repeats": 2, "overrides": []}


def test_turns_are_answered_in_order(model: Path, folder_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = [f"data.root={folder_data}", "data.format=folder", "data.names=[sky,road,car]", "evaluate.flip=false"]
    score = {**TURN, "kind": "score", "overrides": data}
    turns = [
        TURN,
        {**TURN, "kind": "batch", "repeats": None},
        score,
        {**score, "overrides": [*data, "data.root=missing"]},
    ]
    opened, single, batch, scored, failed = answers(order_of(model), turns, monkeypatch)
    assert opened["size"] == (49, 65), "the crop of the training"
    assert len(single["times"]) == 2 and min(single["times"]) > 0 and single["peak"] > 2**20
    assert len(batch["times"]) == 1
    assert scored["title"] == "mIoU" and 0 <= scored["evaluation"]["scores"]["miou"] <= 1
    assert "missing" in failed["error"], "the process goes on after a turn that failed"


def test_a_model_that_cannot_be_opened_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (told,) = answers(order_of(tmp_path / "none.safetensors"), [], monkeypatch)
    assert "none.safetensors" in told["error"]


def test_pictures_differ_and_have_the_size() -> None:
    one, two = process.pictures(None, (40, 60), 2)
    assert one.shape == two.shape == (40, 60, 3) and (one != two).any()


@pytest.mark.slow
def test_bench_as_a_function(finished: RunFolder, tmp_path: Path) -> None:
    """Measured for real: the run's best model, in a process of its own."""
    result: Bench = atrous.bench(  # type: ignore[operator]
        finished.path,
        runtimes="pytorch",
        precisions=["fp32"],
        size=(33, 49),
        batch=1,
        rounds=1,
        repeats=1,
        json=tmp_path / "a.json",
        console=QUIET,
        **{"data.num_val": 1},
    )
    (row,) = result.rows
    assert not row.error and row.size == (33, 49)
    assert 0 < row.latency < 600 and row.peak > 50 * 2**20
    assert row.score is not None and result.title == "mIoU"
    assert json.loads((tmp_path / "a.json").read_text())["rows"][0]["runtime"] == "pytorch"


def test_precisions_follow_the_processor(model: Path) -> None:
    cpu = torch.device("cpu")
    assert entries.precisions_of(model, "pytorch", cpu) == ["fp32", *(["bf16"] if has_bf16(cpu) else [])]


def test_a_file_in_integers_has_one_row(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = atrous.load(model).network.facts._replace(int8=True)
    export = Export(facts=facts, outputs=("labels", "logits"), pads=True, is_scaled=False)
    monkeypatch.setattr("atrous.model_file.read_metadata", lambda path: {"export": export.model_dump_json()})
    assert entries.precisions_of(model, "openvino", torch.device("cpu")) == ["int8"]
