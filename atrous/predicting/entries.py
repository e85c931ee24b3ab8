"""Adds one image to what a benchmark's server takes."""

from collections.abc import Mapping
from pathlib import Path

from atrous.data import image_shards
from atrous.data.finding import NamedImage
from atrous.engines import Outcome
from atrous.errors import DataError
from atrous.predicting.job import Write
from atrous.prediction import Prediction
from atrous.submissions import answers, drafts, image_ids
from atrous.submissions.drafts import Draft
from atrous.submissions.image_ids import ImageList


def write_entry(
    draft: Draft,
    ids: Mapping[Path, str],
    image_list: ImageList | None,
    write: Write,
    prediction: Prediction,
    image: NamedImage,
) -> Outcome:
    """The part of one image, and what is written besides. Official labels are those of the pixels as stored."""
    identifier, orientation = ids[image.path.absolute()], orientation_of(image)
    labels = answers.as_stored(prediction.labels, orientation)
    try:
        drafts.add(draft, identifier, labels, image_ids.size_of(identifier, image_list))
    except DataError as error:
        raise DataError(f"{image.path}: {error}") from error
    return write(prediction, image)._replace(row=draft.rows[identifier])


def receive_entry(draft: Draft, ids: Mapping[Path, str], image: NamedImage, outcome: Outcome) -> None:
    """Add what another process knows of an image, whose files it has written."""
    draft.rows[ids[image.path.absolute()]] = outcome.row


def orientation_of(image: NamedImage) -> int:
    """1 for pixels without a file of their own."""
    file = image.path if image.entry is None else image_shards.file_of(image.entry)
    return 1 if file is None else image_ids.orientation_in(file)
