"""What the tests of models share: small networks of every kind, images, and two pictures to learn by heart."""

from collections.abc import Mapping

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from atrous.losses import LossConfig, semantic_loss
from atrous.models import AnyModelConfig, Model, ModelConfig, build
from atrous.types import Outputs

MOBILENET: Mapping[str, object] = {"backbone": {"name": "mobilenet_v2", "depth_multiplier": 0.25}}
TINY: Mapping[str, object] = {"backbone": "resnet_tiny"}
ASPP, DECODER = {"channels": 8}, {"channels": 8}
BRANCH = {"aspp_channels": 8, "low_level_channels": (4, 4), "decoder_channels": 8, "head_channels": 8}
SMALL: dict[str, Mapping[str, object]] = {
    "fcn": {**TINY, "head_channels": 8, "auxiliary_channels": 8},
    "deeplab_v1": {},
    "deeplab_v2": MOBILENET,
    "deeplab_v3": {**MOBILENET, "aspp": ASPP},
    "deeplab_v3plus": {**MOBILENET, "aspp": ASPP, "decoder": DECODER},
    "dense_prediction_cell": {**MOBILENET, "cell_channels": 8, "decoder": DECODER},
    "lraspp": {"backbone": {"name": "mobilenet_v3_small_seg", "depth_multiplier": 0.25}, "head_channels": 8},
    "pspnet": {**TINY, "head_channels": 8, "auxiliary_channels": 8},
    "psanet": {**TINY, "psa_channels": 8, "head_channels": 8, "auxiliary_channels": 8, "mask_size": (5, 7)},
    "icnet": {**TINY, "pyramid_channels": 16, "fusion_channels": 8},
    "encnet": {**TINY, "head_channels": 16, "num_codewords": 4, "auxiliary_channels": 8},
    "ccnet": {**TINY, "head_channels": 16, "key_channels": 2, "auxiliary_channels": 8},
    "danet": {**TINY, "head_channels": 16, "key_channels": 2},
    "ocnet": {**TINY, "head_channels": 16, "auxiliary_channels": 8},
    "panoptic_deeplab": {**TINY, "semantic": BRANCH, "instance": BRANCH},
    "panoptic_deeplab_semantic": {**TINY, "semantic": BRANCH},
    "image_classifier": {**MOBILENET, "head_channels": 8},
}
POOLED = ({"kernel": 1}, {"op": "pyramid_pooling", "grid_size": (2, 4), "input": 0})
VARIANTS: dict[str, tuple[str, Mapping[str, object]]] = {  # model, settings
    **{name: (name, {}) for name in SMALL},
    "fcn, one head": ("fcn", {"auxiliary_channels": None}),
    "deeplab_v1, side branches": ("deeplab_v1", {"multi_scale": True}),
    "deeplab_v2, fully connected": ("deeplab_v2", {"hidden": 8}),
    "deeplab_v3, torchvision's": ("deeplab_v3", {**TINY, "head_channels": 8, "auxiliary_channels": 8}),
    "deeplab_v3, gated": ("deeplab_v3", {"aspp": {**ASPP, "squeeze": "sigmoid"}}),
    "deeplab_v3plus, two strides": ("deeplab_v3plus", {"decoder": {**DECODER, "strides": (8, 4)}}),
    "dense_prediction_cell, no decoder": ("dense_prediction_cell", {"decoder": {"strides": ()}}),
    "dense_prediction_cell, logits": ("dense_prediction_cell", {"decoder": {"logits": True, "merge": "sum"}}),
    "dense_prediction_cell, pooled": ("dense_prediction_cell", {"cell": POOLED}),
    "psanet, collect": ("psanet", {"psa_type": "collect"}),
    "psanet, distribute": ("psanet", {"psa_type": "distribute", "shrink_factor": 1}),
    "psanet, no softmax": ("psanet", {"psa_softmax": False, "normalization_factor": 30.0}),
    "psanet, compact": ("psanet", {"compact": True, "mask_size": (3, 4)}),
    "icnet, its own backbone": ("icnet", {"backbone": "icnet_resnet50"}),
    "icnet, mobilenet": ("icnet", MOBILENET),
    "encnet, lateral": ("encnet", {"lateral": True}),
    "ocnet, pyramid": ("ocnet", {"variant": "pyramid"}),
    "ocnet, asp": ("ocnet", {"variant": "asp"}),
    "panoptic_deeplab, dense": ("panoptic_deeplab", {"separable": False}),
    "image_classifier, c5": ("image_classifier", {"head_channels": None}),
}


def config_of(name: str, **settings: object) -> ModelConfig:
    config: ModelConfig = TypeAdapter(AnyModelConfig).validate_python({"name": name, **settings})
    return config


def small(name: str, num_classes: int = 4, /, **settings: object) -> Model:
    """A network in evaluation mode that takes milliseconds; `settings` on top of SMALL."""
    torch.manual_seed(0)
    return build(config_of(name, **{**SMALL[name], **settings}), num_classes).eval()


def on_meta(name: str, num_classes: int, /, **settings: object) -> Model:
    """A network without weights, with the settings of its paper but for `settings`."""
    with torch.device("meta"):
        return build(config_of(name, **settings), num_classes)


def random_images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def head_parameters(model: Model) -> int:
    return num_parameters(model) - num_parameters(model.backbone)


def conv_norm(inp: int, out: int, kernel: int = 1) -> int:
    """The parameters of a convolution with its batch norm."""
    return kernel**2 * inp * out + 2 * out


def main_logits(outputs: Outputs) -> Tensor:
    """The map of classes, or the classes of the whole image."""
    return outputs.semantic if outputs.classes is None else outputs.classes


def all_logits(outputs: Outputs) -> list[Tensor]:
    """All that a loss may ask of a model."""
    things = [x for x in (outputs.center, outputs.offset) if x is not None]
    return [main_logits(outputs), *outputs.heads.values(), *things]


def without_gradient(model: nn.Module) -> list[str]:
    """The parameters that what was back-propagated does not depend on."""
    return [name for name, p in model.named_parameters() if p.grad is None or not (p.is_meta or p.grad.any())]


# ---- two pictures of three of four classes, one large part each

LABELS = torch.zeros(2, 33, 41, dtype=torch.uint8)
LABELS[0, :, 20:], LABELS[1, 16:] = 1, 2
NOISE = torch.randint(0, 64, (2, 3, 33, 41), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
IMAGES = 60 * LABELS[:, None].expand(2, 3, 33, 41) + NOISE


def terms(model: Model, zoom: int = 1) -> dict[str, Tensor]:
    """The terms of the loss on the two pictures, each pixel repeated `zoom` times."""
    images, labels = (x.repeat_interleave(zoom, -2).repeat_interleave(zoom, -1) for x in (IMAGES, LABELS))
    return semantic_loss(model(images), labels, LossConfig(), ignore=255)


def unreached(model: Model, zoom: int = 1) -> list[str]:
    """The parameters that the loss does not depend on."""
    model.zero_grad()
    torch.autograd.backward(list(terms(model.train(), zoom).values()))
    return without_gradient(model)


def learn(model: Model, steps: int = 16) -> list[float]:
    """The loss before each step."""
    optimizer = torch.optim.AdamW(model.train().parameters(), 2e-2)
    losses = []
    for _ in range(steps):
        loss = torch.stack(list(terms(model).values())).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
