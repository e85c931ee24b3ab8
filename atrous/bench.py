"""`atrous bench`: how fast a model predicts, by runtime and precision, what memory that takes, and how well it does.

From uint8 images to label maps in memory; no file is read or written meanwhile. Each row is measured by
`atrous.bench_process` in a process of its own. The processes take turns, so that whatever else the machine does
meanwhile slows all rows alike.
"""

import json
import math
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import IO, Any, NamedTuple

import torch
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from atrous import artefact, distributed, evaluate, model_file, segmenter, terminal, verb_module
from atrous.deployed import Export
from atrous.distributed import World
from atrous.environment import environment
from atrous.errors import AtrousError, ConfigError, Mismatch, listing, text_of
from atrous.files import prepare_file, write_atomically
from atrous.plan import last_words, surroundings
from atrous.predicting.arguments import with_settings
from atrous.progress import counting, say
from atrous.report.html import environment as pages
from atrous.report.scatter import Dot, scatter
from atrous.report.text import fraction
from atrous.runtimes import RUNTIMES
from atrous.runtimes.contract import EXPORT
from atrous.runtimes.contract import require as require_packages
from atrous.runtimes.pytorch import has_bf16
from atrous.segmenter import Segmenter
from atrous.types import Size

MIB = 2**20
MAX_SECONDS = 1800.0  # of a turn; an evaluation may take as long as it does
COMMAND = (sys.executable, "-m", "atrous.bench_process")
PYTORCH = "pytorch"
SIZE = (512, 512)  # pixels, where the file says nothing about its images
PRECISIONS = ("fp32", "bf16", "int8")
HEADINGS = ("runtime", "precision", "median ms", "p90 ms", "images/s", "images/s, batch", "peak MiB")


class Options(NamedTuple):
    """How each row is measured."""

    size: Size | None = None  # height, width; None: as the model was trained, or the photo's own
    image: Path | None = None  # a photo; None: a painted street
    batch: int = 4  # images in one call, for the throughput
    rounds: int = 5  # turns of each row
    seconds: float = 10.0  # of predicting, over all rounds, for each row
    repeats: int | None = None  # predictions in a round, in place of seconds
    threads: int | None = None  # None: as many as the process has cores
    device: str | None = None


DEFAULTS = Options()


class Entry(NamedTuple):
    """What a row measures."""

    path: Path
    runtime: str
    precision: str
    file: Path | None = None  # that was exported for the runtime


class Row(NamedTuple):
    entry: Entry
    error: str = ""
    size: Size = (0, 0)
    opened: float = math.nan  # seconds until the first prediction was done
    times: tuple[float, ...] = ()  # seconds of predictions of one image
    batch_times: tuple[float, ...] = ()  # seconds of predictions of a batch
    batch: int = 1
    peak: int = 0  # bytes of the whole process while it predicts single images
    batch_peak: int = 0
    evaluation: Mapping[str, Any] | None = None
    title: str = ""  # of the score, the headline of the evaluation

    @property
    def latency(self) -> float:
        """The median, in seconds."""
        return median(self.times) if self.times else math.nan

    @property
    def p90(self) -> float:
        """Nine of ten predictions take no longer."""
        return sorted(self.times)[math.ceil(0.9 * len(self.times)) - 1] if self.times else math.nan

    @property
    def throughput(self) -> float:
        """Images per second, one after the other."""
        return len(self.times) / sum(self.times) if self.times else math.nan

    @property
    def batch_throughput(self) -> float:
        return self.batch * len(self.batch_times) / sum(self.batch_times) if self.batch_times else math.nan

    @property
    def score(self) -> float | None:
        return None if self.evaluation is None else next(iter(self.evaluation["scores"].values()))

    def to_tree(self) -> dict[str, Any]:
        figures = {
            "median_seconds": self.latency,
            "p90_seconds": self.p90,
            "images_per_second": self.throughput,
            "batch": self.batch,
            "batch_images_per_second": self.batch_throughput,
            "opening_seconds": self.opened,
            "peak_bytes": self.peak,
            "batch_peak_bytes": self.batch_peak,
        }
        known = {name: value for name, value in figures.items() if math.isfinite(value) and value}
        return {
            "model": str(self.entry.path),
            "runtime": self.entry.runtime,
            "precision": self.entry.precision,
            **(known if self.times else {}),
            "seconds": list(self.times),
            "batch_seconds": list(self.batch_times),
            "evaluation": self.evaluation,
            "error": self.error,
        }


class Bench(NamedTuple):
    rows: tuple[Row, ...]  # the fastest first; those that failed last
    remarks: tuple[str, ...]  # what was not measured, and why
    facts: Mapping[str, str]  # how it was measured
    title: str  # of the score, empty if none was measured

    @property
    def is_complete(self) -> bool:
        return not any(row.error for row in self.rows)

    def to_tree(self) -> dict[str, Any]:
        return {
            "rows": [row.to_tree() for row in self.rows],
            "not_measured": list(self.remarks),
            "protocol": dict(self.facts),
        }


def run(
    paths: Sequence[Path],
    overrides: Sequence[str] = (),
    options: Options = DEFAULTS,
    *,
    runtimes: Sequence[str] = (),
    precisions: Sequence[str] = (),
    json_path: Path | None = None,
    html_path: Path | None = None,
    console: Console | None = None,
) -> Bench:
    """Measure every runtime and precision that can compute the models in `paths`, or those that are named.

    With settings of `data` each row is evaluated, too. A row that fails says why, and the others are measured. Raises
    AtrousError and OSError for what is wrong with all of them.
    """
    console = console or terminal.console()
    require_possible(options)
    for path in filter(None, (json_path, html_path)):
        prepare_file(path)  # before minutes of measuring
    options = options._replace(threads=options.threads or torch.get_num_threads(), size=size_of(options))
    is_scored = any(text.startswith("data.") for text in overrides)
    files = list(dict.fromkeys(segmenter.model_in(path) for path in paths))
    if not files:
        raise ConfigError("a model file is missing, such as runs/mine/best.safetensors")
    for path in files:
        require_usable(path, overrides, console, is_scored=is_scored)
    entries, remarks = entries_of(files, options, runtimes, precisions)
    rows = measure(entries, overrides, options, console, is_scored=is_scored)
    result = Bench(ranked(rows), tuple(remarks), facts_of(rows, options, overrides), title_of(rows))
    if json_path is not None:
        write_atomically(json_path, json.dumps(result.to_tree(), indent=1) + "\n")
    if html_path is not None:
        write_atomically(html_path, page(result).encode(errors="backslashreplace"))
    show(result, console)
    return result


def require_possible(options: Options) -> None:
    """Raises ConfigError for numbers that no measurement could have."""
    least = {"--batch": options.batch, "--rounds": options.rounds, "--repeats": options.repeats}
    least |= {"--threads": options.threads}
    for name, value in least.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} {value}: must be 1 or more")
    if not 0 < options.seconds < math.inf:
        raise ConfigError(f"--seconds {options.seconds:g}: must be above 0")


def size_of(options: Options) -> Size | None:
    """Of the photo, unless another is asked for. Raises DataError or OSError for what isn't one."""
    if options.image is None:
        return options.size
    height, width = segmenter.read_image(options.image).shape[:2]
    return options.size or (height, width)


# ---- what is measured


def entries_of(
    paths: Sequence[Path], options: Options, runtimes: Sequence[str], precisions: Sequence[str]
) -> tuple[list[Entry], list[str]]:
    """What can be measured here, and a line for each thing that can't. Raises ConfigError if that was asked for."""
    require_known("--runtimes", runtimes, RUNTIMES)
    require_known("--precisions", precisions, PRECISIONS)
    device = distributed.choose_device(options.device)
    entries, remarks = list[Entry](), list[str]()
    for path in paths:
        names = [name for name in runtimes_of(path) if name in (runtimes or RUNTIMES)]
        if not names:
            raise ConfigError(f"--runtimes {','.join(runtimes)}: {path} is for {listing(runtimes_of(path))}")
        for name in names:
            if runtimes:
                require_packages(RUNTIMES[name], f"--runtimes {name}")
            if not RUNTIMES[name].is_installed:
                remarks.append(f"{name}: not installed; pip install 'atrous[{RUNTIMES[name].extra}]'")
                continue
            entries += [
                Entry(path, name, one) for one in precisions_of(path, name, device) if one in (precisions or PRECISIONS)
            ]
    if not entries:
        raise ConfigError(f"--precisions {','.join(precisions)}: nothing here computes {paths[0]} in it")
    if not has_bf16(device):
        remarks.append(f"bf16: this {'GPU' if device.type == 'cuda' else 'processor'} has no bfloat16")
    return entries, list(dict.fromkeys(remarks))


def require_known(option: str, words: Sequence[str], known: Iterable[str]) -> None:
    for word in words:
        if word not in known:
            raise ConfigError(f"{option} {word}: expected some of {', '.join(known)}")


def runtimes_of(path: Path) -> list[str]:
    """The runtime that opens the file, then those that a model can be exported for."""
    own = next(name for name, row in RUNTIMES.items() if row is model_file.runtime_of(path))
    return [own, *(name for name, row in RUNTIMES.items() if own == PYTORCH and row.write is not None)]


def precisions_of(path: Path, runtime: str, device: torch.device) -> list[str]:
    """An 8-bit file has one: what isn't in integers is in floats."""
    if is_int8(path):
        return ["int8"]
    return ["fp32", "bf16"] if RUNTIMES[runtime].has_bf16 and has_bf16(device) else ["fp32"]


def is_int8(path: Path) -> bool:
    text = model_file.read_metadata(path).get(EXPORT)
    return text is not None and Export.model_validate_json(text).facts.int8


def require_usable(path: Path, overrides: Sequence[str], console: Console, *, is_scored: bool) -> None:
    """Look at the settings, and at the labels of the data, once for all rows of a model. Raises as `evaluate` does."""
    model = segmenter.load(path)
    with_settings(model, protocol_of(overrides), str(path))
    if not is_scored:
        if others := [text for text in overrides if text not in protocol_of(overrides)]:
            raise ConfigError(f"{others[0]}: only settings of data, evaluate and decode apply to a benchmark")
        return
    evaluate.prepared(model, overrides, path, World(0, 1, torch.device("cpu")), workers=0, console=console)


def own_size(model: Segmenter) -> Size:
    """Of the images that the model takes, or was trained with."""
    if model.network.facts.size is not None:
        return model.network.facts.size
    if model.inference.mode == "canvas":
        return model.inference.window
    return SIZE if model.training is None else model.training.augment.crop


def protocol_of(overrides: Sequence[str]) -> list[str]:
    """The settings that a prediction takes."""
    return [text for text in overrides if text.startswith(("evaluate.", "decode."))]


# ---- measuring


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


# ---- showing


def ranked(rows: Sequence[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: (not row.times, row.latency)))


def facts_of(rows: Sequence[Row], options: Options, overrides: Sequence[str]) -> dict[str, str]:
    """How it was measured, for people and for JSON."""
    sizes = dict.fromkeys(f"{row.size[0]} x {row.size[1]}" for row in rows if row.times)
    where = environment(distributed.choose_device(options.device))
    calls = f"{options.repeats} calls" if options.repeats else f"{options.seconds / options.rounds:g} s"
    protocol: Mapping[str, str] = next((row.evaluation["protocol"] for row in rows if row.evaluation), {})
    return {
        "input": f"{', '.join(sizes) or 'none'}, {options.image or 'a painted street'}",
        "measured": "uint8 image to label map in memory; no file is read",
        "turns": f"{options.rounds} of {calls}, a process for each row, in turn",
        "batch": str(options.batch),
        **where,
        "threads": str(options.threads),
        **({"settings": " ".join(protocol_of(overrides))} if protocol_of(overrides) else {}),
        **({"score": "; ".join(f"{name}: {value}" for name, value in protocol.items())} if protocol else {}),
    }


def title_of(rows: Sequence[Row]) -> str:
    return next((row.title for row in rows if row.title), "")


def show(bench: Bench, console: Console) -> None:
    table = Table(*HEADINGS[:2], box=None, pad_edge=False)
    for heading in [*HEADINGS[2:], *([bench.title] if bench.title else [])]:
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in bench.rows:
        table.add_row(*cells(row, bench))
    console.print(f"{bench.facts['input']}, batch {bench.facts['batch']}; {bench.facts['device']}")
    console.print(table)
    for remark in bench.remarks:
        say(remark, console)


def cells(row: Row, bench: Bench) -> list[str]:
    is_named = len({one.entry.path for one in bench.rows}) > 1
    name = f"{row.entry.path.name}: {row.entry.runtime}" if is_named else row.entry.runtime
    speeds = (row.throughput, row.batch_throughput)
    figures = [f"{1000 * row.latency:.1f}", f"{1000 * row.p90:.1f}", *(f"{speed:.2f}" for speed in speeds)]
    numbers = [*figures, f"{row.peak / MIB:,.0f}"] if row.times else [""] * (len(HEADINGS) - 2)
    score = [fraction(row.score)] if bench.title else []
    return [name, row.entry.precision, *numbers, *score, f"failed: {row.error}" if row.error else ""]


def page(bench: Bench) -> str:
    """An HTML page of its own; the same figures give the same page."""
    dots = [
        Dot(f"{row.entry.runtime} {row.entry.precision}", 1000 * row.latency, row.score)
        for row in bench.rows
        if row.times and row.score is not None
    ]
    names = dict.fromkeys(row.entry.path.name for row in bench.rows)
    lines = [cells(row, bench) for row in bench.rows]
    rows = [line[:-1] for line in lines]
    failures = [f"{name}, {precision}: {failure}" for name, precision, *_, failure in lines if failure]
    content = {
        "title": f"Speed of {', '.join(names)}",
        "subtitle": f"{bench.facts['device']}, {bench.facts['threads']} threads",
        "score": bench.title,
        "plot": Markup(scatter(dots, "median ms of an image", bench.title)),
        "headings": [*HEADINGS, *([bench.title] if bench.title else [])],
        "rows": rows,
        "remarks": [*failures, *bench.remarks],
        "facts": bench.facts,
    }
    return pages().get_template("bench.html").render(content)


verb_module.make_callable(__name__)  # `atrous.bench(...)`
