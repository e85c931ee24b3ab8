"""One process or many: PyTorch's own engine, started by `torchrun`, behind a few small functions."""

import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from atrous.errors import ConfigError, ProcessDied

T = TypeVar("T")

LOST_PEER = "another process of this run ended; its own message says why"
REASONS = {  # pattern in what PyTorch says of a process that can't join: what to do. The first one counts
    "EADDRINUSE|in use": "another program has that port; set another with torchrun --master-port, or use --standalone",
    "environment variable": "start the processes with torchrun, which sets what is missing",
    "[Tt]imed? ?out|clients joined": "the others did not come in time; their own messages say why",
    "": "see whether the first process still runs, and can be reached there",
}


class World(NamedTuple):
    rank: int  # 0 writes files and prints
    size: int
    device: torch.device


class Restarts(NamedTuple):
    """How often `torchrun` has started the processes again, and how often it may."""

    number: int
    most: int


class _Outline(NamedTuple):
    """What a tensor looks like."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def join(device: str | None = None) -> World:
    """Enter the process group that `torchrun` describes in the environment, or be the only process.

    If `device` is None, it is a GPU if there is one. Raises ConfigError for a device that this machine lacks.
    """
    rank, size, local_rank = (
        _number(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    own = choose_device(device, local_rank)
    if size > 1 and not distributed.is_initialized():
        _enter("nccl" if own.type == "cuda" else "gloo", rank, size)
    return World(rank, size, own)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"the environment variable {name} is {text!r}, not a number; torchrun sets it")
    return int(text)


def restarts() -> Restarts:
    """(0, 0) for processes that nobody restarts."""
    return Restarts(*(_number(f"TORCHELASTIC_{name}", 0) for name in ("RESTART_COUNT", "MAX_RESTARTS")))


def _enter(backend: str, rank: int, size: int) -> None:
    if rank >= size:
        raise ConfigError(f"the environment says RANK={rank} of WORLD_SIZE={size} processes; torchrun sets both")
    try:
        distributed.init_process_group(backend, **_place(rank, size))
    except (RuntimeError, ValueError, OSError) as error:
        reason = next(reason for pattern, reason in REASONS.items() if re.search(pattern, str(error)))
        detail = str(error).strip().partition("\n")[0]
        raise ProcessDied(f"process {rank} of {size} could not join the others: {reason} ({detail})") from error


def _place(rank: int, size: int) -> dict[str, Any]:
    """Where the processes meet: not at the addresses of dead ones, which torchrun's store still has after a restart.

    Several machines count restarts each for itself: there only a store for each restart helps (`is_store_old`).
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or _number("GROUP_WORLD_SIZE", 1) > 1:
        return {}
    store, _, _ = next(rendezvous("env://", rank, size))
    name = f"atrous/{size}/{restarts().number}"
    return {"store": PrefixStore(name, store), "rank": rank, "world_size": size}


def is_store_old() -> bool:
    """Whether a restart of several machines would meet the addresses of dead processes."""
    is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return is_shared and restarts().most > 0 and _number("GROUP_WORLD_SIZE", 1) > 1


def choose_device(name: str | None, local_rank: int = 0, *, what: str = "--device ") -> torch.device:
    """The device of this name; `auto` and None are a GPU if there is one. `what` is how the user names it."""
    expected = "it must be cpu, cuda, cuda:N or auto"
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name in (None, "auto") else name)
    except RuntimeError as error:
        raise ConfigError(f"{what}{name}: no such device; {expected}") from error
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        devices = ", ".join(["cpu", *(f"cuda:{index}" for index in range(counts["cuda"]))])
        raise ConfigError(f"{what}{name}: not available; PyTorch {torch.__version__} sees {devices}; {expected}")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def is_lost_peer(error: Exception) -> bool:
    """Whether a message failed because another process ended, which says why itself."""
    if not (isinstance(error, RuntimeError) and distributed.is_initialized()):
        return False
    return isinstance(error, distributed.DistError) or "gloo/transport" in str(error)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum over all processes, on each of them; `tensor` itself where there is only one."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def gather(items: list[T]) -> list[T]:
    """The items of all processes, on each of them, in the order of the ranks."""
    if not distributed.is_initialized():
        return items
    lists: list[list[T]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def require_same(value: str, what: str) -> None:
    """Raise ConfigError, on each process, if a process has another value than the first one."""
    values = gather([value])
    others = [str(rank) for rank, other in enumerate(values) if other != values[0]]
    if others:
        raise ConfigError(f"{what} of process {', '.join(others)} differ from those of process 0: start all alike")


def from_first(flag: bool, device: torch.device) -> bool:
    """The flag of rank 0, on each process."""
    value = torch.tensor(int(flag), device=device)
    if distributed.is_initialized():
        distributed.broadcast(value, 0)
    return bool(value)


def is_first() -> bool:
    """Whether this is rank 0, or the only process."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def tree_from_first(tree: Any, device: torch.device) -> Any:  # noqa: ANN401 - any state dict
    """Rank 0's tree of dicts and lists, with its tensors on the CPU. What the others pass doesn't matter.

    Tensors are sent one by one: together they could be more than a GPU, through which NCCL sends them, has room for.
    """
    if not distributed.is_initialized():
        return tree
    outline = [mapped(tree, lambda tensor: _Outline(tuple(tensor.shape), tensor.dtype)) if is_first() else None]
    distributed.broadcast_object_list(outline, 0)

    def sent(tensor: Tensor) -> Tensor:
        distributed.broadcast(tensor.to(device).contiguous(), 0)
        return tensor

    def received(outline: _Outline) -> Tensor:
        tensor = torch.empty(outline.shape, dtype=outline.dtype, device=device)
        distributed.broadcast(tensor, 0)
        return tensor.cpu()

    return mapped(tree, sent) if is_first() else mapped(outline[0], received, _Outline)


def mapped(tree: Any, change: Callable[[Any], Any], kind: type = Tensor) -> Any:  # noqa: ANN401 - any state dict
    """The tree with `change` applied to its leaves of this kind, in its order."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, dict):
        return {key: mapped(value, change, kind) for key, value in tree.items()}
    return [mapped(value, change, kind) for value in tree] if isinstance(tree, list) else tree


def copy_buffers_from_first(module: nn.Module) -> None:
    """Batch-norm statistics differ between processes: let all of them evaluate the model that rank 0 saves."""
    if distributed.is_initialized():
        for buffer in module.buffers():
            distributed.broadcast(buffer, 0)


def wait() -> None:
    """Wait for all processes, so that they can read what rank 0 has written."""
    if distributed.is_initialized():
        distributed.barrier()
