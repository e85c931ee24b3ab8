"""Resumable downloads over HTTP: a file is complete or absent, and verified by its hash from then on."""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, NamedTuple, cast
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from atrous.errors import ConfigError, ConversionError
from atrous.files import write_atomically
from atrous.progress import LINE_EVERY

TIMEOUT = 60.0  # seconds without data
CHUNK = 1 << 18  # bytes
NOT_SATISFIABLE = 416  # no such range: the local part is not the beginning of the server's file


def download(url: str, path: Path, console: Console | None = None) -> str:
    """Fetch `url` unless `path` exists, and return the SHA-256, which is recorded in `path`.json.

    After an interruption, the next call resumes from `path`.part. Other processes that need the same file wait. Raises
    OSError, with the address or the path, if the network or the disk fails, and ConversionError if the file does not
    match its recorded hash.
    """
    _require_http(url)
    console = console or Console(quiet=True)
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(part, console):
            if not path.exists():  # another process may have fetched it meanwhile
                return _fetch(url, part, path, console)
            _tidy(part, path)
    digest = _verified(path, path)
    _say(console, f"{path} is already here, SHA-256 {digest}")
    return digest


def _fetch(url: str, part: Path, path: Path, console: Console) -> str:
    try:
        _receive(url, part, path, console)
        digest = _verified(part, path)
        part.replace(path)
    finally:
        _tidy(part, path)
    _say(console, f"{path}: SHA-256 {digest}, recorded in {_record(path).name}")
    return digest


def _tidy(part: Path, path: Path) -> None:
    """Delete a part that can't be resumed."""
    if part.exists() and not (part.stat().st_size and recall(path).validator):
        part.unlink()


def _require_http(url: str) -> None:
    try:
        scheme = urlsplit(url).scheme
    except ValueError as error:
        raise ConfigError(f"{url}: not a valid address: {error}") from None
    if scheme not in ("http", "https"):
        raise ConfigError(f"{url}: files are fetched from http:// and https:// addresses only")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


# ---- records


class Record(BaseModel):
    """What is known about a file, in a JSON file next to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None  # None: it was put here by hand
    validator: str | None = None  # the server's ETag or date, which changes with the file; None: can't be resumed
    sha256: str | None = None  # None: it has never been complete


def recall(path: Path) -> Record:
    """The record of the file `path`, which need not exist. Raises ConversionError if the record is damaged."""
    try:
        return Record.model_validate_json(_record(path).read_bytes())
    except FileNotFoundError:
        return Record()
    except ValidationError as error:
        raise ConversionError(f"{_record(path)}: damaged; delete it to record the hash again") from error


def forget(path: Path) -> None:
    """Delete a file that turned out to be another one, and its record."""
    for file in (path, _record(path)):
        file.unlink(missing_ok=True)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _remember(path: Path, **changes: str | None) -> None:
    write_atomically(_record(path), recall(path).model_copy(update=changes).model_dump_json(indent=2) + "\n")


def _verified(file: Path, path: Path) -> str:
    """The SHA-256 of `file`, which is `path` or will become it, if it is the recorded one or the first."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    known = recall(path).sha256
    if known is None:
        _remember(path, sha256=digest)
    elif known != digest:
        raise ConversionError(_mismatch(file, path, digest, known))
    return digest


def _mismatch(file: Path, path: Path, digest: str, known: str) -> str:
    """What differs, and what to do; deletes a download that is refused."""
    record = _record(path)
    difference = f"has SHA-256 {digest}, but {record} has {known}"
    if file == path:
        return f"{path} {difference}: delete {path} to fetch it again, or {record} to trust it as it is"
    url = recall(path).url
    file.unlink()
    return f"{url} {difference}: it was changed there or on its way, and was deleted; delete {record} to trust it"


# ---- one process at a time


def _locked(part: Path, console: Console) -> AbstractContextManager[object]:
    """Wait until no other process works on `part`. Without flock (Windows), nothing is guaranteed."""
    if os.name != "posix":
        return nullcontext()
    while True:
        with _writing(part):
            file = part.open("ab")
            _lock(file, part, console)
        if _is_at(file, part):
            return file
        file.close()  # whoever had the lock has renamed or removed this file


def _lock(file: IO[bytes], part: Path, console: Console) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(console, f"waiting for another process that is fetching {part.stem}")
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


# ---- network: every failure is a FileNotFoundError or ConnectionError with the address


class Answer(NamedTuple):
    body: HTTPResponse
    start: int  # the first byte of the body
    total: int  # bytes of the complete file
    validator: str | None


def _receive(url: str, part: Path, path: Path, console: Console) -> None:
    """Complete `part`, or start it again if the server's file has changed."""
    known = recall(path)
    size = part.stat().st_size if part.exists() else 0
    answer = _ask(url, size, known.validator if known.url == url else None)
    with answer.body:
        if not answer.start:
            with _writing(part):
                part.write_bytes(b"")
            _remember(path, url=url, validator=answer.validator)
        _require_space(part.parent, answer.total - answer.start, url)
        resumed = f", resumed at {answer.start / 1e6:,.1f} MB" if answer.start else ""
        _say(console, f"{url}: {answer.total / 1e6:,.1f} MB{resumed}")
        with _writing(part):
            _append(url, part, answer, console)


def _ask(url: str, start: int = 0, validator: str | None = None) -> Answer:
    """Ask for the file, or for its bytes from `start` if the server's file still has this validator."""
    headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
    try:
        body = cast(HTTPResponse, _opener().open(Request(url, headers=headers), timeout=TIMEOUT))
    except HTTPError as error:
        error.close()
        if error.code == NOT_SATISFIABLE and headers:
            return _ask(url)
        raise _refused(url, error.code, error.reason) from None
    except (OSError, HTTPException, UnicodeError) as error:  # UnicodeError: a host name that isn't valid
        raise ConnectionError(f"{url} cannot be reached: {_reason(error)}") from error
    return _answer(url, body, start if headers else 0) or _ask(url)


def _answer(url: str, body: HTTPResponse, start: int) -> Answer | None:
    """None if it is not the requested part."""
    problem = _problem(body)
    if problem:
        body.close()
        raise ConnectionError(f"{url}: {problem}")
    length = body.length or 0
    if body.status == 200:
        return Answer(body, 0, length, _validator(body.headers))
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
    if span and tuple(map(int, span.groups())) == (start, start + length):
        return Answer(body, start, start + length, _validator(body.headers))
    body.close()
    if not start:
        raise ConnectionError(f"{url}: the server sent a part of the file, but was asked for the whole file")
    return None


def _problem(body: HTTPResponse) -> str | None:
    if body.status not in (200, 206):
        return f"the server answered {body.status} {body.reason}"
    if body.headers.get_content_type() == "text/html":
        return "the server answered with a web page, not a file; does a proxy ask for a login?"
    if body.length is None:
        return "the server doesn't say how long the file is, so a broken download would go unnoticed"
    return None


def _validator(headers: HTTPMessage) -> str | None:
    """For If-Range (RFC 9110, 13.1.5): not a weak ETag, which may stand for other bytes."""
    tag = headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")


def _refused(url: str, code: int, reason: str) -> OSError:
    if code in (404, 410):
        return FileNotFoundError(f"{url}: the server has no such file ({code})")
    return ConnectionError(f"{url}: the server answered {code} {reason}")


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer within {TIMEOUT:g} s"
    return str(cause) or type(cause).__name__


class _Redirects(HTTPRedirectHandler):
    """Refuses redirects from https to http; the opener can't open other schemes."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """For http and https only: urllib's own also opens ftp://, file:// and data:."""
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
        UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


# ---- disk


def _append(url: str, part: Path, answer: Answer, console: Console) -> None:
    size, last_line = answer.start, time.monotonic()
    with part.open("ab") as file, _bar(console) as bar:
        task = bar.add_task(part.stem, total=answer.total, completed=size)
        while size < answer.total:
            size += file.write(_read(url, answer, size))
            bar.update(task, completed=size)
            if bar.disable and time.monotonic() - last_line > LINE_EVERY:
                last_line = time.monotonic()
                _say(console, f"{part.stem}: {size / 1e6:,.1f} of {answer.total / 1e6:,.1f} MB")


def _read(url: str, answer: Answer, size: int) -> bytes:
    """The next bytes, at least one."""
    try:
        chunk = answer.body.read1(min(CHUNK, answer.total - size))
        reason = "the connection ended"
    except (OSError, HTTPException) as error:
        chunk, reason = b"", _reason(error)
    if chunk:
        return chunk
    advice = "the same command resumes there" if answer.validator else "they can't be resumed"
    raise ConnectionError(f"{url}: {reason} after {size:,} of {answer.total:,} bytes; {advice}")


def _bar(console: Console) -> Bar:
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Bar(*columns, console=console, disable=not console.is_terminal)


def _require_space(folder: Path, needed: int, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{url}: {needed / 1e6:,.1f} MB are missing, but {folder} has room for {free / 1e6:,.1f} MB")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Add the path to errors of the disk; those of the network have an address."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
