"""EncNet: the context gates the channels and foretells the classes."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atrous.losses import LossConfig, semantic_loss
from atrous.models import Model, build
from atrous.models.encnet import EncNet

IMAGES = torch.randint(0, 256, (2, 3, 33, 41), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "head_channels": 16, "num_codewords": 4, "auxiliary_channels": 8}
    return build(EncNet.Config.model_validate(narrow | settings), 4)


def _head_count(*, lateral: bool) -> int:
    with torch.device("meta"):
        model = build(EncNet.Config(backbone="resnet50", lateral=lateral), 150)
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    return sum(parameter.numel() for parameter in model.parameters()) - backbone


def _conv(inp: int, out: int, kernel: int = 1) -> int:
    return kernel**2 * inp * out + 2 * out  # with its norm


def test_parameter_counts() -> None:
    context = _conv(512, 512) + 32 * 512 + 32 + 2 * 32 + (512 + 1) * 512
    auxiliary = _conv(1024, 256, 3) + (256 + 1) * 150
    plain = _conv(2048, 512, 3) + context + 2 * (512 + 1) * 150 + auxiliary
    lateral = _conv(512, 512) + _conv(1024, 512) + _conv(3 * 512, 512, 3)
    assert _head_count(lateral=False) == plain == 12_532_770
    assert _head_count(lateral=True) == plain + lateral == 20_400_162


def test_what_it_is_by_default() -> None:
    config = EncNet.Config()
    assert (config.output_stride, config.head_channels, config.num_codewords) == (8, 512, 32)
    with torch.device("meta"):
        model = build(config, 150)
    deep_stem = _conv(3, 64, 3) + _conv(64, 64, 3) + _conv(64, 128, 3) - _conv(3, 64, 7)
    wider = 64 * 64 + 64 * 256  # the first unit takes 128 channels, not 64
    backbone = 23_508_032 + deep_stem + wider
    assert sum(parameter.numel() for parameter in model.parameters()) == backbone + 12_532_770


@pytest.mark.parametrize("lateral", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 50), (40, 7)])
def test_any_size(size: tuple[int, int], lateral: bool) -> None:
    outputs = _small(lateral=lateral).eval()(torch.zeros(2, 3, *size))
    grid = -(-size[0] // 8), -(-size[1] // 8)
    assert outputs.semantic.shape == (2, 4, *grid)
    assert outputs.auxiliary is not None
    assert outputs.auxiliary.shape == (2, 4, *grid)
    assert outputs.presence is not None
    assert outputs.presence.shape == (2, 4)
    assert all(logits.isfinite().all() for logits in (outputs.semantic, outputs.auxiliary, outputs.presence))


@torch.no_grad()
def test_the_context_scales_each_channel_by_one_to_two() -> None:
    model, seen = _small().eval(), list[tuple[Tensor, Tensor, Tensor]]()
    model.get_submodule("context").register_forward_hook(lambda _, inputs, output: seen.append((*inputs, *output)))
    outputs = model(IMAGES)
    ((x, y, context),) = seen
    gate = torch.sigmoid(nn.functional.linear(context, *model.get_submodule("context.gate").parameters()))
    torch.testing.assert_close(y, x * (1 + gate)[..., None, None])  # x is no less than 0
    assert context.shape == (2, 16)
    assert outputs.presence is not None
    torch.testing.assert_close(outputs.presence, model.get_submodule("presence")(context))


@torch.no_grad()
def test_the_context_is_the_mean_of_all_codewords() -> None:
    context = _small().eval().get_submodule("context")
    x = torch.rand(2, 16, 3, 5)
    sums = context.get_submodule("norm")(context.get_submodule("encoding")(context.get_submodule("project")(x)))
    torch.testing.assert_close(context(x)[1], sums.clamp(min=0).sum(1) / 4)


@torch.no_grad()
def test_lateral_features_are_read() -> None:
    model = _small(lateral=True).eval()
    before = model(IMAGES).semantic
    for name in ("c3", "c4"):
        nn.init.zeros_(model.get_submodule(f"lateral.{name}.norm").weight)  # type: ignore[arg-type]
        after = model(IMAGES).semantic
        assert not torch.allclose(before, after)
        before = after


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("lateral", [False, True])
def test_training_reaches_every_parameter(lateral: bool, batch: int) -> None:
    model = _small(lateral=lateral).train()
    labels = torch.randint(0, 4, (batch, 33, 41), generator=torch.Generator().manual_seed(1))
    terms = semantic_loss(model(IMAGES[:batch]), labels, LossConfig(), ignore=255)
    assert set(terms) == {"semantic", "auxiliary", "presence"}
    torch.autograd.backward(list(terms.values()))
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_two_images_are_learnt_by_heart() -> None:
    model = _small(dropout=0.0).train()
    labels = torch.zeros(2, 33, 41, dtype=torch.uint8)
    labels[0, :, 20:], labels[1, 16:] = 1, 2
    images = 60 * labels[:, None].expand(2, 3, 33, 41) + IMAGES // 4
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = torch.stack(list(semantic_loss(model(images), labels, LossConfig(), ignore=255).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
    presence = model.eval()(images).presence
    assert presence is not None
    assert (presence > 0).tolist() == [[True, True, False, False], [True, False, True, False]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codewords": 0}, "greater than 0"),
        ({"head_channels": -1}, "greater than 0"),
        ({"auxiliary_channels": 0}, "greater than 0"),
        ({"dropout": 1.0}, "less than 1"),
        ({"lateral": "sometimes"}, "valid boolean"),
        ({"output_stride": 4}, "8, 16 or 32"),
        ({"codewords": 32}, "Extra inputs"),
        ({"backbone": "resnet50z"}, "did you mean resnet50"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as error:
        _small(**settings)
    (problem,) = error.value.errors()
    assert "\n" not in problem["msg"]
