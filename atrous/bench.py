"""`atrous bench`: how fast a model predicts, by runtime and precision, what memory that takes, and how well it does.

From uint8 images to label maps in memory; no file is read or written meanwhile. Each row is measured by
`atrous.benching.process` in a process of its own. The processes take turns.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from atrous import segmenter, terminal, verb_module
from atrous.benching.entries import entries_of, require_usable
from atrous.benching.page import facts_of, page, ranked, show, title_of
from atrous.benching.rows import DEFAULTS, Bench, Options
from atrous.benching.turns import measure
from atrous.errors import ConfigError
from atrous.files import prepare_file, write_atomically
from atrous.types import Size


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


verb_module.make_callable(__name__)  # `atrous.bench(...)`
