"""How Cityscapes' images are called."""

import re

EXAMPLE = "frankfurt_000000_000576_leftImg8bit.png"
MISSING = "cityscapesScripts stops at an image without a prediction"


def identify(name: str) -> str | None:
    """`frankfurt_000000_000576` of any name that begins so."""
    match = re.fullmatch(r"([A-Za-z-]+_\d{6}_\d{6})(?:_.*)?", name, re.ASCII)
    return None if match is None else match[1]
