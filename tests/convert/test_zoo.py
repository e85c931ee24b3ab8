"""The zoo's table and page, and downloads from a local server that fails as servers and networks do."""

import io
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.error import URLError
from urllib.request import Request

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from atrous.backbones import BACKBONES
from atrous.convert import download as downloading
from atrous.convert.download import download, recall
from atrous.convert.systems.tf_deeplab.flags import Flags
from atrous.convert.zoo import BASE_URL, MODELS, ZOO, ZooModel, cache_folder, fetch, find
from atrous.convert.zoo_page import page
from atrous.errors import ConfigError, ConversionError
from tests.conftest import SHARED
from tests.test_files import full_disk

NAME = "mobilenetv2_coco_voc_trainaug"
FILE = "deeplabv3_mnv2_pascal_train_aug_2018_01_29.tar.gz"
CONTENT = np.random.default_rng(0).bytes(1_000_000)
OTHER = np.random.default_rng(1).bytes(900_000)
OF_DEEPLAB = [model for model in MODELS if model.base_url == BASE_URL]
PAGE = Path(__file__).parents[2] / "docs" / "model_zoo.md"


class Requested(NamedTuple):
    path: str
    range: str | None
    if_range: str | None


class Site:
    """What the server holds, how it behaves, and what was requested."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.headers: dict[str, str] = {"ETag": '"one"'}  # sent with the file
        self.has_ranges = True
        self.cut: int | None = None  # bytes after which the connection ends
        self.status = 200
        self.wrong_start = 0  # a server that answers with another range
        self.gate = threading.Event()  # closed: the body waits for it
        self.gate.set()
        self.requests: list[Requested] = []
        self.url = ""


class Handler(BaseHTTPRequestHandler):
    site: ClassVar[Site]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        site, span = self.site, self.headers.get("Range")
        site.requests.append(Requested(self.path, span, self.headers.get("If-Range")))
        is_same = self.headers.get("If-Range") in site.headers.values()
        start = int(span.removeprefix("bytes=").rstrip("-")) if span and site.has_ranges and is_same else 0
        if site.status != 200 or start > len(site.content):
            self.send_response(site.status if site.status != 200 else 416)
            start = len(site.content)
        elif start:
            shown = start + site.wrong_start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {shown}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        self.send(site, start)

    def send(self, site: Site, start: int) -> None:
        headers = {"Content-Length": str(len(site.content) - start), **site.headers}
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        site.gate.wait(10)
        self.wfile.write(site.content[start : site.cut])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Handler.site = site = Site()
        site.url = f"http://127.0.0.1:{server.server_address[1]}/models/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.gate.set()
        server.shutdown()
        thread.join()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def start_of_download(site: Site, cache: Path, cut: int = 600_000) -> Path:
    """The part that an interrupted connection leaves."""
    site.cut = cut
    with pytest.raises(ConnectionError, match=f"{site.url}{FILE}: the connection ended after {cut:,} of 1,000,000 by"):
        fetch(NAME, cache=cache, base_url=site.url)
    site.cut = None
    return cache / f"{FILE}.part"


# ---- downloads


def test_a_file_is_complete_and_its_hash_is_printed_and_recorded(site: Site, tmp_path: Path) -> None:
    printed = io.StringIO()
    path = fetch(NAME, cache=tmp_path / "new", base_url=site.url, progress=Console(file=printed, width=200))
    assert path == tmp_path / "new" / FILE
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == {FILE, f"{FILE}.json"}
    assert site.requests == [Requested(f"/models/{FILE}", None, None)]
    digest = recall(path).sha256
    assert digest is not None
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert f"{site.url}{FILE}: 1.0 MB" in printed.getvalue()
    assert digest in printed.getvalue()


def test_a_cached_file_needs_no_network(site: Site, tmp_path: Path) -> None:
    fetch(NAME, cache=tmp_path, base_url=site.url)
    site.requests.clear()
    printed = io.StringIO()
    assert fetch(NAME, cache=tmp_path, base_url=site.url, progress=Console(file=printed)).read_bytes() == CONTENT
    assert fetch(NAME, cache=tmp_path, base_url="http://127.0.0.1:1/").read_bytes() == CONTENT
    assert site.requests == []
    assert "is already here" in printed.getvalue()


def test_a_file_put_there_by_hand_is_used_and_recorded(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    fetch(NAME, cache=tmp_path, base_url="http://127.0.0.1:1/")
    (tmp_path / FILE).write_bytes(OTHER)
    with pytest.raises(ValueError, match=r"has SHA-256 .*, but .* has "):
        fetch(NAME, cache=tmp_path, base_url="http://127.0.0.1:1/")


def test_a_broken_download_is_resumed(site: Site, tmp_path: Path) -> None:
    part = start_of_download(site, tmp_path)
    assert part.read_bytes() == CONTENT[:600_000]
    assert names(tmp_path) == {part.name, f"{FILE}.json"}
    printed = io.StringIO()
    path = fetch(NAME, cache=tmp_path, base_url=site.url, progress=Console(file=printed, width=200))
    assert site.requests[1] == Requested(f"/models/{FILE}", "bytes=600000-", '"one"')
    assert path.read_bytes() == CONTENT
    assert "1.0 MB, resumed at 0.6 MB" in printed.getvalue()
    assert names(tmp_path) == {FILE, f"{FILE}.json"}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, len(CONTENT) - 1), max_size=3).map(sorted))
def test_interruptions_at_any_byte_change_nothing(
    site: Site, tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for cut in cuts:
        start_of_download(site, cache, cut)
    assert fetch(NAME, cache=cache, base_url=site.url).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file(site: Site, tmp_path: Path) -> None:
    start_of_download(site, tmp_path)
    site.has_ranges = False
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == CONTENT


def test_a_file_that_has_changed_is_fetched_again(site: Site, tmp_path: Path) -> None:
    start_of_download(site, tmp_path)
    site.content, site.headers = OTHER, {"ETag": '"two"'}
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == OTHER
    assert recall(tmp_path / FILE).validator == '"two"'


def test_a_part_from_another_address_is_not_resumed(site: Site, tmp_path: Path) -> None:
    start_of_download(site, tmp_path)
    site.content = OTHER
    assert fetch(NAME, cache=tmp_path, base_url=f"{site.url}mirror").read_bytes() == OTHER
    assert site.requests[-1] == Requested(f"/models/mirror/{FILE}", None, None)


@pytest.mark.parametrize("fault", ["wrong range", "longer part"])
def test_a_part_that_does_not_fit_is_discarded(site: Site, tmp_path: Path, fault: str) -> None:
    part = start_of_download(site, tmp_path)
    if fault == "wrong range":
        site.wrong_start = 7
    else:
        part.write_bytes(CONTENT + b"more")
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert [bool(request.range) for request in site.requests] == [False, True, False]


def test_a_date_is_used_in_place_of_a_weak_tag(site: Site, tmp_path: Path) -> None:
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Mon, 29 Jan 2018 10:00:00 GMT"}
    start_of_download(site, tmp_path)
    fetch(NAME, cache=tmp_path, base_url=site.url)
    assert site.requests[1].if_range == "Mon, 29 Jan 2018 10:00:00 GMT"


def test_without_tag_and_date_no_part_is_kept(site: Site, tmp_path: Path) -> None:
    site.headers = {}
    assert not start_of_download(site, tmp_path).exists()
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests[1].range is None


# ---- failures


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (404, FileNotFoundError, r"the server has no such file \(404\)"),
        (503, ConnectionError, "the server answered 503 Service Unavailable"),
        (206, ConnectionError, "the server sent a part"),
        (204, ConnectionError, "the server answered 204"),
    ],
)
def test_a_server_that_refuses_is_quoted(
    site: Site, tmp_path: Path, status: int, kind: type[OSError], message: str
) -> None:
    site.status = status
    with pytest.raises(kind, match=f"{site.url}{FILE}: {message}"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "a web page, not a file"),
        ({"Content-Length": ""}, "doesn't say how long"),
        ({"Content-Length": "2000000"}, "the connection ended after 1,000,000 of 2,000,000 bytes"),
    ],
)
def test_an_answer_that_is_not_the_file_is_refused(
    site: Site, tmp_path: Path, header: dict[str, str], message: str
) -> None:
    site.headers = header
    with pytest.raises(ConnectionError, match=message):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert not names(tmp_path) & {FILE, f"{FILE}.part"}


def test_no_more_is_read_than_the_announced_length(site: Site, tmp_path: Path) -> None:
    site.headers = {"Content-Length": "900000"}
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == CONTENT[:900_000]


def test_an_address_that_cannot_be_reached_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    for address in ("http://127.0.0.1:1", "http://127.0.0.1:nonsense", "http://a..b", "http://a b"):
        with pytest.raises(ConnectionError, match=re.escape(f"{address}/{FILE}")) as error:
            fetch(NAME, cache=tmp_path, base_url=address)
        assert "cannot be reached: " in str(error.value)
        assert "\n" not in str(error.value)
        assert names(tmp_path) == set()


def test_a_silent_server_times_out(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "TIMEOUT", 0.2)
    site.gate.clear()
    with pytest.raises(ConnectionError, match=r"no answer within 0.2 s after 0 of 1,000,000 bytes"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert names(tmp_path) == {f"{FILE}.json"}


def test_a_full_disk_keeps_the_part(site: Site, tmp_path: Path) -> None:
    with full_disk(300_000), pytest.raises(OSError, match=rf"cannot write .*{FILE}\.part: File too large"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert 0 < (tmp_path / f"{FILE}.part").stat().st_size <= 300_000
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == CONTENT
    assert site.requests[1].range is not None


def test_too_little_space_is_reported_first(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"1\.0 MB are missing, but .* has room for 0\.5 MB"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert f"{FILE}.part" not in names(tmp_path)


def test_a_cache_that_cannot_be_made_is_named(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write {tmp_path}/file/"):
        fetch(NAME, cache=tmp_path / "file" / "cache", base_url=site.url)


def test_bytes_other_than_the_recorded_ones_are_refused(site: Site, tmp_path: Path) -> None:
    path = fetch(NAME, cache=tmp_path, base_url=site.url)
    first = recall(path).sha256
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match=rf"{path} has SHA-256 [0-9a-f]+, but {path}.json has {first}: delete"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    path.unlink()
    site.content, site.headers = OTHER, {"ETag": '"two"'}
    with pytest.raises(ValueError, match=rf"{site.url}{FILE} has SHA-256 [0-9a-f]+, but .* has {first}: it was"):
        fetch(NAME, cache=tmp_path, base_url=site.url)
    assert names(tmp_path) == {f"{FILE}.json"}
    (tmp_path / f"{FILE}.json").unlink()
    assert fetch(NAME, cache=tmp_path, base_url=site.url).read_bytes() == OTHER


def test_a_damaged_record_is_named(site: Site, tmp_path: Path) -> None:
    for text in ("", "[]", '{"sha256": 3}', '{"surprise": "x"}', "\xff"):
        (tmp_path / f"{FILE}.json").write_text(text, encoding="latin-1")
        with pytest.raises(ConversionError, match=rf"{FILE}\.json: damaged; delete it"):
            fetch(NAME, cache=tmp_path, base_url=site.url)


# ---- addresses


def test_only_http_is_opened(tmp_path: Path) -> None:
    for address in ("file:///etc", "ftp://host", "/etc", "data:,x"):
        with pytest.raises(ConfigError, match="http:// and https:// addresses only"):
            fetch(NAME, cache=tmp_path, base_url=address)
    with pytest.raises(ConfigError, match="not a valid address"):
        fetch(NAME, cache=tmp_path, base_url="http://[x")


def test_a_redirection_cannot_leave_http(site: Site, tmp_path: Path) -> None:
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"):
        site.status, site.headers = 302, {"Location": target}
        with pytest.raises(OSError, match=f"{site.url}{FILE}"):
            fetch(NAME, cache=tmp_path, base_url=site.url)
        assert names(tmp_path) == set()


def test_a_redirection_cannot_leave_https() -> None:
    with pytest.raises(URLError, match="not https"):
        downloading._Redirects().redirect_request(
            Request("https://a/x"), io.BytesIO(), 302, "", HTTPMessage(), "http://a/x"
        )


def test_the_environment_sets_mirror_and_cache(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATROUS_ZOO", site.url.rstrip("/"))
    monkeypatch.setenv("ATROUS_CACHE", str(tmp_path / "mine"))
    assert fetch(NAME) == tmp_path / "mine" / FILE
    monkeypatch.delenv("ATROUS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "atrous"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "atrous"


# ---- several processes, and the display


def test_processes_that_need_the_same_file_fetch_it_once(site: Site, tmp_path: Path) -> None:
    site.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(fetch, NAME, cache=tmp_path, base_url=site.url) for _ in range(4)]
        threading.Timer(0.2, site.gate.set).start()
        paths = [future.result(10) for future in waiting]
    assert {path.read_bytes() for path in paths} == {CONTENT}
    assert len(site.requests) == 1
    assert names(tmp_path) == {FILE, f"{FILE}.json"}


def test_the_next_process_takes_over_from_one_that_fails(site: Site, tmp_path: Path) -> None:
    site.gate.clear()
    site.cut = 0  # the first keeps nothing, and so removes the file for which the second waits
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetch, NAME, cache=tmp_path, base_url=site.url)
        for _ in range(1000):
            if site.requests:
                break
            time.sleep(0.01)
        second = pool.submit(fetch, NAME, cache=tmp_path, base_url=site.url)
        threading.Timer(0.2, site.gate.set).start()
        with pytest.raises(ConnectionError, match="after 0 of"):
            first.result(10)
        with pytest.raises(ConnectionError, match="after 0 of"):
            second.result(10)
    assert names(tmp_path) == {f"{FILE}.json"}


def test_a_lock_is_on_the_file_that_exists(tmp_path: Path) -> None:
    part, quiet = tmp_path / "x.part", Console(quiet=True)
    with ThreadPoolExecutor(1) as pool:
        with downloading._locked(part, quiet):
            second = pool.submit(downloading._locked, part, quiet)
            time.sleep(0.1)
            part.rename(tmp_path / "x")  # as the first does when it is done
        with second.result(10):
            assert part.exists()


def test_a_terminal_shows_a_bar_and_a_log_shows_lines(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, log = io.StringIO(), io.StringIO()
    download(f"{site.url}[red]x", tmp_path / "[red]x", Console(file=terminal, force_terminal=True, width=120))
    assert "1.0/1.0 MB" in terminal.getvalue()
    assert "[red]x" in terminal.getvalue()
    monkeypatch.setattr(downloading, "LINE_EVERY", 0.0)
    download(f"{site.url}y", tmp_path / "y", Console(file=log, width=120))
    assert "y: 1.0 of 1.0 MB" in log.getvalue()


# ---- the table


def test_names_and_archives_are_unique() -> None:
    assert len(MODELS) == len(ZOO) == len({model.file for model in MODELS})
    assert len(OF_DEEPLAB) == 24
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+_20(18|19|20)_\d\d_\d\d", model.archive) for model in OF_DEEPLAB)


@pytest.mark.skipif(not (SHARED / "specs").exists(), reason="the specifications are not here")
def test_the_table_has_every_archive_of_the_specification() -> None:
    text = (SHARED / "specs" / "tf-deeplab.md").read_text(encoding="utf-8")
    zoo = text[text.index("# 6. Model zoo") : text.index("# 7. Training")]
    archives = re.findall(r"[a-z0-9_-]+_20\d\d_\d\d_\d\d", zoo)
    assert sorted(archives) == sorted(model.archive for model in OF_DEEPLAB)
    for model in MODELS:
        for result in model.results:
            assert re.search(rf"\b{result.miou:.2f}\b|\b{result.miou:g}\b", zoo), result


def test_rows_are_consistent() -> None:
    for model in MODELS:
        _assert_consistent(model)


def _assert_consistent(model: ZooModel) -> None:
    flags = Flags.model_validate(model.options)
    assert set(model.options) <= set(Flags.model_fields)
    assert flags.model_variant in BACKBONES
    strides = BACKBONES[flags.model_variant].Config(name=flags.model_variant).output_strides
    assert flags.dataset == (None if model.dataset == "coco" else model.dataset)
    assert model.megabytes is None or 1 < model.megabytes < 1000
    assert bool(model.results) == (model.dataset not in ("imagenet", "coco"))
    if model.results:
        assert flags.output_stride == model.results[0].output_stride
        assert flags.output_stride in strides
        assert flags.crop_size is not None
        assert all(side % 4 == 1 for side in flags.crop_size)
    if flags.atrous_rates:
        assert flags.output_stride is not None
        assert [rate * flags.output_stride for rate in flags.atrous_rates] == [96, 192, 288]
    for result in model.results:
        assert 30 < result.miou < 90
        assert result.split == ("test" if "trainval" in model.name else "val")
        assert result.output_stride in strides
        assert result.flip == (len(result.scales) > 1)
        assert result.pixel_accuracy is None or result.miou < result.pixel_accuracy < 100


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert find(NAME) is ZOO[NAME]
    with pytest.raises(ValueError, match=r"called 'mobilenetv2_voc'; nearest: .*mobilenetv2_coco_voc_trainaug"):
        find("mobilenetv2_voc")
    with pytest.raises(ValueError, match="nearest: EdgeTPU-DeepLab"):
        find("edgetpu-deeplab")
    with pytest.raises(ValueError, match=f"nearest: {NAME}"):
        find(FILE)
    with pytest.raises(ValueError, match=f"known: .*{NAME}"):
        fetch("zzz")


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
    for model in MODELS:
        assert f"| `{model.name}` | `{model.archive}` |" in page()
