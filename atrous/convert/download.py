"""Big files over HTTP: gone on with after a break, whole or not there, and the same ones ever after."""

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

from atrous.files import write_atomically
from atrous.progress import LINE_EVERY

TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 18  # bytes
NOT_SATISFIABLE = 416  # no such range: what is here is no beginning of what is there


def download(url: str, path: Path, console: Console | None = None) -> str:
    """Fetch `url`, unless `path` is there already; the SHA-256, which is remembered in `path`.json.

    What arrived before a break lies in `path`.part, and the next call goes on from there. Other processes that want the
    same file wait. Raises OSError, with the address or the path, where the network or the disk fails, and ValueError if
    the file is not the one that is remembered.
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
    _say(console, f"{path} is here already, SHA-256 {digest}")
    return digest


def _fetch(url: str, part: Path, path: Path, console: Console) -> str:
    try:
        _receive(url, part, path, console)
        digest = _verified(part, path)
        part.replace(path)
    finally:
        _tidy(part, path)
    _say(console, f"{path}: SHA-256 {digest}, remembered in {_record(path).name}")
    return digest


def _tidy(part: Path, path: Path) -> None:
    """Keep only what can be gone on with."""
    if part.exists() and not (part.stat().st_size and recall(path).validator):
        part.unlink()


def _require_http(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: files are fetched from http:// and https:// addresses only")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


# ---- what is remembered


class Record(BaseModel):
    """What is known of a file, kept in a JSON beside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str | None = None  # None: it was put here by hand
    validator: str | None = None  # the server's ETag or date of the file: changes with it; None: a break starts anew
    sha256: str | None = None  # None: it hasn't been here whole


def recall(path: Path) -> Record:
    """What is remembered of the file `path`, which needn't be there. Raises ValueError if the record is damaged."""
    try:
        return Record.model_validate_json(_record(path).read_bytes())
    except FileNotFoundError:
        return Record()
    except ValidationError as error:
        raise ValueError(f"{_record(path)}: damaged; delete it, and hashes are remembered anew") from error


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _remember(path: Path, **changes: str | None) -> None:
    write_atomically(_record(path), recall(path).model_copy(update=changes).model_dump_json(indent=2) + "\n")


def _verified(file: Path, path: Path) -> str:
    """The SHA-256 of `file`, which is `path` or will become it, if it's the remembered one or the first."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    known = recall(path).sha256
    if known is None:
        _remember(path, sha256=digest)
    elif known != digest:
        raise ValueError(_mismatch(file, path, digest, known))
    return digest


def _mismatch(file: Path, path: Path, digest: str, known: str) -> str:
    """Say what differs and how to go on; a download that is refused isn't kept."""
    record = _record(path)
    found = f"has SHA-256 {digest}, but {record} remembers {known}"
    if file == path:
        return f"{path} {found}: delete {path} to fetch it anew, or {record} to trust it as it is"
    url = recall(path).url
    file.unlink()
    return f"{url} {found}: it was changed there or on its way, and is not kept; delete {record} to trust it"


# ---- one process at a time


def _locked(part: Path, console: Console) -> AbstractContextManager[object]:
    """Wait until no other process works on `part`. Where there is no flock (Windows), nothing is promised."""
    if os.name != "posix":
        return nullcontext()
    while True:
        with _writing(part):
            file = part.open("ab")
            _lock(file, part, console)
        if _is_at(file, part):
            return file
        file.close()  # whoever had the lock is done with this file: renamed or removed it


def _lock(file: IO[bytes], part: Path, console: Console) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(console, f"waiting for another process that fetches {part.stem}")
        fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: IO[bytes], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


# ---- over the network, every failure a FileNotFoundError or ConnectionError with the address


class Answer(NamedTuple):
    body: HTTPResponse
    start: int  # the first byte that comes
    total: int  # bytes of the whole file
    validator: str | None


def _receive(url: str, part: Path, path: Path, console: Console) -> None:
    """Complete `part`, or make it anew where the server's file is another one by now."""
    known = recall(path)
    have = part.stat().st_size if part.exists() else 0
    answer = _ask(url, have, known.validator if known.url == url else None)
    with answer.body:
        if not answer.start:
            with _writing(part):
                part.write_bytes(b"")
            _remember(path, url=url, validator=answer.validator)
        _require_space(part.parent, answer.total - answer.start, url)
        size = f"{answer.total / 1e6:,.1f} MB"
        _say(console, f"{url}: {size}" + (f", from {answer.start / 1e6:,.1f} MB on" if answer.start else ""))
        with _writing(part):
            _append(url, part, answer, console)


def _ask(url: str, have: int = 0, validator: str | None = None) -> Answer:
    """Ask for all, or for what comes after `have` bytes if the file is still the one that `validator` tells."""
    wanted = {"Range": f"bytes={have}-", "If-Range": validator} if have and validator else {}
    try:
        body = cast(HTTPResponse, _opener().open(Request(url, headers=wanted), timeout=TIMEOUT))
    except HTTPError as error:
        error.close()
        if error.code == NOT_SATISFIABLE and wanted:
            return _ask(url)
        raise _refused(url, error.code, error.reason) from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a host that can't be one
        raise ConnectionError(f"{url} cannot be reached: {_reason(error)}") from error
    answer = _understood(url, body, have if wanted else 0)
    return answer or _ask(url)


def _understood(url: str, body: HTTPResponse, have: int) -> Answer | None:
    """What comes; None: another part than was asked for."""
    problem = _problem(body)
    if problem:
        body.close()
        raise ConnectionError(f"{url}: {problem}")
    length = body.length or 0
    if body.status == 200:
        return Answer(body, 0, length, _validator(body.headers))
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", body.headers.get("Content-Range", ""))
    if span and tuple(map(int, span.groups())) == (have, have + length):
        return Answer(body, have, have + length, _validator(body.headers))
    body.close()
    if not have:
        raise ConnectionError(f"{url}: the server sent a part of the file, but was asked for all of it")
    return None


def _problem(body: HTTPResponse) -> str | None:
    if body.status not in (200, 206):
        return f"the server answered {body.status} {body.reason}"
    if body.headers.get_content_type() == "text/html":
        return "the server answered with a web page, not a file; is there a proxy that wants a login?"
    if body.length is None:
        return "the server doesn't say how long the file is, so that it couldn't be told whether it is whole"
    return None


def _validator(headers: HTTPMessage) -> str | None:
    """What an If-Range may hold (RFC 9110, 13.1.5): no weak ETag, which may stand for other bytes."""
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
    """Never from https to http; that other schemes are refused is the opener's doing, which can't open them."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Urllib's own would open ftp://, file:// and data: as well."""
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


# ---- onto the disk


def _append(url: str, part: Path, answer: Answer, console: Console) -> None:
    got, last_line = answer.start, time.monotonic()
    with part.open("ab") as file, _bar(console) as bar:
        task = bar.add_task(part.stem, total=answer.total, completed=got)
        while got < answer.total:
            got += file.write(_read(url, answer, got))
            bar.update(task, completed=got)
            if bar.disable and time.monotonic() - last_line > LINE_EVERY:
                last_line = time.monotonic()
                _say(console, f"{part.stem}: {got / 1e6:,.1f} of {answer.total / 1e6:,.1f} MB")


def _read(url: str, answer: Answer, got: int) -> bytes:
    """The next bytes, at least one."""
    try:
        chunk = answer.body.read1(min(CHUNK, answer.total - got))
        reason = "the connection ended"
    except (OSError, HTTPException) as error:
        chunk, reason = b"", _reason(error)
    if chunk:
        return chunk
    kept = "the same command goes on from there" if answer.validator else "they can't be gone on with"
    raise ConnectionError(f"{url}: {reason} after {got:,} of {answer.total:,} bytes; {kept}")


def _bar(console: Console) -> Bar:
    name = TextColumn("{task.description}", markup=False)
    columns = (name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Bar(*columns, console=console, disable=not console.is_terminal)


def _require_space(folder: Path, needed: int, url: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"{url}: {needed / 1e6:,.1f} MB are to come, but {folder} has room for {free / 1e6:,.1f} MB")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Errors of the disk get the path; those of the network have their address already."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
