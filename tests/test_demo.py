"""The demo from end to end: what the README promises."""

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from atrous import demo


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
    demo.run(out, console=Console(quiet=True))
    assert (out / "best.safetensors").stat().st_mtime_ns == best
