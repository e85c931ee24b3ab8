"""EncNet: the context gates the channels and predicts the classes."""

import torch
from torch import Tensor, nn

from tests.models.conftest import (
    IMAGES,
    config_of,
    conv_norm,
    head_parameters,
    learn,
    num_parameters,
    on_meta,
    small,
    terms,
    without_gradient,
)


def test_parameter_counts() -> None:
    context = conv_norm(512, 512) + 32 * 512 + 32 + 2 * 32 + (512 + 1) * 512
    auxiliary = conv_norm(1024, 256, 3) + (256 + 1) * 150
    plain = conv_norm(2048, 512, 3) + context + 2 * (512 + 1) * 150 + auxiliary
    lateral = conv_norm(512, 512) + conv_norm(1024, 512) + conv_norm(3 * 512, 512, 3)
    assert head_parameters(on_meta("encnet", 150, backbone="resnet50")) == plain == 12_532_770
    assert head_parameters(on_meta("encnet", 150, backbone="resnet50", lateral=True)) == plain + lateral == 20_400_162


def test_defaults_are_the_papers() -> None:
    config = config_of("encnet").model_dump()
    assert (config["output_stride"], config["head_channels"], config["num_codewords"]) == (8, 512, 32)
    deep_stem = conv_norm(3, 64, 3) + conv_norm(64, 64, 3) + conv_norm(64, 128, 3) - conv_norm(3, 64, 7)
    wider = 64 * 64 + 64 * 256  # the first unit takes 128 channels, not 64
    backbone = 23_508_032 + deep_stem + wider
    assert num_parameters(on_meta("encnet", 150)) == backbone + 12_532_770


@torch.no_grad()
def test_the_context_scales_each_channel_by_one_to_two() -> None:
    model, contexts = small("encnet"), list[tuple[Tensor, Tensor, Tensor]]()
    model.get_submodule("context").register_forward_hook(lambda _, inputs, output: contexts.append((*inputs, *output)))
    outputs = model(IMAGES)
    ((x, y, context),) = contexts
    gate = torch.sigmoid(nn.functional.linear(context, *model.get_submodule("context.gate").parameters()))
    torch.testing.assert_close(y, x * (1 + gate)[..., None, None])  # x is no less than 0
    assert context.shape == (2, 16)
    torch.testing.assert_close(outputs.heads["presence"], model.get_submodule("presence")(context))


@torch.no_grad()
def test_the_context_is_the_mean_of_all_codewords() -> None:
    context = small("encnet").get_submodule("context")
    x = torch.rand(2, 16, 3, 5)
    sums = context.get_submodule("norm")(context.get_submodule("encoding")(context.get_submodule("project")(x)))
    torch.testing.assert_close(context(x)[1], sums.clamp(min=0).sum(1) / 4)


@torch.no_grad()
def test_lateral_features_are_read() -> None:
    model = small("encnet", lateral=True)
    before = model(IMAGES).semantic
    for name in ("c3", "c4"):
        nn.init.zeros_(model.get_submodule(f"lateral.{name}.norm").weight)  # type: ignore[arg-type]
        after = model(IMAGES).semantic
        assert not torch.allclose(before, after)
        before = after


def test_one_image_is_enough_to_train_on() -> None:
    for lateral in (False, True):
        model = small("encnet", lateral=lateral).train()
        outputs = model(IMAGES[:1])
        torch.autograd.backward([logits.logsumexp(1).sum() for logits in (outputs.semantic, *outputs.heads.values())])
        assert without_gradient(model) == []


def test_the_classes_of_two_pictures_are_predicted() -> None:
    model = small("encnet", dropout=0.0)
    learn(model, 24)
    assert set(terms(model)) == {"semantic", "auxiliary", "presence"}
    presence = model.eval()(IMAGES).heads["presence"]
    assert presence.shape == (2, 4)
    assert (presence > 0).tolist() == [[True, True, False, False], [True, False, True, False]]
