"""One stream of samples, whatever the number of workers and processes, and wherever it is resumed."""

import re
import traceback
from collections.abc import Callable, Sequence
from itertools import islice
from typing import overload

import numpy as np
import pytest

from atrous.data.label_space import LabelSpace
from atrous.data.loader import (
    Augment,
    Augmented,
    Stream,
    class_counts,
    epoch_order,
    missing_fields,
    training_batches,
    whole_samples,
)
from atrous.errors import ConfigError, DataError
from atrous.types import Batch, Sample

COUNT = 7
STREAM = Stream(seed=0, batch=1)
SPACE = LabelSpace(names=("a", "b", "c", "d"), ignore=2)


class Numbers(Sequence[Sample]):
    """Images that hold their own index. `fail` is called before each is read, and may raise."""

    def __init__(self, fail: Callable[[int], object] = lambda index: None) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return COUNT

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        assert isinstance(index, int)
        self.fail(index)
        return Sample(str(index), np.full((2, 3, 3), index, np.uint8), np.full((2, 3), index, np.uint8))


def damaged(*indices: int) -> Numbers:
    def fail(index: int) -> None:
        if index in indices:
            raise DataError(f"image_{index}.png: truncated")

    return Numbers(fail)


def buggy_reader(index: int) -> None:
    if index == 4:
        [].pop(index)


def noisy(sample: Sample, /, *, rng: np.random.Generator) -> Sample:
    """An augmentation that shows which random numbers it got."""
    return sample._replace(image=rng.integers(0, 256, sample.image.shape, dtype=np.uint8))


def failing_with(error: Exception) -> Augment:
    def buggy_augmentation(sample: Sample, /, *, rng: np.random.Generator) -> Sample:
        raise error

    return buggy_augmentation


def take(
    count: int,
    stream: Stream,
    samples: Sequence[Sample] | None = None,
    *,
    augment: Augment = noisy,
    workers: int = 0,
    skip: bool = False,
) -> list[Batch]:
    batches = training_batches(samples or Numbers(), augment, stream, workers=workers, skip_errors=skip)
    return [batch for batch, _ in islice(batches, count)]


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.names == b.names and bool((a.images == b.images).all()) for a, b in zip(one, other, strict=True)
    )


# The stream


def test_an_epoch_holds_each_sample_once_and_epochs_differ() -> None:
    names = [name for batch in take(COUNT * 2, Stream(seed=3, batch=1)) for name in batch.names]
    assert sorted(names[:COUNT]) == sorted(names[COUNT:]) == [str(index) for index in range(COUNT)]
    assert names[:COUNT] != names[COUNT:]
    assert names[:COUNT] == [str(index) for index in epoch_order(3, 0, COUNT)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(workers: int) -> None:
    stream = Stream(seed=0, batch=3)
    assert same(take(6, stream), take(6, stream, workers=workers))


def test_the_stream_is_resumed_where_it_stopped() -> None:
    assert same(take(6, Stream(seed=0, batch=3))[2:], take(4, Stream(seed=0, batch=3, start=6)))


def test_two_processes_share_the_batches_of_one_with_twice_the_size() -> None:
    together = take(4, Stream(seed=0, batch=4))
    apart = [take(4, Stream(seed=0, batch=2, rank=rank, processes=2)) for rank in (0, 1)]
    for whole, left, right in zip(together, *apart, strict=True):
        assert whole.names == left.names + right.names
        assert bool((whole.images[2:] == right.images).all())


def test_a_sample_is_augmented_differently_in_each_epoch() -> None:
    stream = Augmented(Numbers(), noisy, 0, skip_errors=False)
    reads = [stream[number].sample for number in range(2 * COUNT)]
    first, second = (sample.image for sample in reads if sample is not None and sample.name == "4")
    assert not np.array_equal(first, second)


def test_whole_samples_are_shared_out_in_order() -> None:
    assert [index for index, _ in whole_samples(Numbers(), workers=0, rank=1, processes=3)] == [1, 4]


# Files that can't be read


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_sample_stops_the_run_in_one_line(workers: int) -> None:
    with pytest.raises(DataError, match=r"^image_4\.png: truncated$"):
        take(COUNT, STREAM, damaged(4), workers=workers)
    with pytest.raises(DataError, match=r"^image_4\.png: truncated$"):
        list(whole_samples(damaged(4), workers=workers))


def test_an_unreadable_sample_is_skipped_and_reported_if_the_user_asked_for_that() -> None:
    batches = training_batches(damaged(4), noisy, STREAM, workers=0, skip_errors=True)
    epoch = list(islice(batches, COUNT))
    assert "4" not in [name for batch, _ in epoch for name in batch.names]
    assert [problem for _, problems in epoch for problem in problems] == ["image_4.png: truncated"]
    whole = list(whole_samples(damaged(4), workers=0, skip_errors=True))
    assert [index for index, read in whole if read.sample] == [0, 1, 2, 3, 5, 6]
    assert whole[4][1].problems == ("image_4.png: truncated",)


def test_an_error_of_the_system_is_an_unreadable_sample_too() -> None:
    def fail(index: int) -> None:
        raise PermissionError(13, "Permission denied", f"{index}.png")

    with pytest.raises(DataError, match=r"^Permission denied: '\d\.png'$"):
        take(1, STREAM, Numbers(fail))


def test_a_run_ends_when_nothing_can_be_read() -> None:
    with pytest.raises(DataError, match="truncated"):
        take(1, STREAM, damaged(*range(COUNT)), skip=True)


# Bugs of ours


def failure(call: Callable[[], object]) -> tuple[type[Exception], str]:
    """What a call raises, with its trace. The frames are cleared: they would keep the worker processes alive."""
    try:
        call()
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        traceback.clear_frames(error.__traceback__)
        return type(error), text
    pytest.fail("no error")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_the_augmentation_is_never_skipped_and_keeps_its_trace(workers: int) -> None:
    for error in (ValueError("no such axis"), RuntimeError("no such axis"), KeyError("axis")):
        augment = failing_with(error)
        kind, trace = failure(lambda: take(1, STREAM, augment=augment, workers=workers, skip=True))  # noqa: B023
        assert kind is type(error)
        assert "axis" in trace
        assert "buggy_augmentation" in trace


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmentation_that_raises_an_error_of_the_user_is_still_reported_as_a_bug(workers: int) -> None:
    for error in (ConfigError("crop is too large"), OSError("broken data stream")):
        augment = failing_with(error)
        kind, trace = failure(lambda: take(1, STREAM, augment=augment, workers=workers, skip=True))  # noqa: B023
        assert kind is RuntimeError
        assert re.search(r"augmenting \d failed", trace)
        assert str(error) in trace


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_in_a_reader_is_never_skipped_and_keeps_its_trace(workers: int) -> None:
    buggy = Numbers(buggy_reader)
    for call in (
        lambda: take(COUNT, STREAM, buggy, workers=workers, skip=True),
        lambda: list(whole_samples(buggy, workers=workers, skip_errors=True)),
    ):
        kind, trace = failure(call)
        assert kind is IndexError
        assert "buggy_reader" in trace
        assert "pop from empty list" in trace


# What a split holds


def test_classes_are_counted_without_ignored_pixels() -> None:
    counts = class_counts(Numbers(), SPACE, workers=0)
    assert counts.tolist() == [6, 6, 0, 6]  # 6 pixels an image; labels 4, 5, 6 are none of the classes, 2 is ignored
    assert counts.dtype.is_signed
    assert class_counts(Numbers(), SPACE.model_copy(update={"ignore": 300}), workers=0).tolist() == [6, 6, 6, 6]
    assert class_counts(damaged(1), SPACE, workers=0, skip_errors=True).tolist() == [6, 0, 0, 6]
    with pytest.raises(DataError, match=r"^image_1\.png: truncated$"):
        class_counts(damaged(1), SPACE, workers=0)


def test_missing_fields_are_those_of_the_first_readable_sample() -> None:
    assert missing_fields(Numbers(), ("semantic",)) == ()
    assert missing_fields(damaged(0, 1), ("image", "semantic", "instance"), skip_errors=True) == ("instance",)
    for samples, skip in ((damaged(0), False), (damaged(*range(COUNT)), True)):
        with pytest.raises(DataError, match="truncated"):
            missing_fields(samples, ("semantic",), skip_errors=skip)
    with pytest.raises(DataError, match="the split has no samples"):
        missing_fields([], ("semantic",))
