"""benchmarks/same_numbers.py: equal checkouts are identical, and a changed number is found wherever it is."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.same_numbers import ROOT, Numbers, first_difference, main, read_numbers

SCRIPT = ROOT / "benchmarks" / "same_numbers.py"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), "--steps", "4", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def example(*, loss: str = "2.5", iou: str = "0.5", cell: str = "3.0", weight: float = 0.0, name: str = "w") -> Numbers:
    tensors = {f"last: {name}": torch.tensor([weight, 1.0])}
    return Numbers({"step 1: loss": loss}, {"step 2: iou of road": iou}, {"confusion 0.1": cell}, tensors)


def test_each_kind_of_difference_is_found() -> None:
    there = example()
    assert first_difference(there, example()) is None
    cases = {
        "step 1: loss: 2.5 there, 2.5000000000000004 here": example(loss="2.5000000000000004"),
        "step 2: iou of road: 0.5 there, None here": example(iou="None"),
        "confusion 0.1: 3.0 there, 4.0 here": example(cell="4.0"),
        "last: w: differs by at most 1e-07": example(weight=1e-7),
        "last: w: differs by at most 0": example(weight=-0.0),
        "last: w: missing here": example(name="v"),
        "step 1: loss: missing here": example()._replace(steps={}),
    }
    for expected, here in cases.items():
        assert first_difference(there, here) == expected
    more = example()._replace(tensors={**there.tensors, "last: v": torch.zeros(1)})
    assert first_difference(there, more) == "last: v: only here"
    half = example()._replace(tensors={"last: w": torch.zeros(3).half()})
    assert first_difference(there, half) == "last: w: [2] torch.float32 there, [3] torch.float16 here"


def test_figures_that_only_the_newer_checkout_reports_are_no_difference() -> None:
    there = example()
    assert first_difference(there, there._replace(steps={**there.steps, "step 1: gradient_norm": "1.0"})) is None


def test_scores_are_found_by_whichever_name_a_revision_gives_them(tmp_path: Path) -> None:
    rows = {
        "before": '{"step": 2, "miou": 0.25, "per_class": {"road": 0.5, "car": null}}',
        "after": '{"step": 2, "scores": {"miou": 0.25}, "classes": {"road": 0.5, "car": null}}',
    }
    results = {
        "before": '{"miou": 0.25, "confusion": [[1, 2], [3, 4]]}',
        "after": '{"figures": {"confusion": [[1, 2], [3, 4]]}}',
    }
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(f'{{"step": 1, "loss": 2, "images_per_second": 9.5}}\n{row}\n')
        for stem in ("best", "last"):
            save_file({"w": torch.ones(2)}, tmp_path / name / f"{stem}.safetensors", {"results": results[name]})
    before, after = (read_numbers(tmp_path / name) for name in rows)
    assert before.steps == {"step 1: step": "1.0", "step 1: loss": "2.0"}
    assert before.validations.keys() == {f"step 2: {name}" for name in ("step", "miou", "iou of road", "iou of car")}
    assert before.results.keys() == {"confusion 0.0", "confusion 0.1", "confusion 1.0", "confusion 1.1"}
    assert first_difference(before, after) is None


@pytest.mark.slow
def test_a_checkout_equals_itself() -> None:
    result = run("--there", str(ROOT), "--setting", "plain")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("| plain | 4 | 2 |")
    assert result.stdout.rstrip().endswith("| identical |")


@pytest.mark.slow
def test_one_changed_number_in_a_checkout_is_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "atrous", tmp_path / "atrous", ignore=shutil.ignore_patterns("__pycache__"))
    recipe = tmp_path / "atrous" / "recipes" / "synthetic" / "deeplab_v3plus_tiny.yaml"
    text = recipe.read_text()
    assert "lr: 0.004," in text
    recipe.write_text(text.replace("lr: 0.004,", "lr: 0.004000001,"))
    result = run("--there", str(ROOT), "--here", str(tmp_path), "--setting", "plain")
    assert result.returncode == 1, result.stderr
    assert "learning_rate: " in result.stdout


def test_an_unknown_setting_or_revision_is_refused() -> None:
    with pytest.raises(SystemExit, match="--setting pain: unknown; known: plain;"):
        main(setting=["pain"])
    with pytest.raises(SystemExit, match="--against nonesuch: "):
        main(against="nonesuch")
