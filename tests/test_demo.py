"""The demo from end to end: what the README promises."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from atrous import demo, run_folder
from atrous.config import to_yaml
from atrous.run_folder import RunFolder
from tests.runs import QUIET, Tiny


def test_a_small_demo_writes_what_it_names_and_is_resumed(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = tmp_path / "demo.yaml", RunFolder(tmp_path / "demo")
    monkeypatch.setattr(demo, "RECIPE", str(recipe))
    recipe.write_text(to_yaml(tiny("train.steps=2", "train.eval_every=2")))
    demo.run(run.path, console=Console(width=200))
    printed = capsys.readouterr().out
    scores = json.loads((run.path / "metrics.json").read_text())["scores"]
    assert f"mIoU {scores['miou']:.4f} on 3 unseen scenes. Look at" in printed
    for path in (run.report, run.path / "overlays"):
        assert str(path) in printed
        assert path.exists()
    names = {path.stem for path in (run.path / "images").iterdir()}
    assert len(names) == demo.NUM_NEW
    for folder in ("masks", "overlays"):
        assert {path.stem for path in (run.path / folder).iterdir()} == names
    times = [path.stat().st_mtime_ns for path in (run.best, run.last, run.state)]
    demo.run(run.path, console=QUIET)
    assert [path.stat().st_mtime_ns for path in (run.best, run.last, run.state)] == times


def test_a_demo_with_other_settings_is_removed_and_done_again(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = tmp_path / "demo.yaml", RunFolder(tmp_path / "demo")
    monkeypatch.setattr(demo, "RECIPE", str(recipe))
    for steps in (1, 2):
        recipe.write_text(to_yaml(tiny(f"train.steps={steps}")))
        demo.run(run.path, console=Console(width=200))
        printed = capsys.readouterr().out.replace("\n", "")
        assert ("holds a demo with other settings: removing it" in printed) == (steps == 2)
    assert run_folder.read_state(run.state)["step"] == 2


@pytest.mark.slow
def test_the_demo_reaches_its_score_and_a_second_run_is_immediate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    demo.run(out, console=Console(width=120))
    assert json.loads((out / "metrics.json").read_text())["scores"]["miou"] >= 0.85
    assert "Look at" in capsys.readouterr().out
    HTMLParser().feed((out / "report.html").read_text())
    overlays = sorted((out / "overlays").iterdir())
    assert len(overlays) == demo.NUM_NEW
    with Image.open(overlays[0]) as overlay:
        assert overlay.size == (192, 128)
    best = (out / "best.safetensors").stat().st_mtime_ns
    demo.run(out, console=QUIET)
    assert (out / "best.safetensors").stat().st_mtime_ns == best
