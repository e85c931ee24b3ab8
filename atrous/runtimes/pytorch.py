"""PyTorch itself: weights in a .safetensors file, computed by the models of this package."""

import contextlib
import copy
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from atrous import models
from atrous.errors import AtrousWarning, ModelFileError, listing
from atrous.layers import quantization
from atrous.models import Model, ModelConfig
from atrous.types import Facts, Outputs

Precision = Literal["fp32", "bf16"]
NUM_LISTED = 3  # names in an error
MAX_HEADER = 2**24  # bytes; those of models have some 10**5
FOREIGN = {  # what other files begin with
    b"PK\x03\x04": "a zip archive, as PyTorch writes .pth files; `atrous convert` reads models of other programs",
    b"\x80": "a Python pickle, as old .pth files are; `atrous convert` reads models of other programs",
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"<": "a web page",
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


def recognises(start: bytes) -> bool:
    return start[8:9] == b"{"


def read_metadata(path: Path) -> Mapping[str, str]:
    _require_header(path)
    with _errors_with_path(path), safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def open_file(path: Path, config: ModelConfig, num_classes: int, device: torch.device) -> Model:
    """The model in evaluation mode on `device`. Raises ModelFileError if the weights are not those of `config`."""
    stored = _stored_checksum(read_metadata(path), path)
    weights = read_weights(path)
    with ThreadPoolExecutor(1) as pool:  # a hash is computed beside Python
        digest = pool.submit(checksum, weights)
        with torch.device("meta"):
            model = models.build(config, num_classes)
    if any(map(quantization.is_of_range, weights)):
        quantization.add_ranges(model)
    if stored not in (None, digest.result()):
        raise ModelFileError(f"{path}: its weights do not match their checksum: the file is damaged")
    require_same_weights(model.state_dict(), weights, path)
    require_finite(weights, path)
    model.load_state_dict(weights, assign=True)
    return model.eval().to(device)


def _stored_checksum(metadata: Mapping[str, str], path: Path) -> str | None:
    """The checksum of the weights; files of format 1 have none."""
    if {"checksum", "header_checksum"} <= metadata.keys():
        return metadata["checksum"]
    if metadata.get("atrous_format") != "1":
        raise ModelFileError(f"{path}: its header has no checksum: the file is damaged")
    warnings.warn(AtrousWarning(f"{path}: of format 1, without a checksum: damage is not noticed"), stacklevel=2)
    return None


def _require_header(path: Path) -> None:
    """The library itself would read 100 MB of header."""
    with path.open("rb") as file:
        start, size = file.read(max(map(len, FOREIGN))), os.fstat(file.fileno()).st_size
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= size - 8 or start[8:9] != b"{":
        kind = next((f": {kind}" for prefix, kind in FOREIGN.items() if start.startswith(prefix)), "")
        raise ModelFileError(f"{path}: not a complete .safetensors file (truncated, damaged or of another kind){kind}")
    if length > MAX_HEADER:
        raise ModelFileError(f"{path}: not a model of Atrous: its header has {length} bytes, more than {MAX_HEADER}")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights, in aligned memory.

    safetensors may return tensors that are not aligned, on which kernels round differently: without a copy, the length
    of the header would change the last bits of a prediction.
    """
    with _errors_with_path(path), safe_open(path, framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118


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
        if weights[name].dtype != expected[name].dtype:
            types = f"{_type_of(weights[name])} where the model has {_type_of(expected[name])}"
            raise ModelFileError(f"{path}: {name} is {types}: not the weights of the model in its header")
        if weights[name].shape != expected[name].shape:
            shapes = f"{list(weights[name].shape)} where the model has {list(expected[name].shape)}"
            raise ModelFileError(f"{path}: {name} is {shapes}: the weights and the header (num_classes?) disagree")


def _type_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def require_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelFileError with the names of weights that are NaN or infinite. Integers always are finite."""
    names = [name for name, tensor in weights.items() if not (tensor.sum().isfinite() or tensor.isfinite().all())]
    if names:
        raise ModelFileError(f"{path}: NaN or infinite weights in {listing(names, NUM_LISTED)}: nothing can use them")
