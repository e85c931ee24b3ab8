"""OCNet: the contexts of objects alone, in a pyramid of parts, and beside atrous convolutions."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from atrous.models import Model, build
from atrous.models.ocnet import OCNet
from tests.two_images import IMAGES, learn, terms, unreached

VARIANTS = ["base", "pyramid", "asp"]


def _small(**settings: object) -> Model:
    torch.manual_seed(0)
    narrow = {"backbone": "resnet_tiny", "head_channels": 16, "auxiliary_channels": 8}
    return build(OCNet.Config.model_validate(narrow | settings), 4)


def _conv(inp: int, out: int, kernel: int = 1) -> int:
    return kernel**2 * inp * out + 2 * out  # with its norm


def _context(inp: int, mid: int) -> int:
    return _conv(inp, mid) + (inp + 1) * mid + (mid + 1) * inp  # query and key in one, value, output


BASE = _conv(2048, 512, 3) + _context(512, 256) + _conv(2 * 512, 512)
PYRAMID = _conv(2048, 512, 3) + 4 * _context(512, 256) + _conv(5 * 512, 512)
ASP = _conv(2048, 256, 3) + _context(256, 128) + _conv(2048, 256) + 3 * _conv(2048, 256, 3) + _conv(5 * 256, 512)


@pytest.mark.parametrize(
    ("variant", "context", "count"),
    [("base", BASE, 15_097_126), ("pyramid", PYRAMID, 17_067_046), ("asp", ASP, 24_895_654)],
)
def test_parameter_counts(variant: str, context: int, count: int) -> None:
    with torch.device("meta"):
        model = build(OCNet.Config.model_validate({"backbone": "resnet101", "variant": variant}), 19)
    auxiliary = _conv(1024, 512, 3) + (512 + 1) * 19
    head = context + (512 + 1) * 19 + auxiliary
    backbone = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) - backbone == head == count


def test_what_it_is_by_default() -> None:
    config = OCNet.Config()
    assert (config.backbone, config.output_stride, config.variant, config.head_channels) == (
        "resnet101s",
        8,
        "base",
        512,
    )


@pytest.mark.parametrize(("variant", "dropout"), [("base", 0.05), ("pyramid", 0.05), ("asp", 0.1)])
def test_dropout_is_the_variants_unless_said(variant: str, dropout: float) -> None:
    found = [_small(variant=variant, **more).get_submodule("dropout").p for more in ({}, {"dropout": 0.0})]
    assert found == [dropout, 0.0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (33, 50), (40, 7)])
def test_any_size(size: tuple[int, int], variant: str) -> None:
    outputs = _small(variant=variant).eval()(torch.zeros(1, 3, *size))
    grid = -(-size[0] // 8), -(-size[1] // 8)
    assert outputs.auxiliary is not None
    assert outputs.semantic.shape == outputs.auxiliary.shape == (1, 4, *grid)
    assert outputs.semantic.isfinite().all()


def _learnt(variant: str) -> nn.Module:
    """The context module, its zeros filled."""
    context = _small(variant=variant).eval().get_submodule("context")
    for name, parameter in context.named_parameters():
        if "output" in name:
            nn.init.normal_(parameter)
    return context


@torch.no_grad()
@pytest.mark.parametrize(("variant", "bins"), [("base", [1]), ("pyramid", [1, 2, 3, 6])])
def test_contexts_lie_beside_what_they_are_of(variant: str, bins: list[int]) -> None:
    context, joined = _learnt(variant), list[Tensor]()
    context.get_submodule("project").register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    c5 = torch.randn(2, 64, 5, 7)
    context(c5)
    x = context.get_submodule("reduce")(c5)
    contexts = [context.get_submodule(f"contexts.{index}") for index in range(len(bins))]
    assert [module.parts for module in contexts] == bins
    torch.testing.assert_close(joined, [torch.cat([*(module(x) for module in contexts), x], 1)])
    assert joined[0][:, :16].var((2, 3)).any()


@torch.no_grad()
def test_asp_has_its_five_branches_in_order() -> None:
    context, joined = _learnt("asp"), list[Tensor]()
    context.get_submodule("project").register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    c5 = torch.randn(2, 64, 5, 7)
    context(c5)
    branches = list(context.get_submodule("branches").children())
    torch.testing.assert_close(joined, [torch.cat([branch(c5) for branch in branches], 1)])
    convs = [module for module in branches[0].modules() if isinstance(module, nn.Conv2d)][:1]  # before the attention
    convs += [module for branch in branches[1:] for module in branch.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [3, 1, 3, 3, 3]
    assert [conv.dilation[0] for conv in convs] == [1, 1, 12, 24, 36]
    assert context.get_submodule("branches.0.1").pool == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_reaches_every_parameter_once_the_context_has_left_0(variant: str) -> None:
    model = _small(variant=variant)
    before = unreached(model)
    assert before
    assert {name.split(".")[-2] for name in before} <= {"conv", "norm", "value"}
    model.zero_grad()
    for name, parameter in model.named_parameters():
        if ".output." in name:
            nn.init.normal_(parameter)
    assert unreached(model, zoom=2) == []  # parts of one pixel, as the sixths are at zoom 1, have nothing to weigh
    assert set(terms(model)) == {"semantic", "auxiliary"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_images_are_learnt_by_heart(variant: str) -> None:
    model = _small(variant=variant, dropout=0.0)
    losses = learn(model)
    assert losses[-1] < losses[0] / 2
    learnt = [parameter for name, parameter in model.named_parameters() if name.endswith("output.weight")]
    assert learnt
    assert all(weight.abs().max() > 1e-4 for weight in learnt)


def test_one_image_is_enough_to_train_on() -> None:
    for variant in VARIANTS:
        assert _small(variant=variant).train()(IMAGES[:1]).semantic.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "aspp"}, "'base', 'pyramid' or 'asp'"),
        ({"head_channels": 2}, "greater than or equal to 4"),
        ({"dropout": 1.0}, "less than 1"),
        ({"rates": (1, 2)}, "Extra inputs"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        _small(**settings)
