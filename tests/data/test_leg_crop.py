"""Legs that are cut off between hip and knee, by the landmarks of the fork's TFRecords."""

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from atrous import cli
from atrous.data import samples, tfrecord
from atrous.data.augment_config import AugmentConfig
from atrous.data.choices import choose
from atrous.data.geometry import cut_legs
from atrous.data.transforms import augment
from atrous.errors import DataError
from atrous.types import Sample
from atrous.wire import records
from tests.conftest import SMALL_MODEL
from tests.data.conftest import FILL, IGNORE

KNEE = 40.0  # the y of both knees; hips are at 20


def joints(*, right: float = 10.0, left: float = 30.0) -> list[tuple[float, float]]:
    """(x, y) of 18 joints: hips above the knees."""
    known = {8: (right, 20.0), 9: (right, KNEE), 11: (left, 20.0), 12: (left, KNEE)}
    return [known.get(joint, (1.0, 1.0)) for joint in range(18)]


def person(places: Sequence[tuple[float, float]] | None = None) -> Sample:
    image = np.full((60, 40, 3), 200, np.uint8)
    labels = np.ones((60, 40), np.uint8)
    landmarks = np.array(joints() if places is None else places, np.float32)
    return Sample("person", image, labels, labels.astype(np.int32), landmarks=landmarks)


def cut(sample: Sample, shares: tuple[float, float] = (0.5, 0.5), *, is_certain: bool = False) -> Sample:
    return cut_legs(sample, shares, FILL, IGNORE, is_certain=is_certain)


def test_all_below_the_line_is_padding() -> None:
    out = cut(person())  # halfway, at y = 30: half of that row of pixels
    assert (out.image[:30] == 200).all()
    np.testing.assert_array_equal(out.image[30, 0], [(200 + 124) // 2, (200 + 116) // 2, (200 + 104) // 2])
    assert (out.image[31:] == FILL).all()
    assert out.semantic is not None
    assert (out.semantic[:31] == 1).all()  # not more than half
    assert (out.semantic[31:] == IGNORE).all()
    assert out.instance is not None
    assert (out.instance[31:] == 0).all()
    assert (person().image == 200).all()


def test_the_line_slopes_with_the_shares() -> None:
    out = cut(person(), (0.6, 0.4))  # y = 28 at the right leg, x = 10; 32 at the left, x = 30
    first = (np.asarray(out.semantic) == IGNORE).argmax(0)
    assert [int(first[x]) for x in (10, 20, 30)] == [29, 31, 33]


def test_unknown_joints_leave_the_legs_where_they_are() -> None:
    places = joints()
    places[12] = (0.0, 0.0)
    assert cut(person(places)) is not None
    np.testing.assert_array_equal(cut(person(places)).image, person().image)
    assert (cut(person(places), is_certain=True).image != person().image).any()  # the original doesn't look
    places[12] = (float("nan"), 1.0)
    for same in (person(places), person(joints()[:9]), person(joints(right=30.0)), person()._replace(landmarks=None)):
        for is_certain in (True, False):
            np.testing.assert_array_equal(cut(same, is_certain=is_certain).image, person().image)


def test_legs_are_cut_with_their_probability_before_anything_else() -> None:
    rng, config = np.random.default_rng(0), AugmentConfig(leg_crop=0.2)
    legs = [choose(config, rng).legs for _ in range(400)]
    assert 50 < sum(one is not None for one in legs) < 110
    assert all(0.4 <= share <= 0.6 for one in legs if one is not None for share in one)
    fixed = {"crop": (60, 40), "min_scale": 1, "max_scale": 1, "flip": 0, "leg_crop": 1}
    for style in ("atrous", "forma"):
        whole = AugmentConfig(**{"style": style, **fixed})
        out = augment(person(), whole, np.random.default_rng(0), fill=FILL, ignore=IGNORE)
        assert out.landmarks is None
        assert 0.3 < (np.asarray(out.semantic) == IGNORE).mean() < 0.6


# TFRecords


def tensor(values: Sequence[Sequence[float]], width: int = 3, batch: int = 1) -> bytes:
    """As `tf.io.serialize_tensor` writes [1, K, 3]: x, y, certainty."""
    content = struct.pack(f"<{batch * len(values) * width}f", *(batch * [x for v in values for x in (*v, 0.9)[:width]]))
    sizes = b"".join(b"\x12\x02\x08" + bytes([side]) for side in (batch, len(values), width))
    length = bytes([len(content) & 127 | 128, len(content) >> 7])
    return b"\x08\x01\x12" + bytes([len(sizes)]) + sizes + b"\x22" + length + content


def png(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_records(root: Path, landmarks: bytes | None) -> Path:
    root.mkdir(exist_ok=True)
    labels = np.zeros((60, 40), np.uint8)
    labels[:, 20:] = 1
    for split in ("train", "val"):
        features: dict[str, bytes | int] = {
            "image/encoded": png(np.full((60, 40, 3), 200, np.uint8)),
            "image/filename": b"person.png",
            "image/segmentation/class/encoded": png(labels),
            "image/segmentation/class/format": b"png",
            **({} if landmarks is None else {"image/landmarks": landmarks}),
        }
        content = records.framed(records.example(features))
        (root / f"{split}-00000-of-00001.tfrecord").write_bytes(2 * content)
    return root


def config_of(root: Path) -> tfrecord.Config:
    return tfrecord.Config(root=root, names=("left", "right"))


def test_landmarks_of_records_are_read(tmp_path: Path) -> None:
    sample = samples(config_of(write_records(tmp_path / "data", tensor(joints()))), "train")[0]
    assert sample.landmarks is not None
    np.testing.assert_array_equal(sample.landmarks, np.array(joints(), np.float32))
    assert samples(config_of(write_records(tmp_path / "none", None)), "train")[0].landmarks is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"joints", "image/landmarks: "),
        (tensor(joints(), width=1), "image/landmarks is 1 x 18 x 1; expected 1 x joints x"),
        (tensor(joints(), batch=2), "image/landmarks is 2 x 18 x 3; expected 1 x joints x"),
        (tensor(joints())[:-4], "image/landmarks: "),
    ],
    ids=["text", "x alone", "two bodies", "cut off"],
)
def test_landmarks_that_are_none_are_named_with_their_record(content: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="record 0: " + reason):
        samples(config_of(write_records(tmp_path / "data", content)), "train")[0]


def test_a_picture_shows_the_cut_and_says_where_there_are_no_landmarks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, landmarks, is_said in (("with", tensor(joints()), False), ("without", None, True)):
        root = write_records(tmp_path / name, landmarks)
        words = ["data.format=tfrecord", f"data.root={root}", "data.names=left,right", "augment.leg_crop=1"]
        picture = tmp_path / f"{name}.png"
        code = cli.run(
            [
                "train",
                "folder/deeplab_v3plus",
                *SMALL_MODEL,
                *words,
                "augment.crop=60,40",
                "--show-augmentation",
                str(picture),
            ]
        )
        output = capsys.readouterr()
        assert code == 0, output.err
        assert ("the first image has no landmarks" in output.out) == is_said
        assert picture.exists()
