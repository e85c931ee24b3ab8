"""Our networks compute what TensorFlow DeepLab computed from the same weights: those that a seeded formula makes."""

from typing import Any

import pytest
import torch

from atrous.models import MODELS, Model, build
from tests.tf_deeplab import CASES, GOLDENS, assert_golden, golden_image, golden_logits, load_seeded

MNV2 = [name for name, case in CASES.items() if case["variant"] == "mobilenet_v2" and not case["eval_scales"]]


def _model(case: dict[str, Any], **settings: Any) -> Model:  # noqa: ANN401
    decoder = case["decoder_output_stride"]
    name = "deeplab_v3plus" if decoder else "deeplab_v3"
    flags = case["options"]
    if decoder:
        settings["decoder_strides"] = decoder
    if "depth_multiplier" in flags:
        settings["depth_multiplier"] = flags["depth_multiplier"]
    if "image_pooling_crop_size" in flags:
        settings["pooling_window"] = flags["image_pooling_crop_size"]
    settings["separable"] = flags.get("aspp_with_separable_conv", True)
    settings |= {
        "backbone": "mobilenet_v2",
        "rates": case["atrous_rates"] or (),
        "output_stride": case["output_stride"],
    }
    settings["image_pyramid"] = case["image_pyramid"] or (1.0,)
    return build(MODELS[name].Config(**settings), case["num_classes"])


@pytest.mark.parametrize("case", MNV2)
def test_logits_are_the_originals(case: str) -> None:
    assert_golden(_model(CASES[case]), case)
