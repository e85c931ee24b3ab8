"""A runtime opens a model file as a `Network`, and may write one."""

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from atrous.deployed import (
    CLASSES,
    HEADS,
    IMAGES,
    LABELS,
    LOGITS,
    PROBABILITIES,
    Deployment,
    Export,
    frame_of,
    outputs_of,
)
from atrous.errors import ConfigError, ModelFileError, listing
from atrous.layers.resize import image_size
from atrous.models import ModelConfig
from atrous.ops import upsample_argmax
from atrous.types import Facts, Network, Outputs, Size

Run = Callable[[NDArray[Any], Sequence[str]], list[NDArray[Any]]]  # [B, H, W, 3] bytes or floats: outputs by name
START = 256
EXPORT = "export"  # the key of what `Opened` must know, in the metadata of an exported file
MEAN_WITHIN = 1e-3  # of padding
UNKNOWN_MEAN = (127.5, 127.5, 127.5)

Arithmetic = Literal["fp32", "bf16"]
ARITHMETIC: Mapping[Arithmetic, str] = {"fp32": "float32", "bf16": "bfloat16"}  # in words
Precision = Literal["auto", "fp32", "bf16"]  # auto: bf16 where it is faster and its labels agree with those of fp32
PRECISIONS: tuple[str, ...] = get_args(Precision)


class Speed(NamedTuple):
    """How a network that isn't being trained is prepared for its device."""

    precision: Precision = "auto"
    compile: bool = False  # by `torch.compile`


class Runtime(NamedTuple):
    """A row of RUNTIMES. All functions raise ModelFileError, with the path, for a file that is damaged or foreign."""

    suffix: str  # of the files that it opens
    read_metadata: Callable[[Path], Mapping[str, str]]  # what `model_file.Header` is stored as; empty: it was stripped
    open: Callable[[Path, ModelConfig, int, torch.device], Network]  # the header's model and number of classes
    write: Callable[[Deployment, Path], None] | None = None  # an exported file; None: it writes none
    packages: tuple[str, ...] = ()  # that it imports
    extra: str = ""  # of Atrous, which installs them
    has_one_size: bool = False  # a file takes images of one size only
    beside: str = ""  # the suffix of a second file that belongs to each
    has_bf16: bool = False  # where the processor has it
    as_rounded: Callable[[Deployment], Deployment] | None = None  # where its integer convolutions give integers
    groups: bool = False  # its graphs may hold tensors whose sizes follow from values, such as the number of things
    opens: Mapping[str, Callable[[Path, Mapping[str, str]], Network]] = {}  # files of other rows, with their metadata
    recognises: Callable[[bytes], bool] = lambda start: False  # a file by its first START bytes, whatever it is called

    @property
    def is_installed(self) -> bool:
        return not missing_packages(self)


def missing_packages(runtime: Runtime) -> list[str]:
    return [package for package in runtime.packages if importlib.util.find_spec(package) is None]


def require(runtime: Runtime, what: str) -> None:
    """Raises ConfigError, with the command, if a package is missing. `what` needs it: an option or a file."""
    if missing := missing_packages(runtime):
        raise ConfigError(f"{what} needs {' and '.join(missing)}: pip install 'atrous[{runtime.extra}]'")


# ---- exported files


class Signature(NamedTuple):
    """What the file itself says of its graph."""

    size: Size | None  # of images; None: any
    channels: Mapping[str, int | None]  # of each output [B, C, ...]; None: it isn't fixed


class Opened(NamedTuple):
    """The network in an exported file: a graph of `deployed.Deployed`."""

    path: Path
    facts: Facts
    names: tuple[str, ...]  # of the outputs
    pads: bool  # the graph pads to the grid
    is_scaled: bool  # the outputs depend on the scale, which is 1 in the graph
    run: Run
    in_bf16: Run | None = None  # the same in bfloat16; None: the runtime has none
    by_compiler: Run | None = None  # the same by `torch.compile`; None: it has no part in it
    precision: Arithmetic = "fp32"
    is_compiled: bool = False

    def with_precision(self, precision: Precision) -> "Opened":
        """`auto` is fp32. Raises ConfigError for bf16 where the runtime has none."""
        if precision != "bf16":
            return self._replace(precision="fp32")
        if self.in_bf16 is None:
            raise ConfigError(f"precision=bf16: {self.path} is computed in fp32 only; OpenVINO and PyTorch have bf16")
        return self._replace(precision="bf16")

    def with_compiler(self, *, is_compiled: bool) -> "Opened":
        """Raises ConfigError where `torch.compile` has no part in it."""
        if is_compiled and self.by_compiler is None:
            raise ConfigError(
                "compile: torch.compile is for .safetensors files, and for .pt2 files of one size (atrous export --to "
                f"pt2 --size H,W); got {self.path}{', for images of any size' if self.path.suffix == '.pt2' else ''}"
            )
        return self._replace(is_compiled=is_compiled)

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        if scale != 1 and self.is_scaled:
            raise ConfigError(f"{self.path}: evaluate.scales: its windows of means are those of scale 1; use PyTorch")
        pixels = self._as_exported(images).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        maps = self._run(pixels.astype(np.float32, copy=False), [name for name in self.names if name in HEADS])
        return outputs_of({name: x.to(images.device) for name, x in maps.items()})

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, Tensor]:
        """All that other programs get of images [B, H, W, 3]."""
        return self._run(images, self.names)

    def _run(self, pixels: NDArray[Any], names: Sequence[str]) -> dict[str, Tensor]:
        special = self.by_compiler if self.is_compiled else self.in_bf16 if self.precision == "bf16" else None
        run = self.run if special is None else special
        batches = [pixels] if self.facts.size is None else np.split(pixels, len(pixels))  # one at a time
        parts = [[torch.from_numpy(x) for x in run(batch, names)] for batch in batches]
        return {name: torch.cat(own) if len(own) > 1 else own[0] for name, *own in zip(names, *parts, strict=True)}

    def _as_exported(self, images: Tensor) -> Tensor:
        """Images that are padded to the grid, which the graph would do by itself, at a size that it takes."""
        height, width = self.facts.size or image_size(images)
        if image_size(images) != frame_of((height, width), self.facts, pads=self.pads):
            raise ConfigError(f"{self.path}: {self._refusal(image_size(images))}")
        around = (images[..., height:, :], images[..., :height, width:])
        mean = torch.tensor(self.facts.mean, device=images.device).view(3, 1, 1)
        if any(x.numel() and (x - mean).abs().max() > MEAN_WITHIN for x in around):
            raise ConfigError(f"{self.path}: {self._refusal(image_size(images))}")
        return images[..., :height, :width]

    def _refusal(self, size: Size) -> str:
        if self.facts.size is None:
            stride = self.facts.output_stride
            return f"evaluate.window: sides must be k * {stride} + 1 for an exported network, got {size[0]},{size[1]}"
        height, width = frame_of(self.facts.size, self.facts, pads=self.pads)
        if (height, width) == self.facts.size:
            return size_refusal(size, self.facts.size)
        rows, columns = self.facts.size
        return (
            f"exported for whole images of {rows} x {columns} only, got {size[0]} x {size[1]}; exported with --size "
            f"{height},{width} it would take any size, on a canvas or in windows"
        )


class Labelled(Opened):
    """One that gives labels and no heads. Bytes go into the graph, which pads; floats of the image are never made."""

    def labels(self, images: Tensor) -> Tensor:
        """As `inference` decodes the logits: several times faster than the graph's own labels."""
        (logits,) = self._run(_pixels(self.path, self.facts, images), (LOGITS,)).values()
        values = logits.numpy()  # without PyTorch's threads, which would wait for those of the runtime
        if not (np.isfinite(values.sum()) or np.isfinite(values).all()):  # the sum is several times as fast
            raise ModelFileError(f"{self.path}: the network's output is NaN or infinite: its weights are damaged")
        height, width = image_size(images)
        frame = frame_of((height, width), self.facts, pads=self.pads)
        labels = upsample_argmax(logits, frame, align_corners=self.facts.convention == "aligned_corners")
        return labels[:, :height, :width].to(images.device)


class LabelsOnly(NamedTuple):
    """The network in a file whose metadata was stripped: only whole images, once, since all else is in the graph."""

    path: Path
    facts: Facts
    run: Run

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        raise ConfigError(
            f"{self.path}: its metadata was stripped, so that it predicts whole images, each once; export the model "
            "again for other settings of evaluate and for probabilities"
        )

    def labels(self, images: Tensor) -> Tensor:
        (labels,) = self.run(_pixels(self.path, self.facts, images), (LABELS,))
        return torch.from_numpy(labels).to(images.device)


class ClassesOnly(NamedTuple):
    """A classifier in a file whose metadata was stripped."""

    path: Path
    facts: Facts
    run: Run

    def __call__(self, images: Tensor, scale: float = 1.0) -> Outputs:
        (classes,) = self.run(_pixels(self.path, self.facts, images), (CLASSES,))
        return Outputs(classes=torch.from_numpy(classes).to(images.device))


def _pixels(path: Path, facts: Facts, images: Tensor) -> NDArray[np.uint8]:
    if facts.size not in (None, image_size(images)):
        raise ConfigError(f"{path}: {size_refusal(image_size(images), facts.size)}")
    pixels: NDArray[np.uint8] = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


def size_refusal(size: Size, only: Size) -> str:
    (height, width), (rows, columns) = size, only
    window = f"evaluate.window={rows},{columns}"
    return (
        f"exported for images of {rows} x {columns}, got {height} x {width}; with evaluate.mode=canvas or sliding and "
        f"{window} it takes any size"
    )


def opened(
    path: Path,
    metadata: Mapping[str, str],
    signature: Signature,
    run: Run,
    *,
    in_bf16: Run | None = None,
    by_compiler: Run | None = None,
) -> Network:
    """The network of a file's graph. Raises ModelFileError for a graph that `deployed` did not make."""
    if EXPORT in metadata:
        return _opened(path, metadata[EXPORT], signature, run)._replace(in_bf16=in_bf16, by_compiler=by_compiler)
    channels = signature.channels
    name = LOGITS if {LABELS, LOGITS} <= channels.keys() else CLASSES
    if (number := channels.get(name)) is None:
        raise ModelFileError(
            f"{path}: not exported by Atrous: it gives {listing(channels)}, not {LABELS} and {LOGITS}, or {CLASSES}"
        )
    task, kind = ("semantic", LabelsOnly) if name == LOGITS else ("classification", ClassesOnly)
    facts = Facts(task, number, UNKNOWN_MEAN, 1, 1, "half_pixel", signature.size)
    network: Network = kind(path, facts, run)
    return network


def _opened(path: Path, text: str, signature: Signature, run: Run) -> Opened:
    export = parsed_export(path, text)
    wrong = [name for name in export.outputs if name not in signature.channels]
    if wrong or export.facts.size != signature.size:
        raise ModelFileError(f"{path}: its metadata and its graph disagree")
    kind = Labelled if {LABELS, LOGITS} <= {*export.outputs} <= {LABELS, LOGITS, PROBABILITIES} else Opened
    return kind(path, export.facts, export.outputs, export.pads, export.is_scaled, run)


def parsed_export(path: Path, text: str) -> Export:
    """Raises ModelFileError."""
    try:
        return Export.model_validate_json(text)
    except ValidationError as error:
        raise ModelFileError(f"{path}: its metadata is damaged: {EXPORT}: {error.errors()[0]['msg']}") from error


def is_stripped(metadata: Mapping[str, str]) -> bool:
    return EXPORT not in metadata


def require_images(path: Path, inputs: Sequence[tuple[str, str, tuple[int | None, ...]]]) -> Size | None:
    """The size of images that a graph takes, from the names, types and shapes of its inputs; None: any.

    Raises ModelFileError for a graph that `deployed` did not make.
    """
    texts = [
        f"{name} {kind.lower()} [{', '.join('?' if n is None else str(n) for n in shape)}]"
        for name, kind, shape in inputs
    ]
    if len(inputs) != 1 or inputs[0][:2] != (IMAGES, "UINT8") or len(inputs[0][2]) != 4 or inputs[0][2][3] != 3:
        raise ModelFileError(
            f"{path}: not exported by Atrous: it takes {listing(texts) or 'nothing'}, not {IMAGES} uint8 [?, ?, ?, 3]"
        )
    _, height, width, _ = inputs[0][2]
    return None if height is None or width is None else (height, width)


def failure(error: Exception) -> Exception:
    """What a library's error while it computes means: too little memory, or a fault."""
    return MemoryError(first_line(error)) if re.search(r"alloc|memory", str(error)) else error


def lacking(error: BaseException) -> str:
    """What a library says that it can't convert: the operators, or its own words."""
    text = str(error)
    named = re.search(r"No conversion rule found for operations: ([^\n]*)", text)
    operators = re.findall(r"(?:aten|atrous|prims)[.:]+\w+(?:\.\w+)?", text)
    if named is not None:
        operators = [re.sub(r"<(?:built-in )?function (\w+)[^>]*>", r"\1", named[1])]
    return f"it lacks the operator {operators[-1]}" if operators else first_line(ValueError(text))


def first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
