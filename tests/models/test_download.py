"""Downloads from a local server: good, resumed, cut, damaged, refused, unreachable."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from weebill.models import DownloadError, cache_dir
from weebill.models._download import download, file_name, has_hash

CONTENT = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT as the test wants it; writes down the Range of every request."""

    daemon_threads = True
    knows_range = True
    status = 200
    cuts: int = 0  # so many answers end after a third of what they announced
    content = CONTENT
    ranges: list[str | None]

    def url(self, path: str = "/models/net.pth?x=1") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        body, start = server.content, 0
        if wanted and server.knows_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: len(body) // 3]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as served:
        served.ranges = []
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        served.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "net.pth"


def part_of(target: Path) -> Path:
    return target.with_name("net.pth.part")


def test_good_file(server: Server, target: Path) -> None:
    download(server.url(), target, sha256=SHA256[:8])
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()
    assert server.ranges == [None]


def test_second_call_asks_nothing(server: Server, target: Path) -> None:
    for _ in range(2):
        download(server.url(), target, sha256=SHA256)
    assert len(server.ranges) == 1


def test_damaged_cached_file_is_fetched_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT[:-1])
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_cut_connection_is_resumed(server: Server, target: Path) -> None:
    server.cuts = 2
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert server.ranges == [
        None,
        f"bytes={third}-",
        f"bytes={third + (len(CONTENT) - third) // 3}-",
    ]


def test_part_is_kept_for_the_next_call(server: Server, target: Path) -> None:
    server.cuts = 100
    with pytest.raises(DownloadError, match="net.pth.*: the connection was cut"):
        download(server.url(), target, sha256=SHA256)
    assert not target.exists()
    kept = part_of(target).read_bytes()
    assert len(kept) > len(CONTENT) // 3
    assert CONTENT.startswith(kept)
    server.cuts, server.ranges = 0, []
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(kept)}-"]


def test_server_without_range_sends_all_again(server: Server, target: Path) -> None:
    server.knows_range = False
    server.cuts = 1
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_complete_part_needs_no_more_bytes(server: Server, target: Path) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("length", [100, len(CONTENT) + 7])
def test_part_of_another_file_is_dropped(server: Server, target: Path, length: int) -> None:
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * length)
    download(server.url(), target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={length}-", None]


def test_wrong_hash(server: Server, target: Path) -> None:
    server.content = b"<html>Log in to the network first</html>"
    with pytest.raises(DownloadError, match=f"begins with {SHA256}, got 40 bytes") as error:
        download(server.url(), target, sha256=SHA256)
    assert "\n" not in str(error.value)
    assert not target.exists()
    assert not part_of(target).exists()


def test_missing_on_the_server(server: Server, target: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="cannot fetch .*: HTTP 404 Not Found"):
        download(server.url(), target, sha256=SHA256)
    assert len(server.ranges) == 1


def test_server_errors_are_tried_again(server: Server, target: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="HTTP 503"):
        download(server.url(), target, sha256=SHA256)
    assert len(server.ranges) == 5


def test_unreachable(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match="cannot fetch .*: Connection refused"):
        download(f"http://127.0.0.1:{port}/net.pth", target, sha256=SHA256)
    assert not target.exists()


def test_silent_server_is_given_up(target: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/net.pth"
        with pytest.raises(DownloadError, match="cannot fetch .*timed out"):
            download(url, target, sha256=SHA256, timeout=0.2)


def test_only_http(target: Path) -> None:
    with pytest.raises(DownloadError, match="url must be http or https, got 'file:///etc/passwd'"):
        download("file:///etc/passwd", target, sha256=SHA256)


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match="cannot write to .*set WEEBILL_HOME"):
        download(server.url(), tmp_path / "file" / "net.pth", sha256=SHA256)


def test_several_at_once_download_once(server: Server, target: Path) -> None:
    errors: list[BaseException] = []

    def fetch() -> None:
        try:
            download(server.url(), target, sha256=SHA256)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None]


def test_progress_bar_on_a_terminal(
    server: Server, target: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    download(server.url(), target, sha256=SHA256)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "net.pth" in captured.err


def test_silent_in_a_pipe(server: Server, target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    download(server.url(), target, sha256=SHA256)
    assert capfd.readouterr() == ("", "")


def test_file_name() -> None:
    assert file_name("https://example.org/a/b%20c.pth?x=/d#e") == "b c.pth"
    assert file_name("https://example.org/..%2F..%2Fb.pth") == "b.pth"


def test_has_hash(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(CONTENT)
    assert has_hash(tmp_path / "f", SHA256)
    assert has_hash(tmp_path / "f", SHA256[:8].upper())
    assert not has_hash(tmp_path / "f", SHA256[1:9])


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WEEBILL_HOME", str(tmp_path / "w"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_dir() == tmp_path / "w" / "weights"
    monkeypatch.delenv("WEEBILL_HOME")
    assert cache_dir() == tmp_path / "x" / "weebill" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == Path(os.environ["HOME"]) / ".cache" / "weebill" / "weights"
