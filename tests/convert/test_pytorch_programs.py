"""Models of PyTorch programs: the logits of the programs themselves, on the same weights."""

from typing import Any, NamedTuple

import pytest
import torch

from atrous.convert.run import conversion
from tests.convert.conftest import assert_close
from tests.reference.pytorch_programs import CASES, golden, seeded_weights


class Case(NamedTuple):
    system: str
    model: str  # ours
    backbone: str
    options: dict[str, Any] = {}


OF_GOLDENS = {
    "vainf_v3_mobilenet_os16": Case("vainf", "deeplab_v3", "mobilenet_v2"),
    "vainf_v3_resnet50_os8": Case("vainf", "deeplab_v3", "resnet50", {"output_stride": 8}),
    "vainf_v3plus_mobilenet_os16": Case("vainf", "deeplab_v3plus", "mobilenet_v2"),
    "vainf_v3plus_mobilenet_os8": Case("vainf", "deeplab_v3plus", "mobilenet_v2", {"output_stride": 8}),
    "vainf_v3plus_resnet50_separable_os16": Case("vainf", "deeplab_v3plus", "resnet50"),
    "vainf_v3plus_resnet101_os16": Case("vainf", "deeplab_v3plus", "resnet101"),
}


def test_each_golden_has_a_case() -> None:
    assert set(CASES) == set(OF_GOLDENS)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_are_those_of_the_program_itself(name: str) -> None:
    case, expected = OF_GOLDENS[name], golden(name)
    done = conversion(seeded_weights(expected.shapes), options=case.options)
    config = done.segmenter.model.config
    assert (done.system, config.name, config.backbone.name) == (case.system, case.model, case.backbone)
    outputs = done.segmenter.model(expected.image)
    assert_close(outputs.semantic, expected.logits["logits"])
    for head, logits in expected.logits.items():
        if head != "logits":
            assert_close(outputs.heads[head], logits)
