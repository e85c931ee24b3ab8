"""Logits, labels and comparisons for the tests of losses on upsampled logits."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from atrous.ops import tiles

WEIGHTS = torch.tensor([0.1, 0.5, 1, 2, 3])


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def small_tiles() -> Iterator[None]:
    """Tiles of a few pixels, so that small maps have several in both directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "CPU_TILE_BYTES", 800)
        patch.setattr(tiles, "TILE_COLUMNS", 5)
        yield


def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def random_labels(*shape: int, classes: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    return labels.where(torch.rand(shape, generator=generator) > 0.2, 255)


def random_pixel_weights(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 4, shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor, options: dict[str, Any]) -> list[Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, labels, **options)
    return [value.detach(), *torch.autograd.grad(value * 3, leaf)]
