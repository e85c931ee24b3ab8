"""mmsegmentation's PSPNet: semseg's weights under its names, the logits of the reference network, what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.systems import SYSTEMS
from atrous.inference import InferenceConfig, predict_probabilities
from tests.convert.conftest import assert_close, assert_refused, empty_arrays, random_image
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
        done = conversion(empty_arrays(shapes), options=options)
        assert done.segmenter.model.config.backbone.name == row
        assert done.segmenter.label_space.names[0] == "wall"
        assert len(done.assumptions) == 4
        assert all(name.endswith("num_batches_tracked") for name in done.unused)


# ---- refused


SEMSEGS, V1C = (reference.pspnet("resnet50", STEMS[stem]) for stem in ("semseg's", "ResNetV1c's"))


REFUSED: list[tuple[Shapes, dict[str, Any], str]] = [
    (V1C, {"depth": 101}, "depth=101, but its weights are those of depth=50"),
    (V1C, {"num_classes": 21}, "num_classes=21, but its weights are those of num_classes=19"),
    (V1C, {"contract_dilation": "false"}, "contract_dilation=False, but .* contract_dilation=True"),
    (SEMSEGS, {"contract_dilation": "true"}, "contract_dilation=True, but .* contract_dilation=False"),
    (V1C, {"pool_scales": (1, 2)}, r"its pyramid has 4 levels: name each in pool_scales=1,2,3,6; got \(1, 2\)"),
    (without(V1C, "decode_head.psp_modules.3"), {}, r"its pyramid has 3 levels: name each in pool_scales="),
    (without(V1C, "decode_head.psp_modules"), {}, "DeepLabV3, DeepLabV3.*, PSPNet, .* are read, and it is another"),
    (without(V1C, "auxiliary_head"), {}, "auxiliary_head.convs.0.conv.weight is missing"),
    (without(V1C, "backbone.stem"), {}, "backbone.stem.0.weight is missing"),
    (without(V1C, "backbone.layer3.5"), {}, r"5 units in layer3, where ResNets have 6 \(50 layers\)"),
    (
        {**V1C, "backbone.stem.0.weight": (16, 3, 3, 3)},
        {},
        r"stem_channels=32: known are 128 \(64, 64, 128\), 64 \(32, 32, 64\) and a single 7x7",
    ),
    (
        reference.resnet("resnet18", (32, 32, 64), "backbone.") | {"decode_head.conv_seg.weight": (19, 128, 1, 1)},
        {},
        "its units have two convolutions, and mmsegmentation dilates only the first",
    ),
    ({**V1C, "neck.0.weight": (3,)}, {}, "1 weight without a place .*: neck.0.weight"),
    (V1C, {"align_corner": True}, "no model depends on an option 'align_corner'; did you mean align_corners"),
]


def test_misfits_are_refused_in_one_line() -> None:
    for shapes, options, reason in REFUSED:
        assert_refused(empty_arrays(shapes), reason, options)
