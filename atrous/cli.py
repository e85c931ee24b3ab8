"""The program: runs a verb. A user's error is one line with exit code 2."""

import contextlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import typer

from atrous import __version__
from atrous.commands.app import app
from atrous.errors import (
    LESS_MEMORY,
    AtrousError,
    AtrousWarning,
    Mismatch,
    OutOfMemory,
    ProcessDied,
    out_of_memory,
    text_of,
)
from atrous.interrupt import Interrupted, StopFlag, ignore_signals, stop_signals
from atrous.terminal import answer


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 a run that failed, 2 an error that the user can correct, 128 + N signal N."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that it can't encode must not stop a verb
            stream.reconfigure(errors="backslashreplace")
    code = run(arguments)
    ignore_signals()
    sys.exit(code)


REPHRASED = {"help": "--help", "version": "--version"}  # verbs of other programs


def _rephrased(arguments: Sequence[str]) -> list[str]:
    """`help train` as `train --help`, and a `~` after an equals sign as the home folder, which a shell leaves alone."""
    words = [_with_home(text) for text in arguments]
    return [*words[1:], REPHRASED[words[0]]] if words and words[0] in REPHRASED else words


def _with_home(text: str) -> str:
    from atrous.files import user_path

    name, equals, value = text.partition("=")
    if equals and value.startswith("~"):
        return f"{name}={user_path(value)}"
    return str(user_path(text)) if text.startswith("~") else text


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code. A signal ends it in one line, whatever a library made of it on the way."""
    words = _rephrased(sys.argv[1:] if arguments is None else arguments)
    stop = StopFlag()
    try:
        with stop_signals(stop), stop.watched(), _warnings_in_one_line():
            try:
                return _run(words)
            except Exception as error:
                with stop.deferred():  # an explanation is not interrupted
                    return _explain(error, words, stop)
            finally:
                _leave_process_group()
    except Interrupted as interruption:
        return _say_interrupted(interruption, stop)
    except (KeyboardInterrupt, typer.Abort):
        return _say_interrupted(Interrupted(), stop)


def _run(words: Sequence[str]) -> int:
    code = typer.main.get_command(app).main(list(words), prog_name="atrous", standalone_mode=False)
    if code == 130:  # typer's own answer to Ctrl-C
        raise Interrupted
    return code if isinstance(code, int) else 0


def _explain(error: Exception, words: Sequence[str], stop: StopFlag) -> int:
    """Print what went wrong, in one line if the user or the machine is the cause; returns the exit code."""
    if os.environ.get("ATROUS_DEBUG"):
        raise error
    if isinstance(error, FloatingPointError | Mismatch | ProcessDied | OutOfMemory):
        return answer(str(error), 1)
    if isinstance(error, BrokenPipeError):  # `atrous recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, AtrousError | OSError):
        return answer(text_of(error), 2)
    if hasattr(error, "format_message"):  # what click raises for a wrong option
        return answer(_misuse(error, words), 2)
    if device := out_of_memory(error):
        return answer(f"the {device} is out of memory; {LESS_MEMORY[device]}", 1)
    if _is_lost_peer(error):
        return answer(sys.modules["atrous.distributed"].LOST_PEER, 1)
    if stop.number is not None:  # imports of numpy and torch turn an interruption into errors of their own
        return _say_interrupted(Interrupted(number=stop.number), stop)
    traceback.print_exception(error)
    return answer(f"this is a fault of Atrous {__version__}, not yours; please report it with the lines above", 1)


def _misuse(error: Any, words: Sequence[str]) -> str:  # noqa: ANN401 - a UsageError of click, which typer hides
    """A wrong call in one line: what was wrong, what was probably meant, where to read more."""
    context = error.ctx
    path = context.command_path if context is not None else "atrous"
    where = f"see {path} --help"
    if not hasattr(error, "option_name") or not hasattr(error, "possibilities"):
        return f"{error.format_message().rstrip('.')}; {where}"
    from atrous import advice

    options = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
    meaning = advice.for_option(error.option_name, words, context.info_name, options)
    return f"{context.info_name} has no option {error.option_name}; {f'{meaning}; ' if meaning else ''}{where}"


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Our own warnings as one line on stderr, in the processes that read images too."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, AtrousWarning):
                answer(f"warning: {message}", 0)
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = say
        warnings.simplefilter("always", AtrousWarning)  # each comes once
        warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")  # Pillow's; half of our limit
        yield


def _is_lost_peer(error: Exception) -> bool:
    return "atrous.distributed" in sys.modules and sys.modules["atrous.distributed"].is_lost_peer(error)


def _say_interrupted(interruption: Interrupted, stop: StopFlag) -> int:
    return interruption.exit_code if stop.is_quiet else answer(str(interruption), interruption.exit_code)


def _leave_process_group() -> None:
    if "atrous.distributed" in sys.modules:
        sys.modules["atrous.distributed"].leave()
