"""TensorBoard's event files: figures and pictures of a training by step, as `tensorboard --logdir` shows them."""

import contextlib
import importlib.util
import io
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from atrous.errors import ConfigError

FIRST = "brain.Event:2"  # the version of the format, which begins a file
PREFIX = "events.out.tfevents."
PACKAGE = "tensorboard"


def require_package() -> None:
    """Raises ConfigError if what writes event files isn't installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ConfigError(
            "train.tensorboard=true needs the package tensorboard, which is not installed; "
            "install it with: pip install 'atrous[tensorboard]', or set train.tensorboard=false"
        )


class EventFile:
    """Appends events to a new file in a folder. What can't be written, as on a full disk, is tried again with the next.

    Events of earlier files at `first_step` and later no longer count: they were lost in a kill, and come again.
    """

    def __init__(self, folder: Path, first_step: int, say: Callable[[str], None]) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self.path, self.say = new_path(folder), say
        start = SessionLog(status=SessionLog.START)
        self.pending = event(0, file_version=FIRST) + event(first_step, session_log=start)
        self.size, self.is_failing = 0, False

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if values:
            parts = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            self._add(event(step, summary=Summary(value=parts)))

    def add_picture(self, step: int, tag: str, size: tuple[int, int], png: bytes) -> None:
        """`size` is height and width; `png` has three channels."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=png)
        self._add(event(step, summary=Summary(value=[Summary.Value(tag=tag, image=image)])))

    def _add(self, content: bytes) -> None:
        self.pending += content
        self.flush()

    def flush(self) -> None:
        """Write what is pending. A failure is said once, and leaves the file as it was."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.size else "wb") as file:
                file.seek(self.size)
                file.write(self.pending)
        except OSError as error:
            with contextlib.suppress(OSError):  # then the next attempt writes over it
                os.truncate(self.path, self.size)
            if not self.is_failing:
                self.say(f"cannot write {self.path}: {error.strerror}; the training goes on, and tries again")
            self.is_failing = True
            return
        self.size, self.pending, self.is_failing = self.size + len(self.pending), b"", False


def event(step: int, **content: Any) -> bytes:  # noqa: ANN401 - one field of an event
    """An event as the files have it: a TFRecord."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=time.time(), step=step, **content).SerializeToString())
    return buffer.getvalue()


def new_path(folder: Path) -> Path:
    """A file that comes after all others in the folder: TensorBoard reads them in the order of their names.

    The names have the time in them, and a clock may have been set back.
    """
    times = [name.split(".")[3] for name in names_in(folder)]
    latest = max((int(text) for text in times if text.isdecimal()), default=0)
    return folder / f"{PREFIX}{max(int(time.time()), latest + 1):010d}.{platform.node()}.{os.getpid()}"


def names_in(folder: Path) -> list[str]:
    """The names of the event files in a folder, in their order."""
    return sorted(path.name for path in folder.glob(f"{PREFIX}*"))
