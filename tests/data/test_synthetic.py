"""Synthetic streets: exact labels, the same on every machine, and not predictable from colour alone."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from atrous.data import synthetic
from atrous.data.synthetic import Config, label_space, samples
from atrous.data.synthetic.classes import CLASSES, ROAD, SKY
from atrous.data.synthetic.photo import expose
from atrous.data.synthetic.street import draw_street
from atrous.errors import ConfigError
from atrous.types import Sample
from tests.data.conftest import semantic

IGNORE = 255


@pytest.fixture(scope="module")
def scenes() -> list[Sample]:
    return list(samples(Config(), "val")[:40])


def instance_of(sample: Sample) -> NDArray[np.int32]:
    assert sample.instance is not None
    return sample.instance


def same(first: Sample, second: Sample) -> bool:
    pairs = (
        (first.image, second.image),
        (semantic(first), semantic(second)),
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
    assert semantic(sample).shape == (128, 192) and semantic(sample).dtype == np.uint8
    assert instance_of(sample).shape == (128, 192) and instance_of(sample).dtype == np.int32
    assert sample.image.flags.writeable and sample.image.flags.c_contiguous


def test_other_sizes_hold_a_street_too() -> None:
    for size in ((64, 96), (97, 130), (32, 32), (200, 80), (60, 240)):
        for sample in samples(Config(size=size), "train")[:6]:
            assert sample.image.shape == (*size, 3)
            assert semantic(sample).shape == instance_of(sample).shape == size
            assert len(np.unique(semantic(sample))) >= 4


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**40), index=st.integers(0, 1999))
def test_the_same_seed_paints_the_same_scene(seed: int, index: int) -> None:
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


def test_scenes_are_painted_when_they_are_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    indices: list[int] = []

    def record(config: Config, split: str, index: int) -> Sample:
        indices.append(index)
        return Sample(f"{split}_{index}", np.zeros((1, 1, 3), np.uint8))

    monkeypatch.setattr(synthetic, "paint", record)
    listed = samples(Config(num_train=10**9), "train")
    assert len(listed) == 10**9 and len(listed[5:]) == 10**9 - 5 and indices == []
    assert listed[7].name == "train_7" and listed[2:9][-1].name == "train_8"
    assert indices == [7, 8]


def test_the_end_of_a_split_is_an_index_error() -> None:
    listed = samples(Config(num_val=3, size=(32, 32)), "val")
    assert len(list(listed)) == 3
    with pytest.raises(IndexError):
        listed[3]


def test_every_class_is_in_most_scenes(scenes: Sequence[Sample]) -> None:
    is_present = np.array([np.bincount(semantic(sample).ravel(), minlength=256) > 0 for sample in scenes])
    shares = is_present[:, : len(CLASSES)].mean(0)
    assert dict(zip([row.name for row in CLASSES], shares >= 0.8, strict=True)) == {row.name: True for row in CLASSES}


def test_labels_are_classes_and_few_are_ignored(scenes: Sequence[Sample]) -> None:
    labels = np.stack([semantic(sample) for sample in scenes])
    assert set(np.unique(labels)) <= {*range(len(CLASSES)), IGNORE}
    assert (labels == IGNORE).mean() < 0.01


def test_things_are_numbered_without_gaps_and_each_has_one_class(scenes: Sequence[Sample]) -> None:
    things = label_space(Config()).things
    for sample in scenes:
        labels, instance = semantic(sample), instance_of(sample)
        numbers = np.unique(instance)
        assert numbers.tolist() == list(range(len(numbers)))
        assert np.array_equal(instance > 0, np.isin(labels, things))
        for number in numbers[1:]:
            assert len(np.unique(labels[instance == number])) == 1
            assert (instance == number).sum() >= 40


def test_things_overlap(scenes: Sequence[Sample]) -> None:
    touching = 0
    for instance in map(instance_of, scenes):
        left, right = instance[:, :-1], instance[:, 1:]
        touching += bool(((left != right) & (left > 0) & (right > 0)).any())
    assert touching > len(scenes) / 2


def test_colour_alone_does_not_give_away_the_classes(scenes: Sequence[Sample]) -> None:
    """The best guess from a pixel's colour: the most frequent class of its cell in a 16 x 16 x 16 table."""
    counts = np.zeros((16**3, len(CLASSES)))
    for sample in samples(Config(), "train")[:80]:
        pairs = cells(sample.image) * 256 + semantic(sample)
        counts += np.bincount(pairs.ravel(), minlength=16**3 * 256).reshape(-1, 256)[:, : len(CLASSES)]
    balanced = counts / counts.sum(0)  # gives rare classes a chance
    truth = np.stack([semantic(sample) for sample in scenes])
    colors = np.stack([cells(sample.image) for sample in scenes])
    assert max(mean_iou(truth, table.argmax(1)[colors]) for table in (counts, balanced)) < 0.4


def cells(image: NDArray[np.uint8]) -> NDArray[np.intp]:
    red, green, blue = np.moveaxis(image // 16, -1, 0).astype(np.intp)
    cell: NDArray[np.intp] = red * 256 + green * 16 + blue
    return cell


def test_position_alone_does_not_give_away_the_classes(scenes: Sequence[Sample]) -> None:
    """The best guess from the position of a pixel."""
    truth = np.stack([semantic(sample) for sample in scenes])
    counts = np.stack([(truth == index).sum(0) for index in range(len(CLASSES))])
    assert mean_iou(truth, np.broadcast_to(counts.argmax(0), truth.shape)) < 0.5


def test_label_edges_are_image_edges() -> None:
    """Sky and road have a colour of their own in this scene."""
    blue, grey = (90.0, 150.0, 230.0), (60.0, 60.0, 60.0)
    scene = draw_street(np.random.default_rng(0), (64, 96))
    tones = {SKY: blue, ROAD: grey}
    painted = [
        surface._replace(tone=tones.get(surface.kind, (250.0, 250.0, 0.0)), depth=0) for surface in scene.surfaces
    ]
    planes = expose(scene._replace(surfaces=painted))
    kinds = np.array([surface.kind for surface in painted])[np.asarray(scene.paper)[::2, ::2]]
    for kind, tone in tones.items():
        close = np.abs(planes[:3] - np.array(tone)[:, None, None]).max(0) < 2
        assert (close & (kinds != kind)).sum() == 0
        assert close[kinds == kind].mean() > 0.9  # the others are blended at an edge


def test_an_unknown_split_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no split 'test': .* train and val"):
        samples(Config(), "test")


def test_settings_are_read_from_text_and_wrong_ones_are_refused() -> None:
    assert Config.model_validate({"size": "64,96"}).size == (64, 96)
    cases: list[tuple[dict[str, object], str]] = [
        ({"size": (31, 192)}, "at least 32x32 pixels, got 31x192"),
        ({"size": (128, -4)}, "greater than 0"),
        ({"num_train": 0}, "num_train"),
        ({"num_val": 0}, "num_val"),
        ({"seed": -1}, "seed"),
        ({"ignore": 256}, r"a label must be in 0\.\.255, got 256"),
        ({"format": "voc"}, "synthetic"),
        ({"colour": 1}, "colour"),
    ]
    for values, message in cases:
        with pytest.raises(ValidationError, match=message):
            Config.model_validate(values)


def test_the_label_space_has_things_colours_and_new_names() -> None:
    space = label_space(Config())
    assert [space.names[thing] for thing in space.things] == ["car", "person"]
    assert len(set(space.colors)) == len(space.names) == 8
    assert label_space(Config(names={6: "auto"})).names[5:] == ("pole", "auto", "person")
    assert label_space(Config(names=tuple("abcdefgh"))).names == tuple("abcdefgh")


def test_names_that_do_not_fit_are_refused() -> None:
    cases: list[dict[int, str] | tuple[str, ...]] = [{8: "bicycle"}, {-1: "void"}, tuple("abcdefghi"), ("a", "b")]
    for names in cases:
        with pytest.raises(ConfigError, match=r"^data\.names: the synthetic street has classes 0\.\.7, got"):
            label_space(Config(names=names))
    with pytest.raises(ConfigError, match=r"^data\.names: class names must differ, but road is repeated"):
        label_space(Config(names={0: "road"}))


def test_another_ignore_value_is_used(scenes: Sequence[Sample]) -> None:
    index = next(index for index, sample in enumerate(scenes) if (semantic(sample) == IGNORE).any())
    other = semantic(samples(Config(ignore=99), "val")[index])
    assert label_space(Config(ignore=99)).ignore == 99
    assert np.array_equal(other == 99, semantic(scenes[index]) == IGNORE)
