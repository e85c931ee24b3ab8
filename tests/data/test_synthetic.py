"""The drawn streets: exact labels, the same everywhere, and not to be had by colour."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.data import synthetic
from atrous.data.synthetic import CLASSES, Config, label_space, samples
from atrous.types import Sample

IGNORE = 255


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return list(samples(Config(), "val")[:40])


def semantic_of(sample: Sample) -> NDArray[np.uint8]:
    assert sample.semantic is not None
    return sample.semantic


def instance_of(sample: Sample) -> NDArray[np.int32]:
    assert sample.instance is not None
    return sample.instance


def same(first: Sample, second: Sample) -> bool:
    pairs = (
        (first.image, second.image),
        (semantic_of(first), semantic_of(second)),
        (instance_of(first), instance_of(second)),
    )
    return first.name == second.name and all(np.array_equal(one, other) for one, other in pairs)


def mean_iou(truth: NDArray[np.uint8], guess: NDArray[np.intp]) -> float:
    counted = truth != IGNORE
    pairs = np.bincount(truth[counted].astype(np.intp) * len(CLASSES) + guess[counted], minlength=len(CLASSES) ** 2)
    confusion = pairs.reshape(len(CLASSES), len(CLASSES))
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float((confusion.diagonal() / union).mean())


def test_a_sample_has_the_contracts_shapes_and_types() -> None:
    sample = samples(Config(), "val")[12]
    assert sample.name == "val_00012"
    assert sample.image.shape == (128, 192, 3) and sample.image.dtype == np.uint8
    assert semantic_of(sample).shape == (128, 192) and semantic_of(sample).dtype == np.uint8
    assert instance_of(sample).shape == (128, 192) and instance_of(sample).dtype == np.int32
    assert sample.image.flags.writeable and sample.image.flags.c_contiguous


@pytest.mark.parametrize("size", [(64, 96), (97, 130), (32, 32), (200, 80), (60, 240)])
def test_other_sizes_are_honoured_and_hold_a_street(size: tuple[int, int]) -> None:
    for sample in samples(Config(size=size), "train")[:6]:
        assert sample.image.shape == (*size, 3)
        assert semantic_of(sample).shape == instance_of(sample).shape == size
        assert len(np.unique(semantic_of(sample))) >= 4


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 1999))
def test_the_same_seed_draws_the_same_scene(seed: int, index: int) -> None:
    first, second = (samples(Config(seed=seed, size=(48, 64)), "train")[index] for _ in range(2))
    assert same(first, second)


def test_a_scene_does_not_depend_on_the_order_or_the_number_of_the_others() -> None:
    forward = list(samples(Config(num_val=4), "val"))
    backward = [samples(Config(num_val=9), "val")[index] for index in (3, 2, 1, 0)]
    assert all(map(same, forward, reversed(backward)))


def test_seeds_indices_and_splits_all_differ() -> None:
    images = [
        samples(Config(seed=seed), split)[index].image.tobytes()
        for seed in (0, 1)
        for split in ("train", "val")
        for index in range(5)
    ]
    assert len(set(images)) == 20


def test_scenes_are_drawn_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def record(config: Config, split: str, index: int) -> Sample:
        drawn.append(index)
        return Sample(f"{split}_{index}", np.zeros((1, 1, 3), np.uint8))

    monkeypatch.setattr(synthetic, "_draw_sample", record)
    listed = samples(Config(num_train=10**9), "train")
    assert len(listed) == 10**9 and len(listed[5:]) == 10**9 - 5 and drawn == []
    assert listed[7].name == "train_7" and listed[2:9][-1].name == "train_8"
    assert drawn == [7, 8]


def test_the_end_of_a_split_is_an_index_error() -> None:
    listed = samples(Config(num_val=3, size=(32, 32)), "val")
    assert len(list(listed)) == 3
    with pytest.raises(IndexError):
        listed[3]


def test_every_class_is_in_most_scenes(scenes: Sequence[Sample]) -> None:
    found = np.array([np.bincount(semantic_of(sample).ravel(), minlength=256) > 0 for sample in scenes])
    shares = found[:, : len(CLASSES)].mean(0)
    assert dict(zip([row.name for row in CLASSES], shares >= 0.8, strict=True)) == {row.name: True for row in CLASSES}


def test_labels_are_classes_or_little_ignored(scenes: Sequence[Sample]) -> None:
    labels = np.stack([semantic_of(sample) for sample in scenes])
    assert set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE}
    assert (labels == IGNORE).mean() < 0.01


def test_things_are_numbered_without_gaps_and_have_one_class_each(scenes: Sequence[Sample]) -> None:
    things = label_space(Config()).things
    for sample in scenes:
        semantic, instance = semantic_of(sample), instance_of(sample)
        numbers = np.unique(instance)
        assert numbers.tolist() == list(range(len(numbers)))
        assert np.array_equal(instance > 0, np.isin(semantic, things))
        for number in numbers[1:]:
            assert len(np.unique(semantic[instance == number])) == 1
            assert (instance == number).sum() >= 40


def test_things_overlap(scenes: Sequence[Sample]) -> None:
    touching = 0
    for instance in map(instance_of, scenes):
        left, right = instance[:, :-1], instance[:, 1:]
        touching += bool(((left != right) & (left > 0) & (right > 0)).any())
    assert touching > len(scenes) / 2


def test_colour_alone_does_not_tell_the_classes(scenes: Sequence[Sample]) -> None:
    """The best guess from a pixel's colour: the commonest class of its cell in a 16 x 16 x 16 table."""
    counts = np.zeros((16**3, len(CLASSES)))
    for sample in samples(Config(), "train")[:80]:
        pairs = cells(sample.image) * 256 + semantic_of(sample)
        counts += np.bincount(pairs.ravel(), minlength=16**3 * 256).reshape(-1, 256)[:, : len(CLASSES)]
    balanced = counts / counts.sum(0)  # rare classes get their chance
    truth = np.stack([semantic_of(sample) for sample in scenes])
    found = np.stack([cells(sample.image) for sample in scenes])
    assert max(mean_iou(truth, table.argmax(1)[found]) for table in (counts, balanced)) < 0.4


def cells(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    red, green, blue = np.moveaxis(image // 16, -1, 0).astype(np.intp)
    cell: NDArray[np.intp] = red * 256 + green * 16 + blue
    return cell


def test_place_alone_does_not_tell_the_classes(scenes: Sequence[Sample]) -> None:
    """The best guess from where a pixel is."""
    truth = np.stack([semantic_of(sample) for sample in scenes])
    counts = np.stack([(truth == index).sum(0) for index in range(len(CLASSES))])
    assert mean_iou(truth, np.broadcast_to(counts.argmax(0), truth.shape)) < 0.5


def test_a_label_follows_the_edge_that_is_painted() -> None:
    """Sky and road have colours of their own in this scene: each label map edge is an edge of the image."""
    blue, grey = (90.0, 150.0, 230.0), (60.0, 60.0, 60.0)
    scene = synthetic._draw_street(np.random.default_rng(0), (64, 96))
    tones = {synthetic.SKY: blue, synthetic.ROAD: grey}
    painted = [
        surface._replace(tone=tones.get(surface.kind, (250.0, 250.0, 0.0)), depth=0) for surface in scene.surfaces
    ]
    planes = synthetic._expose(scene._replace(surfaces=painted))
    kinds = np.array([surface.kind for surface in painted])[np.asarray(scene.paper)[::2, ::2]]
    for kind, tone in tones.items():
        close = np.abs(planes[:3] - np.array(tone)[:, None, None]).max(0) < 2
        assert (close & (kinds != kind)).sum() == 0
        assert close[kinds == kind].mean() > 0.9  # the others are mixed at an edge


def test_an_unknown_split_names_the_right_ones() -> None:
    with pytest.raises(ValueError, match=r"no split 'test' .* train and val"):
        samples(Config(), "test")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (31, 192)}, "at least 32x32"),
        ({"size": (128, -4)}, "at least 32x32"),
        ({"num_train": 0}, "num_train"),
        ({"num_val": 0}, "num_val"),
        ({"seed": -1}, "seed"),
        ({"ignore": 256}, "a label is a byte"),
        ({"format": "voc"}, "synthetic"),
        ({"colour": 1}, "colour"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(values)


def test_the_size_is_read_from_text() -> None:
    assert Config.model_validate({"size": "64,96"}).size == (64, 96)


def test_the_label_space_has_things_colours_and_new_names() -> None:
    space = label_space(Config())
    assert [space.names[thing] for thing in space.things] == ["car", "person"]
    assert len(set(space.colors)) == len(space.names) == 8
    assert label_space(Config(names={6: "auto"})).names[5:] == ("pole", "auto", "person")
    assert label_space(Config(names=tuple("abcdefgh"))).names == tuple("abcdefgh")


@pytest.mark.parametrize("names", [{8: "bicycle"}, {-1: "void"}, tuple("abcdefghi"), ("a", "b")])
def test_names_that_do_not_fit_are_refused(names: dict[int, str] | tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"classes 0\.\.7"):
        label_space(Config(names=names))


def test_another_ignore_value_is_used(scenes: Sequence[Sample]) -> None:
    index = next(index for index, sample in enumerate(scenes) if (semantic_of(sample) == IGNORE).any())
    other = semantic_of(samples(Config(ignore=99), "val")[index])
    assert label_space(Config(ignore=99)).ignore == 99
    assert np.array_equal(other == 99, semantic_of(scenes[index]) == IGNORE)
