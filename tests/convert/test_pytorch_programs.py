"""Models of PyTorch programs: the logits of the programs themselves, on the same weights."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

from atrous.convert.run import conversion
from atrous.runtimes.pytorch import prepare
from tests.convert.conftest import assert_close
from tests.reference.pytorch_programs import CASES, golden, seeded_weights


class Case(NamedTuple):
    system: str
    model: str  # ours
    backbone: str
    options: Mapping[str, Any] = MappingProxyType({})


OF_GOLDENS = {
    "bowenc0221_mobilenet": Case("bowenc0221", "panoptic_deeplab", "mobilenet_v2"),
    "bowenc0221_resnet50": Case("bowenc0221", "panoptic_deeplab", "resnet50"),
    "bowenc0221_xception65_os16": Case("bowenc0221", "panoptic_deeplab_semantic", "xception_65", {"output_stride": 16}),
    "csail_resnet18dilated_ppm_deepsup": Case("csail", "pspnet", "resnet18s"),
    "csail_resnet50dilated_ppm_deepsup": Case("csail", "pspnet", "resnet50s"),
    "huggingface_dm05_os16": Case("huggingface", "deeplab_v3", "mobilenet_v2", {"output_stride": 16}),
    "huggingface_os8": Case("huggingface", "deeplab_v3", "mobilenet_v2", {"output_stride": 8}),
    "kazuto1011_v2_msc": Case("kazuto1011", "deeplab_v2", "resnet101_caffe"),
    "kazuto1011_v2_single": Case("kazuto1011", "deeplab_v2", "resnet101_caffe", {"msc": False}),
    "jfzhang95_mobilenet_os16": Case("jfzhang95", "deeplab_v3plus", "mobilenet_v2"),
    "jfzhang95_mobilenet_os8": Case("jfzhang95", "deeplab_v3plus", "mobilenet_v2", {"out_stride": 8}),
    "jfzhang95_resnet_os16": Case("jfzhang95", "deeplab_v3plus", "resnet101"),
    "jfzhang95_resnet_os8": Case("jfzhang95", "deeplab_v3plus", "resnet101", {"out_stride": 8}),
    "jfzhang95_xception_os16": Case("jfzhang95", "deeplab_v3plus", "xception_65"),
    "jfzhang95_xception_os8": Case("jfzhang95", "deeplab_v3plus", "xception_65", {"out_stride": 8}),
    "jfzhang95_drn": Case("jfzhang95", "deeplab_v3plus", "drn_d_54"),
    "mmseg_ccnet_r50_d8": Case("mmsegmentation", "ccnet", "resnet50c"),
    "mmseg_danet_r50_d8": Case("mmsegmentation", "danet", "resnet50c"),
    "mmseg_deeplabv3_r50_d8": Case("mmsegmentation", "deeplab_v3", "resnet50c"),
    "mmseg_deeplabv3plus_r50_d8": Case("mmsegmentation", "deeplab_v3plus", "resnet50c"),
    "mmseg_deeplabv3plus_r50b_d16_mg124": Case(
        "mmsegmentation", "deeplab_v3plus", "resnet50", {"output_stride": 16, "multi_grid": (1, 2, 4)}
    ),
    "mmseg_deeplabv3plus_mobilenet_d8": Case("mmsegmentation", "deeplab_v3plus", "mobilenet_v2"),
    "mmseg_deeplabv3plus_r18_d8": Case("mmsegmentation", "deeplab_v3plus", "resnet18c"),
    "mmseg_pspnet_r18b_d8": Case("mmsegmentation", "pspnet", "resnet18b"),
    "mmseg_encnet_r50_d8": Case("mmsegmentation", "encnet", "resnet50c"),
    "mmseg_psanet_r50_d8": Case("mmsegmentation", "psanet", "resnet50c", {"mask_size": (9, 13)}),
    "mmseg_pspnet_r50_d8": Case("mmsegmentation", "pspnet", "resnet50c"),
    "smp_pspnet_mobilenet_v2": Case("smp", "pspnet", "mobilenet_v2"),
    "smp_pspnet_resnet18": Case("smp", "pspnet", "resnet18"),
    "smp_pspnet_resnet50_depth5": Case("smp", "pspnet", "resnet50"),
    "smp_v3_mobilenet_v2_separable_os16": Case("smp", "deeplab_v3", "mobilenet_v2", {"encoder_output_stride": 16}),
    "smp_v3_resnet18": Case("smp", "deeplab_v3", "resnet18"),
    "smp_v3plus_mobilenet_v2": Case("smp", "deeplab_v3plus", "mobilenet_v2"),
    "smp_v3plus_mobilenet_v2_binary": Case("smp", "deeplab_v3plus", "mobilenet_v2"),
    "smp_v3plus_resnet34": Case("smp", "deeplab_v3plus", "resnet34"),
    "smp_v3plus_resnet50_dense_os8": Case(
        "smp", "deeplab_v3plus", "resnet50", {"encoder_output_stride": 8, "decoder_atrous_rates": (6, 12, 18)}
    ),
    "smp_v3plus_resnext50_aux": Case("smp", "deeplab_v3plus", "resnext50_32x4d"),
    "smp_v3plus_tu_mobilenetv3_small": Case(
        "smp", "deeplab_v3plus", "timm:mobilenetv3_small_050", {"encoder_name": "tu-mobilenetv3_small_050"}
    ),
    "smp_v3_tu_convnext_atto": Case("smp", "deeplab_v3", "timm:convnext_atto", {"encoder_name": "tu-convnext_atto"}),
    "smp_pspnet_tu_efficientnet_lite0_depth5": Case(
        "smp", "pspnet", "timm:efficientnet_lite0", {"encoder_name": "tu-efficientnet_lite0"}
    ),
    "torchvision_deeplabv3_mobilenet_v3_large": Case("torchvision", "deeplab_v3", "mobilenet_v3_large_tv"),
    "torchvision_lraspp_mobilenet_v3_large": Case("torchvision", "lraspp", "mobilenet_v3_large_tv"),
    "vainf_v3_mobilenet_os16": Case("vainf", "deeplab_v3", "mobilenet_v2"),
    "vainf_v3_resnet50_os8": Case("vainf", "deeplab_v3", "resnet50", {"output_stride": 8}),
    "vainf_v3plus_mobilenet_os16": Case("vainf", "deeplab_v3plus", "mobilenet_v2"),
    "vainf_v3plus_mobilenet_os8": Case("vainf", "deeplab_v3plus", "mobilenet_v2", {"output_stride": 8}),
    "vainf_v3plus_xception_os16": Case("vainf", "deeplab_v3plus", "xception_41"),
    "vainf_v3_xception_os8": Case("vainf", "deeplab_v3", "xception_41", {"output_stride": 8}),
    "vainf_v3plus_resnet50_separable_os16": Case("vainf", "deeplab_v3plus", "resnet50"),
    "vainf_v3plus_resnet101_os16": Case("vainf", "deeplab_v3plus", "resnet101"),
}


SLOW = [
    name
    for name in OF_GOLDENS
    if any(word in name for word in ("resnet101", "kazuto", "jfzhang95_resnet", "xception_os8"))
]


def test_each_golden_has_a_case() -> None:
    assert set(CASES) == set(OF_GOLDENS)


# ---- figures


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in CASES]
)
@torch.no_grad()
def test_logits_are_those_of_the_program_itself(name: str, request: pytest.FixtureRequest) -> None:
    case, expected = OF_GOLDENS[name], golden(name)
    if case.backbone.startswith("timm:"):
        request.getfixturevalue("timm")
    done = conversion(seeded_weights(expected.shapes), options=case.options)
    config = done.segmenter.model.config
    assert (done.system, config.name, config.backbone.name) == (case.system, case.model, case.backbone)
    outputs = done.segmenter.model(expected.image)
    logits = expected.logits["logits"]
    ours = outputs.semantic if logits.shape[1] > 1 else outputs.semantic[:, 1:] - outputs.semantic[:, :1]
    assert_close(ours, logits)
    others = {"center": outputs.center, "offset": outputs.offset, **outputs.heads}
    for head, values in expected.logits.items():
        if (other := others.get(head)) is not None:
            assert_close(other, values)


@pytest.mark.parametrize(
    "name", ["vainf_v3_xception_os8", "vainf_v3plus_mobilenet_os16", "smp_v3plus_mobilenet_v2", "smp_pspnet_resnet18"]
)
def test_networks_prepared_for_prediction_have_them_too(name: str) -> None:
    """Norms are folded, also where zeros lie before the convolution, or where there is no norm."""
    expected = golden(name)
    options = OF_GOLDENS[name].options
    network = prepare(conversion(seeded_weights(expected.shapes), options=options).segmenter.model, "cpu")
    assert_close(network(expected.image).semantic, expected.logits["logits"])
