"""An exported file: written aside, run and compared with the model, and only then put in its place."""

import copy
import errno
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from atrous import model_file
from atrous.data import synthetic
from atrous.deployed import (
    CLASSES,
    HEADS,
    LABELS,
    PROBABILITIES,
    Decoder,
    Deployed,
    Deployment,
    export_of,
    maps_of,
    outputs_of,
)
from atrous.errors import AtrousWarning, ConfigError, Mismatch, text_of
from atrous.files import cache_folder, prepare_file
from atrous.inference import InferenceConfig, Seen, as_batch, labels_at_image, look, predict_probabilities
from atrous.layers import quantization
from atrous.layers.resize import resize
from atrous.model_file import FORMAT, Header, header_checksum
from atrous.models import Model
from atrous.runtimes import RUNTIMES, Runtime
from atrous.runtimes.contract import EXPORT, Opened
from atrous.runtimes.contract import require as require_packages
from atrous.runtimes.pytorch import checksum, fold_norms
from atrous.tasks import TASKS, Task
from atrous.types import Image, Size

SIZES = ((97, 131), (128, 96), (257, 225))  # that an export for any size is tried at: on the network's grid and off it
SCENE = (160, 240)
TOLERANCE = 1e-3  # of the largest logit
TOLERANCE_OF_INTEGERS = 0.5  # a value at the edge between two levels falls on either side; labels are judged, too
CPU = torch.device("cpu")
FASTEST = ("openvino", "onnx", "pytorch")  # on a CPU


class Comparison(NamedTuple):
    """One image, as the model and the exported file see it."""

    name: str
    size: Size
    equal: float  # the share of pixels, or of images, with the same class
    ties: int  # pixels with another class, whose two best logits are as good as equal
    wrong: int  # pixels with another class although they are not
    difference: float  # the largest of any output, as a share of the largest value
    tolerance: float = TOLERANCE  # of the difference
    decoded: Mapping[str, int] = {}  # pixels of other maps, by their names, that are not what the heads say

    @property
    def is_same(self) -> bool:
        return not self.wrong and not any(self.decoded.values()) and self.difference <= self.tolerance

    def describe(self) -> str:
        height, width = self.size
        reason = "of two classes with equal logits" if self.tolerance == TOLERANCE else "the others within the rounding"
        ties = f" ({self.ties} {reason})" if self.ties else ""
        wrong = f", {self.wrong} pixels WRONG" if self.wrong else ""
        maps = "".join(
            f", {name} map equal" if not pixels else f", {pixels} pixels of the {name} map WRONG"
            for name, pixels in self.decoded.items()
        )
        return (
            f"{self.name}, {height} x {width}: {self.equal:.4%} of labels equal{ties}{wrong}{maps}, "
            f"outputs within {self.difference:.1e} of the largest"
        )


class Export(NamedTuple):
    """What is asked for."""

    runtime: str  # a row of RUNTIMES that writes files
    size: Size | None = None  # of images; None: any
    probabilities: bool = False
    int8: bool = False  # convolutions in 8-bit integers, for a model whose ranges are active
    grouping: bool = True  # of a panoptic model's things, in the graph, if the runtime can

    @property
    def tolerance(self) -> float:
        return TOLERANCE_OF_INTEGERS if self.int8 else TOLERANCE


def write(
    model: Model,
    header: Header,
    path: Path,
    export: Export,
    images: Mapping[str, Image] | None = None,
    say: Callable[[Comparison], object] = lambda comparison: None,
    judge: Callable[[Opened], object] = lambda network: None,
) -> list[Comparison]:
    """Write the file, and compare it with the model on a scene, on noise, and on `images`, each by its name. `judge`
    may look at it, too.

    Raises ConfigError for what the runtime can't do, OSError, and Mismatch; then there is no file, or the old one.
    """
    runtime = row_of(export.runtime)
    require_writable(path, export.runtime)
    model = model.to(CPU).eval() if export.int8 else in_floats(model.to(CPU).eval())
    deployment = deployment_of(model, header, export)
    with aside(path, runtime) as temporary:
        assert runtime.write is not None
        runtime.write(deployment, temporary)
        network = runtime.open(temporary, header.model, header.num_classes, CPU)
        assert isinstance(network, Opened)
        comparisons = []
        for name, image in {**trials(export.size), **(images or {})}.items():
            comparisons.append(compare(model, header, network, name, fitted(image, export.size), export.tolerance))
            say(comparisons[-1])
        require_same(path, comparisons)
        judge(network)
    return comparisons


def in_floats(model: Model) -> Model:
    """The model without ranges of integers."""
    if not quantization.has_ranges(model):
        return model
    model = copy.deepcopy(model)
    quantization.remove_ranges(model)
    return model


# ---- a model file, opened by another runtime


def file_for(path: Path, name: str, device: torch.device) -> Path:
    """The file to open for the runtime `name`: `path` itself, or what is exported from it once, into the cache.

    `auto` is the fastest that is installed. Raises ConfigError for a runtime that can't open the model, or isn't
    installed, with the command that installs it; and what `write` raises.
    """
    own = model_file.runtime_name(path)
    name = fastest(own, device) if name == "auto" else name
    if name == own:
        return path
    if name not in RUNTIMES:
        raise ConfigError(f"--runtime {name}: expected auto, {', '.join(RUNTIMES)}")
    if own != "pytorch":
        raise ConfigError(f"--runtime {name}: {path} is a file for {own}; name the .safetensors file that it is from")
    require_packages(RUNTIMES[name], f"--runtime {name}")
    cached = cached_file(path, name)
    if not cached.exists():
        network, header = model_file.load(path, CPU)
        assert isinstance(network, Model)
        size = default_size(header) if RUNTIMES[name].has_one_size else None
        is_rounded = quantization.rounds(network)
        if is_rounded and not RUNTIMES[name].int8:
            raise ConfigError(f"--runtime {name}: {path} has learnt to round to 8-bit integers, which {name} lacks")
        say_once = f"exporting {path} for {name}, once: it is kept in {cached.parent}"
        warnings.warn(AtrousWarning(say_once), stacklevel=2)
        write(network, header, cached, Export(name, size, int8=is_rounded, grouping=False))
    return cached


def fastest(own: str, device: torch.device) -> str:
    """On a GPU PyTorch; elsewhere the first of FASTEST that is installed. An exported file has its own."""
    if own != "pytorch" or device.type != "cpu":
        return own
    return next((name for name in FASTEST if RUNTIMES[name].is_installed), own)


def cached_file(path: Path, name: str) -> Path:
    """By the weights and the header, and by what writes it."""
    metadata = model_file.read_metadata(path)
    key = metadata.get("header_checksum") or header_checksum(metadata)
    maker = f"{version('atrous')}-torch{torch.__version__.partition('+')[0]}"
    return cache_folder() / "exported" / maker / f"{key[:32]}{RUNTIMES[name].suffix}"


def default_size(header: Header) -> Size:
    """That of the canvas or window, or of the crops of the training; else 513 x 513."""
    if header.inference.mode != "whole" or header.training is None:
        return header.inference.window
    return header.training.augment.crop


def row_of(name: str) -> Runtime:
    """The runtime, if its files can be written here. Raises ConfigError."""
    writable = [name for name, row in RUNTIMES.items() if row.write is not None]
    if name not in writable:
        raise ConfigError(f"--to {name}: expected {', '.join(writable)}")
    require_packages(RUNTIMES[name], f"--to {name}")
    return RUNTIMES[name]


def require_writable(path: Path, runtime: str) -> None:
    suffix = RUNTIMES[runtime].suffix
    if path.suffix != suffix:
        raise ConfigError(f"--out {path}: the name of a file for {runtime} must end in {suffix}")
    prepare_file(path)


def deployment_of(model: Model, header: Header, export: Export) -> Deployment:
    """The graph and its metadata. On a canvas of the network's own size, and where it never is, nothing is padded."""
    is_canvas = header.inference.mode == "canvas" and export.size == header.inference.window
    pads = header.inference.pad_to_grid and not is_canvas
    module = Deployed(
        model, probabilities=export.probabilities, pads=pads, decoders=decoders_of(model, header, export)
    ).eval()
    if export.int8:
        fold_norms(module.network)
        quantization.to_integers(module.network.eval())
    metadata = {"atrous_format": FORMAT, **header.to_metadata(), "checksum": checksum(model.state_dict())}
    metadata[EXPORT] = export_of(module, model, export.size).model_dump_json()
    return Deployment(module, export.size, {**metadata, "header_checksum": header_checksum(metadata)})


def decoders_of(model: Model, header: Header, export: Export) -> Mapping[str, Decoder]:
    """Of the maps that a task decodes, if the runtime can compute them."""
    decoders = TASKS[model.task].decoders
    if decoders is None or not export.grouping or not RUNTIMES[export.runtime].groups:
        return {}
    return decoders(header.label_space, header.decode)


@contextmanager
def aside(path: Path, runtime: Runtime) -> Iterator[Path]:
    """A path of the same name in a folder of its own; without an error, what is there is moved to `path` at the end."""
    folder = path.with_name(f".export.{os.getpid()}.{path.name}"[:100])
    try:
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir(parents=True)
        yield folder / path.name
        for name in [path.with_suffix(runtime.beside).name] * bool(runtime.beside) + [path.name]:
            (folder / name).replace(path.with_name(name))
    except OSError as error:
        reason = text_of(error) if error.errno in (None, errno.EIO) else os.strerror(error.errno)
        raise OSError(error.errno, f"cannot write {path}: {reason}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- the comparison


def trials(size: Size | None) -> dict[str, Image]:
    """A scene and noise, at three sizes, or at the only one."""
    sizes = SIZES if size is None else (size,)
    random = np.random.default_rng(0)
    noise = {f"noise {h} x {w}": random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes}
    return {"scene": fitted(scene(), size), **noise}


def scene() -> Image:
    return synthetic.paint(synthetic.Config(size=SCENE), "val", 0).image


def fitted(image: Image, size: Size | None) -> Image:
    """The image at the only size that the file takes."""
    if size is None or image.shape[:2] == size:
        return image
    return np.array(PILImage.fromarray(image).resize(size[::-1], PILImage.Resampling.BILINEAR))


def compare(
    model: Model, header: Header, network: Opened, name: str, image: Image, tolerance: float = TOLERANCE
) -> Comparison:
    """By the outputs that other programs read: bytes in, everything out."""
    seen = look(model, as_batch(image, CPU), protocol_of(network))
    expected = maps_of(seen.outputs)
    outputs = network.outputs(image[None])
    size, differences = image.shape[:2], [_difference(outputs[name], x) for name, x in expected.items()]
    if LABELS not in outputs:
        is_equal = bool((outputs[CLASSES].argmax(1) == expected[CLASSES].argmax(1)).all())
        return Comparison(name, size, float(is_equal), 0, 0, max(differences), tolerance)
    differs = outputs[LABELS] != labels_at_image(seen)
    wrong = int((differs & ~_ties(seen, min(differences[0], tolerance))).sum()) if differs.any() else 0
    if PROBABILITIES in outputs:
        probabilities = predict_probabilities(model, as_batch(image, CPU), protocol_of(network))
        differences.append(_difference(outputs[PROBABILITIES], probabilities))
    equal = 1 - float(differs.double().mean())
    decoded = _wrongly_decoded(TASKS[model.task], header, seen, outputs)
    return Comparison(name, size, equal, int(differs.sum()) - wrong, wrong, max(differences), tolerance, decoded)


def _wrongly_decoded(task: Task, header: Header, seen: Seen, outputs: Mapping[str, Tensor]) -> dict[str, int]:
    """How many pixels of each map that a task decodes are neither what the model's heads say nor what the file's do.

    The last bit of a height or an offset decides whose pixel it is, so that the file's own heads count, too.
    """
    maps = [name for name in outputs if name not in (LABELS, PROBABILITIES, *HEADS)]
    if not maps:
        return {}
    of_model, of_file = (
        task.decode(one, header.label_space, header.decode)[0]
        for one in (seen, seen._replace(outputs=outputs_of(outputs)))
    )
    return {
        name: int(((outputs[name][0] != getattr(of_model, name)) & (outputs[name][0] != getattr(of_file, name))).sum())
        for name in maps
    }


def protocol_of(network: Opened) -> InferenceConfig:
    """What the graph does: whole images on the grid, or a canvas as it is."""
    if network.pads or network.facts.size is None:
        return InferenceConfig(pad_to_grid=network.pads)
    return InferenceConfig(mode="canvas", window=network.facts.size)


def _difference(x: Tensor, expected: Tensor) -> float:
    """As a share of the largest value; infinite for another shape or for what isn't finite."""
    if x.shape != expected.shape or not x.isfinite().all():
        return math.inf
    largest = float(expected.abs().max())
    return float((x - expected).abs().max()) / largest if largest else float(x.abs().max())


def _ties(seen: Seen, difference: float) -> Tensor:
    """The pixels [B, H, W] whose two best logits are closer than what was seen of differences between logits."""
    logits = resize(seen.outputs.semantic.float(), seen.frame, seen.convention)
    best, second = logits[..., : seen.size[0], : seen.size[1]].topk(2, 1).values.unbind(1)
    return best - second <= 2 * difference * float(seen.outputs.semantic.abs().max())


def require_same(path: Path, comparisons: Sequence[Comparison]) -> None:
    wrong = [comparison for comparison in comparisons if not comparison.is_same]
    if wrong:
        raise Mismatch(
            f"{path} was not written: what was exported computes something else than the model, on {len(wrong)} of "
            f"{len(comparisons)} images; {wrong[0].describe()}"
        )
