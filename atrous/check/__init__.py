"""`atrous check`: reads a whole data set, names what is wrong with it, says the mend, and mends a copy."""

from atrous import verb_module
from atrous.check.checkup import Checkup, Finding

__all__ = ["Checkup", "Finding"]

verb_module.make_callable(__name__)  # `atrous.check(...)`
