"""A model spread over the processes of a run: replicated (DDP), or its weights shared out among them (FSDP2).

Shared out, a process holds its part of each weight, of its gradient, of its average and of what the optimizer keeps of
it, and borrows the rest of a unit's weights while it computes that unit. Whatever is saved is whole, so that a run goes
on with any number of processes, either way.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from atrous.distributed import World, mapped
from atrous.layers.synchronized import synchronized
from atrous.models import Model

Way = Literal["ddp", "fsdp"]
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # whose parts may be called one by one
SMALLEST_UNIT = 2**17  # parameters: to borrow fewer at a time costs more than it saves


class Replicated(DistributedDataParallel):
    """Without the message that sends all buffers at each step: only validations read them, and they copy rank 0's."""

    def will_sync_module_buffers(self) -> bool:
        return False


def spread(model: Model, averaged: Model | None, way: Way, world: World) -> nn.Module:
    """What trains `model` together with the other processes. Its parameters are replaced if they are shared out, and
    so are those of `averaged`: an optimizer must be built afterwards.
    """
    if world.size == 1:
        return model
    if world.device.type == "cuda":
        synchronized(model)  # in place: the model itself is no batch norm
    if way == "ddp":
        return Replicated(model, device_ids=[world.device.index] if world.device.type == "cuda" else None)
    mesh = init_device_mesh(world.device.type, (world.size,))
    if averaged is not None:
        share_out(averaged, mesh)
    return share_out(model, mesh)


def share_out(model: Model, mesh: DeviceMesh) -> Model:
    """Share out the weights of the model, in place, unit by unit; small units are borrowed together."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # what FSDP can cut
    large = [unit for unit in units(model) if sum(one.numel() for one in unit.parameters()) >= SMALLEST_UNIT]
    for module in (*large, model):
        module.register_forward_hook(_without_views)
        fully_shard(module, mesh=mesh)
    model.register_forward_pre_hook(_channels_last)
    return model


def units(model: Model) -> Iterator[nn.Module]:
    """The largest parts of the backbone, and of the rest, that are called as a whole."""
    for child in model.children():
        yield from _parts(model.backbone.children() if child is model.backbone else (child,))


def _parts(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if isinstance(module, CONTAINERS):
            yield from _parts(module.children())
        else:
            yield module


def _channels_last(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Borrowed weights lie channel by channel; the layers follow their input."""
    images, *rest = inputs
    return (images.contiguous(memory_format=torch.channels_last), *rest)


def _without_views(module: nn.Module, inputs: object, output: Any) -> Any:  # noqa: ANN401 - whatever a module returns
    """Hooks on the output let weights be borrowed again; an operation in place would strip a view of them."""
    if isinstance(output, Tensor):
        return output.clone() if output._base is not None else output
    if isinstance(output, dict):
        return {name: _without_views(module, inputs, value) for name, value in output.items()}
    if isinstance(output, tuple):
        values = [_without_views(module, inputs, value) for value in output]
        return output._make(values) if hasattr(output, "_make") else tuple(values)
    return output


def is_shared_out(model: nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def gradients_summed(parallel: nn.Module, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
    """Let the processes exchange gradients only in the last pass of an update."""
    if isinstance(parallel, FSDPModule):
        parallel.set_requires_gradient_sync(is_last)
    if isinstance(parallel, DistributedDataParallel) and not is_last:
        return parallel.no_sync()
    return contextlib.nullcontext()


# ---- whole weights, and parts of them


def whole(tree: Any, *, is_wanted: bool = True) -> Any:  # noqa: ANN401 - any state dict
    """A state dict with whole tensors, on the CPU where they were shared out. All processes take part; a process that
    doesn't want them holds no more than one at a time.
    """

    def joined(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if is_wanted else full.new_empty(0)

    return mapped(tree, joined)


@torch.no_grad()
def copy_whole(model: nn.Module, target: nn.Module) -> None:
    """Let `target`, which is not shared out, have the weights of `model`. All processes take part."""
    for own, other in zip(target.state_dict().values(), model.state_dict().values(), strict=True):
        own.copy_(whole(other))


@torch.no_grad()
def load_whole(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole weights, of which each process keeps its part."""
    if not is_shared_out(model):
        model.load_state_dict(weights)
        return
    for name, own in model.state_dict().items():
        own.copy_(part_of(weights[name], own))


def part_of(full: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor, which each process has, that belongs to this process as its part of `like` does."""
    if not isinstance(like, DTensor):
        return full
    place = full.to(like.device)
    return distribute_tensor(place, like.device_mesh, like.placements, src_data_rank=None)


def parts_of_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state dict as this process's part of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def parts(index: int, values: Mapping[str, Any]) -> dict[str, Any]:
        like = parameters[index]
        return {
            name: part_of(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value
            for name, value in values.items()
        }

    return {**state, "state": {index: parts(index, values) for index, values in state["state"].items()}}
