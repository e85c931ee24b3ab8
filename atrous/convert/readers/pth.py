"""PyTorch's checkpoints (`.pth`, `.pt`, `.pth.tar`): weights by name, and nothing that could run."""

import contextlib
import io
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from atrous.convert.arrays import BESIDE, Array
from atrous.convert.readers.damage import DamagedError, quoted, reading, require_file

T = TypeVar("T")

KIND = "PyTorch checkpoint"
KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params")  # of weights
AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema")  # moving ones
SWAPPED = ("message_hub", "current_model_state")  # of mmengine and Lightning, which save the average as the weights
AVERAGED = re.compile(r"(ema_model|model_ema|ema|swa_model|averaged_model)\.(?=.)")  # before names within one mapping
STEPS = ("n_averaged", "steps")  # of a moving average
WRAPPERS = ("module.", "_orig_mod.", "base.")  # by training on several GPUs, by torch.compile, by several scales
HOLDERS = ("model.", "net.", "network.", "segmentor.")  # a Lightning module's, which may hold more than its network
ZIP_MAGIC = b"PK\x03\x04"
NUM_PICKLES = 5  # in the older format: magic number, protocol, system, the object, keys of the storages
MAX_PICKLE = 2**22  # bytes; a network of 1000 layers with its optimiser takes a tenth of it
GROWTH, SLACK = 4, 2**20  # weights may be views of one another, but hardly of more than the file holds
PIECE = 2**20
NUM_LISTED = 6  # entries in a message
KERNEL = 4  # axes of a convolution's weights
INERT = re.compile(  # what training scripts note beside the weights: read as `Inert`, whatever it is
    r"numpy(\.core|\._core)?\.multiarray scalar|numpy dtype|numpy\.dtypes \w+|argparse Namespace|pathlib \w*Path|"
    r"collections defaultdict|(pytorch_lightning|lightning|lightning_fabric|omegaconf)(\.\w+)* \w+|typing Any|"
    r"(__builtin__|builtins) (list|dict|tuple|int|float|str|bool|object)"
)
SAFE = re.compile(  # what weights and numbers consist of; PyTorch itself is stricter still
    r"collections (OrderedDict|Counter)|torch(\.storage|\.cuda|\.sparse)? \w+|torch\._utils _rebuild_\w+|"
    r"torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter|torch\.serialization _get_layout|"
    r"_codecs encode|(__builtin__|builtins) (set|complex)"
)
NUMBERS = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
)
PROGRAMS = {  # by a member of the archive: it is no file of torch.save alone
    "constants.pkl": "a program in TorchScript: save its weights alone: "
    'torch.save(torch.jit.load("model.pt").state_dict(), "weights.pth")',
    "archive_format": "a program of torch.export: save its weights alone: "
    'torch.save(torch.export.load("model.pt2").state_dict, "weights.pth"); one that Atrous exported needs no '
    "conversion: atrous predict MODEL.pt2 IMAGES",
}
ODD: dict[str, Callable[[Tensor], bool]] = {
    "quantised": lambda tensor: tensor.is_quantized,
    "nested": lambda tensor: tensor.is_nested,
    "sparse": lambda tensor: tensor.layout is not torch.strided,
    "without data": lambda tensor: tensor.is_meta,
}


class Inert:
    """Stands for an object of a class that weights don't need; nothing of that class is imported or run."""

    def __new__(cls, *_: object) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class InertMapping(Inert):
    """Stands for an object of a class of dictionaries, whose entries PyTorch sets one by one."""

    def __new__(cls, *_: object) -> "OrderedDict[object, object]":  # type: ignore[misc]
        return OrderedDict()


class Content(NamedTuple):
    """Of a file of `torch.save`."""

    arrays: dict[str, Array]
    notes: Mapping[str, Any]  # what a training saves beside the weights, as a stranger's file has it
    averages: Mapping[str, Array] = {}  # a moving average of the weights, under their names, where the file has both
    is_average: bool = False  # the weights themselves are one


def read_pth(path: Path) -> dict[str, Array]:
    """The weights alone."""
    return read_content(path).arrays


def read_content(path: Path) -> Content:
    """The weights in a file of `torch.save`, without `module.` before their names; bfloat16 becomes float32.

    They are under one of KEYS, or in the file's own mapping; other entries are left out. Raises FileNotFoundError, or
    ConversionError that says what is damaged, which class is refused, or what is there instead.
    """
    size = require_file(path).stat().st_size
    with reading(path, KIND):
        with _library_errors():
            tree = _load(path)
        return _content(tree, size)


def without_wrapper(values: Mapping[str, T]) -> dict[str, T]:
    """The same values under their names in the network itself, if all are in the same wrapper."""
    for wrapper in WRAPPERS * 2:  # either may be inside the other
        if all(name.startswith(wrapper) for name in values):
            values = {name.removeprefix(wrapper): value for name, value in values.items()}
    holder = next((one for one in HOLDERS if sum(name.startswith(one) for name in values) > len(values) / 2), None)
    return dict(values) if holder is None else without_wrapper(held(values, holder))


def held(values: Mapping[str, T], holder: str) -> dict[str, T]:
    """What a module holds as its network, and beside it: its loss, its metrics."""
    return {
        name.removeprefix(holder) if name.startswith(holder) else f"{BESIDE}{name}": value
        for name, value in values.items()
    }


@contextlib.contextmanager
def _library_errors() -> Iterator[None]:
    """PyTorch, `pickletools` and `zipfile` may raise anything for a damaged file, and warn."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DamagedError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise DamagedError(f"not a file of torch.save, or damaged: {quoted(_first_line(error))}") from error


def _first_line(error: Exception) -> str:
    """The first line after PyTorch's advice to switch its safety off."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].split("\n")
    return next((line.strip() for line in lines if line.strip()), type(error).__name__)


# ---- the file


def _load(path: Path) -> Any:  # noqa: ANN401
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
        file.seek(0)
        inert = _check_archive(file, path.stat().st_size) if is_zip else _check_pickles(file, NUM_PICKLES)
    with torch.serialization.safe_globals([(_stand_in(name), name) for name in sorted(inert)]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def _stand_in(name: str) -> type[Inert]:
    return InertMapping if name.lower().endswith("dict") else Inert


def _check_archive(file: IO[bytes], size: int) -> set[str]:
    """The names of classes to read as `Inert`.

    Raises DamagedError if a member is compressed or repeated, so that it could grow, or has a wrong checksum.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.partition("/")[2] for member in members]
        if "data.pkl" not in names or "constants.pkl" in names:
            raise DamagedError(
                next((what for name, what in PROGRAMS.items() if name in names), "a zip archive, but not of torch.save")
            )
        if len(set(names)) != len(names):
            raise DamagedError("a member occurs twice")
        stored = sum(member.file_size for member in members)
        if stored > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise DamagedError(f"its members are compressed, or claim {stored} bytes in a file of {size}")
        classes = [
            _check_member(archive, member, is_pickle=name == "data.pkl")
            for name, member in zip(names, members, strict=True)
        ]
        return set().union(*classes)


def _check_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, *, is_pickle: bool) -> set[str]:
    if not member.CRC:
        del member.CRC  # torch.save can leave checksums out
    with archive.open(member) as stream:
        inert = _check_pickles(io.BytesIO(stream.read(MAX_PICKLE)), 1) if is_pickle else set()
        while stream.read(PIECE):
            pass
    return inert


def _check_pickles(stream: IO[bytes], count: int) -> set[str]:
    """The names of classes to read as `Inert`.

    Raises DamagedError with the name of the first class or function that weights don't need; none is run.
    """
    inert = set()
    for _ in range(count):
        for code, what, _ in pickletools.genops(stream):
            if code.name == "GLOBAL" and not SAFE.fullmatch(str(what)):
                name = re.sub(r"^__builtin__\b", "builtins", str(what)).replace(" ", ".")
                if not INERT.fullmatch(str(what)):
                    raise DamagedError(_refusal(name))
                inert.add(name)
            if stream.tell() >= MAX_PICKLE:
                raise DamagedError(f"more than {MAX_PICKLE} bytes before its weights")
    return inert


def _refusal(name: str) -> str:
    """A class is most often that of a whole model."""
    return (
        f"it holds {quoted(name)}, which is refused: anyone may have made the file, so only weights are read; if you "
        "trust it, load it in the program that wrote it and save the weights alone: "
        'torch.save(model.state_dict(), "weights.pth")'
    )


# ---- its content


def _content(tree: object, size: int) -> Content:
    """What is in a file of so many bytes."""
    if isinstance(tree, list | tuple) and any(isinstance(entry, Mapping) for entry in tree):
        tree = dict(enumerate(tree))  # weights, and an optimiser's state, or a step
    if not isinstance(tree, Mapping):
        raise DamagedError(f"it must hold weights by name, but holds a {type(tree).__name__}")
    tensors, is_average = _tensors(tree)
    average = {} if is_average else _first(tree, AVERAGES)
    _require_room([*tensors.values(), *average.values()], size)
    weights, averages = split(tensors)
    arrays, others = _arrays(weights), _arrays(averages or _without_steps(average))
    is_swapped = any(key in tree for key in SWAPPED)
    is_same = bool(others) and not is_swapped and others.keys() <= arrays.keys()
    return Content(arrays, tree, others if is_same else {}, is_average or (bool(others) and is_swapped))


def split(values: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """A network's values, and those of its moving average beside it in one mapping, without what shows the average.

    Both are whole, or all values are the network's.
    """
    average = {AVERAGED.sub("", name, 1): value for name, value in values.items() if AVERAGED.match(name)}
    weights = {name: value for name, value in values.items() if not AVERAGED.match(name)}
    is_one = without_wrapper(_without_steps(average)).keys() <= without_wrapper(weights).keys()
    return (weights, _without_steps(average)) if average and weights and is_one else (dict(values), {})


def _without_steps(average: Mapping[str, T]) -> dict[str, T]:
    return {name: value for name, value in average.items() if name not in STEPS}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: as_array(name, tensor) for name, tensor in without_wrapper(tensors).items()}


def _first(tree: Mapping[Any, Any], keys: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of the first entry that has some, maybe in an entry of its own; {} if none has."""
    entries = (_held_in(tree[key]) for key in keys if isinstance(tree.get(key), Mapping))
    return next((tensors for tensors in entries if tensors), {})


def _held_in(entry: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Its tensors, or those of the first of KEYS in it."""
    inner = (_tensors_among(entry[key]) for key in KEYS if isinstance(entry.get(key), Mapping))
    return _tensors_among(entry) or next((tensors for tensors in inner if tensors), {})


def _tensors(tree: Mapping[Any, Any]) -> tuple[dict[str, Tensor], bool]:
    """The weights, and whether they are a moving average, which counts where there are no others."""
    if tensors := _first(tree, KEYS):
        return _counted(tensors)
    if average := _first(tree, AVERAGES):
        return _without_steps(average), True
    if tensors := _tensors_among(tree) or _only_ones(tree):
        return _counted(tensors)
    entries = [f"{quoted(str(name))} ({type(value).__name__})" for name, value in islice(tree.items(), NUM_LISTED)]
    more = f" and {len(tree) - NUM_LISTED} more" if len(tree) > NUM_LISTED else ""
    raise DamagedError(f"it holds no weights, but {', '.join(entries) or 'nothing'}{more}")


def _counted(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """A moving average counts its steps beside the weights."""
    is_average = any(name in tensors and tensors[name].ndim == 0 for name in STEPS)
    return (_without_steps(tensors), True) if is_average else (tensors, False)


def _only_ones(tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those of the one entry with kernels, whatever it is called. Raises DamagedError if several have some."""
    entries = {key: _held_in(value) for key, value in tree.items() if isinstance(value, Mapping)}
    filled = {key: tensors for key, tensors in entries.items() if any(one.ndim == KERNEL for one in tensors.values())}
    if len(filled) > 1:
        names = ", ".join(quoted(str(key)) for key in islice(filled, NUM_LISTED))
        raise DamagedError(f"it holds weights several times, as {names}: save the ones you want alone")
    return next(iter(filled.values()), {})


def _tensors_among(entry: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in entry.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _require_room(tensors: Collection[Tensor], size: int) -> None:
    """Views and shapes of stride 0 may claim any size; files of the older format, storages that they don't have."""
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > GROWTH * size + SLACK:
        raise DamagedError(f"its weights claim {claimed} bytes, in a file of {size}")


def as_array(name: str, tensor: Tensor) -> Array:
    odd = next((word for word, is_odd in ODD.items() if is_odd(tensor)), None)
    if odd is not None or tensor.dtype not in NUMBERS:
        raise DamagedError(
            f"{quoted(name)} is {odd or tensor.dtype}; only plain tensors of floats or integers are read"
        )
    tensor = tensor.detach()
    return tensor.float().numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()
