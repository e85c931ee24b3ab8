"""Settings of format 1 describe the same networks and the same experiment today; the golden file is of that time."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import save_file

import atrous
from atrous.backbones import BACKBONES
from atrous.config import Config, check, load
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import AtrousWarning
from atrous.losses.semantic import LossConfig, head_weight
from atrous.models import MODELS, build
from atrous.models.format_1 import ASPP, BACKBONE, DECODER, new_names, upgraded, upgraded_experiment
from atrous.run_folder import RunFolder
from atrous.run_metrics import read_rows
from atrous.run_opening import require_same
from tests.models.conftest import config_of, random_images, small

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
    assert {tree["name"] for tree in TREES} == {name for name in MODELS if "panoptic" not in name}  # which came later
    later = {"wide_resnet41", "swidernet", "resnet18s", "resnet101_caffe", "mobilenet_v3_large_tv"}
    later |= {"resnet18b", "resnet18c", "resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d"}
    later |= {"drn_d_22", "drn_d_54", *(name for name in BACKBONES if name.endswith("_d2"))}
    assert {tree["backbone"] for tree in TREES} == BACKBONES.keys() - later
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


def test_settings_of_today_are_returned_as_they_are() -> None:
    for tree in TREES:
        today = config_of(**upgraded(tree)).model_dump()
        assert upgraded(today) == today
    for name in MODELS:
        assert config_of(**upgraded({"name": name})) == config_of(name)


def test_a_setting_that_a_family_does_not_have_is_not_silently_dropped() -> None:
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


def test_flat_settings_have_names_of_today() -> None:
    assert new_names("model", "aspp_channels") == ["model.aspp.channels", "model.head_channels"]
    assert new_names("model", "decoder_strides") == ["model.decoder.strides"]
    assert new_names("model", "drop_path") == ["model.backbone.drop_path"]
    assert new_names("loss", "cascade") == ["loss.weights.cascade_0", "loss.weights.cascade_1"]
    assert new_names("model", "output_stride") == []


# ---- files


def without_name(tree: dict[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in tree.items() if field != "name"}


def test_a_model_file_of_format_1_is_read(tmp_path: Path) -> None:
    experiment = GOLDEN["experiments"][0]
    network = small("deeplab_v3plus", 8, **without_name(upgraded(experiment["model"])))
    space = LabelSpace(names=numbered_names(8))
    header = {
        "atrous_format": "1",
        "model": json.dumps(experiment["model"]),
        "label_space": space.model_dump_json(),
        "inference": "{}",
        "results": "{}",
        "training": json.dumps(experiment),
    }
    save_file(network.state_dict(), tmp_path / "model.safetensors", header)
    with pytest.warns(AtrousWarning, match="of format 1, without a checksum"):
        segmenter = atrous.load(tmp_path / "model.safetensors")
    assert segmenter.model.config == network.config
    assert segmenter.training == check(upgraded_experiment(experiment), source="here")
    state = network.state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in segmenter.model.state_dict().items())
    images = random_images(1, 33, 49)
    torch.testing.assert_close(segmenter.model(images).semantic, network(images).semantic)


def test_a_run_of_format_1_is_resumed_with_the_settings_of_today(tmp_path: Path) -> None:
    experiment = GOLDEN["experiments"][0]
    run = RunFolder(tmp_path)
    run.config.write_text(yaml.safe_dump(experiment))
    today = load("synthetic/deeplab_v3plus_tiny")
    require_same(run, today, "--resume")
    with pytest.raises(ValueError, match=r"model\.backbone\.depth_multiplier is 0\.5 here but 0\.35"):
        require_same(run, load("synthetic/deeplab_v3plus_tiny", ["model.backbone.depth_multiplier=0.5"]), "--resume")


def test_a_config_of_format_1_is_read_as_one_of_today(tmp_path: Path) -> None:
    """`atrous train runs/old/config.yaml --out runs/old --resume`, as the old version printed it."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(GOLDEN["experiments"][0]))
    assert load(str(path)) == load("synthetic/deeplab_v3plus_tiny")


def test_validations_in_the_metrics_of_format_1_have_the_form_of_today(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": 2, "loss": 1.5}, {"step": 2, "miou": 0.5, "pixel_accuracy": 0.75, "per_class": {"sky": None}}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {"miou": 0.5, "pixel_accuracy": 0.75}
    assert read_rows(path) == [rows[0], {"step": 2, "scores": scores, "classes": {"sky": None}}]
