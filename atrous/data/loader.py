"""Endless batches of augmented samples, the same ones however many workers read them.

Sample number n of a run is sample `n % N` of epoch `n // N`; the order of an epoch depends only on (seed, epoch) and
the augmentation of a sample only on (seed, epoch, index). So a run can be resumed at any sample, and the processes of a
run share one stream: of each `batch * processes` numbers in a row, process r takes the r-th run of `batch`.

AtrousError and OSError, raised by reading a sample, are for the user: they become problems, lines of text that are
raised in the parent process or, if the user asked for that, skipped. Every other exception is a bug and passes through
with its trace, from a worker process too.
"""

import functools
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from atrous.data.strips import LateError
from atrous.data.workers import items
from atrous.errors import AtrousError, DataError, text_of
from atrous.types import Batch, Image, Sample

T = TypeVar("T")

ATTEMPTS = 10  # unreadable samples in a row after which a run stops, even if it skips errors


class Augment(Protocol):
    def __call__(self, sample: Sample, /, *, rng: np.random.Generator) -> Sample: ...


@runtime_checkable
class Late(Protocol):
    """Samples whose pixels may be read where a transform slices them, so that a crop costs no more than its part."""

    def late(self, index: int) -> Sample: ...


@runtime_checkable
class Ordered(Protocol):
    """Samples that can't be read in any order at the same cost."""

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]: ...


class Stream(NamedTuple):
    """Where a process stands in the run's stream of samples."""

    seed: int
    batch: int  # of one process
    start: int = 0  # samples that all processes of the run together have already read
    rank: int = 0
    processes: int = 1

    def batches(self) -> Iterator[list[int]]:
        """The sample numbers of this process's batches, without end."""
        start = self.start + self.rank * self.batch
        while True:
            yield list(range(start, start + self.batch))
            start += self.batch * self.processes


class Read(NamedTuple):
    """A sample, or None, and the errors met while reading it."""

    sample: Sample | None
    problems: tuple[str, ...] = ()


def read_sample(samples: Sequence[Sample], index: int) -> Read:
    """Errors of the user become values: an exception from a worker process would no longer be one line."""
    return _read(samples.__getitem__, index)


def _read(read: Callable[[int], Sample], index: int) -> Read:
    try:
        return Read(read(index))
    except (AtrousError, OSError) as error:
        return Read(None, (text_of(error),))


def missing_fields(samples: Sequence[Sample], needs: Collection[str], *, skip_errors: bool = False) -> tuple[str, ...]:
    """The fields of a Sample among `needs`, such as `semantic`, that the first readable sample lacks.

    Raises DataError if the first sample can't be read or, with `skip_errors`, none of the first ten.
    """
    reads = [Read(None, ("the split has no samples",))]
    for index in range(_attempts(samples, skip_errors)):
        reads.append(read_sample(samples, index))
        if (sample := reads[-1].sample) is not None:
            fields = sample._asdict()
            return tuple(field for field in needs if fields[field] is None)
    raise DataError(reads[-1].problems[-1])


def _attempts(samples: Sequence[Sample], skip_errors: bool) -> int:
    return min(len(samples), ATTEMPTS if skip_errors else 1)


# Training


class Augmented(Dataset[Read]):
    """Sample number n of a run."""

    def __init__(self, samples: Sequence[Sample], augment: Augment, seed: int, *, skip_errors: bool) -> None:
        self.samples, self.augment, self.seed = samples, augment, seed
        self.attempts = _attempts(samples, skip_errors)

    def __getitem__(self, number: int) -> Read:
        problems: tuple[str, ...] = ()
        epoch, place = divmod(number, len(self.samples))
        order = order_of(self.samples, self.seed, epoch)
        for attempt in range(self.attempts):  # an unreadable sample is replaced by the next one
            sample, errors = self._read(int(order[(place + attempt) % len(order)]), epoch)
            problems += errors
            if sample is not None:
                return Read(sample, problems)
        return Read(None, problems)

    def _read(self, index: int, epoch: int) -> Read:
        """The augmented sample. Errors of the user become values, as in `read_sample`."""
        read = _read(self.samples.late if isinstance(self.samples, Late) else self.samples.__getitem__, index)
        if read.sample is None:
            return read
        try:
            return Read(self._augmented(read.sample, epoch, index))
        except LateError as error:
            return Read(None, (text_of(error),))

    def _augmented(self, sample: Sample, epoch: int, index: int) -> Sample:
        try:
            return self.augment(sample, rng=np.random.default_rng([self.seed, epoch, index]))
        except LateError:
            raise
        except (AtrousError, OSError) as error:  # else it would be reported as the user's mistake
            raise RuntimeError(f"augmenting {sample.name} failed") from error


def order_of(samples: Sequence[Sample], seed: int, epoch: int) -> NDArray[np.int64]:
    """The order in which an epoch reads the samples, by their indices."""
    if isinstance(samples, Ordered):
        return samples.order(seed, epoch)
    return epoch_order(seed, epoch, len(samples))


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class LoadedBatch(NamedTuple):
    batch: Batch | None
    problems: tuple[str, ...]


def collate(reads: list[Read]) -> LoadedBatch:
    """Stack samples of one size, and each kind of labels that all of them have. No batch if a sample is missing."""
    problems = tuple(problem for read in reads for problem in read.problems)
    samples = [read.sample for read in reads if read.sample is not None]
    mixed = tuple(_mixed(samples))
    if len(samples) < len(reads) or mixed:
        return LoadedBatch(None, problems + mixed)
    return LoadedBatch(
        Batch(
            names=tuple(sample.name for sample in samples),
            images=_shared(torch.stack([_planes(sample.image) for sample in samples]).contiguous()),
            semantic=_stacked([sample.semantic for sample in samples]),
            instance=_stacked([sample.instance for sample in samples]),
            variation=_stacked([sample.variation for sample in samples]),
            category=_stacked([None if x is None else np.asarray(x, np.int64) for x in (s.category for s in samples)]),
        ),
        problems,
    )


def _mixed(samples: Sequence[Sample]) -> list[str]:
    """A line for each sample that lacks a kind of labels which others of its batch have."""
    fields = ("semantic", "instance", "category")
    present = {field for sample in samples for field, value in sample._asdict().items() if value is not None}
    return [
        f"{sample.name}: its {field} labels are missing, but other samples have them"
        for sample in samples
        for field in fields
        if field in present and sample._asdict()[field] is None
    ]


def _planes(image: Image) -> Tensor:  # [H, W, 3] -> [3, H, W]
    return torch.from_numpy(image if image.flags.writeable else image.copy()).permute(2, 0, 1)


def _stacked(arrays: Sequence[NDArray[Any] | None]) -> Tensor | None:
    known = [array for array in arrays if array is not None]
    return _shared(torch.from_numpy(np.stack(known))) if len(known) == len(arrays) else None


def _shared(tensor: Tensor) -> Tensor:
    """In a worker, in the memory that it shares with its parent.

    PyTorch would do that in the thread that sends the batch: too little memory would lose it, and the parent wait.
    """
    return tensor.share_memory_() if get_worker_info() is not None else tensor  # type: ignore[no-untyped-call]


def training_batches(
    samples: Sequence[Sample],
    augment: Augment,
    stream: Stream,
    *,
    workers: int,
    skip_errors: bool,
    pin_memory: bool = False,
) -> Generator[tuple[Batch, tuple[str, ...]], None, None]:
    """Endless pairs of a batch and its skipped problems. Raises DataError with the name of an unreadable file."""
    loader: DataLoader[Read] = DataLoader(
        Augmented(samples, augment, stream.seed, skip_errors=skip_errors),
        batch_sampler=cast("torch.utils.data.Sampler[list[int]]", _Numbers(stream)),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=_own_generator(),
    )
    for batch, problems in items(loader):
        if batch is None:
            raise DataError(problems[-1])
        yield batch, problems


def _own_generator() -> torch.Generator:
    """A DataLoader draws an unused seed; without this, that would change the random numbers of dropout."""
    return torch.Generator()


class _Numbers:
    """A batch sampler: all that a DataLoader needs is something to iterate over."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[int]]:
        return self.stream.batches()


# Whole images


class _Each(Dataset[T]):
    def __init__(self, read: Callable[[int], T], indices: range) -> None:
        self.read, self.indices = read, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> T:
        return self.read(self.indices[place])


def read_each(read: Callable[[int], T], indices: range, workers: int) -> Iterator[tuple[int, T]]:
    """Each index with what `read`, called in worker processes, returns for it, in order."""
    loader: DataLoader[T] = DataLoader(
        _Each(read, indices),
        batch_size=None,
        num_workers=workers,
        collate_fn=_unchanged,
        generator=_own_generator(),
    )
    yield from zip(indices, items(loader), strict=True)


def whole_samples(
    samples: Sequence[Sample], *, workers: int, rank: int = 0, processes: int = 1, skip_errors: bool = False
) -> Generator[tuple[int, Read], None, None]:
    """This process's samples as they are on disk, with their indices.

    An unreadable one raises DataError or, with `skip_errors`, is a Read with its problem.
    """
    indices = range(rank, len(samples), processes)
    for index, read in read_each(functools.partial(read_sample, samples), indices, workers):
        if read.sample is None and not skip_errors:
            raise DataError(read.problems[-1])
        yield index, read


def _unchanged(read: T) -> T:
    return read
