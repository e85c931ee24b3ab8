"""Records of both TensorFlow systems, written here under the names of their specs, and each kind of damage."""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

import atrous.data
from atrous.data import tfrecord
from atrous.data.loader import whole_samples
from atrous.data.naming import named_space
from atrous.data.tfrecord import numbered
from atrous.errors import ConfigError, DataError
from atrous.packing.encoding import panoptic
from atrous.types import Sample
from atrous.wire import records
from tests.data.conftest import complaint, noise_image, semantic

Record = Mapping[str, records.Value]
NAMES = ("road", "sky", "car")
CLASSES = np.array([[0, 1, 2], [2, 255, 1]], np.uint8)


def png(pixels: NDArray[np.generic], kind: str = "PNG") -> bytes:
    stream = BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def features(number: int = 0, labels: NDArray[np.generic] = CLASSES) -> dict[str, records.Value]:
    """What `build_data.py` of research/deeplab writes."""
    return {
        "image/encoded": png(noise_image(2, 3, number)),
        "image/filename": f"town/photo_{number}.png".encode(),
        "image/format": b"png",
        "image/height": 2,
        "image/width": 3,
        "image/channels": 3,
        "image/segmentation/class/encoded": png(labels),
        "image/segmentation/class/format": b"png",
    }


def raw(number: int = 0, divisor: int = 1000) -> dict[str, records.Value]:
    """What deeplab2's `build_cityscapes_data.py` writes: road, sky, two cars, a crowd of cars, void."""
    ids = np.array([[0, divisor, 2 * divisor + 1], [2 * divisor + 2, 255 * divisor, 2 * divisor]], "<i4")
    labels = {"image/segmentation/class/encoded": ids.tobytes(), "image/segmentation/class/format": b"raw"}
    return features(number) | labels


def write(root: Path, *shards: Sequence[Mapping[str, records.Value]], split: str = "train") -> tfrecord.Config:
    for number, shard in enumerate(shards):
        content = b"".join(records.framed(records.example(one)) for one in shard)
        (root / f"{split}-{number:05d}-of-{len(shards):05d}.tfrecord").write_bytes(content)
    return tfrecord.Config(root=root, names=NAMES)


def read(config: tfrecord.Config) -> list[Sample]:
    return list(atrous.data.samples(config, "train"))


def test_records_of_deeplab_are_read_in_the_order_of_their_shards(tmp_path: Path) -> None:
    config = write(tmp_path, [features(0), features(1)], [], [features(2)])
    samples = read(config)
    assert [sample.name for sample in samples] == ["town/photo_0", "town/photo_1", "town/photo_2"]
    for number, sample in enumerate(samples):
        np.testing.assert_array_equal(sample.image, noise_image(2, 3, number))
        np.testing.assert_array_equal(semantic(sample), CLASSES)
    space = atrous.data.label_space(config)
    assert space.names == NAMES and space.ignore == 255


def test_a_jpeg_and_a_record_without_labels_or_a_name(tmp_path: Path) -> None:
    bare: Record = {"image/encoded": png(noise_image(2, 3), "JPEG"), "image/height": 2, "image/width": 3}
    (sample,) = read(write(tmp_path, [bare]))
    assert sample.name == "train-00000-of-00001/0" and sample.semantic is None and sample.image.shape == (2, 3, 3)


def test_records_of_deeplab2_have_classes_and_things(tmp_path: Path) -> None:
    config = write(tmp_path, [raw()])
    np.testing.assert_array_equal(semantic(read(config)[0]), [[0, 1, 2], [2, 255, 2]])
    with_cars = config.model_copy(update={"things": ("car",)})
    (sample,) = read(with_cars)
    assert sample.instance is not None and sample.instance.dtype == np.int32
    np.testing.assert_array_equal(sample.instance, [[0, 0, 1], [2, 0, 0]])
    assert atrous.data.samples(with_cars, "train", ("semantic",))[0].instance is None


def test_a_divisor_of_its_own(tmp_path: Path) -> None:
    config = write(tmp_path, [raw(divisor=256)])
    np.testing.assert_array_equal(
        semantic(read(config.model_copy(update={"panoptic_divisor": 256}))[0]), [[0, 1, 2], [2, 255, 2]]
    )
    assert "values 65, 130" in complaint(config).replace("value 65", "values 65") or "not a class" in complaint(config)


def test_numbers_run_over_all_things() -> None:
    ids = np.array([[5, 5, 9], [2, 9, 7]])
    assert numbered(ids, np.ones((2, 3), bool)).tolist() == [[2, 2, 4], [1, 4, 3]]
    assert numbered(ids, ids > 5).tolist() == [[0, 0, 2], [0, 2, 1]]
    assert numbered(ids, ids > 90).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_panoptic_map_drawn_by_hand() -> None:
    """Cars 3 and 7 are the first and second of their class, person 4 the first of another; void stays void."""
    space = named_space(("road", "car", "person"), None, None).model_copy(update={"things": (1, 2)})
    sample = Sample(
        "a",
        noise_image(2, 3),
        np.array([[0, 1, 1], [2, 255, 1]], np.uint8),
        np.array([[0, 3, 7], [4, 0, 0]], np.int32),
    )
    assert panoptic(sample, space).tolist() == [[0, 1001, 1002], [2001, 255000, 1000]]
    with pytest.raises(DataError, match="a: 2 things of car, but the panoptic divisor 2 leaves room for 1"):
        panoptic(sample, space.model_copy(update={"panoptic_divisor": 2}))


# ---- what is wrong


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: {key: value for key, value in one.items() if key != "image/encoded"}, "image/encoded is missing"),
        (lambda one: one | {"image/encoded": 7}, "image/encoded is not one value of bytes"),
        (lambda one: one | {"image/encoded": b"junk"}, "cannot read image .*: not an image"),
        (lambda one: one | {"image/encoded": b""}, "the file is empty"),
        (lambda one: one | {"image/height": 3}, r"the image is 2 x 3, but it says 3 x 3 \(height x width\)"),
        (lambda one: one | {"image/segmentation/class/encoded": png(CLASSES.T)}, "but its labels are 3 x 2"),
        (lambda one: one | {"image/segmentation/class/encoded": b"junk"}, "cannot read label .*: not an image"),
        (lambda one: one | {"image/segmentation/class/encoded": png(CLASSES + 3)}, "not a class"),
        (lambda one: one | {"image/segmentation/class/format": b"raw"}, "has .* bytes; expected 2 x 3 numbers of 4"),
        (lambda one: raw() | {"image/width": 4}, "has 24 bytes; expected 2 x 4 numbers of 4 bytes"),
        (lambda one: raw() | {"image/width": -1}, "has 24 bytes; expected unknown"),
    ],
)
def test_a_wrong_record_is_named_with_its_file_and_number(
    tmp_path: Path, change: Callable[[Record], Record], reason: str
) -> None:
    config = write(tmp_path, [features(0), change(features(1))], [features(2)])
    with pytest.raises(DataError, match=reason) as caught:
        read(config)
    assert f"{tmp_path / 'train-00000-of-00002.tfrecord'}: record 1" in str(caught.value)
    assert "\n" not in str(caught.value)
    skipped = atrous.data.samples(config.model_copy(update={"on_error": "skip"}), "train")
    reads = [one for _, one in whole_samples(skipped, workers=0, skip_errors=True)]
    assert [one.sample is None for one in reads] == [False, True, False]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-5], "record 1 is cut off"),
        (lambda data: data[:200] + bytes((data[200] ^ 1,)) + data[201:], "record 0 is damaged: the checksum"),
        (lambda data: bytes((data[0] ^ 1,)) + data[1:], "the length of record 0 is damaged"),
        (lambda data: b"not a record file at all", "the length of record 0 is damaged"),
    ],
)
def test_a_damaged_shard_is_named_or_skipped(tmp_path: Path, damage: Callable[[bytes], bytes], reason: str) -> None:
    config = write(tmp_path, [features(0), features(1)], [features(2)])
    path = tmp_path / "train-00000-of-00002.tfrecord"
    path.write_bytes(damage(path.read_bytes()))
    text = complaint(config)
    assert str(path) in text and reason in text
    samples = atrous.data.samples(config.model_copy(update={"on_error": "skip"}), "train")
    reads = [one for _, one in whole_samples(samples, workers=0, skip_errors=True)]
    assert sum(one.sample is None for one in reads) == 1
    assert reads[-1].sample is not None and reads[-1].sample.name == "town/photo_2"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, [features(0)], [features(1)], [features(2)])
    (tmp_path / "train-00001-of-00003.tfrecord").unlink()
    assert complaint(config) == f"shard {tmp_path / 'train-00001-of-00003.tfrecord'}: it is missing"
    (tmp_path / "train-00002-of-00003.tfrecord").unlink()
    assert complaint(config).endswith("; 1 more shards can't be read either")
    (tmp_path / "train-00000-of-00002.tfrecord").write_bytes(b"")
    assert "the shards of train are of 2, 3" in complaint(config)
    (tmp_path / "train-00000-of-00002.tfrecord").rename(tmp_path / "train-00000-of-00003.tfrecords")
    assert "two shards of train have the same number" in complaint(config)
    (tmp_path / "train-00000-of-00003.tfrecords").rename(tmp_path / "train-00003-of-00003.tfrecords")
    assert "the number of a shard must be below 3" in complaint(config)


def test_names_are_needed(tmp_path: Path) -> None:
    write(tmp_path, [features()])
    assert "data.names is missing" in complaint(tfrecord.Config(root=tmp_path), error=ConfigError)
    many = tfrecord.Config(root=tmp_path, names={0: "road", 1: "sky", 2: "car", 255: "void"}, ignore=255)
    np.testing.assert_array_equal(semantic(read(many)[0]), CLASSES)


def test_names_that_lead_out_of_a_folder_are_not_used(tmp_path: Path) -> None:
    odd = [features() | {"image/filename": name} for name in (b"../../etc/x.png", b"/etc/x", b"a\nb", b"\xff", b"..")]
    assert [sample.name for sample in read(write(tmp_path, odd))] == [
        f"train-00000-of-00001/{number}" if number != 3 else "\ufffd" for number in range(5)
    ]
