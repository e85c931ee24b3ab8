"""Which image of a benchmark each file is: by its name, or by the benchmark's own list of images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import PIL.Image

from atrous.data.pillow import orientation_of
from atrous.errors import ConfigError, DataError
from atrous.submissions.contract import Format
from atrous.trees import TreeError, read_json
from atrous.types import Size


class Listed(NamedTuple):
    """An image in a benchmark's list."""

    id: str
    file: Path  # as the list spells it
    size: Size | None  # height, width


class ImageList(NamedTuple):
    path: Path
    images: Mapping[str, Listed]  # by id
    by_stem: Mapping[str, Sequence[Listed]]  # by the name of the file, without suffix


def read_list(path: Path, form: Format) -> ImageList:
    """A JSON with `images`, as COCO's image_info_test-dev2017.json. Raises OSError, or DataError with the path."""
    try:
        tree = read_json(path)
    except OSError as error:
        raise OSError(error.errno, f"cannot read the list of images {path}: {error.strerror}") from error
    except TreeError as error:
        raise DataError(f"{path}: {error}") from error
    rows = tree.get("images") if isinstance(tree, dict) else None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: a list of images has the key images, and in it the id and file_name of each")
    images: dict[str, Listed] = {}
    by_stem = defaultdict[str, list[Listed]](list)
    for image in (_listed(row, number, path, form) for number, row in enumerate(rows)):
        if (other := images.setdefault(image.id, image)) is not image:
            raise DataError(f"{path}: {other.file} and {image.file} both have the id {image.id}")
        by_stem[image.file.stem].append(image)
    return ImageList(path, images, by_stem)


def _listed(row: Any, number: int, path: Path, form: Format) -> Listed:  # noqa: ANN401 - any JSON value
    own, file = (row.get("id"), row.get("file_name")) if isinstance(row, dict) else (None, None)
    identifier = form.identify(str(own)) if isinstance(own, int | str) and not isinstance(own, bool) else None
    if identifier is None or not isinstance(file, str) or not Path(file).name:
        example = f"an id as in {form.example}, and a file_name"
        raise DataError(
            f"{path}: images[{number}] has id {str(own)[:80]!r}, file_name {str(file)[:80]!r}; need {example}"
        )
    sides = [row.get("height"), row.get("width")]
    is_sized = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    return Listed(identifier, Path(file), (sides[0], sides[1]) if is_sized else None)


def identifier_of(path: Path, form: Format, image_list: ImageList | None = None) -> str:
    """By the list, or without one by the file's name. Raises ConfigError for a file that is no image of the benchmark.

    In a list an image is known by its name or, where that is another, by the identifier in it.
    """
    own = form.identify(path.stem)
    if image_list is None:
        if own is None:
            raise ConfigError(
                f"{path}: not named as an image of {form.benchmark}, such as {form.example}; for other names, give the "
                "official list of images: --images-json FILE"
            )
        return own
    listed = _of_path(path, image_list.by_stem.get(path.stem, ())) or image_list.images.get(own or "")
    if listed is None:
        raise ConfigError(f"{path}: not among the {len(image_list.images)} images in {image_list.path}")
    return listed.id


def _of_path(path: Path, listed: Sequence[Listed]) -> Listed | None:
    """Of several images of one name, the one whose folders are those of the file, as many as the list has."""
    if len(listed) < 2:
        return next(iter(listed), None)
    parts = path.with_suffix("").parts
    own = {image: image.file.with_suffix("").parts for image in listed}
    fitting = sorted((len(whole), image) for image, whole in own.items() if parts[-len(whole) :] == whole)
    is_clear = len(fitting) == 1 or (len(fitting) > 1 and fitting[-1][0] > fitting[-2][0])
    return fitting[-1][1] if is_clear else None


def identified(paths: Iterable[Path], form: Format, image_list: ImageList | None = None) -> dict[Path, str]:
    """The identifier of each file. Raises ConfigError as `identifier_of`, and for two files that are one image."""
    owners: dict[str, Path] = {}
    for path in paths:
        identifier = identifier_of(path, form, image_list)
        if (other := owners.setdefault(identifier, path)) != path:
            raise ConfigError(f"{other} and {path} are both image {identifier} of {form.benchmark}; leave one out")
    return {path: identifier for identifier, path in owners.items()}


def missing(ids: Mapping[Path, str], image_list: ImageList | None) -> list[str]:
    """Images that the list has and the files lack."""
    own = set(ids.values())
    return [] if image_list is None else [identifier for identifier in image_list.images if identifier not in own]


def orientation_in(file: Path | BinaryIO) -> int:
    """How the file's pixels lie, as EXIF numbers it."""
    with PIL.Image.open(file) as image:
        return orientation_of(image)


def size_of(identifier: str, image_list: ImageList | None) -> Size | None:
    """What the list says, if it does."""
    listed = None if image_list is None else image_list.images.get(identifier)
    return None if listed is None else listed.size
