"""The rows of a benchmark in the terminal and as an HTML page."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from atrous import distributed
from atrous.benching.entries import protocol_of
from atrous.benching.rows import Bench, Options, Row
from atrous.environment import environment
from atrous.progress import say
from atrous.report.html import environment as pages
from atrous.report.scatter import Dot, scatter
from atrous.report.text import fraction

MIB = 2**20
HEADINGS = ("runtime", "precision", "median ms", "p90 ms", "images/s", "images/s, batch", "peak MiB")


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
