"""Activation checkpointing (Chen et al. 2016, arXiv:1604.06174): parts of a network keep nothing but their inputs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from atrous.layers.quantization import ranges


def recompute(parts: Iterable[nn.Module]) -> None:
    """Let each part compute its activations again in the backward pass, instead of keeping them since the forward.

    No number changes: dropout draws the same again, and batch norms count each batch once. A copy of a part recomputes,
    too. Parts may not change their inputs in place.
    """
    for part in parts:
        part.forward = partial(_computed_twice, part, part.forward)


def _computed_twice(part: nn.Module, forward: Callable[..., Any], *inputs: Any) -> Any:  # noqa: ANN401 - as the part's
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_passes, part))


def _passes(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds the first pass, and the second."""
    return contextlib.nullcontext(), statistics_kept(part)


@contextlib.contextmanager
def statistics_kept(part: nn.Module) -> Iterator[None]:
    """Batch norms in training mode compute what they would, but leave their statistics and counters as they are; so do
    ranges of 8-bit values."""
    own = [one for _, one in ranges(part)]
    norms = [one for one in part.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    momenta = {norm: norm.momentum for norm in norms if norm.training}
    counters = {norm: norm.num_batches_tracked for norm in momenta}
    for norm, counter in counters.items():
        norm.momentum, norm.num_batches_tracked = 0.0, None if counter is None else counter.clone()
    for one in own:
        one.observes = False
    try:
        yield
    finally:
        for one in own:
            one.observes = True
        for norm, counter in counters.items():
            norm.momentum, norm.num_batches_tracked = momenta[norm], counter
