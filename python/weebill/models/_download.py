"""Fetching a file over HTTP into a cache folder: resumed, checked, moved into place at once.

Standard library only. The bytes go to `<name>.part`, which survives an interruption; the next
attempt asks for the rest (Range). Only a file whose hash is right gets its final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from filelock import FileLock

_CHUNK = 1 << 18
_ATTEMPTS = 5


class DownloadError(OSError):
    """A file could not be fetched; the message is one line."""


def cache_dir() -> Path:
    """The folder of downloaded weights.

    `$WEEBILL_HOME/weights` if that variable is set, else `weebill/weights` within
    `$XDG_CACHE_HOME`, else within `~/.cache`.
    """
    home = os.environ.get("WEEBILL_HOME")
    if home:
        return Path(home).expanduser() / "weights"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "weebill" / "weights"


def file_name(url: str) -> str:
    """The last part of the URL's path; never with a slash, however that is quoted."""
    return PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name


def has_hash(path: Path, sha256: str) -> bool:
    """Whether the file's SHA-256 begins with the given hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest().startswith(sha256.lower())


def download(
    url: str, target: Path, *, sha256: str, progress: bool = True, timeout: float = 20.0
) -> None:
    """Fetches `url` to `target`, going on where an earlier attempt stopped.

    Does nothing if the file is there and its hash is right. Several processes may ask for the
    same file: one downloads, the others wait.

    Args:
        url: http or https.
        sha256: All or the first of the hash's hex digits.
        progress: Show a bar on a terminal, if rich is installed.
        timeout: Seconds without a byte after which the connection counts as cut.

    Raises:
        DownloadError: no connection, an HTTP error, a wrong hash, or a folder that cannot be
            written.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"download: url must be http or https, got '{url}'")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock")):
            if target.exists() and has_hash(target, sha256):
                return
            resumed = _fetch_all(url, part, progress, timeout)
            if resumed and not has_hash(part, sha256):
                # The kept part may have been of another file: once more from the start.
                part.unlink()
                _fetch_all(url, part, progress, timeout)
            if not has_hash(part, sha256):
                size = part.stat().st_size
                part.unlink()
                raise DownloadError(
                    f"download: {url} must have a SHA-256 that begins with {sha256}, got "
                    f"{size} bytes with another one; nothing was kept"
                )
            part.replace(target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"download: cannot write to {target.parent} ({error.strerror or error}); "
            "set WEEBILL_HOME to a folder that can be written"
        ) from None


def _fetch_all(url: str, part: Path, progress: bool, timeout: float) -> bool:
    """Fills `part`, over several connections if need be; True if it began with kept bytes."""
    resumed = part.exists() and part.stat().st_size > 0
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(min(0.1 * 2**attempt, 2.0))
        try:
            if _fetch(url, part, progress, timeout):
                return resumed
            problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and part.exists():
                # Nothing is left to send: the part is complete, or of another file.
                return True
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                break
        except urllib.error.URLError as error:
            problem = _reason(error)
            if attempt == 0:
                break
    raise DownloadError(f"download: cannot fetch {url}: {problem}")


def _fetch(url: str, part: Path, progress: bool, timeout: float) -> bool:
    """One connection; True if the file is complete afterwards."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "weebill", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.URLError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise urllib.error.URLError(str(error) or type(error).__name__) from None
    with response:
        if start and not _continues(response, start):
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if start else "wb") as file, _bar(url, start, total, progress) as bar:
            while chunk := _read(response):
                file.write(chunk)
                bar(len(chunk))
            return total is None or file.tell() >= total


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the answer is the rest of the file; a server without Range sends all of it."""
    first = response.headers.get("Content-Range", "").partition("-")[0]
    return response.status == http.client.PARTIAL_CONTENT and first == f"bytes {start}"


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next chunk; nothing at the end or when the connection is cut."""
    try:
        return response.read(_CHUNK)
    except http.client.IncompleteRead as error:
        return error.partial
    except (OSError, http.client.HTTPException):
        return b""


def _reason(error: urllib.error.URLError) -> str:
    reason = error.reason
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return " ".join(str(reason).split())


@contextlib.contextmanager
def _bar(
    url: str, start: int, total: int | None, progress: bool
) -> Iterator[Callable[[int], None]]:
    """A callable that advances the bar; does nothing without rich or a terminal."""
    if progress and sys.stderr.isatty():
        try:
            from rich import progress as rich_progress
            from rich.console import Console
        except ImportError:
            pass
        else:
            with rich_progress.Progress(
                "{task.description}",
                rich_progress.BarColumn(),
                rich_progress.DownloadColumn(),
                rich_progress.TransferSpeedColumn(),
                rich_progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            ) as shown:
                task = shown.add_task(file_name(url), total=total, completed=start)
                yield lambda count: shown.advance(task, count)
            return
    yield lambda count: None
