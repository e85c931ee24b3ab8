"""The errors that a user can cause. Each is one line: what was wrong, the value, what would be right, which file.

The command line prints these and `OSError` as one line with exit code 2. Any other exception is a bug of Atrous.
"""

import difflib
import errno
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

MAX_SHOWN = 60  # characters of a value
NO_MEMORY = re.compile(  # in what PyTorch raises as a RuntimeError
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory|bad_alloc|STATUS_ALLOC_FAILED"
)
LESS_MEMORY = {  # what to do if it runs out, by whose it is
    "GPU": "a training needs less with train.batch=auto, train.activation_checkpointing=true or a smaller augment.crop "
    "(`atrous plan` shows what fits), a prediction with evaluate.mode=sliding",
    "CPU": "a training needs less with train.batch=auto, train.activation_checkpointing=true or a smaller augment.crop "
    "(`atrous plan` shows what fits) and with fewer --workers, a prediction with evaluate.mode=sliding",
}


class AtrousError(ValueError):
    """Something that the user can correct."""


class ConfigError(AtrousError):
    """A setting, option or argument is wrong, or settings contradict one another."""


class DataError(AtrousError):
    """An image, a label file or a dataset is damaged, or is not what the settings say."""


class ModelFileError(AtrousError):
    """A model file or a training state is damaged, or belongs to another network."""


class DamagedModelError(ModelFileError):
    """A file that Atrous wrote is not as it was."""


class AtrousWarning(UserWarning):
    """What a user should know, but need not correct."""


class ConversionError(AtrousError):
    """A file of another program cannot become a model of Atrous."""


class DamagedError(ConversionError):
    """What is wrong inside a file; whoever opened the file adds which it is."""


class ProcessDied(RuntimeError):  # noqa: N818 - as FloatingPointError, the failure of a run, not of its user
    """Another process that this one needs ended, or can't be reached. One line, exit code 1."""


class OutOfMemory(RuntimeError):  # noqa: N818 - as FloatingPointError, the failure of a run, not of its user
    """The memory does not suffice, and what would need less is said. One line, exit code 1."""


class Mismatch(RuntimeError):  # noqa: N818 - as FloatingPointError, the failure of a run, not of its user
    """An exported file computes something else than its model, or a model than its original. One line, exit code 1."""


_warned: set[str] = set()


def warn_once(kind: str, text: str) -> None:
    """Warn of the first thing of its kind in this process, or in the one that it was forked from."""
    if kind not in _warned:
        _warned.add(kind)
        warnings.warn(text, AtrousWarning, stacklevel=2)


def text_of(error: Exception) -> str:
    """What an error says, without the `[Errno 13]` that Python puts before the text of an OSError."""
    return re.sub(r"^\[(Errno|WinError) -?\d+\] ", "", str(error))


def out_of_memory(error: BaseException) -> Literal["CPU", "GPU"] | None:
    """Whose memory did not suffice, if that is what the error says: Python, NumPy, Pillow and PyTorch differ."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "CPU"
    if not isinstance(error, RuntimeError) or not NO_MEMORY.search(str(error)):
        return None
    return "GPU" if re.search(r"CUDA|CUBLAS|CUDNN|HIP|MPS|XPU", str(error)) else "CPU"


def listing(items: Iterable[object], limit: int = 5) -> str:
    """The first of many items, for an error of one line."""
    texts = [str(item) for item in items]
    return ", ".join(texts[:limit]) + (", ..." if len(texts) > limit else "")


def shown(value: object) -> str:
    """A value that someone else wrote, in a few printable characters."""
    return shortened(value if isinstance(value, str) else json.dumps(value, default=str))


def shortened(text: str) -> str:
    short = text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
    return short if short.isprintable() else short.encode("unicode_escape").decode()


def nearest(word: str, known: Mapping[str, object] | Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest known word, or all of them if none is similar and there are few."""
    names = list(known)
    ends = [name for name in names if name.rpartition(".")[2] == word.rpartition(".")[2]]
    close = ends or difflib.get_close_matches(word[:MAX_SHOWN], names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""
