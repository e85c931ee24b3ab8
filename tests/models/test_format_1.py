"""Settings of format 1 describe the same networks and the same experiment today; the golden file is of that time."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from atrous.backbones import BACKBONES
from atrous.config import Config, check
from atrous.losses.semantic import LossConfig, head_weight
from atrous.models import MODELS, build
from atrous.models.format_1 import ASPP, BACKBONE, DECODER, new_names, upgraded, upgraded_experiment
from tests.models.conftest import config_of

GOLDEN = json.loads((Path(__file__).parents[1] / "goldens" / "format_1.json").read_text(encoding="utf-8"))
TREES = [row["model"] for row in GOLDEN["models"]]


@pytest.mark.parametrize(
    "row", GOLDEN["models"], ids=[f"{i}-{tree['name']}-{tree['backbone']}" for i, tree in enumerate(TREES)]
)
def test_the_network_is_the_same(row: dict[str, Any]) -> None:
    config = config_of(**upgraded(row["model"]))
    with torch.device("meta"):
        state = build(config, 21).state_dict()
    names = "\n".join(f"{name} {list(weight.shape)}" for name, weight in state.items())
    assert zlib.crc32(names.encode()) == row["weights"]
    assert (config.logits_stride, config.convention) == (row["logits_stride"], row["convention"])


def test_the_golden_file_has_every_model_and_backbone_and_changes_every_setting() -> None:
    assert {tree["name"] for tree in TREES} == MODELS.keys()
    assert {tree["backbone"] for tree in TREES} == BACKBONES.keys()
    values = {(field, json.dumps(value)) for tree in TREES for field, value in tree.items()}
    for field in {*BACKBONE, *ASPP, *DECODER, "image_pyramid", "merge", "align_corners"}:
        assert len({value for name, value in values if name == field}) > 1, field


def test_settings_are_where_they_belong_today() -> None:
    flat = {
        "name": "deeplab_v3plus",
        "backbone": "mobilenet_v2",
        "output_stride": 8,
        **BACKBONE,
        "depth_multiplier": 0.5,
        "rates": [2, 4, 6],
        "aspp_channels": 64,
        "separable": False,
        "decoder_strides": [8, 4],
        "decoder_channels": 32,
        "decoder_separable": None,
        "image_pyramid": [1.0],
        "merge": "max",
        "align_corners": True,
    }
    assert upgraded(flat) == {
        "name": "deeplab_v3plus",
        "backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.5, "divisible_by": None, "bounded": False},
        "output_stride": 8,
        "aspp": {"rates": [2, 4, 6], "channels": 64, "separable": False},
        "decoder": {"strides": [8, 4], "channels": 32, "separable": None},
        "image_pyramid": [1.0],
        "merge": "max",
        "align_corners": True,
    }


def test_a_model_keeps_a_setting_of_its_own_that_others_have_in_a_section() -> None:
    for name, field, value in (
        ("deeplab_v2", "rates", [6, 12]),
        ("deeplab_v2", "dropout", 0.2),
        ("dense_prediction_cell", "pooling_window", [33, 33]),
        ("lraspp", "squeeze", "sigmoid"),
        ("fcn", "align_corners", False),
    ):
        assert upgraded({"name": name, field: value}) == {"name": name, field: value}
    assert upgraded({"name": "lraspp", "aspp_channels": 64}) == {"name": "lraspp", "head_channels": 64}


@pytest.mark.parametrize("tree", TREES)
def test_settings_of_today_are_returned_as_they_are(tree: dict[str, Any]) -> None:
    today = config_of(**upgraded(tree)).model_dump()
    assert upgraded(today) == today
    assert config_of(**upgraded({"name": tree["name"]})) == config_of(tree["name"])


def test_a_setting_that_a_family_does_not_have_is_not_dropped_in_silence() -> None:
    tree = upgraded({"name": "pspnet", "backbone": "resnet50s", "depth_multiplier": 0.5, "drop_path": 0.0})
    with pytest.raises(ValidationError, match="Extra inputs"):
        config_of(**tree)
    with pytest.raises(ValidationError, match="resnet49"):
        config_of(**upgraded({"name": "pspnet", "backbone": "resnet49", "depth_multiplier": 1.0}))


@pytest.mark.parametrize(("index", "weights"), [(0, {}), (1, {"auxiliary": 0.2, "presence": 0.1, "cascade_0": 0.5})])
def test_an_experiment_weights_its_heads_as_before(index: int, weights: dict[str, float]) -> None:
    tree = GOLDEN["experiments"][index]
    config = check(upgraded_experiment(tree), source="config.yaml")
    assert isinstance(config.loss, LossConfig)
    assert config.loss.weights == weights
    for head, flat in (("auxiliary", "auxiliary"), ("presence", "presence")):
        assert head_weight(config.loss, head) == tree["loss"][flat]
    assert [head_weight(config.loss, f"cascade_{level}") for level in (0, 1)] == tree["loss"]["cascade"]
    assert config.model.backbone.name == tree["model"]["backbone"]
    today = Config.model_validate(config).model_dump()
    assert upgraded_experiment(today) == today


def test_flat_settings_are_told_by_their_names_of_today() -> None:
    assert new_names("model", "aspp_channels") == ["model.aspp.channels", "model.head_channels"]
    assert new_names("model", "decoder_strides") == ["model.decoder.strides"]
    assert new_names("model", "drop_path") == ["model.backbone.drop_path"]
    assert new_names("loss", "cascade") == ["loss.weights.cascade_0", "loss.weights.cascade_1"]
    assert new_names("model", "output_stride") == []
