"""Files that hold the weights and a moving average of them: which is taken, and that it is said."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from atrous.convert.run import conversion
from tests.convert.conftest import error_line, run
from tests.convert.readers import writers
from tests.convert.sources import half_width
from tests.reference.pytorch_programs import golden, seeded_weights

HUGGING = golden("huggingface_dm05_os16")
STEM = "mobilenet_v2.conv_stem.first_conv.convolution.weight"
OURS = "backbone.stem.conv.weight"
Weights = dict[str, Tensor]


def weights(factor: float = 1) -> Weights:
    arrays = seeded_weights(HUGGING.shapes)
    return {name: torch.from_numpy(np.array(array)) * (factor if name == STEM else 1) for name, array in arrays.items()}


def prefixed(prefix: str, values: Weights) -> Weights:
    return {f"{prefix}{name}": value for name, value in values.items()}


PLAIN, AVERAGE = weights(), weights(3)
COUNT = {"n_averaged": torch.tensor(7)}
FILES: dict[str, Mapping[str, Any]] = {
    "timm": {"state_dict": PLAIN, "state_dict_ema": AVERAGE},
    "torchvision": {"model": PLAIN, "model_ema": {**COUNT, **prefixed("module.", AVERAGE)}},
    "basicsr": {"params": PLAIN, "params_ema": AVERAGE},
    "parameters alone": {"state_dict": PLAIN, "ema_state_dict": {STEM: AVERAGE[STEM]}},
    "one mapping": {"state_dict": {**prefixed("model.", PLAIN), **prefixed("model_ema.module.", AVERAGE)}},
    "one mapping without a prefix": {**PLAIN, **prefixed("ema_model.", COUNT | prefixed("module.", AVERAGE))},
}


def stem(path: Path, **how: Any) -> Tensor:  # noqa: ANN401
    model = conversion(path, options={"output_stride": 16}, **how).segmenter.model
    weight: Tensor = model.state_dict()[OURS]
    return weight


@pytest.mark.parametrize("program", FILES)
def test_the_weights_are_taken_unless_the_average_is_asked_for(program: str, tmp_path: Path) -> None:
    torch.save(dict(FILES[program]), tmp_path / "m.pth")
    assert torch.equal(stem(tmp_path / "m.pth"), PLAIN[STEM])
    assert torch.equal(stem(tmp_path / "m.pth", ema=True), AVERAGE[STEM])
    said = conversion(tmp_path / "m.pth").assumptions
    assert any("which --ema takes" in text for text in said)
    assert not any("--ema" in text for text in conversion(tmp_path / "m.pth", ema=True).assumptions)


@pytest.mark.parametrize("key", ["message_hub", "current_model_state"])
def test_programs_that_save_the_average_as_the_weights_are_known(key: str, tmp_path: Path) -> None:
    """mmengine swaps the two for whoever loads the file, and Lightning does."""
    average = {**prefixed("module.", PLAIN), "steps": torch.tensor(3)}
    torch.save({"state_dict": AVERAGE, "ema_state_dict": average, key: {}}, tmp_path / "m.pth")
    done = conversion(tmp_path / "m.pth")
    assert torch.equal(done.segmenter.model.state_dict()[OURS], AVERAGE[STEM])
    assert any("the moving average, as which" in text for text in done.assumptions)


def test_a_file_with_an_average_alone_says_so(tmp_path: Path) -> None:
    torch.save({"model_ema": {**COUNT, **prefixed("module.", AVERAGE)}}, tmp_path / "m.pth")
    done = conversion(tmp_path / "m.pth")
    assert torch.equal(done.segmenter.model.state_dict()[OURS], AVERAGE[STEM])
    assert any("the moving average, as which" in text for text in done.assumptions)


@pytest.mark.parametrize("key", [None, "model"])
def test_an_averaged_model_saved_alone_says_so(key: str | None, tmp_path: Path) -> None:
    """`torch.optim.swa_utils.AveragedModel` counts its steps beside the network."""
    average = {**COUNT, **prefixed("module.", AVERAGE)}
    torch.save({key: average} if key else average, tmp_path / "m.pth")
    done = conversion(tmp_path / "m.pth")
    assert torch.equal(done.segmenter.model.state_dict()[OURS], AVERAGE[STEM])
    assert any("the moving average, as which" in text for text in done.assumptions)


def test_an_average_of_something_else_is_none(tmp_path: Path) -> None:
    torch.save({"state_dict": PLAIN, "ema": {"loss": torch.ones(1)}}, tmp_path / "m.pth")
    assert not any("--ema" in text for text in conversion(tmp_path / "m.pth").assumptions)


def test_safetensors_may_hold_both(tmp_path: Path) -> None:
    save_file({**PLAIN, **prefixed("model_ema.", AVERAGE)}, tmp_path / "m.safetensors")
    assert torch.equal(stem(tmp_path / "m.safetensors", ema=True), AVERAGE[STEM])


def test_checkpoints_of_tensorflow_may_hold_both(tmp_path: Path) -> None:
    arrays = half_width()
    name = "MobilenetV2/Conv/weights"
    average = {f"{one}/ExponentialMovingAverage": 3 * array if one == name else array for one, array in arrays.items()}
    writers.write_checkpoint(tmp_path / "model.ckpt-1", {**arrays, **average})
    plain, done = (
        conversion(tmp_path / "model.ckpt-1", ema=ema).segmenter.model.state_dict()[OURS] for ema in (False, True)
    )
    torch.testing.assert_close(done, 3 * plain)


def test_without_an_average_the_option_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(PLAIN, tmp_path / "m.pth")
    line = error_line(capsys, tmp_path / "m.pth", "--ema", "--out", tmp_path / "o.safetensors")
    assert "holds no moving average beside its weights" in line
    assert not (tmp_path / "o.safetensors").exists()


def test_the_option_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(dict(FILES["timm"]), tmp_path / "m.pth")
    assert run(tmp_path / "m.pth", "--ema", "--out", tmp_path / "o.safetensors") == 0
    assert "--ema" not in capsys.readouterr().out
    assert run(tmp_path / "m.pth", "--out", tmp_path / "o.safetensors") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "assumed: the weights themselves: the file also has a moving average" in printed


def test_a_damaged_average_is_refused(tmp_path: Path) -> None:
    broken = {**AVERAGE, STEM: torch.full_like(AVERAGE[STEM], torch.nan)}
    torch.save({"state_dict": PLAIN, "state_dict_ema": broken}, tmp_path / "m.pth")
    assert torch.equal(stem(tmp_path / "m.pth"), PLAIN[STEM])
    with pytest.raises(ValueError, match="not finite"):
        conversion(tmp_path / "m.pth", ema=True)
