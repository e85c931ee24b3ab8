"""From a path, an archive, the zoo's name or a mapping of arrays to a segmenter."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from atrous.convert import zoo
from atrous.convert.contract import Array, Conversion, Source
from atrous.convert.readers.archive import Source as Found
from atrous.convert.readers.archive import extract, find_source
from atrous.convert.readers.checkpoint import read_checkpoint
from atrous.convert.readers.frozen_graph import read_graph
from atrous.convert.readers.pth import read_pth, without_wrapper
from atrous.convert.readers.tflite import read_tflite
from atrous.convert.recalibrate import is_folded, recalibrate
from atrous.convert.systems import mmsegmentation, semseg, tf_deeplab, torchvision
from atrous.files import prepare_output
from atrous.segmenter import Segmenter


class System(NamedTuple):
    recognised: Callable[[Mapping[str, tuple[int, ...]]], bool]  # from names and shapes
    convert: Callable[[Source, Mapping[str, Any]], Conversion]


SYSTEMS = {
    "tf_deeplab": System(tf_deeplab.recognised, tf_deeplab.convert),
    "semseg": System(semseg.recognised, semseg.convert),
    "torchvision": System(torchvision.recognised, torchvision.convert),
    "mmsegmentation": System(mmsegmentation.recognised, mmsegmentation.convert),
}
ARCHIVES = (".tar.gz", ".tgz", ".tar")
PYTORCH = (".pth", ".pt", ".pth.tar")
ZOO = "zoo:"
FOLDED = (
    "batch norms are folded: before training on from it, convert with --recalibrate IMAGES, which measures them anew"
)
CHECKPOINT = re.compile(r"\.index$|\.data-\d+-of-\d+$")
KINDS = ("a checkpoint's prefix, .index or folder", "a frozen graph (.pb)", ".tflite", *PYTORCH, *ARCHIVES, "zoo:NAME")


def convert(
    source: str | Path | Mapping[str, Array], *, system: str | None = None, options: Mapping[str, Any] | None = None
) -> Segmenter:
    """The model in `source`: a checkpoint, frozen graph, .tflite, .pth, archive, `zoo:NAME`, or arrays by name.

    `system` is told from the names where it isn't given; `options` has what weights can't tell, in the flag names of
    that system (for semseg also `config`, the path of its YAML). Raises FileNotFoundError, or ValueError in one line
    with what is missing or doesn't fit.
    """
    return conversion(source, system=system, options=options).segmenter


def conversion(
    source: str | Path | Mapping[str, Array],
    *,
    system: str | None = None,
    options: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Conversion:
    """As `convert`, with what was not used, and what was taken for granted; `console` shows a download."""
    options = options or {}
    if isinstance(source, Mapping):
        return _converted(Source("the given variables", _arrays(source)), system, options)
    text = str(source)
    if text.startswith(ZOO):
        model = zoo.find(text.removeprefix(ZOO))
        if system not in (None, "tf_deeplab"):
            raise ValueError(f"system={system}: the zoo's models are all of tf_deeplab")
        archive = zoo.fetch(model.name, progress=console)
        return conversion(archive, system="tf_deeplab", options={**model.options, **options})
    if text.endswith(ARCHIVES) and not text.endswith(PYTORCH) and Path(source).is_file():
        return _from_archive(Path(source), system, options)
    return _converted(read(Path(source)), system, options)


def read(path: Path) -> Source:
    """What a file, a checkpoint's prefix or a folder holds. Raises FileNotFoundError, or ValueError: what is wrong."""
    label = str(path)
    if path.is_dir():
        return _read_found(find_source(path), label)
    if path.is_file() and path.name == "checkpoint":  # which names the newest of its folder
        return read(path.parent)
    if path.suffix == ".pb":
        return tf_deeplab.graphs.from_graph(read_graph(path), label)
    if path.suffix == ".tflite":
        return tf_deeplab.graphs.from_tflite(read_tflite(path), label)
    if path.name.endswith(PYTORCH):
        return Source(label, read_pth(path))
    if path.is_file() and not CHECKPOINT.search(path.name):
        raise ValueError(f"{path}: of no kind that can be read; known: {', '.join(KINDS)}")
    return Source(label, read_checkpoint(path))


def _read_found(found: Found, label: str) -> Source:
    return read(found.path)._replace(label=label)


def _from_archive(archive: Path, system: str | None, options: Mapping[str, Any]) -> Conversion:
    with tempfile.TemporaryDirectory() as folder:
        try:
            extract(archive, Path(folder))
            source = _read_found(find_source(Path(folder)), str(archive))
        except FileNotFoundError as error:
            raise FileNotFoundError(str(error).replace(folder, str(archive))) from None
        except ValueError as error:
            raise ValueError(str(error).replace(folder, str(archive))) from None
        return _converted(source, system, options)


def _arrays(source: Mapping[str, Array]) -> dict[str, Array]:
    arrays = {name: np.asarray(array) for name, array in source.items()}
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ValueError(f"the given variables: {name!r} is no variable's name")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"the given variables: {name} is no array of numbers, but of {array.dtype}")
    return without_wrapper(arrays)


def _converted(source: Source, system: str | None, options: Mapping[str, Any]) -> Conversion:
    shapes = {name: array.shape for name, array in source.variables.items()}
    if system is None:
        system = next((name for name, row in SYSTEMS.items() if row.recognised(shapes)), None)
    if system is None:
        first = ", ".join(list(shapes)[:3]) or "none"
        raise ValueError(f"{source.label}: variables of no known system ({first} ...); known: {', '.join(SYSTEMS)}")
    if system not in SYSTEMS:
        raise ValueError(f"system={system}: unknown; known: {', '.join(SYSTEMS)}")
    done = SYSTEMS[system].convert(source, options)
    origin = {
        "source": source.label,
        "system": system,
        "options": {name: str(value) for name, value in options.items()},
    }
    kept = {"converted": {**origin, "not_used": done.ignored, "taken_for_granted": done.notes}}
    return done._replace(segmenter=replace(done.segmenter, results=kept))


# ---- the verb


def run(
    source: str,
    out: Path,
    options: Sequence[str] = (),
    *,
    system: str | None = None,
    images: Sequence[Path] = (),
    console: Console | None = None,
) -> Conversion:
    """Convert, say what was used and what was taken for granted, and write one model file.

    With `images` the batch norms are measured anew on them: see `recalibrate`. Raises as `convert`.
    """
    console = console or Console(markup=False, highlight=False, emoji=False)
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: a model file's name ends in .safetensors")
    if out.is_dir():
        raise IsADirectoryError(f"--out {out}: is a folder")
    if out.parent.exists():  # else it is made when there is something to write
        prepare_output(out.parent)
    done = conversion(source, system=system, options=parse_options(options), console=console)
    if images:
        recalibrate(done.segmenter, images)
    done.segmenter.save(out)
    console.print(summary(done, len(images)), soft_wrap=True)
    console.print(f"wrote {out}")
    return done


def parse_options(options: Sequence[str]) -> dict[str, str]:
    """`["output_stride=8", ...]` as a mapping. Raises ValueError for anything else."""
    pairs = [text.partition("=") for text in options]
    for text, (name, equals, _) in zip(options, pairs, strict=True):
        if not (name and equals):
            raise ValueError(f"{text!r}: an option has the form flag=value, such as output_stride=8")
    return {name.lstrip("-"): value for name, _, value in pairs}


def summary(done: Conversion, measured: int) -> str:
    config = done.segmenter.model.config
    parameters = sum(parameter.numel() for parameter in done.segmenter.model.parameters())
    lines = [
        f"{done.system}: {config.name}, {config.backbone.name}, output stride {config.output_stride}, "
        f"{done.segmenter.model.num_classes} classes, {parameters / 1e6:.2f} M parameters",
        f"{done.used} variables used" + (f", {len(done.ignored)} not: {_kinds(done.ignored)}" if done.ignored else ""),
        *(f"taken for granted: {note}" for note in done.notes),
        *([f"batch norms measured anew on {measured} images"] if measured else []),
        *([FOLDED] if is_folded(done.segmenter.model) else []),
        "predicts by: " + "; ".join(f"{name}: {value}" for name, value in done.segmenter.inference.describe().items()),
    ]
    return "\n".join(lines)


def _kinds(names: Sequence[str]) -> str:
    """`164 Momentum, global_step`: variables by the last part of their names."""
    counts = Counter(re.split(r"[/.]", name)[-1] for name in names)
    return ", ".join(f"{count} {kind}" if count > 1 else kind for kind, count in counts.most_common())
