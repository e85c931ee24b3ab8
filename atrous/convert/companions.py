"""Files that belong to a file of weights: the other half of a network, or the settings beside it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atrous.convert.filling import shapes_of
from atrous.convert.readers.damage import DamagedError, quoted, reading, require_file
from atrous.convert.system import ForeignWeights
from atrous.convert.systems import csail, huggingface, smp
from atrous.errors import ConversionError
from atrous.trees import TreeError, read_json

HALVES = ("encoder", "decoder")
SETTINGS = "config.json"
MAX_SETTINGS = 2**20  # bytes
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face, and of what is published there
GENERIC = "LABEL_"  # what names of classes begin with where nobody has set them

Reader = Callable[[Path], ForeignWeights]


def joined(path: Path, weights: ForeignWeights, read: Reader) -> ForeignWeights:
    """With the other half of the network, where a file of that name lies beside it and both are one network."""
    half = next((half for half in HALVES if path.name.startswith(half)), None)
    if half is None:
        return weights
    other = HALVES[1 - HALVES.index(half)]
    partner = path.with_name(path.name.replace(half, other, 1))
    if not partner.is_file():
        return weights
    arrays = {
        f"{name}.{weight}": array
        for name, part in ((half, weights), (other, read(partner)))
        for weight, array in part.arrays.items()
    }
    whole = weights._replace(arrays=arrays, averages={}, label=f"{weights.label} and {partner.name}")
    return whole if csail.recognised(shapes_of(arrays)) else weights


def described(path: Path, weights: ForeignWeights) -> ForeignWeights:
    """With what `config.json` beside the weights says, if they are of a program that writes one."""
    beside, shapes = path.with_name(SETTINGS), shapes_of(weights.arrays)
    system = next((one for one in (huggingface.SYSTEM, smp.SYSTEM) if one.recognised(shapes)), None)
    if system is None or not beside.is_file():
        return weights
    with reading(beside, "file of settings"):
        tree = _settings(beside)
        options = {name: tree[name] for name in system.options.model_fields if name in tree}
        return weights._replace(options=options, class_names=_class_names(tree))


def find_weights(folder: Path) -> Path | None:
    """The weights of a folder as Hugging Face has them, or the encoder of a network in two files."""
    if (folder / SETTINGS).is_file():
        _require_model_type(folder / SETTINGS)
        if whole := next((folder / name for name in WEIGHTS if (folder / name).is_file()), None):
            return whole
    encoders = sorted(folder.glob(f"{HALVES[0]}*.pth"))
    if len(encoders) > 1:
        names = ", ".join(path.name for path in encoders)
        raise ConversionError(f"{folder}: it holds several models: name one of {names}")
    return encoders[0] if encoders else None


def _require_model_type(path: Path) -> None:
    with reading(path, "file of settings"):
        kind = _settings(path).get("model_type", huggingface.MODEL_TYPE)
        if kind != huggingface.MODEL_TYPE:
            raise DamagedError(
                f"model_type {quoted(str(kind))}: of Hugging Face's networks, {huggingface.MODEL_TYPE} for "
                "segmentation is read"
            )


def _settings(path: Path) -> Mapping[str, Any]:
    if require_file(path).stat().st_size > MAX_SETTINGS:
        raise DamagedError(f"it has more than {MAX_SETTINGS} bytes")
    try:
        tree = read_json(path)
    except TreeError as error:
        raise DamagedError(f"it is no JSON: {quoted(str(error))}") from error
    if not isinstance(tree, dict):
        raise DamagedError(f"it must hold settings by name, but holds a {type(tree).__name__}")
    return tree


def _class_names(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Of `id2label`, in the order of the classes; none where nobody has named them."""
    names = tree.get("id2label", {})
    numbers = [str(number) for number in range(len(names))] if isinstance(names, dict) else None
    if numbers is None or names.keys() != set(numbers) or not all(map(_is_name, names.values())):
        raise DamagedError(f"id2label must name the classes 0, 1, ... in words, got {quoted(str(names))}")
    ordered = tuple(names[number] for number in numbers)
    return () if all(name.startswith(GENERIC) for name in ordered) else ordered


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()
