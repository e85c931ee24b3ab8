"""Converted, TensorFlow DeepLab's networks compute what they computed there; a seeded formula makes the weights."""

import numpy as np
import pytest
import torch
from torch import Tensor

from atrous.convert import convert
from atrous.convert.systems.tf_deeplab.scopes import ROOTS
from atrous.inference.look import predict_probabilities
from tests.conftest import SHARED
from tests.reference.tf_deeplab import (
    CASES,
    GOLDENS,
    LIST_OF,
    UNDECIDED,
    dense_pyramid,
    flags_of,
    golden_image,
    golden_logits,
    seeded_variables,
    variable_lists,
    variables_of,
    without,
)

NEIGHBOURS = sorted(CASES, key=lambda case: (LIST_OF[case], case))  # share their variables
TOLERANCE = 1e-4  # of the largest logit


def _assert_close(ours: Tensor, expected: Tensor) -> None:
    assert ours.shape == expected.shape
    assert float((ours - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("case", NEIGHBOURS)
def test_logits_are_the_originals(case: str) -> None:
    flags = flags_of(case)
    segmenter = convert(seeded_variables(case), options={name: flags[name] for name in UNDECIDED & flags.keys()})
    if CASES[case]["eval_scales"]:
        ours = predict_probabilities(segmenter.model, golden_image(case), segmenter.inference)
        _assert_close(ours.softmax(1), golden_logits(case, "prob"))  # theirs is softmax of a mean of probabilities
        return
    with torch.no_grad():
        outputs = segmenter.model(golden_image(case))
    _assert_close(outputs.semantic, golden_logits(case))
    for logits, scale in zip(outputs.heads.values(), CASES[case]["image_pyramid"] or (), strict=True):
        _assert_close(logits, golden_logits(case, f"logits_{scale:.2f}".replace(".", "_")))


def test_predictions_of_many_scales_are_the_originals() -> None:
    segmenter = convert(seeded_variables("mnv2_ms_flip"), options=flags_of("mnv2_ms_flip"))
    image = golden_image("mnv2_ms_flip")[0].permute(1, 2, 0).numpy()
    with np.load(GOLDENS / "mnv2_ms_flip.npz") as golden:
        assert np.array_equal(segmenter.predict(image).semantic, golden["pred"][0])


def test_every_network_of_the_original_has_a_golden() -> None:
    scopes = {name.partition("/")[0] for case in CASES for name in variables_of(case)}
    assert {root.scope for root in ROOTS.values()} <= scopes


# ---- the lists of variables themselves


def test_the_committed_lists_are_the_originals() -> None:
    folder = SHARED / "goldens" / "tf_deeplab" / "variables"
    if not folder.is_dir():
        pytest.skip(f"no lists of the original's variables in {folder}")
    for key, shapes in variable_lists().items():
        lines = (folder / f"vars_{key}.txt").read_text().splitlines()
        rows = [line.split()[:2] for line in lines if line and not line.startswith("#")]
        assert shapes == {name: tuple(map(int, shape.split("x"))) for name, shape in rows}


def test_the_rule_for_a_dense_pyramid_gives_the_one_that_is_listed() -> None:
    lists = variable_lists()
    dense = dense_pyramid(without(lists["mnv2_v3plus"], "decoder/"))
    assert dense == without(lists["mnv2_dec_nosep"], "decoder/") == variables_of("mnv2_nocrop_globalpool")
