"""PyTorch itself: weights in a .safetensors file, computed by the models of this package."""

import contextlib
import copy
import hashlib
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from atrous import models
from atrous.errors import AtrousWarning, ConfigError, ModelFileError, listing
from atrous.layers import quantization
from atrous.layers.folding import fold, fold_traced, norms_in
from atrous.layers.lowering import lower
from atrous.layers.packed import pack, works
from atrous.models import Model, ModelConfig
from atrous.runtimes.contract import PRECISIONS, Arithmetic, Precision
from atrous.types import NO_MAP, Facts, Outputs

TRACED = (224, 224)  # pixels of an image that a network of another package is looked at with
AUXILIARY = "auxiliary"  # what models call the part that computes no other output than this one of their heads
NUM_LISTED = 3  # names in an error
MAX_COMPILED = 4  # sizes of images that code is made for, each in tens of seconds
NO_LIMIT = 2**20  # versions of compiled code
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
    precision: Arithmetic

    @torch.inference_mode()
    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        return self.module(images, scale)


def prepare(
    model: Model,
    device: str | torch.device,
    *,
    precision: Arithmetic = "fp32",
    compile: bool = False,  # noqa: A002
) -> Prepared:
    """A copy of `model` that predicts as fast as `device` can. Later updates of the model do not reach it.

    Batch norms are folded, and what only a training needs is left out. On a CPU, convolutions are packed for it. With
    `compile`, `torch.compile` makes the code instead, at the first image.
    """
    copied = _own_copy(model, torch.device(device)).eval()  # tracing runs it
    if not quantization.has_ranges(copied):  # else values at the edge between two levels would change sides
        fold_norms(copied)
    if getattr(copied, AUXILIARY, None) is not None:
        setattr(copied, AUXILIARY, LeftOut())
    if precision == "bf16":
        lower(copied, copied.logit_modules)
        copied.arithmetic = torch.bfloat16
    copied.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    facts = copied.facts
    if compile:
        return Prepared(compiled(copied), facts, precision)
    pack(copied)
    return Prepared(copied.eval(), facts, precision)


def compiled(model: Model) -> Callable[..., Outputs]:
    if model.shift.device.type != "cpu":
        return torch.compile(model, dynamic=True)
    packed = shared_copy(model)
    pack(packed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its own
        code = torch.compile(model, dynamic=False, options={"freezing": True})
    return CompiledBySize(code, packed)


class CompiledBySize:
    """Code for each of the first few sizes of images; other sizes are computed as without it.

    Code for all sizes would take minutes to make on a CPU, and its loops would be slower. `freezing` makes the weights
    constants, so that oneDNN has them in its own order, with the activations in the same pass.
    """

    def __init__(self, code: Callable[..., Outputs], packed: Callable[..., Outputs]) -> None:
        self.code, self.packed = code, packed
        self.sizes: set[tuple[object, ...]] = set()

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        size = (images.shape, images.stride(), images.dtype, scale)
        if size in self.sizes:
            return self.code(images, scale)
        if len(self.sizes) == MAX_COMPILED:
            return self.packed(images, scale)
        self.sizes.add(size)
        return self._made(images, scale)

    def _made(self, images: Tensor, scale: float) -> Outputs:
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=NO_LIMIT):  # it is of all models
            warnings.simplefilter("ignore")
            return self.code(images, scale)


def follow(model: Model, device: str | torch.device) -> Prepared:
    """A copy of `model` in evaluation mode on `device`, whose facts are read once.

    Weights that are already on `device` are shared, so that later updates of `model`, by a training, reach the copy.
    """
    copied = _own_copy(model, torch.device(device)).eval()
    return Prepared(copied, copied.facts, "fp32")


def has_bf16(device: torch.device) -> bool:
    """Whether the processor itself computes in bfloat16: elsewhere it is emulated, and slow."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    names = ("avx512_bf16", "amx_bf16")
    return device.type == "cpu" and works(torch.bfloat16) and any(capabilities.get(name) for name in names)


def require_precision(precision: Precision, device: torch.device) -> None:
    """Raises ConfigError for what isn't one, and for bf16 where the processor has none."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision}: expected {', '.join(PRECISIONS)}")
    if precision == "bf16" and not has_bf16(device):
        what = "a GPU since Ampere" if device.type == "cuda" else "a processor with AVX512-BF16 or AMX"
        raise ConfigError(f"precision=bf16: this {device.type} has no bfloat16 (it needs {what}); use fp32 or auto")


def require_compiler(device: torch.device) -> None:
    """Raises ConfigError where `torch.compile` can't work, before it begins to."""
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise ConfigError("compile: torch.compile needs a C++ compiler, such as g++, and there is none on the PATH")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("compile: torch.compile needs Triton on a GPU, which is not installed: pip install triton")


def _own_copy(model: Model, device: torch.device) -> Model:
    is_there = all(tensor.device == device for tensor in (*model.parameters(), *model.buffers()))
    return shared_copy(model) if is_there else copy.deepcopy(model).to(device)


def fold_norms(model: Model) -> None:
    """Into the convolutions before them, in place."""
    fold(model)
    model.rearrange()
    if norms_in(model.backbone):  # those of a network of another package
        with contextlib.suppress(RuntimeError):  # it takes no images of this size
            fold_traced(
                model.backbone, lambda backbone: backbone(torch.zeros(1, 3, *TRACED, device=model.shift.device))
            )


class LeftOut(nn.Module):
    """In place of what computes logits that only a loss reads."""

    def forward(self, x: Tensor) -> Tensor:
        return NO_MAP


class Preparations:
    """What is prepared from a model, at the first use, and again once its weights have changed."""

    def __init__(self, model: Model, device: torch.device, *, compile: bool) -> None:  # noqa: A002
        self.model, self.device, self.compile = model, device, compile
        self.settled: Arithmetic | None = None  # what `auto` stands for
        self._ready: dict[tuple[Arithmetic, bool], Prepared] = {}
        self._weights: list[tuple[int, int]] = []

    def __call__(self, precision: Arithmetic) -> Prepared:
        return self._made(precision, compile=self.compile)

    def to_compare(self, precision: Arithmetic) -> Prepared:
        """Never compiled, which takes longer than what is to be known by it."""
        return self._made(precision, compile=False)

    def _made(self, precision: Arithmetic, *, compile: bool) -> Prepared:  # noqa: A002
        weights = [(id(one), _version(one)) for one in (*self.model.parameters(), *self.model.buffers())]
        if weights != self._weights:
            self._ready, self._weights, self.settled = {}, weights, None
        if (precision, compile) not in self._ready:
            self._ready[precision, compile] = prepare(self.model, self.device, precision=precision, compile=compile)
        return self._ready[precision, compile]


def _version(tensor: Tensor) -> int:
    """It rises with each change in place. Tensors made in inference mode have none, and can't be trained."""
    return 0 if tensor.is_inference() else tensor._version


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
