"""A network with its header: what users load, create, predict with and save."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import TypeAdapter, ValidationError

from atrous import config as configs
from atrous import model_file, models
from atrous.config import Config
from atrous.data.image_files import as_rgb
from atrous.data.image_files import read_image as read_image_file
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import ConfigError, DataError, ModelFileError, listing
from atrous.files import user_path
from atrous.inference import InferenceConfig, as_batch, look
from atrous.model_file import Header, require_same_classes
from atrous.models import MODELS, AnyModelConfig, Model, ModelConfig
from atrous.prediction import Prediction
from atrous.run_folder import RunFolder
from atrous.runtimes import pytorch
from atrous.tasks import TASKS, Task
from atrous.tasks.contract import Labels
from atrous.types import Image, Network

CPU = torch.device("cpu")
ImageLike = str | Path | NDArray[np.uint8] | PILImage.Image


@dataclass(frozen=True)
class Segmenter:
    network: Network
    header: Header
    device: torch.device = CPU  # that images are sent to

    @property
    def model(self) -> Model:
        """The network as a PyTorch model. Raises ConfigError for a network of another runtime."""
        if not isinstance(self.network, Model):
            raise ConfigError(f"{type(self.network).__name__}: an exported network has no model to train or change")
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

    def predict(self, image: ImageLike, *, probabilities: bool = False) -> Prediction:
        """Predict one image of any size: a path, an RGB array [H, W, 3] uint8, or a PIL image."""
        pixels = read_image(image)
        labels = self.decode(pixels, probabilities=probabilities)
        labels = labels if probabilities else labels._replace(probabilities=None)
        return Prediction(labels.cpu(), pixels, self.label_space, self.task)

    def decode(self, image: Image, *, probabilities: bool = False) -> Labels:
        """The labels of one image, on the device."""
        batch = as_batch(image, self.device)
        seen = look(self.prepared, batch, self.inference, probabilities=probabilities)
        (labels,) = self.task.decode(seen, self.label_space, self.header.decode)
        return labels

    @cached_property
    def prepared(self) -> Network:
        """The network prepared for fast prediction. It shares its weights, so that it follows a training."""
        return pytorch.prepare(self.network, self.device) if isinstance(self.network, Model) else self.network

    def with_output_stride(self, output_stride: int) -> "Segmenter":
        """The same weights, shared, on a denser or coarser output grid; the atrous rates follow. 8, 16 or 32.

        Raises ConfigError if another output stride needs other weights.
        """
        config = model_config(self.model.config.at_output_stride(output_stride), "with_output_stride")
        with torch.device("meta"):
            model = models.build(config, self.model.num_classes)
        _require_same_network(self.model, model)
        model.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        inference = self.inference.model_copy(update={"output_stride": None})
        header = self.header.model_copy(update={"model": config, "inference": inference})
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
        """The same network on another device. A network of another runtime stays where it was opened."""
        if not isinstance(self.network, Model):
            return self
        self.__dict__.pop("prepared", None)  # its buffers would stay where they are, its parameters would not
        return replace(self, network=self.network.to(device), device=torch.device(device))

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
        return of_model(models.build(config, classes).eval(), space)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Segmenter:
    """Read a model file, or the best model of a run's folder.

    Raises FileNotFoundError, or ModelFileError if it is not a model of Atrous.
    """
    network, header = model_file.load(model_in(user_path(path)), torch.device(device))
    return Segmenter(network, header, torch.device(device)).with_inference(header.inference)


def model_in(path: Path) -> Path:
    """The best model of a run's folder; a path that isn't a folder is a model file itself."""
    path = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own refuses a file that is called ~a
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
        raise ConfigError(f"{source}: unknown model {name!r}{configs.nearest(name, MODELS)}")
    try:
        config: ModelConfig = TypeAdapter(AnyModelConfig).validate_python(tree)
    except ValidationError as error:
        reason = configs.brief(error, {"model": dict(tree)}, section="model")
        raise ConfigError(f"{source}: {reason}") from None
    return config


def read_image(image: ImageLike) -> Image:
    """RGB [H, W, 3] uint8, turned upright by its EXIF. Raises FileNotFoundError or DataError with the path."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise DataError(
                f"an image must be an RGB array [H, W, 3] of uint8, got {list(image.shape)} of {image.dtype}"
            )
        return np.ascontiguousarray(image)
    if isinstance(image, PILImage.Image):
        return as_rgb(image.copy())
    if not Path(image).is_file():
        raise FileNotFoundError(f"no such image: {image}")
    return read_image_file(Path(image))
