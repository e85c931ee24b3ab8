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
from typing import NamedTuple, TypeAlias

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
    LOGITS,
    PROBABILITIES,
    Decoder,
    Deployed,
    Deployment,
    export_of,
    frame_of,
    maps_of,
    outputs_of,
)
from atrous.environment import free_memory
from atrous.errors import AtrousWarning, ConfigError, Mismatch, text_of
from atrous.files import beside, cache_folder, prepare_file, remove_leftovers
from atrous.inference import InferenceConfig
from atrous.inference.frames import as_batch
from atrous.inference.look import look, predict_probabilities
from atrous.inference.seen import Seen, labels_at_image
from atrous.layers import quantization
from atrous.layers.resize import resize
from atrous.model_file import FORMAT, Header, header_checksum
from atrous.models import Model
from atrous.runtimes import RUNTIMES, Runtime
from atrous.runtimes.contract import EXPORT, Opened, parsed_export
from atrous.runtimes.contract import require as require_packages
from atrous.runtimes.pytorch import checksum, fold_norms
from atrous.tasks import TASKS
from atrous.types import Image, Size

SIZES = ((97, 131), (128, 96), (257, 225))  # that an export for any size is tried at: on the network's grid and off it
SCENE = (160, 240)
TOLERANCE = 1e-3  # of the largest logit
EXACT = 1e-5  # of integers
EDGE = 1e-3  # of the distance of two levels: values so near the edge between them may fall on either side
GIB = 2**30
MAP_BYTES = 8  # of a class and a pixel: a map as the file upsamples it, and as the model does
CPU = torch.device("cpu")
FASTEST = ("openvino", "onnx", "pytorch")  # on a CPU
Maps: TypeAlias = Mapping[str, Tensor]  # outputs by name


class Comparison(NamedTuple):
    """One image, as the model and the exported file see it."""

    name: str
    size: Size
    equal: float  # the share of pixels, or of images, with the same class
    ties: int  # pixels with another class, whose two best logits are as good as equal
    wrong: int  # pixels with another class although they are not
    difference: float  # the largest of any output, as a share of the largest value; of integers the root mean square
    tolerance: float = TOLERANCE  # of the difference
    is_int8: bool = False
    decoded: Mapping[str, int] = {}  # pixels of other maps, by their names, that are not what the heads say

    @property
    def is_same(self) -> bool:
        return not self.wrong and not any(self.decoded.values()) and self.difference <= self.tolerance

    def describe(self) -> str:
        height, width = self.size
        reason = "within the rounding" if self.is_int8 else "of two classes with equal logits"
        ties = f" ({self.ties} {reason})" if self.ties else ""
        wrong = f", {self.wrong} pixels WRONG" if self.wrong else ""
        maps = "".join(
            f", {name} map equal" if not pixels else f", {pixels} pixels of the {name} map WRONG"
            for name, pixels in self.decoded.items()
        )
        return (
            f"{self.name}, {height} x {width}: {self.equal:.4%} of labels equal{ties}{wrong}{maps}, "
            f"outputs within {self.difference:.1e} of the largest{self._allowed()}"
        )

    def _allowed(self) -> str:
        is_rounded = self.is_int8 and self.difference > EXACT
        return f" in the mean; rounding at edges explains {self.tolerance:.1e}" if is_rounded else ""


class Export(NamedTuple):
    """What is asked for."""

    runtime: str  # a row of RUNTIMES that writes files
    size: Size | None = None  # of images; None: any
    probabilities: bool = False
    int8: bool = False  # convolutions in 8-bit integers, for a model whose ranges are active
    grouping: bool = True  # of a panoptic model's things, in the graph, if the runtime can


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
    require_memory(export.size, header.num_classes)
    model = model.to(CPU).eval() if export.int8 else in_floats(model.to(CPU).eval())
    deployment = deployment_of(model, header, export)
    if export.int8 and runtime.as_rounded is not None:
        deployment = runtime.as_rounded(deployment)
    with aside(path, runtime) as temporary:
        assert runtime.write is not None
        runtime.write(deployment, temporary)
        network = runtime.open(temporary, header.model, header.num_classes, CPU)
        assert isinstance(network, Opened)
        reference = by_integers(deployment) if export.int8 else by_model(model, header, network)
        judged = of_integers if export.int8 else of_floats
        comparisons = []
        for name, image in {**trials(export.size), **(images or {})}.items():
            comparisons.append(judged(reference, header, network, name, fitted(image, export.size)))
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
    name = fastest(path, own, device) if name == "auto" else name
    if name == own:
        return path
    if name not in RUNTIMES:
        raise ConfigError(f"--runtime {name}: expected auto, {', '.join(RUNTIMES)}")
    if own in RUNTIMES[name].opens:
        require_packages(RUNTIMES[name], f"--runtime {name}")
        return path
    if own != "pytorch":
        raise ConfigError(f"--runtime {name}: {path} is a file for {own}; name the .safetensors file that it is from")
    require_packages(RUNTIMES[name], f"--runtime {name}")
    cached = cached_file(path, name)
    if not cached.exists():
        network, header = model_file.load(path, CPU)
        assert isinstance(network, Model)
        size = default_size(header) if RUNTIMES[name].has_one_size else None
        say_once = f"exporting {path} for {name}, once: it is kept in {cached.parent}"
        warnings.warn(AtrousWarning(say_once), stacklevel=2)
        write(network, header, cached, Export(name, size, int8=quantization.rounds(network), grouping=False))
    return cached


def opener_of(path: Path, name: str | None, device: torch.device) -> str:
    """The runtime that opens the file: its own, or that asked for, which may be `auto`, if it opens such files."""
    own = model_file.runtime_name(path)
    name = fastest(path, own, device) if name == "auto" else name
    return name if name is not None and own in RUNTIMES[name].opens else own


def fastest(path: Path, own: str, device: torch.device) -> str:
    """On a GPU PyTorch; elsewhere the first of FASTEST that is installed and can open the file, or a model's export."""
    if device.type != "cpu":
        return own
    possible = [name for name in FASTEST if RUNTIMES[name].is_installed]
    if own == "pytorch":
        return next(iter(possible), own)
    names = [name for name in possible if name == own or own in RUNTIMES[name].opens]
    return names[0] if names and not _is_int8(path) else own


def _is_int8(path: Path) -> bool:
    """Whether a file computes in 8-bit integers, which each runtime rounds in its own way."""
    text = model_file.read_metadata(path).get(EXPORT)
    return text is not None and parsed_export(path, text).facts.int8


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
    for suffix in filter(None, (RUNTIMES[runtime].suffix, RUNTIMES[runtime].beside)):
        prepare_file(path.with_suffix(suffix))


def require_memory(size: Size | None, num_classes: int) -> None:
    """Raises ConfigError for images whose maps, in the file and in the model, can't be in the memory at once."""
    needed = 0 if size is None else MAP_BYTES * math.prod(size) * num_classes
    free = free_memory(CPU)
    if size is not None and needed > free:
        raise ConfigError(
            f"--size {size[0]},{size[1]}: the maps of an image of this size take {needed / GIB:.1f} GiB, of which "
            f"{free / GIB:.1f} are free; choose a smaller one, and evaluate.mode=sliding for larger images"
        )


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
    folder = beside(path)
    try:
        folder.mkdir(parents=True)
        remove_leftovers(path.parent)
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


Reference: TypeAlias = Callable[[Image], Maps]  # what a file should give for an image


def by_model(model: Model, header: Header, network: Opened) -> Reference:
    """As `inference` shows the image to the model."""

    def outputs(image: Image) -> Maps:
        images, protocol = as_batch(image, CPU), protocol_of(network)
        seen = look(model, images, protocol)
        maps = dict(maps_of(seen.outputs))
        if LABELS in network.names:
            maps[LABELS] = labels_at_image(seen)
        if PROBABILITIES in network.names:
            maps[PROBABILITIES] = predict_probabilities(model, images, protocol)
        return {**maps, **decoded(header, network, seen)}

    return outputs


def by_integers(deployment: Deployment) -> Reference:
    """As PyTorch computes the graph that was written."""

    @torch.inference_mode()
    def outputs(image: Image) -> Maps:
        return dict(zip(deployment.names, deployment.computed(torch.from_numpy(image[None])), strict=True))

    return outputs


def of_floats(reference: Reference, header: Header, network: Opened, name: str, image: Image) -> Comparison:
    """By the outputs that other programs read: bytes in, everything out."""
    expected, outputs = reference(image), network.outputs(image[None])
    differences = {part: _difference(outputs[part], x) for part, x in _floats(expected)}
    largest = max(differences.values())
    first = min(differences.get(LOGITS, math.inf), TOLERANCE)
    return _compared(header, network, name, image, (expected, outputs), first)._replace(difference=largest)


def of_integers(reference: Reference, header: Header, network: Opened, name: str, image: Image) -> Comparison:
    """As `of_floats`; where single values fell on the other side of an edge between two levels, the outputs may differ
    by twice as much as if all values moved by a thousandth of a level."""
    expected, outputs = reference(image), network.outputs(image[None])
    differences = {part: _deviation(outputs[part], x) for part, x in _floats(expected)}
    allowed = dict.fromkeys(differences, EXACT)
    if max(differences.values()) > EXACT:
        with quantization.moved(EDGE):
            moved = reference(image)
        allowed = {part: max(EXACT, 2 * _deviation(moved[part], x)) for part, x in _floats(expected)}
    worst = max(differences, key=lambda part: differences[part] / allowed[part])
    first = max(_difference(outputs[LOGITS], expected[LOGITS]), EXACT) if LOGITS in expected else 0.0
    compared = _compared(header, network, name, image, (expected, outputs), first)
    return compared._replace(difference=differences[worst], tolerance=allowed[worst], is_int8=True)


def _floats(maps: Maps) -> list[tuple[str, Tensor]]:
    return [(name, x) for name, x in maps.items() if x.is_floating_point()]


def _compared(
    header: Header, network: Opened, name: str, image: Image, maps: tuple[Maps, Maps], difference: float
) -> Comparison:
    """The labels, which may differ where logits that are `difference` apart explain it."""
    expected, outputs = maps
    size = image.shape[0], image.shape[1]
    if LABELS not in outputs:
        is_equal = bool((outputs[CLASSES].argmax(1) == expected[CLASSES].argmax(1)).all())
        return Comparison(name, size, float(is_equal), 0, 0, 0.0)
    differs = outputs[LABELS] != expected[LABELS]
    wrong = int((differs & ~_ties(network, expected[LOGITS], size, difference)).sum()) if differs.any() else 0
    equal, ties = 1 - float(differs.double().mean()), int(differs.sum()) - wrong
    return Comparison(name, size, equal, ties, wrong, 0.0, decoded=_wrongly_decoded(header, network, size, maps))


def _wrongly_decoded(header: Header, network: Opened, size: Size, maps: tuple[Maps, Maps]) -> dict[str, int]:
    """How many pixels of each map that a task decodes are neither what is expected nor what the file's own heads say.

    The last bit of a height or an offset decides whose pixel it is, so that the file's own heads count, too.
    """
    expected, outputs = maps
    of_heads = decoded(header, network, _seen(network, outputs, size))
    return {name: int(((outputs[name] != expected[name]) & (outputs[name] != x)).sum()) for name, x in of_heads.items()}


def decoded(header: Header, network: Opened, seen: Seen) -> Maps:
    """The maps [1, H, W] of a task's decoding that the file gives, too, by their names."""
    names = [name for name in network.names if name not in (LABELS, PROBABILITIES, *HEADS)]
    if not names:
        return {}
    (prediction,) = TASKS[network.facts.task].decode(seen, header.label_space, header.decode)
    return {name: getattr(prediction, name)[None] for name in names}


def _seen(network: Opened, maps: Maps, size: Size) -> Seen:
    frame = frame_of(size, network.facts, pads=network.pads)
    return Seen(outputs_of(maps), frame, size, size, network.facts.convention, is_mean=False)


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


def _deviation(x: Tensor, expected: Tensor) -> float:
    """The root mean square of the difference, as a share of the largest value; infinite as `_difference`."""
    if x.shape != expected.shape or not x.isfinite().all():
        return math.inf
    largest = float(expected.abs().max()) or 1.0
    return float((x - expected).double().square().mean().sqrt()) / largest


def _ties(network: Opened, logits: Tensor, size: Size, difference: float) -> Tensor:
    """The pixels [B, H, W] whose two best logits are closer than what was seen of differences between logits."""
    full = resize(logits, frame_of(size, network.facts, pads=network.pads), network.facts.convention)
    best, second = full[..., : size[0], : size[1]].topk(2, 1).values.unbind(1)
    return best - second <= 2 * difference * float(logits.abs().max())


def require_same(path: Path, comparisons: Sequence[Comparison]) -> None:
    wrong = [comparison for comparison in comparisons if not comparison.is_same]
    if wrong:
        raise Mismatch(
            f"{path} was not written: what was exported computes something else than the model, on {len(wrong)} of "
            f"{len(comparisons)} images; {wrong[0].describe()}"
        )
