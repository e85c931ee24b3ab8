"""The verb `convert`, and its functions in Python."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from atrous import distributed, terminal
from atrous.convert.companions import find_weights
from atrous.convert.comparison import THRESHOLD, compare, percent, total
from atrous.convert.conversion import Conversion, convert_weights
from atrous.convert.originals import Original, open_original, require_program
from atrous.convert.recalibrate import has_folded_norms, recalibrate
from atrous.convert.sources import SourceLike, open_source, read, require_named
from atrous.errors import ConfigError, Mismatch
from atrous.files import prepare_output, user_path
from atrous.segmenter import Segmenter, read_image

FOLDED = (
    "batch norms are folded: before you train this model, convert it with --recalibrate IMAGES, which measures them"
)


def convert(
    source: SourceLike,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    labels: str | Path | None = None,
    ema: bool = False,
) -> Segmenter:
    """The model in `source`: a checkpoint, frozen graph, .tflite, .pth, archive, `zoo:NAME`, or arrays by name.

    `system` is recognised by the names of the weights unless it is set. `options` say what weights can't, under the
    names of the system's own flags (for semseg also `config`, the path of its YAML file). `labels` is the path of a
    text with the name of each class on a line. `ema` takes the moving average from a file that has it beside the
    weights. Raises FileNotFoundError, ConversionError if the weights belong to no known model, or ConfigError if an
    option is wrong; each in one line.
    """
    return conversion(source, system=system, options=options, labels=labels, ema=ema).segmenter


def conversion(
    source: SourceLike,
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    labels: str | Path | None = None,
    ema: bool = False,
    console: Console | None = None,
) -> Conversion:
    """Like `convert`, with what was not used and what was assumed; `console` shows a download."""
    foreign = open_source(source, system, options or {}, console)
    names = None if labels is None else user_path(labels)
    return convert_weights(foreign.weights, foreign.system, foreign.options, names, ema=ema)


# ---- the verb


def run(
    source: str,
    out: Path,
    options: Sequence[str] = (),
    *,
    system: str | None = None,
    images: Sequence[Path] = (),
    labels: Path | None = None,
    checked: Sequence[Path] = (),
    ema: bool = False,
    console: Console | None = None,
) -> Conversion:
    """Convert, print what was used and what was assumed, and write one model file.

    With `images`, folded batch norms are measured on them: see `recalibrate`. The processes that `torchrun` has started
    share them; the first one writes and prints. On the images `checked`, the original runs beside the model. Raises as
    `convert` does, and Mismatch, without a file, if the two differ by more than rounding to 8 bits explains.
    """
    console, out, world = console or terminal.console(), user_path(out), distributed.join("cpu")
    console.quiet = console.quiet or world.rank > 0
    require_named(source)
    _require_writable(out)
    _require_apart(source, out)
    program = require_program(user_path(source)) if checked else None
    result = conversion(source, system=system, options=parse_options(options), labels=labels, ema=ema, console=console)
    if program is not None and world.rank == 0:
        beside = result if program == user_path(source) else result._replace(source=read(program))
        check(beside, open_original(program), checked, console)
    if images:
        recalibrate(result.segmenter.model, result.segmenter.inference, images, read_image, world)
    if world.rank == 0:
        result.segmenter.save(out)
    console.print(summary(result, len(images)))
    console.print(f"wrote {out}")
    return result


def check(result: Conversion, original: Original, images: Sequence[Path], console: Console) -> None:
    """Print the share of equal labels of each image, and of all. Raises Mismatch below the threshold."""
    agreements = []
    for image in images:
        agreements += compare(result, original, [image])
        console.print(agreements[-1].line())
    whole = total(agreements)
    console.print(whole.line())
    if whole.share < THRESHOLD and not result.source.is_rounded:
        raise Mismatch(
            f"{result.source.label}: {percent(whole.share)} of the labels are the original's, less than "
            f"{percent(THRESHOLD)}: the model was not written"
        )
    if result.source.is_rounded:
        console.print("the original rounds to 8 bits and the model doesn't, so that no share is required")


def _require_writable(out: Path) -> None:
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: the name of a model file must end in .safetensors")
    if out.is_dir():
        raise IsADirectoryError(f"--out {out}: is a folder")
    if out.parent.exists():  # else it is created when there is something to write
        prepare_output(out.parent)


def _require_apart(source: str, out: Path) -> None:
    """Raises ConfigError where the model would take the place of the weights that it is made of."""
    path = user_path(source)
    weights = find_weights(path) if path.is_dir() else path
    if weights is not None and weights.exists() and out.exists() and weights.samefile(out):
        raise ConfigError(f"--out {out}: is the file that is converted: choose another name")


def parse_options(texts: Sequence[str]) -> dict[str, str]:
    """`["output_stride=8", ...]` as a mapping. Raises ConfigError for anything else."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ConfigError(f"{text!r}: an option must have the form flag=value, such as output_stride=8")
        options[name.lstrip("-")] = value
    return options


def summary(result: Conversion, num_images: int) -> str:
    """What was converted, line by line; batch norms were measured on `num_images`."""
    model, config = result.segmenter.model, result.segmenter.model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    protocol = result.segmenter.inference.describe().items()
    lines = [
        f"{result.system}: {config.name}, {config.backbone.name}, output stride {config.output_stride}, "
        f"{model.num_classes} classes, {parameters / 1e6:.2f} M parameters",
        f"{result.num_used} weights used"
        + (f", {len(result.unused)} not: {_kinds(result.unused)}" if result.unused else ""),
        *(f"assumed: {assumption}" for assumption in result.assumptions),
        *([f"batch norms measured on {num_images} images"] if num_images else []),
        *([FOLDED] if has_folded_norms(model) else []),
        "predicts by: " + "; ".join(f"{name}: {value}" for name, value in protocol),
    ]
    return "\n".join(lines)


def _kinds(names: Sequence[str]) -> str:
    """`164 Momentum, global_step`: weights by the last part of their names."""
    counts = Counter(re.split(r"[/.]", name)[-1] for name in names)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.most_common())
