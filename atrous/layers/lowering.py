"""Networks in bfloat16, for prediction: half the memory traffic, and arithmetic that newer processors have units for.

Its 8 significant bits are too few for two values: the image minus its mean, and logits, between which the arg-max
decides. Both stay in float32, as do batch norms that could not be folded.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from atrous.layers.folding import norms_in, replace
from atrous.layers.quantization import ranges

LAST = "classify"  # what the last convolution of a network, or of a branch, is called


def lower(model: nn.Module, logit_modules: Collection[str]) -> None:
    """Let `model` compute in bfloat16, from its first to its last convolutions. Whoever calls it lowers the images."""
    last = _last_of(model, logit_modules)
    exact = {id(part) for part in (model, *norms_in(model), *last, *(one for _, one in ranges(model)))}
    for part in model.modules():
        if id(part) not in exact:
            _cast(part)
    for part in last:
        replace(model, part, nn.Sequential(Cast(torch.float32), part))


class Cast(nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        return x.to(self.kind)


def _last_of(model: nn.Module, logit_modules: Collection[str]) -> list[nn.Module]:
    return [
        part
        for name, part in model.named_modules()
        if type(part) in (nn.Conv2d, nn.Linear)
        and (LAST in name.split(".") or any(f"{name}.".startswith(f"{one}.") for one in logit_modules))
    ]


def _cast(part: nn.Module) -> None:
    """New tensors, since other modules may share the old ones."""
    for name, tensor in list(part.named_parameters(recurse=False)):
        setattr(part, name, nn.Parameter(_lowered(tensor.detach()), requires_grad=False))
    for name, buffer in list(part.named_buffers(recurse=False)):
        setattr(part, name, _lowered(buffer))


def _lowered(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16) if tensor.dtype == torch.float32 else tensor
