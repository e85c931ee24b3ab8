"""Where the images of a prediction are worked on: `atrous predict --engine NAME`."""

from atrous.engines.contract import Engine, Outcome, Work
from atrous.engines.local import LOCAL
from atrous.engines.ray import RAY

__all__ = ["ENGINES", "Engine", "Outcome", "Work"]

ENGINES = {"local": LOCAL, "ray": RAY}
