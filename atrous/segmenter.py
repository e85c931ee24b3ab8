"""A network with its header: what users load, create, predict with and save."""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from atrous import artefact, distributed, model_file, models
from atrous import config as configs
from atrous.config import Config
from atrous.config_errors import brief
from atrous.data.image_like import ImageLike, is_one_image, several
from atrous.data.image_like import read_image as read_image
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.deployed import frame_of
from atrous.errors import ConfigError, ModelFileError, listing, nearest
from atrous.files import user_path
from atrous.inference import InferenceConfig
from atrous.inference.frames import as_batch
from atrous.inference.look import look
from atrous.inference.maps import WINDOW_PIXELS
from atrous.layers import quantization
from atrous.model_file import Header, require_same_classes
from atrous.models import MODELS, AnyModelConfig, Model, ModelConfig
from atrous.prediction import Prediction
from atrous.run_folder import RunFolder
from atrous.runtimes import pytorch
from atrous.runtimes.contract import Arithmetic, Opened, Precision, Speed
from atrous.tasks import TASKS, Task
from atrous.tasks.contract import Labels
from atrous.types import Image, Network

CPU = torch.device("cpu")
MEASURED_PIXELS = 2**16  # of an image, at least: fewer neither show how well labels agree nor take long
LEAST_AGREEMENT = 0.999
NUM_TRIED = 8  # images, at most, that are read to find one that is large enough


@dataclass(frozen=True, repr=False)
class Segmenter:
    network: Network
    header: Header
    device: torch.device = CPU  # that images are sent to
    runtime: str = "pytorch"  # a row of RUNTIMES
    speed: Speed | None = None  # None: the network follows its model, which is being trained

    def __repr__(self) -> str:
        model, classes = self.header.model, len(self.classes)
        return f"Segmenter({model.name}, {model.backbone.name}, {classes} classes, {self.device})"

    @property
    def model(self) -> Model:
        """The network as a PyTorch model. Raises ConfigError for a network of another runtime."""
        if not isinstance(self.network, Model):
            raise ConfigError(
                "an exported network has no model to train or change; load the .safetensors file that it is from"
            )
        return self.network

    @property
    def task(self) -> Task:
        return TASKS[self.network.facts.task]

    @property
    def label_space(self) -> LabelSpace:
        return self.header.label_space

    @property
    def inference(self) -> InferenceConfig:
        return self.header.inference

    @property
    def training(self) -> Config | None:
        """The experiment that the weights come from."""
        return self.header.training

    @property
    def results(self) -> Mapping[str, Any]:
        """The figures that were measured with these weights, and their protocol."""
        return self.header.results

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by number."""
        return self.label_space.names

    @overload
    def predict(self, image: ImageLike, *, probabilities: bool = ...) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def predict(self, image: Iterable[ImageLike], *, probabilities: bool = ...) -> list[Prediction]: ...
    def predict(
        self, image: ImageLike | Iterable[ImageLike], *, probabilities: bool = False
    ) -> Prediction | list[Prediction]:
        """Predict an image of any size, or many, such as a list, in its order.

        An image is a path, an array [H, W, 3] or tensor [3, H, W] of uint8 in RGB, a PIL image, a binary file or its
        bytes. Of many, all are read before the first is predicted, and images of one size go through the network
        together. Raises DataError or OSError for what can't be read.
        """
        if is_one_image(image):
            (prediction,) = self._predict([read_image(image)], probabilities)
            return prediction
        return self._predict(several(image), probabilities)

    def _predict(self, images: Sequence[Image], probabilities: bool) -> list[Prediction]:
        predictions: dict[int, Prediction] = {}
        for indices in batches_by_size(images):
            labels = self._decode([images[index] for index in indices], probabilities)
            for index, one in zip(indices, labels, strict=True):
                own = (one if probabilities else one._replace(probabilities=None)).cpu()
                predictions[index] = Prediction(own, images[index], self.label_space, self.task)
        return [predictions[index] for index in range(len(images))]

    def decode(self, image: Image, *, probabilities: bool = False) -> Labels:
        """The labels of one image, on the device."""
        (labels,) = self._decode([image], probabilities)
        return labels

    def _decode(self, images: Sequence[Image], probabilities: bool) -> list[Labels]:
        """The labels of images of one size."""
        parts = [as_batch(image, self.device) for image in images]
        batch = parts[0] if len(parts) == 1 else torch.cat(parts)  # a copy of a large image is worth avoiding
        self._settle(batch[:1])
        return self._decode_by(self.prepared, batch, probabilities)

    def _decode_by(self, network: Network, batch: Tensor, probabilities: bool = False) -> list[Labels]:
        seen = look(network, batch, self.inference, probabilities=probabilities)
        return self.task.decode(seen, self.label_space, self.header.decode)

    @property
    def prepared(self) -> Network:
        """The network prepared for fast prediction, with its model's weights as they are now.

        Only changes through `.data`, which PyTorch doesn't count, are not seen.
        """
        if not isinstance(self.network, Model):
            return self.network
        return self._following if self.speed is None else self._preparations(self.precision)

    @cached_property
    def _following(self) -> Network:
        return pytorch.follow(self.model, self.device)

    @cached_property
    def _preparations(self) -> pytorch.Preparations:
        return pytorch.Preparations(self.model, self.device, compile=self.speed is not None and self.speed.compile)

    # ---- precision

    @property
    def precision(self) -> Arithmetic:
        """What is computed in. For `auto` it is fp32, until an image of 256 x 256 pixels or more settles it."""
        if isinstance(self.network, Opened):
            return self.network.precision
        if self.speed is None or not isinstance(self.network, Model):
            return "fp32"
        return self._preparations.settled or "fp32" if self.speed.precision == "auto" else self.speed.precision

    def with_speed(self, precision: Precision = "auto", *, compile: bool = False) -> "Segmenter":  # noqa: A002
        """The same network, computed in `fp32`, `bf16`, or by `auto`: bf16 where that is faster and labels agree.

        `compile` has `torch.compile` make code for the device. On a CPU that takes tens of seconds for each of the
        first four sizes of images; others are computed as without it.
        Raises ConfigError for bf16 where the processor has none, and for `compile` without a compiler.
        """
        pytorch.require_precision(precision, self.device)
        if compile:
            pytorch.require_compiler(self.device)
        if isinstance(self.network, Model):
            return replace(self, speed=Speed(precision, compile))
        if isinstance(self.network, Opened):
            network = self.network.with_precision(precision).with_compiler(is_compiled=compile)
            return replace(self, network=network, speed=Speed(precision, compile))
        if compile:
            raise ConfigError(f"compile: torch.compile is for PyTorch; this network is computed by {self.runtime}")
        return replace(self, speed=Speed(precision))

    def settled(self, images: Iterable[Image]) -> tuple["Segmenter", float | None]:
        """With `auto` replaced by what it stands for, by the first of the images that is large enough.

        Also the share of its pixels that have the same label in bf16 as in fp32, or None if there was no need to know.
        """
        if self.speed is None or self.speed.precision != "auto":
            return self, None
        shares = (self._settle(as_batch(image, self.device)) for image in (images if self._is_open else ()))
        share = next((share for share in shares if share is not None), None)
        return self.with_speed(self.precision, compile=self.speed.compile), share

    def _settle(self, batch: Tensor) -> float | None:  # [1, 3, H, W]
        if not self._is_open or math.prod(batch.shape[-2:]) < MEASURED_PIXELS:
            return None
        (exact,), (rounded,) = (
            self._decode_by(self._preparations.to_compare(kind), batch) for kind in ("fp32", "bf16")
        )
        share = equal_share(exact, rounded)
        self._preparations.settled = "bf16" if share >= LEAST_AGREEMENT else "fp32"
        return share

    @property
    def _is_open(self) -> bool:
        """Whether `auto` could be bf16, and is not settled."""
        is_auto = self.speed is not None and self.speed.precision == "auto" and isinstance(self.network, Model)
        return is_auto and self._preparations.settled is None and pytorch.has_bf16(self.device)

    def with_output_stride(self, output_stride: int) -> "Segmenter":
        """The same weights, shared, on a denser or coarser output grid; the atrous rates follow. 8, 16 or 32.

        Raises ConfigError if another output stride needs other weights.
        """
        config = model_config(self.model.config.at_output_stride(output_stride), "with_output_stride")
        with torch.device("meta"):
            model = models.build(config, self.model.num_classes)
        if quantization.has_ranges(self.model):
            quantization.add_ranges(model)
        _require_same_network(self.model, model)
        model.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        inference = self.inference.model_copy(update={"output_stride": None})
        header = self.header.model_copy(update={"model": config, "inference": inference})
        model = model.to(model.shift.device)  # what no file holds, such as tables of positions, is not there yet
        return replace(self, network=model.train(self.model.training), header=header)

    def with_inference(self, inference: InferenceConfig) -> "Segmenter":
        """The same network with another protocol, at the protocol's output stride."""
        stride = inference.output_stride
        if stride is None or stride == self.network.facts.output_stride:
            return self.with_header(inference=inference)
        return self.with_output_stride(stride).with_header(inference=inference)

    def with_header(self, **values: Any) -> "Segmenter":  # noqa: ANN401
        """The same network with other values in the header: label_space, results, origin ..."""
        return replace(self, header=self.header.model_copy(update=values))

    def to(self, device: str | torch.device) -> "Segmenter":
        """The same network on `cpu`, `cuda`, `cuda:N`, or `auto`: a GPU if there is one.

        As with a tensor, the weights are shared if they are there already, and copied if not: this segmenter stays
        where it is. A network of another runtime stays where it was opened. Raises ConfigError for a missing device.
        """
        place = device_of(device)
        if not isinstance(self.network, Model):
            return self
        is_there = self.model.shift.device == place
        network = self.model if is_there else copy.deepcopy(self.model).to(place)
        return replace(self, network=network, device=place)

    def save(self, path: str | Path) -> None:
        """Write weights and header to one file, completely or not at all. Raises OSError if that fails."""
        model_file.save(user_path(path), self.model, self.header)


def of_model(model: Model, label_space: LabelSpace, **header: Any) -> Segmenter:  # noqa: ANN401
    """A segmenter of an existing network; `header` has further values of the Header."""
    full_header = Header(model=model.config, label_space=label_space, **header)
    return Segmenter(model, full_header, model.shift.device)


def create(
    model: str | ModelConfig,
    *,
    backbone: str | None = None,
    num_classes: int | None = None,
    output_stride: int | None = None,
    label_space: LabelSpace | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Segmenter:
    """A segmenter with random weights: `create("deeplab_v3plus", backbone="mobilenet_v2", num_classes=21)`.

    `model` is a row of MODELS, or its config for all other settings. `label_space` or `num_classes` sets the classes.
    Raises ConfigError for settings that are unknown or do not go together.
    """
    values = {"backbone": backbone, "output_stride": output_stride, "num_classes": num_classes}
    changes = {name: value for name, value in values.items() if value is not None}
    base = model.model_dump() if isinstance(model, ModelConfig) else {"name": model}
    config = model_config({**base, **changes}, "create")
    classes = config.num_classes or (label_space.num_classes if label_space else None)
    if classes is None:
        raise ConfigError("create: num_classes or label_space is missing")
    space = label_space or LabelSpace(names=numbered_names(classes))
    require_same_classes(classes, space, "create: num_classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        created = of_model(models.build(config, classes).eval(), space).to(device)
    return replace(created, speed=Speed("fp32"))


def load(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: Precision = "auto",
    compile: bool = False,  # noqa: A002
    runtime: str | None = None,
) -> Segmenter:
    """Read a model file, or the best model of a run's folder, onto `cpu`, `cuda`, `cuda:N`, or `auto`: a GPU if any.

    An exported file (.onnx, .xml, .pt2, .tflite) is computed by its own runtime, and a .safetensors file by PyTorch,
    unless `runtime` is a row of RUNTIMES, for which the model is then exported once into the cache, or `auto`: the
    fastest that is installed. OpenVINO opens .onnx files, too.

    For `precision` and `compile` see `with_speed`. Raises FileNotFoundError, ModelFileError if it is not a model of
    Atrous, or ConfigError for a missing device, a precision that it lacks, or a missing compiler.
    """
    place = device_of(device)
    file = model_in(user_path(path))
    file = file if runtime is None else artefact.file_for(file, runtime, place)
    name = artefact.opener_of(file, runtime, place)
    network, header = model_file.load(file, place, name)
    segmenter = Segmenter(network, header, place, runtime=name).with_inference(fitting(network, header.inference))
    return segmenter.with_speed(precision, compile=compile)


def equal_share(one: Labels, other: Labels) -> float:
    """Of all pixels, in the map where it is the smallest; 0 for labels that aren't maps."""
    maps = [
        (a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None and not a.is_floating_point()
    ]
    return min((float((a == b).double().mean()) for a, b in maps), default=0.0)


def fitting(network: Network, inference: InferenceConfig) -> InferenceConfig:
    """The protocol, but for an exported network of one size: images of other sizes lie on a canvas of it."""
    size = network.facts.size
    if not isinstance(network, Opened) or size is None or inference.mode != "whole":
        return inference
    is_on_grid = frame_of(size, network.facts, pads=network.pads) == size
    return inference.model_copy(update={"mode": "canvas", "window": size}) if is_on_grid else inference


def device_of(device: str | torch.device) -> torch.device:
    """A device of this machine. Raises ConfigError for one that it lacks."""
    if isinstance(device, torch.device) and device.type not in ("cpu", "cuda", "mps"):
        return device  # of a kind that only its owner knows
    return distributed.choose_device(str(device), what="device=")


def batches_by_size(images: Sequence[Image]) -> list[list[int]]:
    """The positions of images that go through the network together: of one size, and at most WINDOW_PIXELS."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(image.shape, []).append(index)
    batches = []
    for indices in by_size.values():
        count = number_at_once(images[indices[0]])
        batches += [indices[start : start + count] for start in range(0, len(indices), count)]
    return batches


def number_at_once(image: Image) -> int:
    """How many of this size go through the network together."""
    height, width, _ = image.shape
    return max(1, int(WINDOW_PIXELS // max(1, height * width)))


def model_in(path: Path) -> Path:
    """The best model of a run's folder; a path that isn't a folder is a model file itself."""
    path = user_path(path)
    if not path.is_dir():
        return path
    run = RunFolder(path)
    if run.best.is_file():
        return run.best
    others = sorted(file.name for file in path.glob("*.safetensors"))
    models = f"; name one of the models in it: {listing(others)}" if others else ""
    raise ModelFileError(f"{path}: a folder without {run.best.name}, so it isn't that of a finished run{models}")


def _require_same_network(own: Model, other: Model) -> None:
    """PNASNet, for one, has other widths at other output strides."""
    one, two = ({name: weight.shape for name, weight in model.state_dict().items()} for model in (own, other))
    if one != two:
        old, new = own.config.output_stride, other.config.output_stride
        network = f"{own.config.name} with {own.config.backbone.name}"
        raise ConfigError(f"with_output_stride: {network} has other weights at {new} than at {old}; stay at {old}")


def model_config(tree: Mapping[str, Any], source: str) -> ModelConfig:
    """A model's settings as its config. Raises ConfigError with the nearest valid name."""
    name = str(tree.get("name"))
    if name not in MODELS:
        raise ConfigError(f"{source}: unknown model {name!r}{nearest(name, MODELS)}")
    try:
        config: ModelConfig = TypeAdapter(AnyModelConfig).validate_python(tree)
    except ValidationError as error:
        reason = brief(error, configs.known_keys({"model": dict(tree)}), section="model")
        raise ConfigError(f"{source}: {reason}") from None
    return config
