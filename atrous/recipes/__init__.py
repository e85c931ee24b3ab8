"""The recipes: experiments in YAML, in one folder a dataset. This file only lists them."""

import difflib
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent


def recipes() -> dict[str, Path]:
    """The recipes in the package, by name: `folder/stem`."""
    return {f"{path.parent.name}/{path.stem}": path for path in sorted(FOLDER.glob("*/*.yaml"))}


def in_folder(folder: str) -> dict[str, Path]:
    """The recipes of one folder, such as `voc`; all of them for the empty name."""
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    return {name: path for name, path in recipes().items() if name.startswith(prefix)}


def lines(chosen: Mapping[str, Path]) -> list[str]:
    """Each recipe with the comment that opens it, in two columns."""
    width = max(map(len, chosen))
    first = {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in chosen.items()}
    return [f"{name:{width}} {comment}" for name, comment in first.items()]


def matching(word: str) -> list[str]:
    """The names of the recipes in the folder `word`, or else of those that contain it, or else the nearest."""
    names = list(recipes())
    within = list(in_folder(word))
    containing = [name for name in names if word and word in name]
    return within or containing or difflib.get_close_matches(word, names, n=1) or _in_nearest_folder(word, names)


def _in_nearest_folder(word: str, names: list[str]) -> list[str]:
    folders = {name.partition("/")[0] for name in names}
    close = difflib.get_close_matches(word.partition("/")[0], folders, n=1)
    return [name for name in names if close and name.startswith(f"{close[0]}/")]


def hint(word: str) -> str:
    """`; did you mean ...?`, or where to see all recipes."""
    names = matching(word)
    if not names:
        return "; `atrous recipes` lists the recipes"
    return f"; did you mean {' or '.join(names)}?" if len(names) <= 8 else f"; {len(names)} recipes match it"
