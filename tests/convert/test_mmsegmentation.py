"""mmsegmentation's PSPNet: semseg's weights under its names, its own by the letter, and what is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from atrous.convert import convert
from atrous.convert.run import conversion
from atrous.convert.systems import mmsegmentation, semseg, torchvision
from atrous.inference import InferenceConfig, predict_probabilities
from tests.reference import torchvision as reference
from tests.reference.semseg import golden, seeded_weights
from tests.reference.torchvision import Arrays, ReferenceNetwork, Shapes

STEMS = {"semseg's": (64, 64, 128), "ResNetV1c's": (32, 32, 64), "a single 7x7": ()}
RENAMED = (  # specs/semseg.md, section 1.7
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
    theirs, ours = next(pair for pair in RENAMED if name.startswith(pair[0]))
    return ours + name.removeprefix(theirs)


def image(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=generator)


def assert_close(found: Tensor, expected: Tensor | None) -> None:
    assert expected is not None
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def zeros(shapes: Shapes) -> Arrays:
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


# ---- logits


@torch.no_grad()
def test_semsegs_weights_under_these_names_have_its_logits() -> None:
    pixels, logits, _, _, shapes, salt = golden("pspnet50_zoom8_89")
    arrays: dict[str, NDArray[np.float32]] = {
        f"module.{renamed(name)}": array for name, array in seeded_weights(shapes, salt).items()
    }
    done = conversion(arrays)
    assert done.system == "mmsegmentation"
    assert done.segmenter.model.config.backbone == "resnet50s"
    assert done.notes[:3] == [
        "pool_scales=1,2,3,6 (the default)",
        "align_corners=True (semseg's)",
        "contract_dilation=False (semseg's)",
    ]
    assert_close(done.segmenter.model(pixels).semantic, logits)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("stem", ["ResNetV1c's", "a single 7x7"])
@torch.no_grad()
def test_its_own_weights_have_the_logits_of_the_network_by_the_letter(stem: str, aligned: bool) -> None:
    arrays = reference.random_weights(reference.pspnet("resnet50", STEMS[stem]))
    size = (41, 65) if aligned else (45, 70)
    options = {"align_corners": "true"} if aligned else {}
    segmenter, pixels = convert(arrays, options=options), image(*size)
    expected = ReferenceNetwork(arrays, "resnet50", STEMS[stem], aligned=aligned).pspnet(pixels)
    outputs = segmenter.model(pixels)
    for found, wanted in ((outputs.semantic, expected.main), (outputs.heads["auxiliary"], expected.auxiliary)):
        assert_close(F.interpolate(found, size, mode="bilinear", align_corners=aligned), wanted)
    probabilities = predict_probabilities(segmenter.model, pixels, InferenceConfig())
    torch.testing.assert_close(probabilities, expected.main.softmax(1), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("backbone", "stem", "row"),
    [
        ("resnet50", "semseg's", "resnet50s"),
        ("resnet101", "semseg's", "resnet101s"),
        ("resnet152", "semseg's", "resnet152s"),
        ("resnet101", "ResNetV1c's", "resnet101c"),
        ("resnet101", "a single 7x7", "resnet101"),
    ],
)
def test_names_and_shapes_tell_the_network(backbone: str, stem: str, row: str) -> None:
    shapes = reference.pspnet(backbone, STEMS[stem], 150)
    told = {"depth": backbone.removeprefix("resnet"), "num_classes": 150, "pool_scales": "1,2,3,6"}
    assert mmsegmentation.recognised(shapes)
    assert not torchvision.recognised(shapes)
    assert not semseg.recognised(shapes)
    done = conversion(zeros(shapes), options=told)
    assert done.segmenter.model.config.backbone == row
    assert done.segmenter.label_space.names[0] == "wall"
    assert len(done.notes) == 3
    assert all(name.endswith("num_batches_tracked") for name in done.ignored)


# ---- refused


def without(shapes: Shapes, prefix: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if not name.startswith(prefix)}


SEMSEGS, V1C = (reference.pspnet("resnet50", STEMS[stem]) for stem in ("semseg's", "ResNetV1c's"))


@pytest.mark.parametrize(
    ("shapes", "options", "reason"),
    [
        (V1C, {"depth": 101}, "depth=101, but its weights are those of depth=50"),
        (V1C, {"num_classes": 21}, "num_classes=21, but its weights are those of num_classes=19"),
        (V1C, {"contract_dilation": "false"}, "contract_dilation=False, but .* contract_dilation=True"),
        (SEMSEGS, {"contract_dilation": "true"}, "contract_dilation=True, but .* contract_dilation=False"),
        (V1C, {"pool_scales": (1, 2)}, r"a pyramid of 4 levels: pool_scales= tells which, as 1,2,3,6, not \(1, 2\)"),
        (without(V1C, "decode_head.psp_modules.3"), {}, r"a pyramid of 3 levels: pool_scales= tells which"),
        (without(V1C, "decode_head.psp_modules"), {}, "PSPNet alone is read, and it has no decode_head.psp_modules"),
        (without(V1C, "auxiliary_head"), {}, "no network of PSPNet in mmsegmentation: it has no auxiliary_head.convs"),
        (without(V1C, "backbone.stem"), {}, "it has no backbone.stem.0.weight"),
        (without(V1C, "backbone.layer3.5"), {}, r"5 units in layer3, where ResNets have 6 \(50 layers\)"),
        (
            {**V1C, "backbone.stem.0.weight": (16, 3, 3, 3)},
            {},
            r"stem_channels=32: known are stems of 128 \(64, 64, 128\), 64 \(32, 32, 64\) and a single 7x7",
        ),
        (
            reference.resnet("resnet18", (32, 32, 64), "backbone.") | {"decode_head.conv_seg.weight": (19, 128, 1, 1)},
            {},
            "its units have two convolutions, of which only the first is atrous there, not here",
        ),
        ({**V1C, "neck.0.weight": (3,)}, {}, "1 variables have no place .*: neck.0.weight"),
        (V1C, {"align_corner": True}, "align_corner is no flag .*; did you mean align_corners"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(shapes: Shapes, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        convert(zeros(shapes), options=options)
    assert "\n" not in str(error.value)
