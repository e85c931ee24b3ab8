"""The decoder: what is joined, in which order and at which size, and what each kind is made of."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from atrous.layers.conv import HEAD_NORM, Clip
from atrous.layers.decoder import Decoder, DecoderConfig, Kind, Merge
from atrous.layers.resize import resize
from tests.reference.legacy import legacy

CHANNELS = {"c5": 6, "low_level": 3, "low_level_8": 5, "low_level_16": 7}
IMAGE = (65, 97)


def _decoder(strides: tuple[int, ...] = (4,), *, kind: Kind = "separable", **settings: Any) -> Decoder:  # noqa: ANN401
    torch.manual_seed(0)
    return Decoder(6, CHANNELS, strides, **({"low_level_channels": 2, "out": 4, "kind": kind} | settings)).eval()


def _features(image: tuple[int, int] = IMAGE, batch: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    strides = {"c5": 16, "low_level": 4, "low_level_8": 8, "low_level_16": 16}
    sizes = {name: [-(-side // stride) for side in image] for name, stride in strides.items()}
    return {name: torch.rand(batch, CHANNELS[name], *sizes[name], generator=generator) for name in strides}


def _refined(decoder: Decoder, features: Mapping[str, Tensor]) -> list[Tensor]:
    """What the convolutions behind the joining are given, stage by stage."""
    joined: list[Tensor] = []
    for stage in decoder:
        stage.get_submodule("refine").register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    decoder(features["c5"], features, IMAGE)
    return list(joined)  # the hooks stay


@torch.no_grad()
def test_features_come_first_then_the_thin_low_level_ones() -> None:
    decoder, features = _decoder(), _features()
    (joined,) = _refined(decoder, features)
    thin = decoder[0].get_submodule("low_level")(features["low_level"])
    torch.testing.assert_close(joined, torch.cat([resize(features["c5"], (17, 25)), thin], 1))
    assert thin.shape == (1, 2, 17, 25)


@torch.no_grad()
def test_features_are_upsampled_by_tensorflow_1s_resizing() -> None:
    decoder, features = (
        _decoder((8, 4), convention=DecoderConfig(align_corners=False, half_pixel_centers=False).convention),
        _features(),
    )
    first, second = _refined(decoder, features)
    before = decoder[0](features["c5"], features["low_level_8"], (9, 13))
    for joined, deep, size in ((first, features["c5"], (9, 13)), (second, before, (17, 25))):
        expected = torch.from_numpy(legacy(deep.numpy(), size))
        torch.testing.assert_close(joined[:, : deep.shape[1]], expected)


@torch.no_grad()
def test_every_stage_joins_the_features_of_its_stride_to_the_stage_before() -> None:
    decoder, features = _decoder((16, 8, 4)), _features()
    before = features["c5"]
    taps = (("low_level_16", (5, 7)), ("low_level_8", (9, 13)), ("low_level", (17, 25)))
    joined = _refined(decoder, features)
    for stage, (tap, size), features_joined in zip(decoder, taps, joined, strict=True):
        thin = stage.get_submodule("low_level")(features[tap])
        torch.testing.assert_close(features_joined, torch.cat([resize(before, size), resize(thin, size)], 1))
        before = stage(before, features[tap], size)
    assert before.shape == (1, 4, 17, 25)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["separable", "dense", "logits"])
def test_a_sum_adds_one_convolution_and_the_projection(kind: Kind) -> None:
    decoder, features = _decoder(merge="sum", kind=kind), _features()
    stage = decoder[0]
    deep = stage.get_submodule("refine")(resize(features["c5"], (17, 25)))
    expected = deep + stage.get_submodule("low_level")(features["low_level"])
    torch.testing.assert_close(decoder(features["c5"], features, IMAGE), expected)


def test_parameter_counts_of_each_kind() -> None:
    counts: dict[tuple[Merge, Kind], int] = {
        # low level 1x1 with norm; 3x3 depthwise and 1x1, each with norm, twice
        ("concat", "separable"): (3 * 2 + 4) + (8 * 9 + 16 + 8 * 4 + 8) + (4 * 9 + 8 + 4 * 4 + 8),
        ("concat", "dense"): (3 * 2 + 4) + (8 * 4 * 9 + 8) + (4 * 4 * 9 + 8),
        ("concat", "logits"): (3 * 2 + 2) + (8 * 4 + 4) + (4 * 4 + 4),
        ("sum", "separable"): (3 * 4 + 8) + (6 * 9 + 12 + 6 * 4 + 8),
        ("sum", "dense"): (3 * 4 + 8) + (6 * 4 * 9 + 8),
        ("sum", "logits"): (3 * 4 + 4) + (6 * 4 + 4),
    }
    for (merge, kind), count in counts.items():
        decoder = _decoder(merge=merge, kind=kind)
        assert sum(parameter.numel() for parameter in decoder.parameters()) == count
        norms = [module for module in decoder.modules() if isinstance(module, nn.BatchNorm2d)]
        assert {norm.eps for norm in norms} == (set() if kind == "logits" else {HEAD_NORM.eps})


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from([(4,), (8,), (16,), (8, 4), (16, 4)]),
    st.sampled_from(["concat", "sum"]),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
@example((16, 4), "concat", (1, 1))
def test_any_image_size_works(strides: tuple[int, ...], merge: str, image: tuple[int, int]) -> None:
    features = _features(image)
    features_joined = _decoder(strides, merge=merge)(features["c5"], features, image)
    assert features_joined.shape == (1, 4, *(-(-side // strides[-1]) for side in image))
    assert features_joined.isfinite().all()


@pytest.mark.parametrize("merge", ["concat", "sum"])
@pytest.mark.parametrize("kind", ["separable", "dense", "logits"])
def test_gradients_reach_every_parameter(merge: Merge, kind: Kind) -> None:
    decoder, features = _decoder((8, 4), merge=merge, kind=kind).train(), _features(batch=2)
    torch.autograd.backward(decoder(features["c5"], features, IMAGE).square().sum())
    assert [name for name, p in decoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_every_convolution_has_the_activation() -> None:
    acts = [m for name, m in _decoder((8, 4), act="relu6").named_modules() if name.endswith("act")]
    assert {type(act) for act in acts} == {Clip}
    assert len(acts) == 2 * 5


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"c5": 6}, "a decoder at stride 8 needs low-level features: this backbone has none"),
        ({"c5": 6, "low_level": 3}, r"a decoder at stride 8 needs .* has them only at \[4\]"),
    ],
)
def test_a_backbone_without_the_features_is_refused(channels: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoder(6, channels, (8, 4), low_level_channels=2, out=4, kind="dense")
