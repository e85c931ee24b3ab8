"""How COCO's images are called, and what its server wants to know in the name of a file."""

import re

from atrous.settings import Settings
from atrous.submissions.contract import Word


class CocoConfig(Settings):
    """Both are parts of the file's name, by which the server knows what it gets."""

    split: Word = "test-dev2017"
    """Images that were predicted: test-dev2017, test-challenge2017 or val2017."""
    method: Word = "atrous"
    """Name of the method."""


def identify(name: str) -> str | None:
    """`000000142238` of this name, of `COCO_val2014_000000142238`, and of the id 142238."""
    match = re.fullmatch(r"(?:.*\D)?(\d{12})|(\d{1,12})", name, re.ASCII)
    return None if match is None else (match[1] or match[2]).zfill(12)
