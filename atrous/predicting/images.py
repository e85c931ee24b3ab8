"""Which images are predicted: those that people name, without results of earlier predictions."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from atrous.data import finding, image_shards
from atrous.data.finding import Found, NamedImage, Skipped
from atrous.errors import ConfigError, listing
from atrous.predicting.output import looks_written
from atrous.prediction_folder import recorded_folders


def find_images(sources: Sequence[str], *, with_shards: bool = False) -> Found:
    """Files, folders and patterns as images. Results of earlier predictions are left out, also if named themselves.

    `with_shards`: also those in tars, and in what `atrous pack` has written. Raises FileNotFoundError for a source
    without an image.
    """
    shards = {source: part for source in sources if with_shards and (part := image_shards.shards_of(source))}
    tars = dict.fromkeys(shard for part in shards.values() for shard in part)
    items = [item for shard in tars for item in image_shards.images_in(shard)]
    found = _find_files([source for source in sources if source not in shards])
    images = [item for item in items if isinstance(item, NamedImage)]
    return Found([*found.images, *images], [*found.skipped, *(item for item in items if isinstance(item, Skipped))])


def _find_files(sources: Sequence[str]) -> Found:
    """The same without shards."""
    recorded = cache(recorded_folders)
    found = finding.find(sources, lambda folder: folder.name in recorded(folder.parent) or looks_written(folder))

    @cache
    def is_result(folder: Path) -> bool:
        real = folder.resolve()
        return any(above.name in recorded(above.parent) for above in (real, *real.parents))

    results = [image for image in found.images if is_result(image.path.parent)]
    if results and len(results) == len(found.images):
        raise FileNotFoundError(f"{results[0].path}: a result of an earlier prediction, not an image to predict")
    images = [image for image in found.images if not is_result(image.path.parent)]
    return Found(images, [*found.skipped, *(Skipped(image.path.parent, "result") for image in results)])


def notes(found: Found) -> list[str]:
    """What people should know about images that are not predicted."""
    results = dict.fromkeys(path.parent for path in found.paths("result"))
    left_out = [f"left out: results of earlier predictions in {listing(results)}"] if results else []
    repeated = [skipped.text for skipped in found.skipped if skipped.why == "repeated"]
    return left_out + ([f"predicted once: {listing(repeated)}"] if repeated else [])


def require_own_names(images: Sequence[NamedImage]) -> None:
    """Refuse images whose results would overwrite one another's."""
    owners: dict[Path, Path] = {}
    for image, name, *_ in images:
        if (other := owners.setdefault(name, image)) != image:
            raise ConfigError(f"{image} and {other} would both be written as {name}; predict them separately")
