"""The demos from end to end: what the README promises."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from atrous import demo, run_state, train
from atrous.cli import run as run_cli
from atrous.config import load, to_yaml
from atrous.errors import ConfigError
from atrous.run_folder import RunFolder
from tests.conftest import SMALL_MODEL, SMALL_PANOPTIC, TINY
from tests.runs import QUIET, Tiny

SIZES = {  # of the networks
    "demo": ("model.backbone=resnet_tiny", *(one for one in SMALL_MODEL if "backbone" not in one)),
    "panoptic_demo": SMALL_PANOPTIC,
}
SCORES = {"demo": ("miou", 0.85), "panoptic_demo": ("pq", 0.7)}  # that the demos reach, the second in half its time
SHORTER = {"demo": (), "panoptic_demo": ("train.steps=600", "optim.lr=0.012")}  # PQ 0.754; as it is, 0.80 in 8 minutes
PICTURES = {"demo": ("masks", "overlays"), "panoptic_demo": ("panoptic", "overlays", "segments")}
Shrink = Callable[..., str]


@pytest.fixture
def shrink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shrink:
    """Replaces the recipe of a demo by a tiny one with these settings."""

    def replace(name: str, *overrides: str) -> str:
        tiny = [setting for setting in TINY if not setting.startswith("model.")]
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(to_yaml(load(demo.DEMOS[name].recipe, [*SIZES[name], *tiny, *overrides])))
        monkeypatch.setitem(demo.DEMOS, name, demo.DEMOS[name]._replace(recipe=str(recipe)))
        return name

    return replace


@pytest.mark.parametrize("name", demo.DEMOS)
def test_a_small_demo_writes_what_it_names_and_is_resumed(
    name: str, shrink: Shrink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "demo")
    shrink(name, "train.steps=2", "train.eval_every=2")
    demo.run(run.path, name=name, console=Console(width=200))
    printed = capsys.readouterr().out
    metrics = json.loads((run.path / "metrics.json").read_text())
    headline = next(iter(metrics["scores"]))
    assert headline == SCORES[name][0]
    assert f" {metrics['scores'][headline]:.4f} on 3 unseen scenes. Look at" in printed
    for path in (run.report, run.path / "overlays"):
        assert str(path) in printed
        assert path.exists()
    assert demo.DEMOS[name].overlays in printed
    names = {path.stem for path in (run.path / "images").iterdir()}
    assert len(names) == demo.NUM_NEW
    for folder in PICTURES[name]:
        assert {path.stem for path in (run.path / folder).iterdir()} == names
    times = [path.stat().st_mtime_ns for path in (run.best, run.last, run.state)]
    demo.run(run.path, name=name, console=QUIET)
    assert [path.stat().st_mtime_ns for path in (run.best, run.last, run.state)] == times


@pytest.mark.parametrize("name", demo.DEMOS)
def test_a_demo_with_other_settings_is_removed_and_done_again(
    name: str, shrink: Shrink, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "demo")
    for steps in (1, 2):
        shrink(name, f"train.steps={steps}")
        demo.run(run.path, name=name, console=Console(width=200))
        printed = capsys.readouterr().out.replace("\n", "")
        assert ("holds a demo with other settings: removing it" in printed) == (steps == 2)
    assert run_state.read_state(run.state)["step"] == 2


def test_a_run_that_is_no_demo_is_not_removed(tiny: Tiny, shrink: Shrink, tmp_path: Path) -> None:
    run = train.train(tiny("train.steps=1"), tmp_path / "mine", console=QUIET)
    best = run.best.read_bytes()
    shrink("panoptic_demo")
    for _ in range(2):  # the first call leaves nothing behind that would make it one
        with pytest.raises(ConfigError, match="model"):
            demo.run(run.path, name="panoptic_demo", console=QUIET)
    assert run.best.read_bytes() == best


@pytest.mark.parametrize(("name", "options"), [("demo", []), ("panoptic_demo", ["--panoptic"])])
def test_each_demo_has_its_option_and_its_folder(
    name: str, options: list[str], shrink: Shrink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shrink(name, "train.steps=1")
    assert run_cli(["demo", *options]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name]
    assert RunFolder(tmp_path / "runs" / name).report.exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)  # beside other tests, on one core
@pytest.mark.parametrize("name", demo.DEMOS)
def test_a_demo_reaches_its_score_and_a_second_run_is_immediate(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, (score, least) = tmp_path / "demo", SCORES[name]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(load(demo.DEMOS[name].recipe, SHORTER[name])))
    monkeypatch.setitem(demo.DEMOS, name, demo.DEMOS[name]._replace(recipe=str(recipe)))
    demo.run(out, name=name, console=Console(width=120))
    assert json.loads((out / "metrics.json").read_text())["scores"][score] >= least
    assert "Look at" in capsys.readouterr().out
    HTMLParser().feed((out / "report.html").read_text())
    overlays = sorted((out / "overlays").iterdir())
    assert len(overlays) == demo.NUM_NEW
    with Image.open(overlays[0]) as overlay:
        assert overlay.size == (192, 128)
    best = (out / "best.safetensors").stat().st_mtime_ns
    demo.run(out, name=name, console=QUIET)
    assert (out / "best.safetensors").stat().st_mtime_ns == best
