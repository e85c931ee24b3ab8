"""OCNet: the contexts of objects alone, in a pyramid of parts, and beside atrous convolutions."""

import pytest
import torch
from torch import Tensor, nn

from tests.models.conftest import IMAGES, config_of, conv_norm, head_parameters, learn, on_meta, small, unreached

VARIANTS = ["base", "pyramid", "asp"]


def _context(inp: int, mid: int) -> int:
    return conv_norm(inp, mid) + (inp + 1) * mid + (mid + 1) * inp  # query and key in one, value, output


BASE = conv_norm(2048, 512, 3) + _context(512, 256) + conv_norm(2 * 512, 512)
PYRAMID = conv_norm(2048, 512, 3) + 4 * _context(512, 256) + conv_norm(5 * 512, 512)
ASP = (
    conv_norm(2048, 256, 3)
    + _context(256, 128)
    + conv_norm(2048, 256)
    + 3 * conv_norm(2048, 256, 3)
    + conv_norm(5 * 256, 512)
)


def test_parameter_counts() -> None:
    counts = {"base": (BASE, 15_097_126), "pyramid": (PYRAMID, 17_067_046), "asp": (ASP, 24_895_654)}
    auxiliary = conv_norm(1024, 512, 3) + (512 + 1) * 19
    for variant, (context, count) in counts.items():
        model = on_meta("ocnet", 19, backbone="resnet101", variant=variant)
        assert head_parameters(model) == context + (512 + 1) * 19 + auxiliary == count


def test_what_it_is_by_default() -> None:
    config = config_of("ocnet").model_dump()
    assert (config["backbone"]["name"], config["output_stride"]) == ("resnet101s", 8)
    assert (config["variant"], config["head_channels"]) == ("base", 512)


@pytest.mark.parametrize(("variant", "dropout"), [("base", 0.05), ("pyramid", 0.05), ("asp", 0.1)])
def test_dropout_is_the_variants_unless_it_is_set(variant: str, dropout: float) -> None:
    settings: list[dict[str, object]] = [{}, {"dropout": 0.0}]
    drops = [small("ocnet", variant=variant, **more).get_submodule("dropout").p for more in settings]
    assert drops == [dropout, 0.0]


def _learnt(variant: str) -> nn.Module:
    """The context module, its zeros filled."""
    context = small("ocnet", variant=variant).get_submodule("context")
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
    model = small("ocnet", variant=variant)
    before = unreached(model)
    assert before
    assert {name.split(".")[-2] for name in before} <= {"conv", "norm", "value"}
    for name, parameter in model.named_parameters():
        if ".output." in name:
            nn.init.normal_(parameter)
    assert unreached(model, zoom=2) == []  # parts of one pixel, as the sixths are at zoom 1, have nothing to weigh


@pytest.mark.parametrize("variant", VARIANTS)
def test_contexts_are_learnt(variant: str) -> None:
    model = small("ocnet", variant=variant, dropout=0.0)
    learn(model)
    learnt = [parameter for name, parameter in model.named_parameters() if name.endswith("output.weight")]
    assert learnt
    assert all(weight.abs().max() > 1e-4 for weight in learnt)


def test_one_image_is_enough_to_train_on() -> None:
    for variant in VARIANTS:
        assert small("ocnet", variant=variant).train()(IMAGES[:1]).semantic.isfinite().all()
