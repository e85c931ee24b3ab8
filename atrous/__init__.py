"""Atrous: the DeepLab and PSPNet lineage, from labelled images to a model in use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atrous import bench as bench
    from atrous import check as check
    from atrous import convert as convert
    from atrous import evaluate as evaluate
    from atrous import pack as pack
    from atrous import plan as plan
    from atrous import train as train
    from atrous.config import Config as Config
    from atrous.data.label_space import LabelSpace as LabelSpace
    from atrous.prediction import Prediction as Prediction
    from atrous.segmenter import Segmenter as Segmenter
    from atrous.segmenter import create as create
    from atrous.segmenter import load as load
    from atrous.submissions import write_official as write_official

__version__ = "0.1.0"
_FACE = {
    "create": "atrous.segmenter",
    "load": "atrous.segmenter",
    "Segmenter": "atrous.segmenter",
    "Prediction": "atrous.prediction",
    "Config": "atrous.config",
    "LabelSpace": "atrous.data.label_space",
    "write_official": "atrous.submissions",
}
_VERBS = ("bench", "check", "convert", "evaluate", "pack", "plan", "train")  # files that can be called
__all__ = [
    "Config",
    "LabelSpace",
    "Prediction",
    "Segmenter",
    "bench",
    "check",
    "convert",
    "create",
    "evaluate",
    "load",
    "pack",
    "plan",
    "train",
    "write_official",
]


def __dir__() -> list[str]:
    """The public names too, which are not there before they are used."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Resolve the public names when they are asked for: `atrous --help` need not wait for torch."""
    if name in _VERBS:
        return importlib.import_module(f"atrous.{name}")
    if name not in _FACE:
        raise AttributeError(f"module 'atrous' has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)
