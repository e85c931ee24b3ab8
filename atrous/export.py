"""`atrous export`: a model as a file for other programs, which is compared with the model before it is kept."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from atrous import artefact, int8, model_file, segmenter, terminal, verb_module
from atrous.artefact import Export
from atrous.data.finding import find_all
from atrous.errors import ConfigError
from atrous.files import user_path
from atrous.runtimes import RUNTIMES
from atrous.runtimes.contract import Opened
from atrous.runtimes.pytorch import prepare
from atrous.segmenter import Segmenter, read_image
from atrous.types import Image, Size

Judge = Callable[[Opened], object]  # of a written file, before it is in its place


def run(
    path: Path,
    to: str,
    *,
    out: Path | None = None,
    size: Size | None = None,
    probabilities: bool = False,
    grouping: bool = True,
    images: Sequence[str] = (),
    integers: int8.Request | None = None,
    console: Console | None = None,
) -> Path:
    """Export the model file `path` for a runtime, a row of RUNTIMES, and print what was compared.

    `size` is the only one that the file will take; None: any, or `default_size` where it must be one. With `grouping`,
    a panoptic model's graph also groups pixels into things, if the format can. `images` are compared, too. With
    `integers`, convolutions compute in 8-bit integers; what that costs is printed, and measured on data. Raises
    ConfigError for what the runtime can't do, OSError, and Mismatch if the file computes something else: then it isn't
    written.
    """
    console = console or terminal.console()
    path = user_path(path)
    artefact.row_of(to)
    require_model(path)
    target = user_path(out) if out is not None else default_path(segmenter.model_in(path), to)
    artefact.require_writable(target, to)
    if integers is not None:
        int8.require_possible(integers)
    model = segmenter.load(path)
    pictures = read_images(images)
    console.print(f"exporting {path} for {to}; the file is then compared with the model", soft_wrap=True)
    settings = possible(Export(to, size, probabilities, int8=integers is not None, grouping=grouping), model, console)
    exported, judge = (model, unjudged) if integers is None else integer_model(model, integers, settings, console)
    artefact.write(
        exported.model,
        model.header,
        target,
        settings,
        pictures,
        lambda one: console.print(one.describe(), soft_wrap=True),
        judge,
    )
    console.print(f"wrote {target}", soft_wrap=True)
    if integers is not None and integers.settings:
        int8.print_loss(model, target, integers.settings, console)
    return target


def require_model(path: Path) -> None:
    """Raises ConfigError for a file that is exported already."""
    name = model_file.runtime_name(segmenter.model_in(path))
    if name != "pytorch":
        raise ConfigError(
            f"{path}: an exported network has no model; it is a file for {name}: name the .safetensors file that it is "
            "from"
        )


def possible(export: Export, model: Segmenter, console: Console) -> Export:
    """What files for the runtime can do of what is asked for; the rest is said."""
    name, row = export.runtime, RUNTIMES[export.runtime]
    if export.size is None and row.has_one_size:
        height, width = artefact.default_size(model.header)
        export = export._replace(size=(height, width))
        console.print(f"--size {height},{width}: files for {name} take images of one size", soft_wrap=True)
    if export.grouping and model.task.decoders is not None and not row.groups:
        export = export._replace(grouping=False)
        console.print(
            f"--no-grouping: files for {name} can't group pixels into things; `atrous.load` does", soft_wrap=True
        )
    return export


def integer_model(
    model: Segmenter, integers: int8.Request, settings: Export, console: Console
) -> tuple[Segmenter, Judge]:
    """The model with ranges, and what compares a file of it with floats."""
    has_results = RUNTIMES[settings.runtime].as_rounded is not None
    rounded, readers = int8.integer_model(model, integers, console, results=has_results)
    floats = prepare(artefact.in_floats(model.model), "cpu")
    return rounded, lambda network: int8.require_agreement(floats, network, readers, settings.size, console)


def unjudged(network: Opened) -> None:
    pass


def default_path(path: Path, to: str) -> Path:
    """Beside the model."""
    return path.with_suffix(RUNTIMES[to].suffix if to in RUNTIMES else "")


def read_images(sources: Sequence[str]) -> dict[str, Image]:
    return {str(image.path): read_image(image.path) for image in (find_all(sources) if sources else ())}


verb_module.make_callable(__name__)  # `atrous.export(...)`
