"""Operations of TensorFlow DeepLab other than its networks, from tests/goldens/tf_deeplab/ops.{npz,json}.

Other tests use the rest: `bil_*` and `bil1_*` in layers/test_resize.py (a copy, resize.npz), `loss_*` and most of
`loss` in ops/test_upsample.py, `lr` in test_optim.py, `miou` in metrics/test_confusion.py and, for ADE20K's class
"other", data/test_ade20k.py. `cmap_mapillary_vistas` is not used: there is no such layout yet.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from atrous.backbones import BACKBONES, build_backbone
from atrous.data.ade20k import ADE20K, WITH_OTHER
from atrous.data.augment_config import AugmentConfig
from atrous.data.choices import random_scale
from atrous.data.cityscapes import CITYSCAPES
from atrous.data.geometry import pad_to
from atrous.data.label_space import voc_colors
from atrous.data.transforms import augment, resized_size
from atrous.data.windows import scaled_window
from atrous.inference.frames import on_canvas
from atrous.layers.conv import ConvNorm, Norm
from atrous.layers.resize import resize, resize_nearest, scale_dimension
from atrous.losses import LossConfig, hard_pixel_share
from atrous.models import MODELS, Model, build
from atrous.ops import upsample_cross_entropy
from atrous.types import Sample

GOLDENS = Path(__file__).parent / "goldens" / "tf_deeplab"
FIGURES = json.loads((GOLDENS / "ops.json").read_text())
RESIZED = ["scale0.50", "scale0.75", "scale1.25", "scale2.00", "pp_resized"]
PADDED = ["xception_65", "resnet_v1_101", "resnet_v1_18"]
DECAY = 0.9997

Array = NDArray[np.generic]


def golden(name: str) -> Any:  # noqa: ANN401
    with np.load(GOLDENS / "ops.npz") as arrays:
        return arrays[name]


def tensor(name: str) -> Tensor:
    """[H, W, K] or [B, H, W, K] as float [B, K, H, W]."""
    pixels = torch.from_numpy(golden(name)).float()
    return (pixels[None] if pixels.ndim == 3 else pixels).permute(0, 3, 1, 2)


def sample() -> Sample:
    return Sample("golden", golden("pp_image"), golden("pp_label")[..., 0])


def model(backbone: str) -> Model:
    with torch.device("meta"):
        return build(MODELS["deeplab_v3"].Config(backbone=backbone, name="deeplab_v3"), 21)


# Resizing


def test_nearest_neighbours_are_tensorflows() -> None:
    for size in ("4x5", "13x17", "14x18", "5x5", "1x3"):
        labels = resize_nearest(torch.from_numpy(golden("nn_in"))[..., 0], [int(side) for side in size.split("x")])
        np.testing.assert_array_equal(labels, golden(f"nn_align_{size}")[..., 0], err_msg=size)


def test_scaled_sides_are_tensorflows() -> None:
    for side, scale, expected in FIGURES["scale_dimension"]:
        assert scale_dimension(side, scale) == expected, (side, scale)


def test_sizes_of_a_range_are_tensorflows() -> None:
    for height, width, least, most, factor, *expected in FIGURES["resize_to_range"]:
        config = AugmentConfig(resize_min=least, resize_max=most, resize_factor=factor)
        assert list(resized_size((height, width), config)) == expected, (height, width, least, most, factor)


@pytest.mark.parametrize("name", RESIZED)
def test_resized_samples_are_tensorflows(name: str) -> None:
    """With TensorFlow's conventions; augmentation resizes to the same sizes by its own (docs/parity.md)."""
    height, width = golden(f"{name}_label").shape[:2]
    torch.testing.assert_close(resize(tensor("pp_image"), (height, width)), tensor(f"{name}_image"), rtol=0, atol=1e-4)
    torch.testing.assert_close(resize_nearest(tensor("pp_label"), (height, width)), tensor(f"{name}_label"))


@pytest.mark.parametrize("name", RESIZED)
def test_augmented_sizes_are_tensorflows(name: str) -> None:
    ranged = {"resize_min": 65, "resize_max": 65, "resize_factor": 16} if name == "pp_resized" else {}
    scale = 1.0 if ranged else float(name.removeprefix("scale"))
    config = AugmentConfig(crop=(99, 99), min_scale=scale, max_scale=scale, flip=0, **ranged)
    assert random_scale(config, np.random.default_rng(0)) == scale
    out = augment(sample(), config, np.random.default_rng(0), fill=(0, 0, 0), ignore=255)
    rows, columns = np.nonzero(np.asarray(out.semantic) != 255)
    assert (rows.max() + 1, columns.max() + 1) == golden(f"{name}_label").shape[:2]


def test_the_resized_image_is_the_one_that_the_original_displays() -> None:
    np.testing.assert_array_equal(golden("pp_resized_original"), golden("pp_resized_image"))
    window = scaled_window(resized_size((45, 37), AugmentConfig(resize_min=65)), 1.0, (999, 999), (0, 0))
    assert window.scaled == (79, 65)  # without a maximum the longer side has no limit


# Padding


@pytest.mark.parametrize("backbone", PADDED[:2])
def test_the_canvas_is_tensorflows(backbone: str) -> None:
    expected = tensor(f"pp_eval_{backbone}")
    frame = on_canvas(tensor("pp_image"), model(backbone), (49, 65))
    assert (frame.height, frame.width) == (45, 37)
    torch.testing.assert_close(frame.images, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", PADDED[:2])
def test_training_pads_within_half_a_grey_level(backbone: str) -> None:
    red, green, blue = (round(value) for value in model(backbone).mean)
    padded = pad_to(sample(), 49, 65, (red, green, blue), 255)
    assert np.abs(padded.image - golden(f"pp_eval_{backbone}")).max() <= 0.5
    np.testing.assert_array_equal(padded.semantic, golden("pp_eval_label")[..., 0])


def test_mean_colors_are_tensorflows() -> None:
    for backbone in FIGURES["mean_pixel"].keys() & BACKBONES.keys() - {"resnet_v1_18"}:
        with torch.device("meta"):
            mean = build_backbone(BACKBONES[backbone].Config(name=backbone), 16).mean
        assert mean == pytest.approx(FIGURES["mean_pixel"][backbone]), backbone


def test_resnet_18_is_padded_with_its_own_mean() -> None:
    """The original subtracts ImageNet's mean but pads with grey, so that its padding isn't 0; ours is."""
    assert FIGURES["mean_pixel"]["resnet_v1_18"] == golden("pp_eval_resnet_v1_18")[-1, -1].tolist() == [127.5] * 3
    assert model("resnet_v1_18").mean == pytest.approx(FIGURES["mean_pixel"]["resnet_v1_50"])
    assert FIGURES["mean_pixel"]["None"] == FIGURES["mean_pixel"]["resnet_v1_50"]


# Loss and batch norm


def test_the_loss_after_the_annealing_is_tensorflows() -> None:
    config = LossConfig(hard_pixels=0.25, hard_pixels_step=100)
    for step, name in ((50, "topk0.25_mining100_at50"), (200, "topk0.25_mining100_at200")):
        labels = torch.from_numpy(golden("loss_labels"))[..., 0]
        loss = upsample_cross_entropy(tensor("loss_logits"), labels, hard_pixels=hard_pixel_share(config, step))
        assert float(loss) == pytest.approx(FIGURES["loss"][name], rel=1e-5)


def test_batch_norm_in_training_is_tensorflows() -> None:
    """Normalised by the biased variance; the running variance averages the unbiased one."""
    norm = ConvNorm(4, 4, norm=Norm(eps=1.001e-5, momentum=1 - DECAY), act="none").norm.train()
    torch.testing.assert_close(norm(tensor("bn_in")), tensor("bn_out"), rtol=0, atol=1e-6)
    theirs = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for name, values in norm.state_dict().items():
        if name in theirs:
            np.testing.assert_allclose(values, golden(f"bn_{theirs[name]}"), rtol=1e-4, err_msg=name)


def test_one_value_a_channel_is_refused_where_tensorflow_returns_the_shift() -> None:
    assert not golden("bn1_out").any()
    np.testing.assert_allclose(golden("bn1_moving_mean"), (1 - DECAY) * golden("bn1_in").ravel(), rtol=1e-4)
    np.testing.assert_allclose(golden("bn1_moving_variance"), DECAY)
    assert [golden(f"bn1_{name}").tolist() for name in ("gamma", "beta")] == [[1.0] * 4, [0.0] * 4]
    norm = ConvNorm(4, 4, norm=Norm()).norm.train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm(tensor("bn1_in"))


# Colours


def test_colors_are_tensorflows() -> None:
    np.testing.assert_array_equal(voc_colors(512), golden("cmap_pascal"))
    np.testing.assert_array_equal(CITYSCAPES.colors, golden("cmap_cityscapes")[:19])
    assert not golden("cmap_cityscapes")[19:].any()
    np.testing.assert_array_equal(WITH_OTHER.colors, golden("cmap_ade20k"))
    np.testing.assert_array_equal(ADE20K.colors, golden("cmap_ade20k")[1:])
