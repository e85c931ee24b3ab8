"""Which of the known layouts the dataset in a folder has, and which folder was probably meant."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from atrous.data import list as list_files
from atrous.data.contract import DataConfig, Layout, near_roots, require_root
from atrous.data.pairing import IMAGE_SUFFIXES
from atrous.errors import DataError, listing
from atrous.files import require_folder, subfolders, user_path

Formats = Mapping[str, Layout]


def require_layout(config: DataConfig, formats: Formats) -> None:
    """Refuse a root that doesn't hold a dataset of this layout, with the setting that is probably meant."""
    layout = formats[config.format]
    if layout.is_root is None:
        return
    root = require_root(config)
    if not layout.is_root(config, root):
        raise DataError(
            f"data.root: {root} is not a dataset of data.format={config.format}, which has {layout.expected}"
            f"{_meant(config, layout, root, formats)}"
        )


def _meant(config: DataConfig, layout: Layout, root: Path, formats: Formats) -> str:
    """The setting with which `root`, or a folder near it, would be read."""
    assert layout.is_root is not None
    names = [f"data.format={name}" for name in _likely(root, formats)]
    roots = [f"data.root={path}" for path in near_roots(root, partial(layout.is_root, config))]
    return f"; set {' or '.join((names or roots)[:3])}" if names or roots else f"; it holds {_content(root)}"


def _formats_of(root: Path, formats: Formats) -> Sequence[str]:
    """The layouts of which a folder holds a dataset."""
    return [name for name, row in formats.items() if row.is_root and row.is_root(_defaults(row), root)]


def _content(root: Path) -> str:
    names = subfolders(root)
    number = sum(path.name.lower().endswith(IMAGE_SUFFIXES) for path in root.iterdir())
    images = f"{number} image{'s'[: number != 1]} in no folder of images or of labels" if number else ""
    return " and ".join(filter(None, (f"the folders {listing(names)}" if names else "no folders", images)))


def _defaults(layout: Layout) -> DataConfig:
    return layout.config.model_validate({"format": layout.config.model_fields["format"].default})


def recognised(root: Path, formats: Formats) -> str:
    """The layout of the dataset in a folder. Raises DataError if it may be several, or none that is known."""
    root = require_folder(user_path(root), "data.root")
    names = _likely(root, formats)
    if len(names) == 1:
        return names[0]
    if names:
        raise DataError(f"data.root: {root} may be {' or '.join(names)}; set data.format to one of them")
    near = near_roots(root, lambda folder: len(_likely(folder, formats)) == 1, below_first=True)
    advice = (
        f"; set {' or '.join(f'data.root={path}' for path in near[:3])}" if near else f"; it holds {_content(root)}"
    )
    raise DataError(f"data.root: {root} has no layout that is known (see docs/data.md, Layouts){advice}")


def datasets_below(root: Path, formats: Formats) -> Sequence[Path]:
    """The datasets in a folder that is none itself, nor may be; those inside others left out."""
    if _likely(root, formats):
        return []
    near = near_roots(root, lambda folder: len(_likely(folder, formats)) == 1, below_first=True)
    return [folder for folder in near if folder.is_relative_to(root)]


def _likely(root: Path, formats: Formats) -> Sequence[str]:
    """The layouts that a folder may have. What reads like `folder` and like another is the other, unless it says so."""
    names = _formats_of(root, formats)
    if "folder" in names and any((root / f"classes.{end}").is_file() for end in ("yaml", "yml")):
        return ["folder"]
    others = [name for name in names if name != "folder"]
    return others or ["list"] * list_files.is_root(root) or names
