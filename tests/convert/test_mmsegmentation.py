"""mmsegmentation's PSPNet: semseg's weights under its names, the logits of the reference network, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.systems import SYSTEMS
from atrous.inference import InferenceConfig
from atrous.inference.look import predict_probabilities
from atrous.models.deeplab_v3plus import DeepLabV3Plus
from tests.convert.conftest import assert_close, assert_refused, config_of, empty_arrays, random_image
from tests.reference import pytorch_programs as programs
from tests.reference import torchvision as reference
from tests.reference.semseg import golden, seeded_weights
from tests.reference.tf_deeplab import without
from tests.reference.torchvision import ReferenceNetwork, Shapes

STEMS = {"semseg's": (64, 64, 128), "ResNetV1c's": (32, 32, 64), "a single 7x7": ()}
PREFIXES = (  # specs/semseg.md, section 1.7
    ("layer0.", "backbone.stem."),
    ("layer", "backbone.layer"),
    *((f"ppm.features.{level}.1.", f"decode_head.psp_modules.{level}.1.conv.") for level in range(4)),
    *((f"ppm.features.{level}.2.", f"decode_head.psp_modules.{level}.1.bn.") for level in range(4)),
    ("cls.0.", "decode_head.bottleneck.conv."),
    ("cls.1.", "decode_head.bottleneck.bn."),
    ("cls.4.", "decode_head.conv_seg."),
    ("aux.0.", "auxiliary_head.convs.0.conv."),
    ("aux.1.", "auxiliary_head.convs.0.bn."),
    ("aux.4.", "auxiliary_head.conv_seg."),
)


def renamed(name: str) -> str:
    old, new = next(pair for pair in PREFIXES if name.startswith(pair[0]))
    return new + name.removeprefix(old)


# ---- logits


@torch.no_grad()
def test_semsegs_weights_under_these_names_have_its_logits() -> None:
    pixels, logits, _, _, shapes, salt = golden("pspnet50_zoom8_89")
    arrays: dict[str, NDArray[np.float32]] = {
        f"module.{renamed(name)}": array for name, array in seeded_weights(shapes, salt).items()
    }
    done = conversion(arrays)
    assert done.system == "mmsegmentation"
    assert done.segmenter.model.config.backbone.name == "resnet50s"
    assert done.assumptions[:4] == [
        "pool_scales=1,2,3,6 (the default)",
        "output_stride=8 (its configs named d8)",
        "align_corners=True (as in semseg)",
        "contract_dilation=False (as in semseg)",
    ]
    assert_close(done.segmenter.model(pixels).semantic, logits)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("stem", ["ResNetV1c's", "a single 7x7"])
@torch.no_grad()
def test_its_own_weights_have_the_logits_of_the_reference_network(stem: str, aligned: bool) -> None:
    arrays = reference.random_weights(reference.pspnet("resnet50", STEMS[stem]))
    size = (41, 65) if aligned else (45, 70)
    options = {"align_corners": "true"} if aligned else {}
    segmenter, pixels = convert(arrays, options=options), random_image(*size)
    expected = ReferenceNetwork(arrays, "resnet50", STEMS[stem], aligned=aligned).pspnet(pixels)
    outputs = segmenter.model(pixels)
    for ours, theirs in ((outputs.semantic, expected.main), (outputs.heads["auxiliary"], expected.auxiliary)):
        assert_close(F.interpolate(ours, size, mode="bilinear", align_corners=aligned), theirs)
    probabilities = predict_probabilities(segmenter.model, pixels, InferenceConfig())
    torch.testing.assert_close(probabilities, expected.main.softmax(1), rtol=0, atol=1e-3)


ROWS = (  # backbone, stem, our row of BACKBONES
    ("resnet50", "semseg's", "resnet50s"),
    ("resnet101", "semseg's", "resnet101s"),
    ("resnet152", "semseg's", "resnet152s"),
    ("resnet101", "ResNetV1c's", "resnet101c"),
    ("resnet101", "a single 7x7", "resnet101"),
)


def test_names_and_shapes_decide_the_network() -> None:
    for backbone, stem, row in ROWS:
        shapes = reference.pspnet(backbone, STEMS[stem], 150)
        options = {"depth": backbone.removeprefix("resnet"), "num_classes": 150, "pool_scales": "1,2,3,6"}
        assert [name for name, system in SYSTEMS.items() if system.recognised(shapes)] == ["mmsegmentation"]
        assert config_of(SYSTEMS["mmsegmentation"], shapes, **options).backbone.name == row
    done = conversion(empty_arrays(reference.pspnet("resnet50", STEMS["semseg's"], 150)))
    assert done.segmenter.label_space.names[0] == "wall"
    assert len(done.assumptions) == 5
    assert all(name.endswith("num_batches_tracked") for name in done.unused)


# ---- notes beside the weights

R18 = "mmseg_deeplabv3plus_r18_d8"
CONFIG = """
norm_cfg = dict(requires_grad=True, type='BN')
data_preprocessor = dict(bgr_to_rgb=True, mean=[120.0, 115.5, 103.53], std=[58.395, 57.12, 57.375])
import os
model = dict(
    backbone=dict(contract_dilation=True, depth=18, dilations=(1, 1, 1, 2), strides=(1, 2, 2, 1), style='pytorch'),
    decode_head=dict(align_corners=True, dilations=(1, 6, 12, 18), num_classes=5, loss_decode=[dict(weight=-1.0)]),
    pretrained=None)
train_dataloader = dict(sampler=os.system('echo run > run'))
"""
NAMES, PALETTE = ["road", "kerb", "sky", "kerb", "person"], [[10 * one, 0, 255] for one in range(5)]


def write(path: Path, meta: object) -> Path:
    tensors = {
        name: torch.from_numpy(array) for name, array in programs.seeded_weights(programs.golden(R18).shapes).items()
    }
    torch.save({"meta": meta, "state_dict": tensors, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize(
    "meta",
    [
        {"config": CONFIG, "CLASSES": NAMES, "PALETTE": PALETTE, "mmseg_version": "0.29"},
        {"cfg": CONFIG, "dataset_meta": {"classes": tuple(NAMES), "palette": PALETTE}, "epoch": 0},
    ],
)
def test_notes_say_what_weights_do_not(meta: object, tmp_path: Path) -> None:
    done = conversion(write(tmp_path / "iter_80000.pth", meta))
    model, space = done.segmenter.model, done.segmenter.label_space
    assert space.names == ("road", "kerb", "sky", "kerb 3", "person")
    assert space.colors[4] == (40, 0, 255)
    assert isinstance(model.config, DeepLabV3Plus.Config)
    assert (model.config.output_stride, model.config.aspp.rates, model.config.align_corners) == (16, (6, 12, 18), True)
    torch.testing.assert_close(model.shift.flatten(), torch.tensor([120.0, 115.5, 103.53]))
    assert done.assumptions == []
    assert not (Path.cwd() / "run").exists()
    assert conversion(tmp_path / "iter_80000.pth", options={"align_corners": "false"}).segmenter.model.config


MISFITS: list[tuple[str, str]] = [
    (
        CONFIG.replace("(1, 1, 1, 2)", "(1, 1, 2, 4)"),
        r"dilations=\(1, 1, 2, 4\): with these strides, Atrous has \(1, 1, 1",
    ),
    (CONFIG.replace("(1, 2, 2, 1)", "(1, 2, 2)"), r"strides=\(1, 2, 2\), where 4 are expected"),
    (CONFIG.replace("(1, 2, 2, 1)", "'abcd'"), "strides=abcd, where 4 are expected"),
    (CONFIG.replace("'pytorch'", "'caffe'"), "style='caffe': Input should be 'pytorch'"),
    (CONFIG.replace("bgr_to_rgb=True", "bgr_to_rgb=False"), "bgr_to_rgb=False: Input should be True"),
    (CONFIG.replace("depth=18", "avg_down=True"), "avg_down=True: Input should be False"),
    (CONFIG.replace("num_classes=5", "num_classes=6"), "num_classes=6, but its weights are those of num_classes=5"),
    (CONFIG.replace("(1, 6, 12, 18)", "(1, 6, 12)"), r"it has 4 branches, 1x1 first"),
    (CONFIG.replace("58.395", "0"), "std.0=0: Input should be greater than 0"),
]


@pytest.mark.parametrize(("config", "reason"), MISFITS)
def test_notes_that_do_not_fit_are_refused_in_one_line(config: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        conversion(write(tmp_path / "a.pth", {"cfg": config}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", ["model = dict(", "(" * 500, "\0", "x = " + "-" * 100_000 + "1", "a" * 300_000])
def test_a_config_that_is_no_python_is_said(config: str, tmp_path: Path) -> None:
    done = conversion(write(tmp_path / "a.pth", {"cfg": config, "CLASSES": [1, 2], "PALETTE": [[1, 2], "red"]}))
    assert any("its notes hold a config" in text and "not read" in text for text in done.assumptions)
    assert done.segmenter.label_space.names[0] == "class_0"


@pytest.mark.parametrize("meta", [None, [], "text", {"config": {"model": 1}}, {"cfg": "model = 3"}, {"CLASSES": None}])
def test_other_notes_do_not_matter(meta: object, tmp_path: Path) -> None:
    assert conversion(write(tmp_path / "a.pth", meta)).segmenter.model.num_classes == 5


# ---- refused


SEMSEGS, V1C = (reference.pspnet("resnet50", STEMS[stem]) for stem in ("semseg's", "ResNetV1c's"))


HEAD_OF_V1C = {name: shape for name, shape in V1C.items() if not name.startswith("backbone.")}

REFUSED: list[tuple[Shapes, dict[str, Any], str]] = [
    (V1C, {"depth": 101}, "depth=101, but its weights are those of depth=50"),
    (V1C, {"num_classes": 21}, "num_classes=21, but its weights are those of num_classes=19"),
    (V1C, {"multi_grid": (2, 4)}, r"multi_grid \(1, 1\): the last stage of resnet50c has 3 units"),
    (SEMSEGS, {"multi_grid": (2, 4, 8)}, r"Atrous has only multiples of \(4, 4, 4\) at output stride 8"),
    (V1C, {"style": "caffe"}, "style='caffe': Input should be 'pytorch'"),
    (V1C, {"bgr_to_rgb": "false"}, "bgr_to_rgb=False: Input should be True"),
    (V1C, {"pool_scales": (1, 2)}, r"its pyramid has 4 levels: name each in pool_scales=1,2,3,6; got \(1, 2\)"),
    (without(V1C, "decode_head.psp_modules.3"), {}, r"its pyramid has 3 levels: name each in pool_scales="),
    (without(V1C, "decode_head.psp_modules"), {}, "another network of mmseg.* than those that are read; DeepLabV3, "),
    (without(V1C, "auxiliary_head.convs"), {}, "auxiliary_head.convs.0.conv.weight is missing"),
    (without(V1C, "backbone.stem"), {}, "backbone.stem.0.weight is missing"),
    (without(V1C, "backbone.layer3.5"), {}, r"5 bottlenecks in layer3, where ResNets that are read have 6 \(50 "),
    (
        {**V1C, "backbone.stem.0.weight": (16, 3, 3, 3)},
        {},
        r"stem_channels=32: known are 128 \(64, 64, 128\), 64 \(32, 32, 64\) and a single 7x7",
    ),
    (
        reference.resnet("resnet18", (32, 32, 64), "backbone.") | {"decode_head.conv_seg.weight": (19, 128, 1, 1)},
        {},
        "it is another network of mmsegmentation than those that are read",
    ),
    (
        reference.resnet("resnet18", (64, 64, 128), "backbone.") | HEAD_OF_V1C,
        {},
        "Atrous has no ResNet-18 with a first 3x3 of 64 channels",
    ),
    (
        reference.resnet("resnet34", (32, 32, 64), "backbone.") | HEAD_OF_V1C,
        {},
        r"6 units of two convolutions in layer3, where ResNets that are read have 2 \(18 layers\)",
    ),
    ({**V1C, "neck.0.weight": (3,)}, {}, ": a network with a neck .mmsegmentation., which"),
    (V1C, {"align_corner": True}, "no model depends on an option 'align_corner'; did you mean align_corners"),
]


def test_misfits_are_refused_in_one_line() -> None:
    for shapes, options, reason in REFUSED:
        assert_refused(empty_arrays(shapes), reason, options)
