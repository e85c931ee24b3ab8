"""A model is one file: weights, and a `Header` with everything that is needed to use them."""

import hashlib
import json
import shlex
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, SerializeAsAny, ValidationError, ValidationInfo, field_validator
from safetensors.torch import save as to_safetensors

from atrous import config as configs
from atrous.backbones import BackboneConfig
from atrous.config import Config
from atrous.config_errors import brief
from atrous.data.label_space import LabelSpace, numbered_names
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.errors import AtrousWarning, DamagedModelError, ModelFileError
from atrous.files import write_atomically
from atrous.inference import InferenceConfig
from atrous.models import AnyModelConfig, Model, ModelConfig
from atrous.models.format_1 import upgraded as upgraded_model
from atrous.models.format_1 import upgraded_experiment
from atrous.runtimes import RUNTIMES, Runtime
from atrous.runtimes.contract import START
from atrous.runtimes.pytorch import checksum
from atrous.settings import Settings
from atrous.trees import TreeError, kind_of, parse_json
from atrous.types import Network

FORMAT = "2"  # of the metadata; a file of a later format is refused
READABLE = ("1", "2")
CONVERTIBLE = (  # by `atrous convert`
    *(".tflite", ".pb", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".index", ".h5", ".hdf5", ".keras", ".npz"),
    *(".tar.gz", ".tgz", ".tar"),
)
EXPORTED = (".mlmodel", ".engine")  # by other programs
PICKLES = (".pkl", ".pickle")
SECTIONS = ("model", "label_space", "inference", "decode", "training", "results", "origin")  # as JSON


UNKNOWN = ModelConfig.model_construct(name="unknown", backbone=BackboneConfig.model_construct(name="unknown"))


class Header(Settings):
    model: AnyModelConfig
    label_space: LabelSpace
    inference: InferenceConfig = InferenceConfig()  # the protocol of a prediction
    decode: SerializeAsAny[Settings] = Field(default_factory=Settings, validate_default=True)  # of the model's task
    training: Config | None = None  # the experiment that the weights come from
    results: dict[str, Any] = Field({})  # figures, with the protocol that they were measured with
    origin: dict[str, Any] = Field({})  # of converted weights: the source, its options, what was assumed

    @field_validator("decode", mode="before")
    @classmethod
    def _of_the_task(cls, tree: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        return configs.section_of_task(tree, info)

    @property
    def num_classes(self) -> int:
        return self.model.num_classes or self.label_space.num_classes

    def to_metadata(self) -> dict[str, str]:
        values = {name: value for name in SECTIONS if (value := getattr(self, name)) is not None}
        return {name: _to_json(value) for name, value in values.items()}


def _to_json(value: Any) -> str:  # noqa: ANN401
    return value.model_dump_json() if isinstance(value, Settings) else json.dumps(value)


def save(path: Path, model: Model, header: Header) -> None:
    """Write weights and header to one file, completely or not at all. Raises OSError with the path."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"atrous_format": FORMAT, **header.to_metadata(), "checksum": checksum(weights)}
    metadata["header_checksum"] = header_checksum(metadata)
    write_atomically(path, with_metadata(to_safetensors(weights), metadata))


def with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """A .safetensors file without metadata, with it: the library itself writes it in another order each time."""
    end = 8 + int.from_bytes(content[:8], "little")
    table = {"__metadata__": dict(metadata), **json.loads(content[8:end])}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the weights
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(content)[end:]))


def header_checksum(metadata: Mapping[str, str]) -> str:
    """SHA-256 over all metadata except this checksum."""
    items = sorted((key, text) for key, text in metadata.items() if key != "header_checksum")
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def load(path: Path, device: torch.device, name: str | None = None) -> tuple[Network, Header]:
    """The network in a file, opened by the runtime of its kind, or by `name`, which opens such files, and its header.

    Raises FileNotFoundError, ModelFileError with the path if the file is damaged or not a model of Atrous, or
    ConfigError for a runtime that is not installed.
    """
    metadata = read_metadata(path)
    runtime = runtime_of(path)
    other = None if name is None else RUNTIMES[name].opens.get(runtime_name(path))
    if runtime.write is not None and not metadata:
        return _without_metadata(path, runtime.open(path, UNKNOWN, 0, device) if other is None else other(path, {}))
    header = parse(metadata, path)
    if other is not None:
        return other(path, metadata), header
    return runtime.open(path, header.model, header.num_classes, device), header


def _without_metadata(path: Path, network: Network) -> tuple[Network, Header]:
    """An exported network with numbered classes; what it is, its file doesn't say."""
    space = LabelSpace(names=numbered_names(network.facts.num_classes))
    warnings.warn(AtrousWarning(f"{path}: its metadata was stripped: classes are numbered"), stacklevel=2)
    return network, Header.model_construct(model=UNKNOWN, label_space=space)


def read_metadata(path: Path) -> Mapping[str, str]:
    """Of a file's header. Raises like `load`; for a file of another kind, with what to do."""
    _require_file(path)
    if not path.stat().st_size:
        raise ModelFileError(f"{path}: the file is empty")
    try:
        return runtime_of(path).read_metadata(path)
    except DamagedModelError:
        raise
    except ModelFileError as error:
        answers = [answer for suffixes, answer in OTHER_KINDS.items() if path.name.lower().endswith(suffixes)]
        raise ModelFileError(f"{path}: {answers[0](path)}") if answers else error from None


def _answer_to_foreign(path: Path) -> str:
    stem = path.name.removeprefix("zoo:").partition(".")[0]
    command = shlex.join(["atrous", "convert", str(path), "--out", f"{stem}.safetensors"])
    return f"a model of another program; convert it first: {command}"


OTHER_KINDS: Mapping[tuple[str, ...], Callable[[Path], str]] = {  # by how a name ends: the answer
    CONVERTIBLE: _answer_to_foreign,
    EXPORTED: lambda path: "an exported model, which can't be read; convert the checkpoint that it is from",
    PICKLES: lambda path: (
        "a pickle, which could run code when it is read; save the weights by torch.save, and convert them"
    ),
    IMAGE_SUFFIXES: lambda path: "an image, not a model file",
}


def _require_file(path: Path) -> None:
    if path.name.startswith("zoo:") or path.with_name(f"{path.name}.index").is_file():  # a checkpoint's prefix
        raise ModelFileError(f"{path}: {_answer_to_foreign(path)}")
    if not path.exists():
        raise FileNotFoundError(f"no such model file: {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder; expected a model file, such as best.safetensors in a run's folder")
    if not path.is_file():
        raise ModelFileError(f"{path}: a pipe or a device; expected a model file")


def runtime_of(path: Path) -> Runtime:
    return RUNTIMES[runtime_name(path)]


def runtime_name(path: Path) -> str:
    """The row of RUNTIMES for this content, or suffix. PyTorch opens all others, and says what is wrong with them."""
    _require_file(path)
    with path.open("rb") as file:
        start = file.read(START)
    names = [name for name, row in RUNTIMES.items() if row.recognises(start)]
    names += [name for name, row in RUNTIMES.items() if path.name.lower().endswith(row.suffix)]
    return names[0] if names else "pytorch"


def parse(metadata: Mapping[str, str], path: Path) -> Header:
    """The header from a file's metadata, also from that of format 1."""
    if "atrous_format" not in metadata or "model" not in metadata or "label_space" not in metadata:
        raise ModelFileError(f"{path}: not a model of Atrous: the file's header has no Atrous config")
    number = metadata["atrous_format"]
    _require_readable(number, path)
    if metadata.get("header_checksum", expected := header_checksum(metadata)) != expected:
        raise ModelFileError(f"{path}: its header does not match its checksum: the file is damaged")
    try:
        tree = {name: parse_json(metadata[name]) for name in SECTIONS if name in metadata}
        _require_mappings(tree, path)
        header = Header.model_validate(upgraded(tree) if number == "1" else tree)
    except TreeError as error:
        raise ModelFileError(f"{path}: its header is damaged: {error}") from error
    except ValidationError as error:
        known = configs.known_keys({**(tree.get("training") or {}), **tree})
        raise ModelFileError(f"{path}: its header is damaged: {brief(error, known)}") from error
    require_same_classes(header.num_classes, header.label_space, f"{path}: num_classes")
    return header


def _require_readable(number: str, path: Path) -> None:
    if number in READABLE:
        return
    if number.isdecimal() and len(number) < 5 and int(number) > int(FORMAT):
        by = f"made by a newer Atrous, in format {number}; this version reads formats up to {FORMAT}: upgrade"
        raise ModelFileError(f"{path}: {by}")
    known = " and ".join(READABLE)
    raise ModelFileError(f"{path}: its header is damaged: no format {number[:20]!r}; there are {known}")


def _require_mappings(tree: Mapping[str, Any], path: Path) -> None:
    for name, section in tree.items():
        if not isinstance(section, dict):
            raise ModelFileError(f"{path}: its header is damaged: {name} is {kind_of(section)}, not a mapping")


def upgraded(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Upgrade a header of format 1: flat model settings, and the origin of a conversion among the results."""
    results = dict(tree.get("results", {}))
    origin = results.pop("converted", {})
    training = {"training": upgraded_experiment(tree["training"])} if "training" in tree else {}
    return {**tree, "model": upgraded_model(tree["model"]), **training, "results": results, "origin": origin}


def require_same_classes(num_classes: int, label_space: LabelSpace, what: str) -> None:
    if num_classes != label_space.num_classes:
        raise ModelFileError(f"{what} is {num_classes}, but the label space has {label_space.num_classes} classes")
