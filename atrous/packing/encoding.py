"""A sample as the bytes that lie in a shard."""

import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from atrous.data import shards as layout
from atrous.data import tfrecord
from atrous.data.image_files import ImageFiles
from atrous.data.label_space import LabelSpace
from atrous.data.strips import checksums
from atrous.data.windows import Window, resample_window
from atrous.errors import AtrousError, DataError, text_of
from atrous.packing.job import Item, Options
from atrous.types import Sample
from atrous.wire import records, tar

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif"}  # by Pillow's name of a format
PLAIN_FORMATS, PLAIN_MODES = ("JPEG", "PNG"), ("RGB", "L")  # those that TensorFlow decodes to what we do
MAX_NUMBER = 2**16 - 1  # of a thing, in a PNG


def encoded(samples: Sequence[Sample], options: Options, space: LabelSpace, index: int) -> Item:
    """A sample as bytes. Errors of the user become values: it may run in a worker process."""
    try:
        sample = _shrunk(samples[index], options.max_size)
        path = samples.pairs[index].image if isinstance(samples, ImageFiles) else None
        pixels: dict[int, int] = {}
        if sample.semantic is not None:
            counts = np.bincount(sample.semantic.ravel()).tolist()
            pixels = {label: count for label, count in enumerate(counts) if count}
        write = _as_tar if options.to == "shards" else _as_record
        height, width = sample.image.shape[:2]
        return Item(write(sample, path, options, space), (height, width), pixels)
    except (AtrousError, OSError) as error:
        return Item(problem=text_of(error))


def _shrunk(sample: Sample, max_size: int | None) -> Sample:
    """The sample with sides of at most `max_size` pixels, its image antialiased."""
    height, width = sample.image.shape[:2]
    if max_size is None or max(height, width) <= max_size:
        return sample
    scaled = tuple(max(1, round(side * max_size / max(height, width))) for side in (height, width))
    window = Window((scaled[0], scaled[1]), 0, 0, scaled[0], scaled[1])
    return sample._replace(
        image=resample_window(sample.image, window),
        semantic=None if sample.semantic is None else resample_window(sample.semantic, window),
        instance=None if sample.instance is None else resample_window(sample.instance, window),
    )


def _as_tar(sample: Sample, path: Path | None, options: Options, space: LabelSpace) -> bytes:
    """The files of a sample, one after another as they lie in a tar."""
    maps = {layout.LABEL: sample.semantic, layout.INSTANCE: sample.instance}
    if options.for_crops:
        arrays = {"npy": sample.image} | {f"{what}.npy": values for what, values in maps.items() if values is not None}
        files = {rest: _npy(values) for rest, values in arrays.items()}
        sums = {rest: checksums(values) for rest, values in arrays.items()}
    else:
        kind, image = _image(sample, path, options)
        files = {kind: image} | {
            f"{what}.png": _png(_in_png(values, sample.name)) for what, values in maps.items() if values is not None
        }
        sums = {rest: [zlib.crc32(content)] for rest, content in files.items()}
    height, width = sample.image.shape[:2]
    name = sample.name.encode(errors="backslashreplace").decode()  # of a file whose name isn't UTF-8
    facts = layout.Facts(name=name, height=height, width=width, category=sample.category, crc32=sums)
    files[layout.FACTS] = facts.model_dump_json().encode()
    key = layout.key_of(sample.name)
    return b"".join(tar.member_bytes(f"{key}.{rest}", content) for rest, content in files.items())


def _image(sample: Sample, path: Path | None, options: Options) -> tuple[str, bytes]:
    """The suffix and the content: that of the file, if nothing asks for another."""
    if options.quality is not None:
        return "jpg", _jpeg(sample.image, options.quality)
    if path is not None and options.max_size is None:
        content = path.read_bytes()
        with PIL.Image.open(io.BytesIO(content)) as image:
            if image.format in SUFFIXES:
                return SUFFIXES[image.format], content
    return "png", _png(sample.image)


def _as_record(sample: Sample, path: Path | None, options: Options, space: LabelSpace) -> bytes:
    """The sample under the originals' keys (specs of `build_data.py` and of deeplab2's `data_utils.py`)."""
    kind, image = _plain_image(sample, path, options)
    height, width = sample.image.shape[:2]
    features: dict[str, records.Value] = {
        tfrecord.IMAGE: image,
        tfrecord.NAME: sample.name.encode(errors="surrogateescape"),
        "image/format": kind.encode(),
        tfrecord.HEIGHT: height,
        tfrecord.WIDTH: width,
        "image/channels": 3,
    }
    if sample.semantic is not None:
        is_raw = options.style == "deeplab2"
        labels = panoptic(sample, space).tobytes() if is_raw else _png(sample.semantic)
        features |= {tfrecord.LABELS: labels, tfrecord.LABEL_FORMAT: b"raw" if is_raw else b"png"}
    return records.framed(records.example(features))


def _plain_image(sample: Sample, path: Path | None, options: Options) -> tuple[str, bytes]:
    """JPEG or PNG, which TensorFlow must decode to the pixels that we see: it turns no photo upright."""
    kind, content = _image(sample, path, options)
    with PIL.Image.open(io.BytesIO(content)) as image:
        is_upright = image.getexif().get(0x0112, 1) == 1
        is_plain = image.format in PLAIN_FORMATS and image.mode in PLAIN_MODES and is_upright
    kind, content = (kind, content) if is_plain else ("png", _png(sample.image))
    return {"jpg": "jpeg"}.get(kind, kind), content


def panoptic(sample: Sample, space: LabelSpace) -> NDArray[np.int32]:
    """deeplab2's map of class * divisor + number in the class, from 1 for things; 0 for stuff."""
    assert sample.semantic is not None
    ids = sample.semantic.astype(np.int32) * space.panoptic_divisor
    if sample.instance is None:
        return ids.astype("<i4")
    for label in space.things:
        numbers = np.where(sample.semantic == label, sample.instance, 0)
        known, places = np.unique(numbers, return_inverse=True)
        in_class = places.reshape(numbers.shape) + bool(known[0])
        if in_class.max() >= space.panoptic_divisor:
            raise DataError(
                f"{sample.name}: {in_class.max()} things of {space.names[label]}, but the panoptic divisor "
                f"{space.panoptic_divisor} leaves room for {space.panoptic_divisor - 1}"
            )
        ids += in_class.astype(np.int32)
    return ids.astype("<i4")


def _in_png(values: NDArray[np.integer[Any]], name: str) -> NDArray[np.integer[Any]]:
    if values.dtype == np.uint8:
        return values
    if values.max(initial=0) > MAX_NUMBER:
        raise DataError(f"{name}: thing {values.max()} can't be stored in a PNG, whose numbers end at {MAX_NUMBER}")
    return values.astype(np.uint16)


def _png(pixels: NDArray[Any]) -> bytes:
    return _saved(pixels, "PNG")


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """With all of its colours: their usual halving moves the borders of what is labelled."""
    return _saved(pixels, "JPEG", quality=quality, subsampling=0)


def _saved(pixels: NDArray[Any], kind: str, **settings: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **settings)
    return stream.getvalue()


def _npy(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(pixels), allow_pickle=False)
    return stream.getvalue()
