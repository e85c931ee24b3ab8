"""Options that several verbs have, and how their words are read."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from atrous.errors import ConfigError

if TYPE_CHECKING:
    from atrous.runtimes.contract import Speed


def _names_of_files(folder: str, *others: str) -> list[str]:
    """The rows of a table with a file, or a folder, for each; `others` are none. Reading the table takes seconds."""
    paths = (Path(__file__).parents[1] / folder).glob("[a-z]*")
    return sorted(path.stem for path in paths if path.stem not in others)


TARGETS = _names_of_files("runtimes", "contract", "pytorch")  # what `export --to` takes


def target_names(incomplete: str) -> list[str]:
    return [name for name in TARGETS if name.startswith(incomplete)]


RuntimeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"what computes: auto, pytorch, {', '.join(TARGETS)} [default: what the file is for]",
        show_default=False,
    ),
]


Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="SECTION.FIELD=VALUE", help="settings to change", show_default=False)
]


Device = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; by default a GPU if there is one", show_default=False)
]


Compile = Annotated[
    bool,
    typer.Option(
        "--compile", help="by torch.compile: tens of seconds at the first image, pays for many images of one size"
    ),
]


PRECISIONS = "fp32, bf16, or auto: bf16 where it is faster and labels agree"


Workers = Annotated[int, typer.Option(min=0, help="processes that read images; 0: the main process reads them itself")]


def own_cores() -> int:
    """The number of cores for this process; processes that `torchrun` starts share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


DEFAULT_WORKERS = min(8, own_cores())


def recipe_names(incomplete: str) -> list[str]:
    """For the shell's completion, which must not wait for torch."""
    from atrous.recipes import recipes

    return [name for name in recipes() if name.startswith(incomplete)]


def engine_names(incomplete: str = "") -> list[str]:
    """A file for each. For the shell's completion and the help."""
    return [name for name in _names_of_files("engines", "contract") if name.startswith(incomplete)]


def format_names(incomplete: str = "") -> list[str]:
    """Of official formats: a file for each. For the shell's completion and the help."""
    return [name for name in _names_of_files("submissions/formats") if name.startswith(incomplete)]


def speed_of(precision: str, compile: bool) -> "Speed":  # noqa: A002
    from atrous.runtimes.contract import PRECISIONS, Speed

    if precision not in PRECISIONS:
        raise ConfigError(f"--precision {precision}: expected {', '.join(PRECISIONS)}")
    return Speed(cast(Any, precision), compile)


def require_writable(path: Path) -> None:
    """Check before the work that its results can be written."""
    from atrous.files import prepare_file

    prepare_file(path)


def files_and_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`data.format=voc` is a setting, unless a file is called that."""
    overrides = [text for text in words if re.match(r"[a-z_]+\.[a-z_.]+=", text) and not Path(text).exists()]
    return [text for text in words if text not in overrides], overrides


def words_of(text: str | None) -> list[str]:
    return [] if text is None else text.replace(",", " ").split()
