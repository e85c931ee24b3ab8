"""One stream of samples, whatever the workers, the processes and the place where it is taken up again."""

from collections.abc import Sequence
from itertools import islice
from typing import overload

import numpy as np
import pytest

from atrous.data.loader import Augmented, Stream, epoch_order, training_batches, whole_samples
from atrous.types import Batch, Sample

COUNT = 7


class Numbers(Sequence[Sample]):
    """Images that hold their own index; those in `broken` can't be read."""

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return COUNT

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        assert isinstance(index, int)
        if index in self.broken:
            raise ValueError(f"image_{index}.png: truncated")
        return Sample(str(index), np.full((2, 3, 3), index, np.uint8), np.full((2, 3), index, np.uint8))


def noisy(sample: Sample, /, *, rng: np.random.Generator) -> Sample:
    """An augmentation that tells which random numbers it was given."""
    return sample._replace(image=rng.integers(0, 256, sample.image.shape, dtype=np.uint8))


def take(
    count: int, stream: Stream, *, workers: int = 0, broken: frozenset[int] = frozenset(), skip: bool = False
) -> list[Batch]:
    batches = training_batches(Numbers(broken), noisy, stream, workers=workers, skip_errors=skip)
    return [batch for batch, _ in islice(batches, count)]


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    return len(one) == len(other) and all(
        a.names == b.names and bool((a.images == b.images).all()) for a, b in zip(one, other, strict=True)
    )


def test_an_epoch_holds_each_sample_once_and_epochs_differ() -> None:
    names = [name for batch in take(COUNT * 2, Stream(seed=3, batch=1)) for name in batch.names]
    assert sorted(names[:COUNT]) == sorted(names[COUNT:]) == [str(index) for index in range(COUNT)]
    assert names[:COUNT] != names[COUNT:]
    assert names[:COUNT] == [str(index) for index in epoch_order(3, 0, COUNT)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_stream(workers: int) -> None:
    stream = Stream(seed=0, batch=3)
    assert same(take(6, stream), take(6, stream, workers=workers))


def test_the_stream_is_taken_up_where_it_was_left() -> None:
    assert same(take(6, Stream(seed=0, batch=3))[2:], take(4, Stream(seed=0, batch=3, start=6)))


def test_two_processes_share_the_batches_of_one_with_twice_the_size() -> None:
    together = take(4, Stream(seed=0, batch=4))
    apart = [take(4, Stream(seed=0, batch=2, rank=rank, processes=2)) for rank in (0, 1)]
    for whole, left, right in zip(together, *apart, strict=True):
        assert whole.names == left.names + right.names
        assert bool((whole.images[2:] == right.images).all())


def test_a_sample_is_augmented_otherwise_in_each_epoch() -> None:
    stream = Augmented(Numbers(), noisy, 0, skip_errors=False)
    first = [
        read.sample
        for read in (stream[number] for number in range(2 * COUNT))
        if read.sample and read.sample.name == "4"
    ]
    assert len(first) == 2
    assert not np.array_equal(first[0].image, first[1].image)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_read_stops_the_run_in_one_line(workers: int) -> None:
    with pytest.raises(ValueError, match=r"^image_4\.png: truncated$"):
        take(COUNT, Stream(seed=0, batch=1), workers=workers, broken=frozenset({4}))


def test_what_cannot_be_read_is_left_out_and_told_where_that_is_asked_for() -> None:
    batches = training_batches(Numbers(frozenset({4})), noisy, Stream(seed=0, batch=1), workers=0, skip_errors=True)
    found = list(islice(batches, COUNT))
    assert "4" not in [name for batch, _ in found for name in batch.names]
    assert [problem for _, problems in found for problem in problems] == ["image_4.png: truncated"]


def test_a_run_ends_when_nothing_can_be_read() -> None:
    with pytest.raises(ValueError, match="truncated"):
        take(1, Stream(seed=0, batch=1), broken=frozenset(range(COUNT)), skip=True)


def test_whole_samples_are_shared_out_in_order() -> None:
    assert [index for index, _ in whole_samples(Numbers(), workers=0, rank=1, processes=3)] == [1, 4]
    with pytest.raises(ValueError, match="image_4"):
        list(whole_samples(Numbers(frozenset({4})), workers=0))
    kept = whole_samples(Numbers(frozenset({4})), workers=0, skip_errors=True)
    assert [index for index, read in kept if read.sample] == [0, 1, 2, 3, 5, 6]
