"""timm's networks as backbones: which can be used, how, and what the others are refused for."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import save_file
from torch import nn

from atrous import config as configs
from atrous import models, optim, pretrained, segmenter, train
from atrous.backbones import AnyBackboneConfig, Backbone, BackboneConfig, build_backbone
from atrous.backbones import timm as timms
from atrous.config import Config, load, override
from atrous.errors import ConfigError, ConversionError, ModelFileError
from atrous.layers.synchronized import synchronized
from atrous.reuse import Reused
from tests.conftest import RECIPE, TINY, noise
from tests.runs import QUIET, assert_same, weights

pytestmark = pytest.mark.usefixtures("timm")

ALL, NONE = (8, 16, 32), (32,)  # output strides
WORKS = {  # a small network of each kind: its output strides, and the multiple that sides of images are padded to
    "resnet18": (ALL, 1),
    "regnety_002": (ALL, 1),
    "efficientnet_b0": (ALL, 1),
    "mobilenetv3_small_050": (ALL, 1),
    "convnextv2_atto": (ALL, 32),
    "eca_nfnet_l0": (ALL, 1),
    "swinv2_cr_tiny_224": (NONE, 32),
    "pvt_v2_b0": (NONE, 1),
    "hrnet_w18_small": (NONE, 32),
    "densenet121": (NONE, 32),
    "edgenext_xx_small": (NONE, 32),
    "maxvit_rmlp_pico_rw_256": (NONE, 256),
}
REFUSED = {
    "vit_tiny_patch16_224": "has feature maps at strides 16; a backbone needs them at 16 and 32",
    "nest_tiny": "has feature maps at strides 4, 8, 16",
    "coat_tiny": "takes images of one size only, 224 x 224",
    "legacy_xception": "has maps",
}
QUICK = ("resnet18", "convnextv2_atto")


def read(settings: object) -> BackboneConfig:
    config: BackboneConfig = TypeAdapter(AnyBackboneConfig).validate_python(settings)
    return config


def built(name: str, output_stride: int = 32) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(read(f"timm:{name}"), output_stride)


def network_of(backbone: Backbone) -> nn.Module:
    return backbone.get_submodule("network")


# ---- what holds for each family


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WORKS]
)
def test_a_family_has_its_maps_for_any_size_of_image(name: str) -> None:
    strides, multiple = WORKS[name]
    config = read(f"timm:{name}")
    assert config.output_strides == strides
    assert timms.use(config.name, 32).multiple == multiple
    backbone = built(name).eval()
    with torch.no_grad():
        for height, width in ((70, 45), (64, 96)):
            features = backbone(torch.randn(1, 3, height, width))
            assert {tap: tuple(x.shape) for tap, x in features.items()} == {
                tap: (1, backbone.channels[tap], -(-height // stride), -(-width // stride))
                for tap, stride in backbone.strides.items()
            }
    assert {"c3", "c4", "c5", "low_level_8", "low_level_16"} <= features.keys()
    assert all(x.isfinite().all() for x in features.values())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WORKS]
)
def test_its_maps_are_timms_own(name: str, timm: Any) -> None:  # noqa: ANN401
    size = timms._own_size(network_of(built(name)))
    backbone = built(name).eval()
    own = timm.create_model(name, features_only=True, pretrained=False).eval()
    own.load_state_dict(network_of(backbone).state_dict(), strict=False)
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        maps = {x.shape[-3:]: x for x in own(images)} | {x.permute(0, 3, 1, 2).shape[-3:]: x for x in own(images)}
        for tap, x in backbone(images).items():
            expected = maps[x.shape[-3:]]
            expected = expected if expected.shape == x.shape else expected.permute(0, 3, 1, 2)
            torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5, msg=tap)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in WORKS]
)
def test_it_trains_is_copied_and_is_rebuilt_without_memory(name: str) -> None:
    backbone = built(name)
    features = backbone(torch.randn(2, 3, 65, 65))
    torch.autograd.backward([x.square().mean() for x in features.values()])
    unreached = [key for key, p in backbone.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == []
    with torch.device("meta"):
        other = build_backbone(read(f"timm:{name}"), 32)
    other.load_state_dict(backbone.state_dict(), assign=True)
    images = torch.randn(1, 3, 65, 33)
    with torch.no_grad():
        expected = backbone.eval()(images)
        for copied in (other.eval(), copy.deepcopy(backbone)):
            assert all(torch.equal(x, expected[tap]) for tap, x in copied(images).items())


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_for_a_reason(name: str) -> None:
    with pytest.raises(ValidationError) as error:
        read(f"timm:{name}")
    (details,) = error.value.errors()
    assert f"timm:{name} {REFUSED[name]}" in details["msg"]
    assert "\n" not in details["msg"]


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_atrous_features_are_the_strided_ones_with_others_in_between(name: str, output_stride: int) -> None:
    strided, dense = built(name).double().eval(), built(name, output_stride).double().eval()
    dense.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 33, 65, dtype=torch.float64)
    step = 32 // output_stride
    with torch.no_grad():
        expected, x = strided(images)["c5"], dense(images)["c5"]
    assert x.shape[-2:] == (32 // output_stride + 1, 64 // output_stride + 1)
    torch.testing.assert_close(x[..., ::step, ::step], expected, rtol=1e-9, atol=1e-9)


def test_padding_is_the_mean_colour_below_and_beside() -> None:
    backbone = built("convnextv2_atto").eval()
    images = torch.randn(1, 3, 65, 97)
    larger = torch.zeros(1, 3, 96, 128)
    larger[..., :65, :97] = images
    with torch.no_grad():
        cropped = {tap: x[..., : -(-65 // backbone.strides[tap]), :] for tap, x in backbone(larger).items()}
        for tap, x in backbone(images).items():
            assert torch.equal(x, cropped[tap][..., : x.shape[-1]])


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("tf_efficientnet_b0.ap_in1k", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("resnet50.a1_in1k", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("resnet50_clip.openai", (122.7709, 116.746, 104.0937), (68.5005, 66.6322, 70.3232)),
    ],
)
def test_images_are_normalised_as_timms_weights_expect(name: str, mean: object, std: object) -> None:
    backbone = built(name)
    assert (backbone.mean, backbone.std) == (mean, std)


# ---- names and settings


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.backbone=timm:resnett18"], "no network of this name; did you mean timm:resnet18 or"),
        (["model.backbone=timm:"], "timm:: timm 1.0.31 has no network of this name; timm.list_models() has all"),
        (["model.backbone=timm:hf-hub:timm/resnet18"], "no network of this name"),
        (["model.backbone=timm:../resnet18"], "no network of this name"),
        (["model.backbone=timm:resnet*"], "no network of this name"),
        (["model.backbone=timm:ResNet18"], "did you mean timm:resnet18"),
        (["model.backbone=timm:resnet18.mine"], "no such weights of resnet18; tags: a1_in1k, a2_in1k"),
        (["model.backbone=timm:vit_tiny_patch16_224"], "has feature maps at strides 16; a backbone"),
        (["model.backbone=timm:densenet121"], "model: timm:densenet121 has output_stride 32, not 16"),
        (["model.backbone=timm:resnet18", "model.backbone.multi_grid=1,2"], "multi_grid: unknown key"),
        (["model.backbone=timm:resnet18", "model.backbone.drop_path=1"], "model.backbone.drop_path=1: must be less"),
        (["model.backbone=timm:densenet121", "model.backbone.drop_path=0.1"], "has no paths that could be dropped"),
        (["model.backbone=tim:resnet18"], "unknown backbone"),
        (["model.backbone=resnet18.a1_in1k"], "unknown backbone"),
    ],
)
def test_a_wrong_name_or_setting_is_explained_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(RECIPE, overrides)
    assert message in str(error.value)
    assert str(error.value).startswith("model") and str(error.value).endswith("(on the command line)")
    assert "\n" not in str(error.value)


def test_a_config_goes_through_yaml_and_back() -> None:
    config = load(RECIPE, ["model.backbone=timm:resnet18", "model.backbone.drop_path=0.1"])
    assert config.model.backbone == read({"name": "timm:resnet18", "drop_path": 0.1})
    tree = json.loads(config.model_dump_json())
    assert tree["model"]["backbone"] == {"name": "timm:resnet18", "bounded": False, "drop_path": 0.1}
    assert Config.model_validate(tree) == config


def test_settings_of_another_family_are_left_out_when_the_backbone_changes() -> None:
    narrow = load(RECIPE, ["model.backbone.depth_multiplier=0.5"])
    config = override(narrow, ["model.backbone=timm:resnet18"], RECIPE)
    assert config.model.backbone == read("timm:resnet18")


def test_known_keys_are_those_of_the_family() -> None:
    keys = configs.known_keys({"model": {"name": "deeplab_v3", "backbone": {"name": "timm:resnet18"}}})
    assert "model.backbone.drop_path" in keys
    assert "model.backbone.depth_multiplier" not in keys


def test_drop_path_is_timms() -> None:
    backbone = build_backbone(read({"name": "timm:resnet18", "drop_path": 0.3}), 16)
    assert max(getattr(module, "drop_prob", 0) or 0 for module in backbone.modules()) == pytest.approx(0.3)


def test_looking_at_a_network_draws_no_random_numbers() -> None:
    timms.use.cache_clear()
    timms._arguments.cache_clear()
    timms._sketch.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    timms.use("timm:swin_s3_tiny_224", 32)
    assert torch.equal(torch.rand(3), expected)


# ---- without timm


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "needs timm, which is not installed: pip install"),
        (ImportError("cannot import name 'x' from 'torch'", name="torch"), "timm can't be imported: cannot import"),
        (
            RuntimeError("operator torchvision::nms does not exist\nmore"),
            "timm can't be imported: operator torchvision::nms does not exist; install a torchvision that fits",
        ),
    ],
)
def test_timm_that_is_missing_or_broken_is_said_in_one_line(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    segmenter.create("deeplab_v3", backbone="timm:resnet18", num_classes=2).save(path)

    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("atrous.backbones.timm.importlib.import_module", fail)
    with pytest.raises(ConfigError) as config_error:
        load(RECIPE, ["model.backbone=timm:resnet18"])
    with pytest.raises(ModelFileError) as file_error:
        segmenter.load(path)
    for text in (str(config_error.value), str(file_error.value)):
        assert message in text
        assert "\n" not in text


def test_the_package_imports_no_timm() -> None:
    code = "import sys; import atrous.train, atrous.config; print('timm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---- models


MODELS: dict[str, dict[str, object]] = {
    "deeplab_v3": {"auxiliary_channels": 8},
    "deeplab_v3plus": {"decoder": {"strides": (8, 4)}},
    "pspnet": {},
    "panoptic_deeplab": {},
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "convnextv2_atto", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)],
)
def test_models_take_it(name: str, backbone: str) -> None:
    settings = {"name": name, "backbone": f"timm:{backbone}", "output_stride": 32, **MODELS[name]}
    config = TypeAdapter(models.AnyModelConfig).validate_python(settings)
    model = models.build(config, 3)
    outputs = model(torch.randint(0, 256, (2, 3, 65, 97), dtype=torch.uint8))
    assert outputs.semantic.shape[:2] == (2, 3)
    outputs.semantic.square().mean().backward()
    assert all(p.grad is not None for p in network_of(model.backbone).parameters() if p is not None)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.eval()(torch.rand(1, 3, 65, 97) * 255).semantic.isfinite().all()


@pytest.mark.slow
def test_a_decoder_at_a_stride_without_a_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a decoder at stride 4 needs low-level features.* only at \[8, 16\]"):
        segmenter.create("deeplab_v3plus", backbone="timm:csatv2", num_classes=2, output_stride=32)


# ---- training


@pytest.mark.parametrize(
    "backbone",
    [
        {"name": "timm:test_resnet", "drop_path": 0.3},
        pytest.param({"name": "timm:convnextv2_atto", "drop_path": 0.3}, marks=pytest.mark.slow),
        pytest.param({"name": "timm:edgenext_xx_small"}, marks=pytest.mark.slow),
    ],
    ids=lambda settings: settings["name"],
)
def test_it_is_resumed_bit_for_bit_and_loaded_without_a_download(backbone: dict[str, Any], tmp_path: Path) -> None:
    more = [f"model.backbone.{key}={value}" for key, value in backbone.items() if key != "name"]
    more += ["model.output_stride=32", "train.ema=0.9", "optim.schedule=constant", "train.eval_every=2"]
    config = override(load(RECIPE, TINY), [f"model.backbone={backbone['name']}", *more], RECIPE)
    whole = train.train(config, tmp_path / "whole", console=QUIET)
    train.train(override(config, ["train.steps=2"], RECIPE), tmp_path / "half", console=QUIET)
    resumed = train.train(config, tmp_path / "half", resume=True, console=QUIET)
    assert_same(weights(resumed), weights(whole))
    trained = segmenter.load(whole.best)
    assert trained.header.model.backbone.name == backbone["name"]
    prediction = trained.predict(noise())
    assert prediction.semantic.shape == (40, 50)
    assert (segmenter.load(tmp_path / "half").predict(noise()).semantic == prediction.semantic).all()


def test_images_of_odd_sizes_are_predicted_alone_and_together() -> None:
    created = segmenter.create("deeplab_v3", backbone=NETWORK, num_classes=3, output_stride=32)
    images = [noise(height, width) for height, width in ((1, 1), (3, 7), (33, 65), (40, 50), (40, 50), (97, 31))]
    for image, prediction in zip(images, created.predict(images), strict=True):
        assert (prediction.semantic == created.predict(image).semantic).all()
        assert prediction.semantic.shape == image.shape[:2]


def test_weights_are_shared_at_another_output_stride() -> None:
    one = segmenter.create("deeplab_v3", backbone="timm:resnet18", num_classes=2, output_stride=32)
    dense = one.with_output_stride(8)
    assert dense.network.facts.output_stride == 8
    assert dense.model.get_parameter("backbone.network.conv1.weight") is one.model.get_parameter(
        "backbone.network.conv1.weight"
    )


# ---- pretrained weights


NETWORK = "timm:test_resnet"  # timm's own for tests


def classifier(timm: Any, seed: int = 3) -> nn.Module:  # noqa: ANN401
    torch.manual_seed(seed)
    network: nn.Module = timm.create_model("test_resnet")
    for name, tensor in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return network


def beginning(*overrides: str, backbone: str = NETWORK) -> tuple[models.Model, Reused]:
    config = override(load(RECIPE, TINY), [f"model.backbone={backbone}", *overrides], RECIPE)
    model = models.build(config.model, 6)
    return model, pretrained.begin(model, config, [], QUIET)


def assert_taken(model: models.Model, network: nn.Module) -> None:
    own, theirs = network_of(model.backbone).state_dict(), network.state_dict()
    assert own.keys() <= theirs.keys()
    assert_same(own, {name: theirs[name] for name in own})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_file_of_timm_are_taken(suffix: str, timm: Any, tmp_path: Path) -> None:  # noqa: ANN401
    network, path = classifier(timm), tmp_path / f"model{suffix}"
    save_file(network.state_dict(), path) if suffix == ".safetensors" else torch.save(network.state_dict(), path)
    model, reused = beginning(f"model.pretrained={path}")
    assert_taken(model, network)
    assert reused.source == str(path)
    assert {name.partition(".")[0] for name in reused.fresh} == {"aspp", "decoder", "classify"}
    assert model.shift.flatten().tolist() == pytest.approx([127.5] * 3)


def test_weights_of_our_own_file_are_taken_too(tmp_path: Path) -> None:
    donor = segmenter.create("deeplab_v3", backbone=NETWORK, num_classes=2, output_stride=32)
    donor.save(tmp_path / "ours.safetensors")
    model, _ = beginning(f"model.pretrained={tmp_path / 'ours.safetensors'}")
    assert_same(model.backbone.state_dict(), donor.model.backbone.state_dict())


def test_a_file_of_another_network_is_refused(timm: Any, tmp_path: Path) -> None:  # noqa: ANN401
    path = tmp_path / "model.safetensors"
    save_file(classifier(timm).state_dict(), path)
    with pytest.raises((OSError, ConfigError)) as error:
        beginning(f"model.pretrained={path}", backbone="timm:resnet18")
    assert str(path) in str(error.value)
    assert "another network's: bn1.weight [32] instead of [64], bn1.bias [32]" in str(error.value)
    assert "\n" not in str(error.value)
    some = {name: tensor for name, tensor in classifier(timm).state_dict().items() if "layer2" not in name}
    save_file(some, path)
    with pytest.raises(ConfigError, match=r"lack .*layer2.*another network"):
        beginning(f"model.pretrained={path}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "it is a page of HTML"),
        (b"", "as a PyTorch checkpoint: not a file of torch.save, or damaged"),
        (None, "it holds 'timm.models.resnet.ResNet', which is refused"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(
    content: bytes | None,
    words: str,
    timm: Any,  # noqa: ANN401
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.pth"
    torch.save(classifier(timm), path) if content is None else path.write_bytes(content)
    with pytest.raises(ConversionError) as error:
        beginning(f"model.pretrained={path}")
    assert words in str(error.value) and str(path) in str(error.value)
    assert "weights_only" not in str(error.value) and "\n" not in str(error.value)


def test_imagenet_is_timms_own_loading_from_its_cache(
    timm: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    network, tag = classifier(timm), timm.get_pretrained_cfg("test_resnet").tag
    folder = tmp_path / f"models--timm--test_resnet.{tag}"
    (folder / "snapshots" / "0").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0")
    save_file(network.state_dict(), folder / "snapshots" / "0" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model, reused = beginning("model.pretrained=imagenet")
    assert_taken(model, network)
    assert reused.source == f"timm's test_resnet.{tag}"


def test_without_a_network_the_choices_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"model\.pretrained=imagenet: timm can't load") as error:
        beginning("model.pretrained=imagenet")
    assert "test_resnet" in str(error.value) and "model.pretrained=none" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_network_without_published_weights_is_said() -> None:
    with pytest.raises(ConfigError, match="timm publishes none of this network"):
        beginning("model.pretrained=imagenet", backbone="timm:cs3darknet_s")


# ---- decay and synchronised norms


def _decayed(backbone: str, **settings: bool) -> set[str]:
    model = segmenter.create("deeplab_v3", backbone=backbone, num_classes=2, output_stride=32).model
    groups = optim.parameter_groups(model, optim.OptimConfig(weight_decay=0.1, **settings), model.logit_modules)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}  # type: ignore[attr-defined]
    return {name.removeprefix("backbone.network.") for name, p in model.named_parameters() if id(p) in decayed}


def test_norms_scales_and_biases_are_decayed_only_on_request() -> None:
    names = {"norm.weight", "mlp.grn.weight", "conv_dw.bias"}
    names = {f"stages_0.blocks.0.{name}" for name in names} | {"stem_1.weight"}
    decayed = _decayed("timm:convnextv2_atto")
    assert not names & decayed
    assert "stages_0.blocks.0.mlp.fc1.weight" in decayed
    assert _decayed("timm:convnextv2_atto", decay_norms=True) & names == names - {"stages_0.blocks.0.conv_dw.bias"}
    assert "stages_0.blocks.0.conv_dw.bias" in _decayed("timm:convnextv2_atto", decay_biases=True)


def test_tables_of_positions_follow_the_norms() -> None:
    name = "layers_0.blocks.0.attn.relative_position_bias_table"
    assert name not in _decayed("timm:swin_tiny_patch4_window7_224")
    assert name in _decayed("timm:swin_tiny_patch4_window7_224", decay_norms=True)


def test_a_synchronised_norm_keeps_the_activation_in_it() -> None:
    backbone = built("efficientnet_b0").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = {tap: x.clone() for tap, x in backbone(images).items()}
        converted = synchronized(backbone)
        assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) > 40
        assert all(torch.equal(x, expected[tap]) for tap, x in converted(images).items())
