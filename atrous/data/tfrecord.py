"""TFRecords of TensorFlow DeepLab and deeplab2, read without TensorFlow: `train-00000-of-00010.tfrecord` and so on.

A record of `research/deeplab` has the labels as a PNG of train ids; one of deeplab2 has the panoptic map of class *
divisor + number in its class, as raw 32-bit numbers (specs of both: `build_data.py`, `data_utils.py`).
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from atrous.data.contract import DataConfig, Layout, require_root, require_split
from atrous.data.image_files import decode
from atrous.data.label_space import LabelSpace
from atrous.data.naming import named_space, with_things
from atrous.data.packed import index_of, is_packed, plain, space_of
from atrous.data.pixels import Codes, NamedBytes, read_image, read_label
from atrous.errors import ConfigError, DamagedError, DataError, listing
from atrous.files import is_not_data
from atrous.types import NO_IMAGE, Image, Sample
from atrous.wire import records, tensors
from atrous.wire.records import Example, Extent

IMAGE, NAME, HEIGHT, WIDTH = "image/encoded", "image/filename", "image/height", "image/width"
LANDMARKS = "image/landmarks"  # of the fork "forma": a float32 tensor [1, K, 2 or more]
LABELS, LABEL_FORMAT = "image/segmentation/class/encoded", "image/segmentation/class/format"
FILE = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<total>\d{5,})(\.tfrecords?)?")


class Config(DataConfig):
    """data.format=tfrecord data.root=records "data.names=[background, person]"; atrous pack notes the names itself."""

    format: Literal["tfrecord"] = "tfrecord"
    panoptic_divisor: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """Factor of the class in panoptic maps, 256 in records of COCO; none: the label space's, 1000."""


class Place(NamedTuple):
    """Where a record lies, or why it can't be read."""

    path: Path
    number: int  # in its file
    extent: Extent = Extent(0, 0)
    problem: str = ""


def samples(config: Config, split: str) -> Sequence[Sample]:
    """The records of a split's shards, in the order of their numbers.

    A shard that is missing or damaged raises DataError or, with on_error=skip, each record that it lacks does.
    """
    root = require_root(config)
    shards = _shards(root)
    require_split(config, split, shards, root / f"{split}-00000-of-00010.tfrecord")
    places = [place for path in _complete(shards[split], root, split) for place in _places(path)]
    problems = [place.problem for place in places if place.problem]
    if problems and config.on_error == "stop":
        more = f"; {len(problems) - 1} more shards can't be read either" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    space = label_space(config)
    values = plain(space) if is_packed(root, "tfrecord") else space
    return Records(places, values, config.panoptic_divisor or space.panoptic_divisor)


def label_space(config: Config) -> LabelSpace:
    """The classes that `atrous pack` has noted beside its records; of others' records, those of the config."""
    if is_packed(require_root(config), "tfrecord"):
        return space_of(index_of(config), config)
    if config.names is None:
        raise ConfigError(
            "data.names is missing: TFRecords don't hold the names of their classes; set them in the order of the "
            'train ids, as in "data.names=[background, person]"'
        )
    return with_things(named_space(config.names, config.ignore, None), config.things)


def is_root(config: Config, folder: Path) -> bool:
    return bool(_shards(folder))


class Records(Sequence[Sample]):
    """Records of images with labels, read and checked when a sample is requested.

    Raises DataError with the file and the record's number, counted from 0.
    """

    def __init__(self, places: Sequence[Place], space: LabelSpace, divisor: int, *, has_things: bool = True) -> None:
        self.places, self.space, self.divisor, self.has_things = places, space, divisor, has_things

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: int | slice) -> "Sample | Records":
        if isinstance(index, slice):
            return Records(self.places[index], self.space, self.divisor, has_things=self.has_things)
        place = self.places[index]
        example = _example(place)
        image = read_image(NamedBytes(_bytes(example, IMAGE, place), f"{_where(place)}: {IMAGE}"))
        sample = self._labelled(place, example)
        for what, size in {"its labels are": _size(sample.semantic), "it says": _said(example)}.items():
            if size not in (None, image.shape[:2]):
                raise DataError(
                    f"{_where(place)}: the image is {_by(image.shape)}, but {what} {_by(size)} (height x width)"
                )
        return sample._replace(image=image, landmarks=_landmarks(example, place))

    def labels(self, index: int) -> Sample:
        """The sample with an empty image: it isn't decoded."""
        return self._labelled(self.places[index], _example(self.places[index]))

    def without_instances(self) -> "Records":
        """The same records for a task that doesn't tell things apart."""
        return Records(self.places, self.space, self.divisor, has_things=False)

    @property
    def names(self) -> list[str]:
        return [_default_name(place) for place in self.places]

    def chosen(self, places: Sequence[int]) -> "Records":
        chosen = [self.places[place] for place in places]
        return Records(chosen, self.space, self.divisor, has_things=self.has_things)

    def inventory(self) -> dict[str, list[int]]:
        """The sizes of the records."""
        return {_default_name(place): [place.extent.size] for place in self.places}

    def _labelled(self, place: Place, example: Example) -> Sample:
        name = _name(example, place)
        if LABELS not in example:
            return Sample(name, NO_IMAGE)
        content = _bytes(example, LABELS, place)
        if _text(example, LABEL_FORMAT) == "raw":
            return self._split_panoptic(name, place, content, _said(example))
        file = NamedBytes(content, f"{_where(place)}: {LABELS}")
        return Sample(name, NO_IMAGE, decode(read_label(file), Path(file.name), self.space))

    def _split_panoptic(self, name: str, place: Place, content: bytes, size: tuple[int, ...] | None) -> Sample:
        if size is None or len(content) != 4 * size[0] * size[1]:
            expected = "unknown" if size is None else f"{_by(size)} numbers of 4 bytes"
            raise DataError(f"{_where(place)}: {LABELS} has {len(content)} bytes; expected {expected}, since it is raw")
        ids = np.frombuffer(content, "<i4").reshape(size)
        classes = decode(Codes(ids // self.divisor), Path(f"{_where(place)}: {LABELS} // {self.divisor}"), self.space)
        if not self.has_things:
            return Sample(name, NO_IMAGE, classes)
        is_thing = np.isin(classes, self.space.things) & (ids % self.divisor > 0)
        return Sample(name, NO_IMAGE, classes, numbered(ids, is_thing))


def numbered(ids: NDArray[np.integer[Any]], is_thing: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Panoptic ids as 1, 2, .. in ascending order, over all classes; 0 where there is no thing."""
    _, places = np.unique(np.where(is_thing, ids, -1), return_inverse=True)
    return np.asarray(places.reshape(ids.shape) + bool(is_thing.all()), np.int32)


# ---- the files


class _File(NamedTuple):
    path: Path
    number: int
    total: int  # shards of its split, as its name says


def _shards(root: Path) -> dict[str, list[_File]]:
    """The shards of each split."""
    shards: dict[str, list[_File]] = defaultdict(list)
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if not is_not_data(path.name) and (match := FILE.fullmatch(path.name)):
            shards[match["split"]].append(_File(path, int(match["number"]), int(match["total"])))
    return dict(shards)


def _complete(shards: Sequence[_File], root: Path, split: str) -> list[Path]:
    """The paths of all shards that the names speak of, those that are missing included."""
    totals = sorted({shard.total for shard in shards})
    if len(totals) > 1:
        raise DataError(f"{root}: by their names, the shards of {split} are of {listing(totals)}; keep one packing")
    if beyond := [shard.path for shard in shards if shard.number >= totals[0]]:
        raise DataError(f"{beyond[0]}: the number of a shard must be below {totals[0]}")
    by_number = {shard.number: shard.path for shard in shards}
    if len(by_number) < len(shards):
        raise DataError(f"{root}: two shards of {split} have the same number; keep one packing")
    suffix = shards[0].path.name[shards[0].path.name.rindex("-of-") :]
    return [by_number.get(number, root / f"{split}-{number:05d}{suffix}") for number in range(min(totals[0], 10**6))]


def _places(path: Path) -> list[Place]:
    """The records in a shard, up to the first whose length can't be read: that one bears the problem."""
    places: list[Place] = []
    try:
        if not path.is_file():
            raise DataError("it is not a file" if path.exists() else "it is missing")
        for number, extent in enumerate(records.extents(path)):
            places.append(Place(path, number, extent))
    except (DamagedError, DataError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        places.append(Place(path, len(places), problem=f"shard {path}: {reason}"))
    return places


# ---- one record


def _example(place: Place) -> Example:
    if place.problem:
        raise DataError(place.problem)
    try:
        with place.path.open("rb") as file:
            return records.parse(records.read(file, place.extent, place.number))
    except DamagedError as error:
        text = str(error)
        where = str(place.path) if text.startswith("record ") else _where(place)
        raise DataError(f"{where}: {text}") from error


def _where(place: Place) -> str:
    return f"{place.path}: record {place.number}"


def _bytes(example: Example, key: str, place: Place) -> bytes:
    value = example.get(key, [])
    if len(value) != 1 or not isinstance(value[0], bytes):
        known = listing(sorted(example), 10) or "nothing"
        what = "is missing" if key not in example else "is not one value of bytes"
        raise DataError(f"{_where(place)}: {key} {what}; the record has {known}")
    return value[0]


def _landmarks(example: Example, place: Place) -> NDArray[np.float32] | None:
    """(x, y) of each joint; what else a joint has, such as a certainty, is left out."""
    if not example.get(LANDMARKS):
        return None
    try:
        joints = tensors.floats(memoryview(_bytes(example, LANDMARKS, place)))
    except DamagedError as error:
        raise DataError(f"{_where(place)}: {LANDMARKS}: {error}") from error
    if joints.ndim != 3 or len(joints) != 1 or joints.shape[2] < 2:
        shape = " x ".join(map(str, joints.shape))
        raise DataError(f"{_where(place)}: {LANDMARKS} is {shape}; expected 1 x joints x (x, y, ...)")
    return joints[0, :, :2]


def _text(example: Example, key: str) -> str:
    value = example.get(key, [])
    return value[0].decode(errors="replace") if len(value) == 1 and isinstance(value[0], bytes) else ""


def _said(example: Example) -> tuple[int, int] | None:
    """Height and width as the record gives them."""
    sizes = [value[0] for key in (HEIGHT, WIDTH) if len(value := example.get(key, [])) == 1]
    if len(sizes) < 2 or not all(isinstance(size, int) and 0 < size < 2**20 for size in sizes):
        return None
    return int(sizes[0]), int(sizes[1])


def _name(example: Example, place: Place) -> str:
    """The file's name without its suffix; of a record without one, or with an odd one, its place."""
    name = Path(_text(example, NAME)).with_suffix("").as_posix() if _text(example, NAME).strip("./") else ""
    is_fit = name and name.isprintable() and not name.startswith("/") and ".." not in name.split("/")
    return name if is_fit else _default_name(place)


def _default_name(place: Place) -> str:
    return f"{place.path.name.partition('.')[0]}/{place.number}"


def _size(labels: Image | NDArray[Any] | None) -> tuple[int, ...] | None:
    return None if labels is None else labels.shape[:2]


def _by(size: tuple[int, ...] | None) -> str:
    return " x ".join(map(str, (size or ())[:2]))


LAYOUT = Layout(
    Config,
    samples,
    label_space,
    is_root,
    "train-00000-of-00010.tfrecord and so on",
)
