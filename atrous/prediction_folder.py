"""What a folder of predictions holds: a record in it says which of its folders are results."""

import json
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from atrous.files import write_atomically

RECORD = "atrous.json"  # what wrote the results that are there, and in which folders they are


def recorded_folders(out: Path) -> frozenset[str]:
    """The folders of results in an output folder, by its record."""
    return frozenset(read_record(out).get("folders", ()))


def read_record(out: Path) -> dict[str, Any]:
    """{} if there is none, or it isn't ours."""
    try:
        tree = json.loads((out / RECORD).read_bytes())
        return dict(tree) if "atrous" in tree and set(map(type, tree["folders"])) <= {str} else {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}


def record(out: Path, folders: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Add folders to the record, with the facts of what writes them."""
    known = {"atrous": version("atrous"), **facts, "folders": sorted({*recorded_folders(out), *folders})}
    write_atomically(out / RECORD, json.dumps(known, indent=1) + "\n")
