"""A new system is one file (all of this down to SYSTEM would be `systems/mine.py`) and one line (the fixture)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import PositiveInt

import atrous
from atrous.convert.arrays import Arrays, Shapes
from atrous.convert.layouts import Rules
from atrous.convert.run import conversion
from atrous.convert.system import Deduction, Evidence, System
from atrous.convert.systems import SYSTEMS
from atrous.inference import InferenceConfig
from atrous.models import ModelConfig, build
from atrous.models.fcn import FCN
from atrous.settings import Settings
from tests.convert.conftest import assert_refused, run


class Options(Settings):
    classes: PositiveInt | None = None
    tile: PositiveInt = 65


def recognised(shapes: Shapes) -> bool:
    return "trunk.stem.0.conv.weight" in shapes


def config(evidence: Evidence[Options]) -> Deduction:
    num_classes = evidence.shape("logits.weight")[0]
    head = {"head_channels": evidence.shape("hidden.conv.weight")[0], "auxiliary_channels": None}
    fields = {"name": "fcn", "backbone": "resnet_tiny", "num_classes": num_classes, **head}
    return Deduction(fields, {"classes": num_classes})


def rules(config: ModelConfig) -> Rules:
    return ((r"backbone\.(.*)", r"trunk.\1"), (r"head\.classify", "logits"), (r"head\.conv\.(.*)", r"hidden.\1"))


def assumptions(evidence: Evidence[Options], config: ModelConfig) -> dict[str, bool]:
    return {"tile=65 (the default)": "tile" not in evidence.options.model_fields_set}


def inference(evidence: Evidence[Options], config: ModelConfig) -> InferenceConfig:
    return InferenceConfig(mode="sliding", window=(evidence.options.tile, evidence.options.tile))


SYSTEM = System(recognised, Options, config, rules, assumptions, inference)


@pytest.fixture(autouse=True)
def line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "mine", SYSTEM)


def weights() -> tuple[FCN, Arrays]:
    """A model of ours, and its weights under the new system's names."""
    torch.manual_seed(0)
    fields = {"backbone": "resnet_tiny", "head_channels": 8, "auxiliary_channels": None}
    model = build(FCN.Config.model_validate(fields), 3)
    assert isinstance(model, FCN)
    names = SYSTEM.layout.names(model, rules(model.config))
    state = model.state_dict()
    return model, {name: state[key].numpy() for key, name in names.items()}


def test_its_weights_are_recognised_filled_and_reported() -> None:
    model, arrays = weights()
    done = conversion({**arrays, "hidden.norm.num_batches_tracked": np.array(7)})
    assert (done.system, done.num_used, done.unused) == ("mine", len(arrays), ["hidden.norm.num_batches_tracked"])
    assert done.assumptions == ["tile=65 (the default)"]
    assert done.segmenter.inference.window == (65, 65)
    for name, weight in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(done.segmenter.model.state_dict()[name], weight), name


def test_the_command_line_takes_its_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, arrays = weights()
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "mine.pth")
    assert run(tmp_path / "mine.pth", "--out", tmp_path / "m.safetensors", "tile=97") == 0
    assert "mine: fcn, resnet_tiny" in capsys.readouterr().out
    assert atrous.load(tmp_path / "m.safetensors").inference.window == (97, 97)


def test_a_bug_of_a_system_is_not_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(evidence: Evidence[Options]) -> Deduction:
        return Deduction({**config(evidence).fields, "heads_channels": 8}, {})

    monkeypatch.setitem(SYSTEMS, "mine", SYSTEM._replace(config=wrong))
    with pytest.raises(AssertionError, match="fields that fcn doesn't have"):
        conversion(weights()[1])


def test_its_errors_are_the_common_ones() -> None:
    _, arrays = weights()
    assert_refused(arrays, "classes=4, but its weights are those of classes=3", {"classes": 4})
    assert_refused(arrays, "no model depends on an option 'tiles'; did you mean tile", {"tiles": 65})
    assert_refused(arrays, "tile='wide': Input should be a valid integer", {"tile": "wide"})
    assert_refused({name: arrays[name] for name in arrays if "bias" not in name}, "weights of the model are missing")
    assert_refused({**arrays, "logits.scale": np.ones(3)}, "1 weights have no place in the model .*: logits.scale")
    assert_refused({**arrays, "logits.bias": np.ones(4)}, r"logits.bias is \[4\], not \[3\]")
    assert_refused({"x": np.ones(3)}, "known: .*, mine$")
