"""The errors that a user can cause. Each is one line: what was wrong, the value, what would be right, which file.

The command line prints these and `OSError` as one line with exit code 2. Any other exception is a bug of Atrous.
"""

import re
import warnings
from collections.abc import Iterable


class AtrousError(ValueError):
    """Something that the user can correct."""


class ConfigError(AtrousError):
    """A setting, option or argument is wrong, or settings contradict one another."""


class DataError(AtrousError):
    """An image, a label file or a dataset is damaged, or is not what the settings say."""


class ModelFileError(AtrousError):
    """A model file or a training state is damaged, or belongs to another network."""


class ConversionError(AtrousError):
    """A file of another program cannot become a model of Atrous."""


class AtrousWarning(UserWarning):
    """What the user should know, although the work goes on. The command line prints it as one line."""


_warned: set[str] = set()


def warn_once(kind: str, text: str) -> None:
    """Warn of the first thing of its kind in this process, or in the one that it was forked from."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(text, AtrousWarning, stacklevel=2)


def text_of(error: Exception) -> str:
    """What an error says, without the `[Errno 13]` that Python puts before the text of an OSError."""
    return re.sub(r"^\[(Errno|WinError) -?\d+\] ", "", str(error))


def listing(items: Iterable[object], limit: int = 5) -> str:
    """The first of many items, for an error of one line."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")
