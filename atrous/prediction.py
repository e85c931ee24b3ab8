"""What a network makes of one image: labels, pictures, files."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from atrous.data.label_space import LabelSpace
from atrous.errors import ConfigError, listing, warn_once
from atrous.files import user_path, write_atomically
from atrous.tasks import Task
from atrous.tasks.contract import Labels
from atrous.tasks.segments import Segment, panoptic_array, segments
from atrous.types import Image, LabelMap
from atrous.visualize import ALPHA, with_legend

OVERLAYS, PROBABILITIES = "overlays", "probabilities"
QUALITY = 92  # of overlays, as JPEG
JPEG_SIDE = 65500  # pixels, the largest side that libjpeg writes
PHOTOS = (".jpg", ".jpeg")  # formats that change label values
PIECE = 2**24  # pixels that are counted at a time
SHOWN = 1024  # pixels of the longer side of a picture in a notebook


@dataclass(frozen=True, repr=False)
class Prediction:
    """The labels of one image, at the image's own size. A notebook shows the overlay."""

    labels: Labels  # on the CPU
    image: Image  # [H, W, 3]
    label_space: LabelSpace
    task: Task

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        shares = sorted(self._shares().items(), key=lambda item: -item[1])
        return f"Prediction({height} x {width}: {listing(f'{name} {share:.1%}' for name, share in shares if share)})"

    def _shares(self) -> dict[str, float]:
        """Of each class, by name: its part of the pixels, or its probability."""
        if self.labels.semantic is None:
            return {} if self.labels.classes is None else self.classes
        pieces = np.array_split(self.semantic, 1 + self.semantic.size // PIECE)  # NumPy counts 8-byte copies
        counts = np.sum([np.bincount(rows.ravel(), minlength=self.label_space.num_classes) for rows in pieces], 0)
        return dict(zip(self.label_space.names, (counts / counts.sum()).tolist(), strict=True))

    @property
    def semantic(self) -> LabelMap:
        """The class of each pixel, [H, W] uint8, int32 for more than 256 classes. AttributeError for a task without."""
        if self.labels.semantic is None:
            raise AttributeError("this network's task predicts no class per pixel")
        kind = np.uint8 if self.label_space.num_classes <= 256 else np.int32
        array: LabelMap = self.labels.semantic.numpy().astype(kind, copy=False)
        return array

    @property
    def panoptic(self) -> NDArray[np.int32]:
        """Class * `label_space.panoptic_divisor` + number of the thing, [H, W]. AttributeError for a task without."""
        if self.labels.panoptic is None:
            raise AttributeError("this network's task predicts no things")
        return panoptic_array(self.labels)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments in `panoptic`, without void. Raises AttributeError for a task without."""
        if self.labels.panoptic is None:
            raise AttributeError("this network's task predicts no things")
        return segments(self.labels, self.label_space)

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """Of the classes, [C, H, W]; None if they were not requested."""
        return None if self.labels.probabilities is None else self.labels.probabilities.numpy()

    @property
    def classes(self) -> dict[str, float]:
        """The probability of each class for the whole image. Raises AttributeError for a task without."""
        if self.labels.classes is None:
            raise AttributeError("this network's task predicts no class for the whole image")
        return dict(zip(self.label_space.names, self.labels.classes.tolist(), strict=True))

    def overlay(self, alpha: float = ALPHA, *, legend: bool = False) -> PILImage.Image:
        """The image under the colours of its labels; `alpha` runs from 0 (image alone) to 1 (colours alone).

        The background isn't coloured. `legend` adds the names and colours of what is in the image, beneath it.
        """
        picture = self.task.paint(self.image, self.labels, self.label_space, alpha)
        names = self.task.painted(self.labels, self.label_space) if legend else {}
        return PILImage.fromarray(with_legend(picture, names) if names else picture)

    def _repr_png_(self) -> bytes:
        """What a notebook shows; a large overlay is shrunk."""
        picture = self.overlay()
        picture.thumbnail((SHOWN, SHOWN))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    def save(self, path: str | Path) -> None:
        """Write the labels in the task's file format: a class per pixel as a PNG with the class colours.

        JPEG would change the labels, so `.jpg` gets the overlay, with a warning. Raises ConfigError for other formats.
        """
        target, result = user_path(path), next(iter(self.task.results.values()))
        suffix = target.suffix.lower()
        if suffix in PHOTOS:
            warn_once("photo", f"{path}: JPEG would change labels, so this is the overlay; labels need {result.suffix}")
            write_atomically(target, self._overlay_jpeg())
        elif suffix == result.suffix:
            write_atomically(target, result.encode(self.labels, self.label_space))
        else:
            raise ConfigError(f"{path}: labels are written as {result.suffix}, the overlay as .jpg; name the file so")

    def _overlay_jpeg(self) -> bytes:
        buffer = io.BytesIO()
        self.overlay().save(buffer, "JPEG", quality=QUALITY)
        return buffer.getvalue()

    def files(
        self, *, overlays: bool, probabilities: bool, legend: bool = False, results: bool = True
    ) -> Mapping[tuple[str, str], bytes]:
        """What `atrous predict` writes, by folder and suffix; `results` are the task's own."""
        files = {
            (folder, result.suffix): result.encode(self.labels, self.label_space)
            for folder, result in (self.task.results.items() if results else ())
        }
        if overlays:
            suffix, content = encoded_overlay(self.overlay(legend=legend))
            files[OVERLAYS, suffix] = content
        if probabilities and self.probabilities is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, probabilities=self.probabilities.astype(np.float16))
            files[PROBABILITIES, ".npz"] = buffer.getvalue()
        return files


def encoded_overlay(overlay: PILImage.Image) -> tuple[str, bytes]:
    """An overlay as a JPEG, or as a PNG if a side is too long for one, with its suffix."""
    suffix, form = (".jpg", "JPEG") if max(overlay.size) <= JPEG_SIDE else (".png", "PNG")
    buffer = io.BytesIO()
    overlay.save(buffer, form, quality=QUALITY)
    return suffix, buffer.getvalue()
