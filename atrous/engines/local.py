"""All in this process: while the network computes an image, threads read the next ones and write the last ones."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from atrous.data.finding import NamedImage
from atrous.engines.contract import Engine, Outcome, Stages, Work

THREADS = 4  # that read, and that write, at most
AHEAD = 16  # images that are read and wait for the network, or computed and wait to be written, at most
AHEAD_BYTES = 2**26  # of those that were read, about: one large image is as much as the memory may hold
Read = tuple[NamedImage, Any]
Written = tuple[NamedImage, "Future[Outcome]"]


def run(work: Work) -> Generator[tuple[NamedImage, Outcome]]:
    """In the order of the images. What is being written is written to its end, also if nobody wants more."""
    if work.stages is None or len(work.images) == 1:
        for image in work.images:
            yield image, work.predict(image)
        return
    number = min(THREADS, os.cpu_count() or 1)
    readers, writers = ThreadPoolExecutor(number, "read"), ThreadPoolExecutor(number, "write")
    try:
        for image, outcome in _in_stages(work.images, work.stages, readers, writers):
            yield image, outcome.result()
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown()


def _in_stages(
    images: Sequence[NamedImage], stages: Stages, readers: ThreadPoolExecutor, writers: ThreadPoolExecutor
) -> Iterator[Written]:
    behind: deque[Written] = deque()
    room = AHEAD
    for group in _groups(_read_ahead(images, stages.read, readers), stages.together):
        names, values = zip(*group, strict=True)
        results = stages.compute(names, values)
        room = _room(values[0], room)
        for image, result in zip(names, results, strict=True):
            behind.append((image, writers.submit(_written, stages.write, image, result)))
        while behind and (len(behind) > room or behind[0][1].done()):
            yield behind.popleft()
    yield from behind


def _written(write: Callable[[NamedImage, Any], Outcome], image: NamedImage, result: Any) -> Outcome:  # noqa: ANN401
    return result if isinstance(result, Outcome) else write(image, result)


def _read_ahead(
    images: Sequence[NamedImage], read: Callable[[NamedImage], Any], readers: ThreadPoolExecutor
) -> Iterator[Read]:
    """Each image with what was read. The size of the last one says how many more are read meanwhile."""
    waiting: deque[tuple[NamedImage, Future[Any]]] = deque()
    left, room = iter(images), 1

    def fill(number: int) -> None:
        while len(waiting) < number and (image := next(left, None)) is not None:
            waiting.append((image, readers.submit(read, image)))

    fill(room)
    while waiting:
        image, future = waiting.popleft()
        value = future.result()
        room = _room(value, room)
        fill(room)
        yield image, value
        fill(1)


def _room(value: Any, before: int) -> int:  # noqa: ANN401
    """How many like this may wait; one that could not be read says nothing about it."""
    return before if isinstance(value, Outcome) else min(AHEAD, AHEAD_BYTES // max(1, value.nbytes))


def _groups(items: Iterator[Read], together: Callable[[Any], int]) -> Iterator[list[Read]]:
    """Neighbours of one size, as many as are best computed at once."""
    group: list[Read] = []
    for item in items:
        if group and _size(item[1]) != _size(group[0][1]):
            yield group
            group = []
        group.append(item)
        if len(group) >= (1 if isinstance(item[1], Outcome) else together(item[1])):
            yield group
            group = []
    if group:
        yield group


def _size(value: Any) -> object:  # noqa: ANN401
    """An Outcome has none, and is alone."""
    return getattr(value, "shape", value)


LOCAL = Engine(run, is_here=True)
