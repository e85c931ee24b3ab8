"""PyTorch itself: weights in a .safetensors file, computed by the models of this package."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from atrous import models
from atrous.errors import ModelFileError
from atrous.models import Model, ModelConfig
from atrous.types import Facts, Outputs

Precision = Literal["fp32", "bf16"]
NUM_LISTED = 3  # names in an error
TYPES = {  # of .safetensors files
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


class Prepared(NamedTuple):
    """A network for prediction. Preparing it does not change the model."""

    module: Callable[..., Outputs]
    facts: Facts
    precision: Precision

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.module(images, scale)


def prepare(
    model: Model,
    device: str | torch.device,
    *,
    precision: Precision = "fp32",
    compile: bool = False,  # noqa: A002
) -> Prepared:
    """A copy of `model` in evaluation mode on `device`, whose facts are read once.

    Weights that are already on `device` are shared, so that later updates of `model` reach the copy. `compile` passes
    it to `torch.compile`.
    """
    device = torch.device(device)
    is_there = all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
    prepared = shared_copy(model) if is_there else copy.deepcopy(model).to(device)
    prepared.eval()
    module = torch.compile(prepared, dynamic=True) if compile else prepared
    return Prepared(module, prepared.facts, precision)


def shared_copy(model: Model) -> Model:
    """Another module over the same tensors: its mode can be changed alone."""
    memo = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo)


def read_metadata(path: Path) -> Mapping[str, str]:
    with _errors_with_path(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def open_file(path: Path, config: ModelConfig, num_classes: int, device: torch.device) -> Model:
    """The model in evaluation mode on `device`. Raises ModelFileError if the weights are not those of `config`."""
    stored = read_metadata(path).get("checksum")
    weights = read_weights(path)
    if stored is not None and checksum(weights) != stored:
        raise ModelFileError(f"{path}: its weights do not match their checksum: the file is damaged")
    with torch.device("meta"):
        model = models.build(config, num_classes)
    require_same_weights(model.state_dict(), weights, path)
    model.load_state_dict(weights, assign=True)
    return model.eval().to(device)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights, in aligned memory, of a file whose metadata could be read: safetensors has checked its header then.

    safetensors may return tensors that are not aligned, on which kernels round differently: the length of the header
    would change the last bits of a prediction. Copies of them would take twice the memory.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        weights = {name: _empty(name, entry, path) for name, entry in entries.items()}
        for name, weight in weights.items():
            file.seek(8 + length + entries[name]["data_offsets"][0])
            file.readinto(weight.reshape(-1).view(torch.uint8).numpy().data)
    return weights


def _empty(name: str, entry: Mapping[str, Any], path: Path) -> Tensor:
    if entry["dtype"] not in TYPES:
        raise ModelFileError(f"{path}: {name} is of type {entry['dtype']}, which no model has")
    return torch.empty(entry["shape"], dtype=TYPES[entry["dtype"]])


@contextlib.contextmanager
def _errors_with_path(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        what = "not a complete .safetensors file (truncated, damaged or of another kind)"
        raise ModelFileError(f"{path}: {what}: {error}") from error


def checksum(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def require_same_weights(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: Path) -> None:
    """Require every weight, each with its shape, and no others: anything else belongs to another model."""
    missing, unknown = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    lists = [
        f"{len(names)} {what} ({', '.join(names[:NUM_LISTED])})"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    if lists:
        raise ModelFileError(f"{path}: the weights are not those of the model in its header: {', '.join(lists)}")
    for name in sorted(expected):
        if weights[name].shape != expected[name].shape:
            shapes = f"{list(weights[name].shape)} where the model has {list(expected[name].shape)}"
            raise ModelFileError(f"{path}: {name} is {shapes}: the weights and the header (num_classes?) disagree")
