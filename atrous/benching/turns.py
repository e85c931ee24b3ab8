"""Processes that measure a row each, in turns, so that whatever else the machine does slows all rows alike."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from rich.console import Console

from atrous import artefact, segmenter
from atrous.benching.entries import own_size, protocol_of, runtimes_of
from atrous.benching.rows import Entry, Options, Row
from atrous.errors import AtrousError, Mismatch, text_of
from atrous.plan import last_words, surroundings
from atrous.progress import counting
from atrous.runtimes import RUNTIMES

MAX_SECONDS = 1800.0  # of a turn; an evaluation may take as long as it does
COMMAND = (sys.executable, "-m", "atrous.benching.process")


class Worker(NamedTuple):
    """A process that measures one entry."""

    process: "subprocess.Popen[str]"
    faults: IO[str]  # its standard error


def measure(
    entries: Sequence[Entry], overrides: Sequence[str], options: Options, console: Console, *, is_scored: bool
) -> list[Row]:
    """All rows, in turns. No process outlives this call."""
    steps = len(entries) * (1 + 2 * options.rounds + is_scored)
    with ExitStack() as stack, counting("measuring", steps, console) as advance:
        rows: dict[Entry, Row] = {}
        workers: dict[Entry, Worker] = {}
        export = exporter(Path(stack.enter_context(tempfile.TemporaryDirectory())), options)
        for entry in entries:  # one after the other: each has all threads to itself
            rows[entry] = export(Row(entry, batch=options.batch))
            if not rows[entry].error:
                workers[entry] = stack.enter_context(worker(rows[entry].entry, protocol_of(overrides), options))
                rows[entry] = opened(rows[entry], answer_of(workers[entry]))
            advance(1)
        for kind, number in turns(options.rounds, is_scored=is_scored):
            for entry in entries:
                if not rows[entry].error:
                    rows[entry] = with_turn(rows[entry], workers[entry], kind, number, overrides, options)
                advance(1)
    return list(rows.values())


def exporter(folder: Path, options: Options) -> Callable[[Row], Row]:
    """A function that adds to a row the file that its runtime opens, or why there is none."""

    @cache
    def export(path: Path, runtime: str) -> Path | str:
        target = folder / f"{len(list(folder.iterdir()))}{RUNTIMES[runtime].suffix}"
        model = segmenter.load(path)
        size = (options.size or own_size(model)) if RUNTIMES[runtime].has_one_size else None
        try:
            artefact.write(model.model, model.header, target, artefact.Export(runtime, size))
        except (AtrousError, Mismatch) as error:
            return text_of(error)
        return target

    def with_file(row: Row) -> Row:
        entry = row.entry
        if runtimes_of(entry.path)[0] == entry.runtime:
            return row
        file = export(entry.path, entry.runtime)
        return row._replace(error=file) if isinstance(file, str) else row._replace(entry=entry._replace(file=file))

    return with_file


def turns(rounds: int, *, is_scored: bool) -> Iterator[tuple[str, int]]:
    """Single images come first: a batch raises the peak of memory."""
    yield from (("single", number) for number in range(rounds))
    yield from (("batch", number) for number in range(rounds))
    if is_scored:
        yield "score", 0


@contextmanager
def worker(entry: Entry, overrides: Sequence[str], options: Options) -> Iterator[Worker]:
    """A process that has got its order."""
    order = {
        "path": str(entry.file or entry.path),
        "runtime": entry.runtime,
        "precision": entry.precision,
        "overrides": list(overrides),
        "size": options.size,
        "image": None if options.image is None else str(options.image),
        "batch": options.batch,
        "threads": options.threads,
        "device": options.device,
    }
    surrounding = {**surroundings(), "OMP_NUM_THREADS": str(options.threads)}
    with tempfile.TemporaryFile("w+", errors="replace") as faults:
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=faults, text=True, env=surrounding
        )
        try:
            tell(process, order)
            yield Worker(process, faults)
        finally:
            process.kill()
            process.communicate()


def tell(process: "subprocess.Popen[str]", values: Mapping[str, Any]) -> None:
    """One that has ended is noticed by its answer."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(values) + "\n")
        process.stdin.flush()


def answer_of(worker: Worker) -> dict[str, Any]:
    """The next line of JSON; an error instead, if there is none."""
    assert worker.process.stdout is not None
    timer = threading.Timer(MAX_SECONDS, worker.process.kill)
    timer.start()
    try:
        for line in worker.process.stdout:
            if line.startswith("{"):  # a library may print lines of its own
                answer: dict[str, Any] = json.loads(line)
                return answer
    finally:
        is_late = not timer.is_alive()
        timer.cancel()
    return {"error": f"no answer within {MAX_SECONDS:.0f} s" if is_late else end_of(worker)}


def end_of(worker: Worker) -> str:
    """Why a process ended by itself."""
    code = worker.process.wait()
    worker.faults.seek(0)
    return last_words(code, worker.faults.read())


def opened(row: Row, answer: Mapping[str, Any]) -> Row:
    if "error" in answer:
        return row._replace(error=answer["error"])
    height, width = answer["size"]
    return row._replace(opened=answer["opened"], size=(height, width))


def with_turn(row: Row, worker: Worker, kind: str, number: int, overrides: Sequence[str], options: Options) -> Row:
    """The row with what one more turn adds."""
    turn = {"kind": kind, "is_first": number == 0, "seconds": options.seconds / options.rounds}
    tell(worker.process, {**turn, "repeats": options.repeats, "overrides": list(overrides)})
    answer = answer_of(worker)
    if "error" in answer:
        return row._replace(error=answer["error"])
    return ADDED[kind](row, answer)


def with_single(row: Row, answer: Mapping[str, Any]) -> Row:
    return row._replace(times=(*row.times, *answer["times"]), peak=answer["peak"])


def with_batch(row: Row, answer: Mapping[str, Any]) -> Row:
    return row._replace(batch_times=(*row.batch_times, *answer["times"]), batch_peak=answer["peak"])


def with_score(row: Row, answer: Mapping[str, Any]) -> Row:
    return row._replace(evaluation=answer["evaluation"], title=answer["title"])


ADDED = {"single": with_single, "batch": with_batch, "score": with_score}  # by the kind of a turn
