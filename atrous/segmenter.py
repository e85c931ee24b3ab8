"""A model with all that it takes to use it: label space, inference settings, results; one .safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from atrous import models, visualize
from atrous.config import Config, explain, nearest
from atrous.data.contract import as_rgb
from atrous.data.contract import read_image as image_file
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.errors import ConfigError
from atrous.files import write_atomically
from atrous.inference import InferenceConfig, as_batch, predict_labels, predict_probabilities
from atrous.models import MODELS, AnyModelConfig, format_1
from atrous.models.contract import Model, ModelConfig
from atrous.types import Image, LabelMap

FORMAT = "1"  # of the file's metadata; a file of a later format is refused
ImageLike = str | Path | NDArray[np.uint8] | PILImage.Image


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, at the image's own size."""

    semantic: LabelMap  # [H, W] uint8, or int32 for more than 256 classes
    image: Image  # [H, W, 3], what was predicted from
    label_space: LabelSpace
    probabilities: NDArray[np.float32] | None = None  # [C, H, W], where asked for

    def overlay(self, alpha: float = 0.55) -> PILImage.Image:
        """The image with the classes' colours laid over it, `alpha` 0 (image alone) to 1 (colours alone)."""
        return PILImage.fromarray(visualize.overlay(self.image, self.semantic, self.label_space.palette(), alpha=alpha))

    def save(self, path: str | Path) -> None:
        """Write the labels as a PNG whose pixel values are the classes and whose palette is their colours."""
        visualize.save_palette_png(Path(path), self.semantic, self.label_space.palette())


@dataclass(frozen=True)
class Segmenter:
    model: Model
    label_space: LabelSpace
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    training: Config | None = None  # the experiment that the weights come from
    results: Mapping[str, Any] = field(default_factory=dict)  # figures, each with the protocol it was got by

    def predict(self, image: ImageLike, *, probabilities: bool = False) -> Prediction:
        """Segment one image of any size: a path, an RGB array [H, W, 3] uint8, or a PIL image."""
        pixels = read_image(image)
        device = next(self.model.parameters()).device
        batch = as_batch(pixels, device)
        self.model.eval()
        if not probabilities:
            best = predict_labels(self.model, batch, self.inference)[0]
            return Prediction(_compact(best, self.label_space), pixels, self.label_space)
        likely = predict_probabilities(self.model, batch, self.inference)[0]
        labels = _compact(likely.argmax(0), self.label_space)
        return Prediction(labels, pixels, self.label_space, likely.cpu().numpy())

    def with_output_stride(self, output_stride: int) -> "Segmenter":
        """The same weights, shared, on a denser or coarser output grid; the atrous rates follow. 8, 16 or 32.

        Raises ValueError where another output stride would take other weights.
        """
        config = at_output_stride(self.model.config, output_stride)
        with torch.device("meta"):
            model = models.build(config, self.model.num_classes)
        _require_same_network(self.model, model)
        model.load_state_dict(self.model.state_dict(keep_vars=True), assign=True)
        inference = self.inference.model_copy(update={"output_stride": None})
        return replace(self, model=model.train(self.model.training), inference=inference)

    def with_inference(self, inference: InferenceConfig) -> "Segmenter":
        """Another protocol, at the output stride that it asks for."""
        stride = inference.output_stride
        if stride is None or stride == self.model.config.output_stride:
            return replace(self, inference=inference)
        return replace(self.with_output_stride(stride), inference=inference)

    def with_results(self, results: Mapping[str, Any]) -> "Segmenter":
        return replace(self, results=results)

    def to(self, device: str | torch.device) -> "Segmenter":
        return replace(self, model=self.model.to(device))

    def save(self, path: str | Path) -> None:
        """Write weights and metadata to one file, whole or not at all. Raises OSError where that can't be done."""
        metadata = {
            "atrous_format": FORMAT,
            "model": self.model.config.model_dump_json(),
            "label_space": self.label_space.model_dump_json(),
            "inference": self.inference.model_dump_json(),
            "results": json.dumps(self.results),
        }
        if self.training is not None:
            metadata["training"] = self.training.model_dump_json()
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        write_atomically(Path(path), to_safetensors(weights, metadata))


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

    `model` is a row of MODELS, or its config for all other settings; `label_space` or `num_classes` tells the classes.
    """
    chosen = {"backbone": backbone, "output_stride": output_stride, "num_classes": num_classes}
    given = {name: value for name, value in chosen.items() if value is not None}
    config = _model_config(
        {**(model.model_dump() if isinstance(model, ModelConfig) else {"name": model}), **given}, "create"
    )
    classes = config.num_classes or (label_space.num_classes if label_space else None)
    if classes is None:
        raise ValueError("create: num_classes or label_space is wanted")
    space = label_space or LabelSpace(names=numbered_names(classes))
    require_same_classes(classes, space, "create: num_classes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Segmenter(models.build(config, classes).eval(), space)


def load(path: str | Path, *, device: str | torch.device = "cpu") -> Segmenter:
    """Read a model file. Raises FileNotFoundError, or ValueError with its name where it isn't a whole Atrous model."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            _require_ours(metadata, path)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole .safetensors file (truncated, damaged or of another kind): {error}"
        ) from error
    return _assemble(metadata, weights, path)


def _require_ours(metadata: Mapping[str, str], path: Path) -> None:
    if "atrous_format" not in metadata or "model" not in metadata or "label_space" not in metadata:
        raise ValueError(f"{path}: a .safetensors file, but not an Atrous model: its header has no Atrous config")
    if metadata["atrous_format"] != FORMAT:
        raise ValueError(f"{path}: written in format {metadata['atrous_format']}, this Atrous reads format {FORMAT}")


def _assemble(metadata: Mapping[str, str], weights: dict[str, Tensor], path: Path) -> Segmenter:
    try:
        config = _model_config(format_1.upgraded(json.loads(metadata["model"])), str(path))
        label_space = LabelSpace.model_validate_json(metadata["label_space"])
        inference = InferenceConfig.model_validate_json(metadata.get("inference", "{}"))
        experiment = json.loads(metadata.get("training", "null"))
        training = experiment and Config.model_validate(format_1.upgraded_experiment(experiment))
        results = json.loads(metadata.get("results", "{}"))
    except (ValidationError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: its header is damaged: {' '.join(str(error).split())[:200]}") from error
    require_same_classes(config.num_classes or label_space.num_classes, label_space, f"{path}: num_classes")
    with torch.device("meta"):
        model = models.build(config, label_space.num_classes)
    _require_same_weights(model.state_dict(), weights, path)
    model.load_state_dict(weights, assign=True)
    return Segmenter(model.eval(), label_space, inference, training, results).with_inference(inference)


def _require_same_weights(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Every weight there, none too many, each of its shape: anything else is another model."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    other = [name for name in wanted.keys() & found.keys() if wanted[name].shape != found[name].shape]
    if missing or unknown:
        lists = [
            f"{len(names)} {what} ({', '.join(names[:3])})"
            for what, names in (("missing", missing), ("unknown", unknown))
            if names
        ]
        raise ValueError(f"{path}: the weights are not those of the model in its header: {', '.join(lists)}")
    if other:
        name = min(other)
        shapes = f"{list(found[name].shape)} where {list(wanted[name].shape)} is wanted"
        raise ValueError(f"{path}: {name} is {shapes}: the file's weights and its header (num_classes?) disagree")


def _require_same_network(own: Model, other: Model) -> None:
    """Such as pnasnet isn't: its widths follow from its output stride."""
    one, two = ({name: weight.shape for name, weight in model.state_dict().items()} for model in (own, other))
    if one != two:
        trained, wanted = own.config.output_stride, other.config.output_stride
        network = f"{own.config.name} with {own.config.backbone.name}"
        raise ValueError(
            f"with_output_stride: {network} at {wanted} has other weights than at {trained}; keep {trained}"
        )


def require_same_classes(num_classes: int, label_space: LabelSpace, what: str) -> None:
    if num_classes != label_space.num_classes:
        raise ValueError(f"{what} is {num_classes}, but the label space has {label_space.num_classes} classes")


def at_output_stride(config: ModelConfig, output_stride: int) -> ModelConfig:
    """The model at another output stride: rates that were given are scaled, the others derive from it anyway."""
    return _model_config(config.at_output_stride(output_stride), "with_output_stride")


def _model_config(tree: Mapping[str, Any], source: str) -> ModelConfig:
    if tree.get("name") not in MODELS:
        raise ValueError(f"{source}: unknown model {tree.get('name')!r}{nearest(str(tree.get('name')), MODELS)}")
    try:
        config: ModelConfig = TypeAdapter(AnyModelConfig).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, {"model": dict(tree)}, source, (), section="model")) from None
    return config


def read_image(image: ImageLike) -> Image:
    """RGB [H, W, 3] uint8, turned as its EXIF says. Raises FileNotFoundError or ValueError, naming the file."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"an image is an array [H, W, 3] of uint8, RGB; got {list(image.shape)} of {image.dtype}")
        return np.ascontiguousarray(image)
    if isinstance(image, PILImage.Image):
        return as_rgb(image.copy())
    if not Path(image).is_file():
        raise FileNotFoundError(f"no such image: {image}")
    return image_file(Path(image))


def _compact(labels: Tensor, label_space: LabelSpace) -> LabelMap:
    kind = np.uint8 if label_space.num_classes <= 256 else np.int32
    return labels.cpu().numpy().astype(kind, copy=False)
