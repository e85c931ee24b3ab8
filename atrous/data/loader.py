"""Endless batches of augmented samples, the same ones however many workers read them.

Sample number n of a run is sample `n % N` of epoch `n // N`; the order of an epoch depends on (seed, epoch) and the
augmentation of a sample on (seed, epoch, index) alone. So a run can be resumed at any sample, and the processes of a
run share one stream: of each `batch * processes` numbers in a row, process r takes the r-th run of `batch`.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from atrous.types import Batch, Sample


class Augment(Protocol):
    def __call__(self, sample: Sample, /, *, rng: np.random.Generator) -> Sample: ...


class Stream(NamedTuple):
    """Where a process stands in the run's stream of samples."""

    seed: int
    batch: int  # of one process
    start: int = 0  # samples that the run, all processes together, has taken already
    rank: int = 0
    processes: int = 1

    def batches(self) -> Iterator[list[int]]:
        """The sample numbers of this process's batches, without end."""
        start = self.start + self.rank * self.batch
        while True:
            yield list(range(start, start + self.batch))
            start += self.batch * self.processes


class Read(NamedTuple):
    """A sample, or none, and what could not be read on the way to it."""

    sample: Sample | None
    problems: tuple[str, ...] = ()


class Augmented(Dataset[Read]):
    """Sample number n of a run. Errors are values: an exception would lose its one line on the way from a worker."""

    def __init__(self, samples: Sequence[Sample], augment: Augment, seed: int, *, skip_errors: bool) -> None:
        self.samples, self.augment, self.seed = samples, augment, seed
        self.attempts = min(len(samples), 10) if skip_errors else 1

    def __getitem__(self, number: int) -> Read:
        problems: list[str] = []
        epoch, place = divmod(number, len(self.samples))
        for attempt in range(self.attempts):  # a sample that can't be read is replaced by those after it
            index = int(epoch_order(self.seed, epoch, len(self.samples))[(place + attempt) % len(self.samples)])
            try:
                sample = self.samples[index]
                return Read(self.augment(sample, rng=np.random.default_rng([self.seed, epoch, index])), tuple(problems))
            except (ValueError, OSError) as error:
                problems.append(str(error))
        return Read(None, tuple(problems))


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(count)


class LoadedBatch(NamedTuple):
    batch: Batch | None
    problems: tuple[str, ...]


def collate(reads: list[Read]) -> LoadedBatch:
    """Stack samples of one size. No batch at all where a sample is missing."""
    problems = tuple(problem for read in reads for problem in read.problems)
    samples = [read.sample for read in reads if read.sample is not None]
    if len(samples) < len(reads):
        return LoadedBatch(None, problems)
    semantic = [sample.semantic for sample in samples if sample.semantic is not None]
    instance = [sample.instance for sample in samples if sample.instance is not None]
    return LoadedBatch(
        Batch(
            names=tuple(sample.name for sample in samples),
            images=torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).contiguous(),
            semantic=torch.from_numpy(np.stack(semantic)),
            instance=torch.from_numpy(np.stack(instance)) if len(instance) == len(samples) else None,
        ),
        problems,
    )


def training_batches(
    samples: Sequence[Sample],
    augment: Augment,
    stream: Stream,
    *,
    workers: int,
    skip_errors: bool,
    pin_memory: bool = False,
) -> Iterator[tuple[Batch, tuple[str, ...]]]:
    """Endless (batch, what was skipped on the way). Raises ValueError, with the file's name, for what can't be read."""
    loader: DataLoader[Read] = DataLoader(
        Augmented(samples, augment, stream.seed, skip_errors=skip_errors),
        batch_sampler=cast("torch.utils.data.Sampler[list[int]]", _Numbers(stream)),
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=_own_numbers(),
    )
    for batch, problems in _explained(loader):
        if batch is None:
            raise ValueError(problems[-1])
        yield batch, problems


def _own_numbers() -> torch.Generator:
    """A DataLoader draws a seed that we don't use: let it not be from the numbers that dropout goes on with."""
    return torch.Generator()


def _explained(loader: Iterable[Any]) -> Iterator[Any]:
    """What a loader yields; the death of a worker is told as what it most often is."""
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(f"a process that reads images died ({error}); too little /dev/shm? try --workers 0") from error


class _Numbers:
    """What a DataLoader asks of a batch sampler: something that can be iterated."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[list[int]]:
        return self.stream.batches()


class _AsRead(Dataset[Read]):
    def __init__(self, samples: Sequence[Sample], indices: range) -> None:
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Read:
        try:
            return Read(self.samples[self.indices[place]])
        except (ValueError, OSError) as error:
            return Read(None, (str(error),))


def whole_samples(
    samples: Sequence[Sample], *, workers: int, rank: int = 0, processes: int = 1, skip_errors: bool = False
) -> Iterator[tuple[int, Read]]:
    """This process's samples as they are on disk, with their index; unreadable ones raise, or come as problems."""
    indices = range(rank, len(samples), processes)
    loader: DataLoader[Read] = DataLoader(
        _AsRead(samples, indices),
        batch_size=None,
        num_workers=workers,
        collate_fn=_same,  # type: ignore[arg-type]
        generator=_own_numbers(),
    )
    for index, read in zip(indices, _explained(loader), strict=True):
        if read.sample is None and not skip_errors:
            raise ValueError(read.problems[-1])
        yield index, read


def _same(read: Read) -> Read:
    return read
