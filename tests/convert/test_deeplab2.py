"""deeplab2's networks: the original's maps, what the weights decide and what the config, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import atrous
from atrous.backbones.mobilenet_v3 import MobileNetV3
from atrous.convert import convert
from atrous.convert.filling import original_shapes
from atrous.convert.run import conversion
from atrous.convert.systems import SYSTEMS
from atrous.convert.systems.deeplab2.datasets import LABEL_SPACES
from atrous.inference import InferenceConfig
from atrous.models.panoptic_deeplab import PanopticDeepLab
from atrous.postprocess.panoptic import find_centers, group_pixels, peaks
from atrous.segmenter import Segmenter
from atrous.tasks.panoptic import PanopticDecodeConfig
from atrous.tasks.segments import thing_mask
from tests.conftest import SHARED
from tests.convert.conftest import (
    assert_close,
    assert_refused,
    config_of,
    empty_arrays,
    error_line,
    meta_model,
    run,
)
from tests.reference.deeplab2 import CASES, PANOPTIC, Golden, golden, seeded_weights, upsampled

SYSTEM = SYSTEMS["deeplab2"]
LARGE = ("swidernet_sac_111_os16_65", "wideresnet41_os16_65")
TINY = "tiny_panoptic_65x97"
CHECKPOINT = SHARED / "goldens" / "deeplab2" / "checkpoint"
needs_goldens = pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="the original's checkpoint isn't here")


def each(cases: tuple[str, ...] | list[str]) -> list[Any]:
    return [pytest.param(case, marks=pytest.mark.slow) if case in LARGE else case for case in cases]


def assert_equals_original(segmenter: Segmenter, expected: Golden) -> None:
    images = torch.from_numpy(expected.image).permute(2, 0, 1)[None]
    height, width = expected.image.shape[:2]
    with torch.no_grad():
        outputs = segmenter.model(images)
    maps = expected.outputs
    assert_close(upsampled(outputs.semantic, (height, width))[::4, ::4], maps["semantic_logits@4"])
    prediction = segmenter.predict(expected.image)
    assert np.mean(prediction.semantic == maps["semantic_pred"].numpy()) >= 0.999
    if "center_heatmap" not in maps:
        assert outputs.center is None
        return
    assert outputs.center is not None and outputs.offset is not None
    center, offset = (upsampled(x, (height, width)) for x in (outputs.center, outputs.offset))
    assert_close(center[..., 0], maps["center_heatmap"])
    assert_close(offset, maps["offset_map"])
    assert prediction.labels.panoptic is not None
    assert (prediction.labels.panoptic == maps["panoptic_pred"]).double().mean() >= 0.999
    decode = segmenter.header.decode
    assert isinstance(decode, PanopticDecodeConfig)
    maxima = peaks(center[..., 0], threshold=decode.threshold, kernel=decode.kernel)
    is_thing = thing_mask(segmenter.label_space)[torch.from_numpy(prediction.semantic).long()]
    instances = group_pixels(find_centers(maxima, top_k=decode.top_k), offset.permute(2, 0, 1), is_thing)
    assert (instances == maps["instance_pred"]).double().mean() >= 0.999


# ---- maps


@pytest.mark.parametrize("case", each(CASES))
def test_maps_are_the_originals(case: str) -> None:
    expected = golden(case)
    weights = seeded_weights(expected.shapes, expected.salt)
    assert_equals_original(convert(weights, options=expected.options), expected)


@needs_goldens
@pytest.mark.parametrize("name", ["", "ckpt-60000", "ckpt-60000.index"])
def test_a_checkpoint_of_tensorflow_2_is_converted_with_its_config(name: str) -> None:
    result = conversion(CHECKPOINT / name, options={"config": str(CHECKPOINT / "config.textproto")})
    assert result.system == "deeplab2"
    assert result.unused == ["step"]
    assert result.assumptions == []
    assert_equals_original(result.segmenter, golden(TINY))


@needs_goldens
def test_the_command_line_and_the_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "street.safetensors"
    assert run(CHECKPOINT, "--out", out, f"config={CHECKPOINT / 'config.textproto'}") == 0
    printed = capsys.readouterr().out
    assert "deeplab2: panoptic_deeplab, mobilenet_v3_small_d2, output stride 32, 19 classes" in printed
    assert_equals_original(atrous.load(out), golden(TINY))


# ---- which network


def panoptic_config(**options: object) -> PanopticDeepLab.Config:
    """Of the tiny network."""
    config = config_of(SYSTEM, golden(TINY).shapes, **options)
    assert isinstance(config, PanopticDeepLab.Config)
    return config


@pytest.mark.parametrize("case", CASES)
def test_every_weight_has_its_name(case: str) -> None:
    expected = golden(case)
    config = config_of(SYSTEM, expected.shapes, **expected.options)
    assert original_shapes(meta_model(config), SYSTEM.rules(config), SYSTEM.layout) == expected.shapes
    assert SYSTEM.recognised(expected.shapes)
    assert sum(SYSTEMS[name].recognised(expected.shapes) for name in SYSTEMS) == 1


@pytest.mark.parametrize("case", CASES)
def test_without_a_config_the_weights_decide_the_network(case: str) -> None:
    """All but what has no weights: rates, output stride, the pooling window."""
    expected = golden(case)
    from_text = config_of(SYSTEM, expected.shapes, **expected.options)
    stride = from_text.output_stride
    from_weights = config_of(SYSTEM, expected.shapes, output_stride=stride, crop_size=expected.options["crop_size"])
    assert from_weights.name == from_text.name
    assert original_shapes(meta_model(from_weights), SYSTEM.rules(from_weights), SYSTEM.layout) == expected.shapes
    if case in PANOPTIC and case not in LARGE:
        assert from_weights == from_text


def test_what_is_assumed_is_said() -> None:
    expected = golden(TINY)
    result = conversion(seeded_weights(expected.shapes))
    assert result.assumptions == [
        "output_stride=32 (the original's default)",
        "atrous_rates: those of the output stride",
        "batchnorm_epsilon=0.001 (as in the original's configs of this backbone)",
        "crop_size: the image mean in ASPP is that of the whole image, not of windows of the training's crop",
        "evaluator: decode has the settings of recipes",
        "the 19 classes are those of cityscapes_panoptic (set dataset= for others)",
    ]
    assert result.segmenter.header.decode == PanopticDecodeConfig()


@pytest.mark.parametrize(
    ("crop", "window"),
    [(65, (65, 65)), ("65", (65, 65)), ((65, 97), (65, 97)), ("641,1025", (641, 1025)), (640, (641, 641))],
)
def test_the_crop_sets_the_windows_of_image_pooling(crop: object, window: tuple[int, int]) -> None:
    assert panoptic_config(crop_size=crop).pooling_window == window  # crop // 32 + 1 cells, as the original counts


# ---- the config


CONFIG = golden(TINY).options["config_text"]


def with_config(old: str, new: str) -> dict[str, Any]:
    assert old in CONFIG
    return {"config_text": CONFIG.replace(old, new, 1)}


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ({"name": "swidernet", "backbone_layer_multiplier": 4.5}, {"layers": 4.5, "switchable": False}),
        ({"name": "swidernet", "use_sac_beyond_stride": 32}, {"switchable": True}),
        ({"name": "swidernet", "drop_path_keep_prob": 0.8, "drop_path_schedule": "linear"}, {"drop_path": 0.2}),
        ({"name": "swidernet", "stem_width_multiplier": 0.5, "backbone_width_multiplier": 0.25}, {"width": 0.25}),
        ({"name": "mobilenet_v3_large", "use_squeeze_and_excite": True, "output_stride": 8}, {"norm_eps": None}),
        ({"name": "mobilenet_v3_small", "use_squeeze_and_excite": True, "output_stride": 16}, {"norm_eps": 1e-5}),
        ({"name": "resnet50_beta", "output_stride": 16}, {"name": "resnet50_beta_d2"}),
    ],
)
def test_backbones_of_a_config(backbone: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each has weights under names that the network's own recognition reads back."""
    fields = " ".join(
        f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {str(value).lower()}"
        for name, value in backbone.items()
    )
    head = "decoder { atrous_rates: [3, 6, 9] } deeplab_v3 { num_classes: 5 }"
    config = config_of(SYSTEM, {}, config_text=f"backbone {{ {fields} }} {head}")
    assert expected.items() <= config.backbone.model_dump().items()
    shapes = original_shapes(meta_model(config), SYSTEM.rules(config), SYSTEM.layout)
    again = config_of(SYSTEM, shapes, output_stride=config.output_stride)
    assert original_shapes(meta_model(again), SYSTEM.rules(again), SYSTEM.layout) == shapes


def test_the_evaluator_becomes_decode_and_inference() -> None:
    text = (
        "nms_kernel: 41 stuff_area_limit: 7 keep_k_centers: -1 eval_scales: 0.5 eval_scales: 1 add_flipped_images: true"
    )
    options = {**golden(TINY).options, "evaluator": text}
    segmenter = convert(seeded_weights(golden(TINY).shapes), options=options)
    assert segmenter.inference == InferenceConfig(scales=(0.5, 1.0), flip=True)
    decode = {"threshold": 0.1, "kernel": 41, "top_k": 0, "stuff_area": 7}
    compiled = {"at_limit": "void", "without_center": "thing"}  # the original's default
    assert segmenter.header.decode == PanopticDecodeConfig.model_validate({**decode, **compiled})


def test_the_evaluator_may_be_a_whole_message() -> None:
    text = "evaluator_options { nms_kernel: 41 merge_semantic_and_instance_with_tf_op: false }"
    segmenter = convert(empty_arrays(golden(TINY).shapes), options={**golden(TINY).options, "evaluator": text})
    expected = {"kernel": 41, "top_k": 400, "stuff_area": 0}
    assert segmenter.header.decode == PanopticDecodeConfig.model_validate(expected)


def test_arrays_may_have_the_names_that_tensorflow_gives_them() -> None:
    arrays = {f"{name}/.ATTRIBUTES/VARIABLE_VALUE": array for name, array in empty_arrays(golden(TINY).shapes).items()}
    counter = {"save_counter/.ATTRIBUTES/VARIABLE_VALUE": np.array(7)}
    assert convert({**arrays, **counter}, options=golden(TINY).options).model.config.name == "panoptic_deeplab"


def test_batch_norms_have_the_epsilon_of_the_solver() -> None:
    text = f"model_options {{ {CONFIG} }} trainer_options {{ solver_options {{ batchnorm_epsilon: 1e-05 }} }}"
    config = panoptic_config(config_text=text)
    assert isinstance(config.backbone, MobileNetV3.Config)
    assert (config.norm_eps, config.backbone.norm_eps) == (1e-5, 1e-5)
    assert panoptic_config().norm_eps == 1e-3
    assert panoptic_config(output_stride=16).norm_eps == 1e-5  # as in the original's configs of MobileNetV3


def test_options_take_precedence_over_the_same_in_a_config(tmp_path: Path) -> None:
    path = tmp_path / "config.textproto"
    path.write_text(
        f'model_options {{ {CONFIG} }} train_dataset_options {{ dataset: "kitti_step" crop_size: 65 crop_size: 97 }}'
    )
    weights = empty_arrays(golden(TINY).shapes)
    own = convert(weights, options={"config": path})
    assert own.label_space.things == (11, 13)
    other = convert(weights, options={"config": path, "dataset": "cityscapes_panoptic", "crop_size": 129})
    assert other.label_space.things == tuple(range(11, 19))
    assert isinstance(other.model.config, PanopticDeepLab.Config)
    assert other.model.config.pooling_window == (129, 129)


def test_label_spaces() -> None:
    coco = LABEL_SPACES["coco_panoptic"]
    assert (coco.num_classes, coco.ignore, coco.panoptic_divisor, len(coco.things)) == (134, 0, 256, 80)
    assert (coco.names[1], coco.names[80], coco.names[81], coco.names[133]) == (
        "person",
        "toothbrush",
        "banner",
        "rug-merged",
    )
    assert len(LABEL_SPACES["ade20k_panoptic"].things) == 100
    assert LABEL_SPACES["cityscapes_panoptic"].things == tuple(range(11, 19))


# ---- refused


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "max_deeplab": (
        with_config("panoptic_deeplab {", "max_deeplab {"),
        "line 14: max_deeplab: Atrous has no such network",
    ),
    "axial": (with_config("mobilenet_v3_small", "axial_swidernet"), "backbone 'axial_swidernet'"),
    "stride": (with_config("output_stride: 32", "output_stride: 4"), "output_stride 4"),
    "1x1": (
        with_config("atrous_rates: 3\n  atrous_rates: 6\n  atrous_rates: 9", "aspp_use_only_1x1_proj_conv: true"),
        "aspp_use_only_1x1_proj_conv",
    ),
    "rates": (with_config("atrous_rates: 9", ""), r"atrous_rates \[3, 6\]"),
    "conv types": (
        with_config("decoder_channels: 16", 'decoder_conv_type: "standard_conv" decoder_channels: 16'),
        "decoder_conv_type and head_conv_type",
    ),
    "feature": (with_config('"res5"', '"res4"'), "a decoder on 'res4'"),
    "low levels": (with_config('"res3"', '"res2"'), "low_level res2, res2"),
    "depth": (with_config("instance {", "depth_head { } instance {"), "depth_head: Atrous has no such network"),
    "sac": (
        with_config('name: "mobilenet_v3_small"', 'name: "swidernet" use_sac_beyond_stride: 16'),
        "use_sac_beyond_stride 16",
    ),
    "resnet": (with_config('name: "mobilenet_v3_small"', 'name: "resnet50"'), "use_squeeze_and_excite True"),
    "another width": (
        with_config("aspp_channels: 16", "aspp_channels: 24"),
        "weights of another shape than the model's",
    ),
    "another backbone": (with_config("mobilenet_v3_small", "mobilenet_v3_large"), "missing .* weights of the model"),
    "classes": (with_config("output_channels: 19", "output_channels: 20"), "another shape"),
    "a typo": (with_config("output_stride", "output_strid"), "line 3: there is no field 'output_strid'.*output_stride"),
    "twice": (
        with_config("output_stride: 32", "output_stride: 32 output_stride: 32"),
        "output_stride has a value already",
    ),
    "no number": (
        with_config("output_stride: 32", 'output_stride: "32"'),
        "line 3: output_stride: got '32', expected a whole",
    ),
    "no message": (with_config("backbone {", "backbone: 5 decoder {"), r"line 1: backbone: expected \{ ... \}"),
    "not closed": ({"config_text": "backbone {\n"}, "expected '}', got the end of the text"),
    "no architecture": ({"config_text": 'backbone { name: "resnet50" }'}, "must have one of deeplab_v3"),
    "two forms": ({"config_text": CONFIG, "config": "x"}, "two forms of one option"),
    "no file": ({"config": "/nowhere/config.textproto"}, "config=/nowhere/config.textproto: cannot be read"),
    "not text": ({"config_text": 5}, "config_text must be a text"),
    "evaluator": ({"evaluator": "nms_kernel: 0"}, "evaluator: line 1: nms_kernel"),
    "evaluator, typo": ({"evaluator": "nms_kernels: 3"}, "there is no field 'nms_kernels'"),
    "data set": ({"dataset": "imagenet"}, "dataset=imagenet: its classes are unknown; known: cityscapes_panoptic"),
    "other classes": ({"dataset": "coco_panoptic"}, "dataset=coco_panoptic has 134 classes, but the model has 19"),
    **{
        f"crop {crop}": (
            {"crop_size": crop},
            f"crop_size must be a number or height,width, such as 641,1025, got {said}",
        )
        for crop, said in (
            ("65,x", ""),
            ("65x65", "65x65"),
            ([65], ""),
            ([65, 65, 65], ""),
            (0, "0"),
            (-1, "-1"),
            (6.5, ""),
        )
    },
    "evaluator of a whole config, typo": (
        {"evaluator": "evaluator_options { nms_kernels: 3 }"},
        "evaluator: there is no field 'nms_kernels'|evaluator: line 1: there is no field 'nms_kernels'",
    ),
    "no such option": ({"crop": 65}, "no model depends on an option 'crop'"),
    "strides": ({"config_text": CONFIG, "output_stride": 16}, "output_stride=16, but its weights"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_refused(options: dict[str, Any], reason: str) -> None:
    assert_refused(empty_arrays(golden(TINY).shapes), reason, options, system="deeplab2")


def with_weight(name: str, *shape: int) -> dict[str, NDArray[np.float32]]:
    return empty_arrays({**golden(TINY).shapes, name: shape})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("motion_regression_head_last_layer/kernel", "weights of Motion-DeepLab"),
        ("next_instance_decoder/_aspp/x", "weights of ViP-DeepLab"),
        ("transformer_class_head/x", "weights of MaX-DeepLab or kMaX-DeepLab"),
        ("encoder/_stage4/_block2/_attention/x", "axial attention"),
        ("something_else/kernel", "1 weight without a place"),
    ],
)
def test_weights_of_other_networks_are_refused_by_name(name: str, reason: str) -> None:
    assert_refused(with_weight(name, 1, 1, 8, 2), reason)


def test_a_backbone_alone_is_refused() -> None:
    encoder = {name: shape for name, shape in golden(TINY).shapes.items() if name.startswith("encoder/")}
    assert_refused(empty_arrays(encoder), "a backbone without the decoder of a DeepLab")


def test_errors_are_one_line_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.textproto"
    path.write_text("model_options {\n  backbone { name: 'a' nam: 'b' }\n}")
    source = tmp_path / "ckpt-1.index"
    source.write_bytes(b"")
    line = error_line(capsys, source, "--out", tmp_path / "x.safetensors", f"config={path}", "--system", "deeplab2")
    assert "ckpt-1.index" in line
