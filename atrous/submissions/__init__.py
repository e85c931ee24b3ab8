"""What the servers of benchmarks take: `atrous predict --format NAME`, and the same for predictions in Python."""

import itertools
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from atrous.errors import ConfigError, DataError
from atrous.files import user_path
from atrous.prediction import Prediction
from atrous.submissions.drafts import add, drafted, entry_of, format_named, publish
from atrous.submissions.image_ids import identifier_of, read_list, size_of

AnyPath = str | PathLike[str]
Name = TypeVar("Name", bound=AnyPath)  # of an image's file


def write_official(
    predictions: Mapping[Name, Prediction] | Iterable[tuple[Name, Prediction]],
    format: str,  # noqa: A002 - the name of the option
    out: AnyPath,
    *,
    images_json: AnyPath | None = None,
    **settings: Any,  # noqa: ANN401 - any value of a setting
) -> Path:
    """Write what a benchmark's server takes into the folder `out`, as `atrous predict --format` does.

    Predictions come by the names of their images' files, and are read one by one: a generator needs memory for one.
    `settings` are those of the format, such as `split="val2017"`. Returns the archive. Raises ConfigError, DataError
    or OSError; the folder then is as it was.
    """
    form = format_named(format)
    image_list = None if images_json is None else read_list(user_path(images_json), form)
    pairs = iter(predictions.items() if isinstance(predictions, Mapping) else predictions)
    first = next(pairs, None)
    if first is None:
        raise ConfigError(f"write_official: no predictions, so no file for {form.benchmark}")
    entry = entry_of(format, first[1].task, first[1].label_space, settings)
    with drafted(entry, user_path(out)) as draft:
        for name, prediction in itertools.chain([first], pairs):
            identifier = identifier_of(Path(name), form, image_list)
            if identifier in draft.rows:
                raise ConfigError(f"{name}: a second prediction of image {identifier} of {form.benchmark}")
            if prediction.label_space != entry.space:
                raise ConfigError(f"{name}: a prediction of other classes than the first; one model hands in all")
            try:
                add(draft, identifier, prediction.labels, size_of(identifier, image_list))
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
        return publish(draft)
