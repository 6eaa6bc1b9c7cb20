"""Paths that are URLs (s3://, hdfs://, oss://, hf://, memory://, file://, http://): found and read, with retries.

Writing is next door, in uploads.py.

fsspec opens the connections. What this file adds is what a run of several days needs: a connection that drops costs some
seconds and a line on the screen, never a document, and never one twice.

*Who waits.* Requests are tried again here and nowhere below: the retries of botocore and s3fs are switched off, because
theirs are silent and multiply with ours (5 x 5 x 9 attempts, minutes for each). ATTEMPTS times, the wait doubling from
FIRST_WAIT_SECONDS to LAST_WAIT_SECONDS, in all about a minute and a half. Only what may pass is tried again: broken and
refused connections, time-outs, 408, 429 and 5xx. What stays wrong (no such key, no such bucket, no credentials, a full
disk) is one sentence at once.

*Reading* asks for ranges of bytes: FIRST_BYTES, then twice as much each time up to BLOCK_BYTES, so that a look at the
first lines or at a Parquet footer does not fetch 8 MiB, and a drop halfway through a large block is followed by small
ones, which get through a line that breaks all the time. From the second block on, the next one is fetched while this one
is used: two blocks of memory a file. Ranges of a file that is replaced meanwhile must not be mixed: S3 gets the ETag with
each of them, and everywhere the version is compared again after a break and at the end.

*Credentials and endpoints* are never in a recipe. Drivers take them from the environment (AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_ENDPOINT_URL for MinIO, Ceph and the like, HF_TOKEN), and fsspec passes on what it
finds in FSSPEC_S3_KEY, FSSPEC_OSS_ENDPOINT and so forth, or in ~/.config/fsspec/*.json: {"s3": {"anon": true}}.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import io
import random
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from jielong.errors import FULL, InputError, JielongError, MissingExtraError, explain_os_error
from jielong.progress import human_seconds, say

ATTEMPTS = 9  # of one request
FIRST_WAIT_SECONDS = 0.5
LAST_WAIT_SECONDS = 30.0
FIRST_BYTES = 1 << 18  # of the first range, and of the one after a break
BLOCK_BYTES = 1 << 23  # of the largest range
BUFFER_BYTES = 1 << 18
UPLOADING = ".uploading"  # ends the hidden name of a file that is not whole yet

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
EXTRA = {"s3": "s3fs", "s3a": "s3fs", "http": "aiohttp", "https": "aiohttp"}  # packages of the extra `remote`
CONTENT_KEYS = ("ETag", "etag", "checksum", "Content-MD5", "md5Hash", "content_md5", "blob_id", "generation")
TIME_KEYS = ("mtime", "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")

PASSING_STATUSES = (408, 409, 412, 423, 425, 429)  # 412: another ETag; the next attempt finds out and says so
PASSING_CODES = ("RequestTimeout", "IncompleteBody", "BadDigest", "InternalError", "SlowDown")  # S3 says some with 400
REFUSED_STATUSES = (401, 403, 407)
PASSING_CLASSES = {  # names, because the drivers are not imported to find out: aiohttp, botocore, http, urllib3, requests, httpx
    "ClientConnectionError", "ClientPayloadError", "ServerDisconnectedError", "HTTPClientError", "ResponseParserError",
    "IncompleteReadError", "HTTPException", "ProtocolError", "TransportError", "RequestException",
}  # fmt: skip
LASTING_CLASSES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError,
                   ValueError, NotImplementedError)  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A file behind a URL."""

    url: str
    size: int | None  # bytes; None where an HTTP server does not say
    version: str  # what changes with the content, known without reading it: "etag:...", "mtime:..."; or ""

    # What readers ask of a local path as well:

    def __str__(self) -> str:
        return shown(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL, without a query."""
        return PurePosixPath(self.url.partition("?")[0] if "://" in self.url else self.url).name

    @property
    def suffixes(self) -> list[str]:
        """The endings of the name."""
        return PurePosixPath(self.name).suffixes

    @property
    def bytes(self) -> int:
        """The size, 0 where it is not known."""
        return self.size or 0

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The bytes, see open_read."""
        assert mode == "rb"
        return open_read(self.url, self.version)


AnyFile = Path | Remote  # a file that is read, wherever it is


def size_of(file: AnyFile) -> int:
    """Bytes of a file; 0 where a server does not say."""
    return file.bytes if isinstance(file, Remote) else file.stat().st_size


# --------------------------------------------------------------------------------------------------------- places


@dataclass(frozen=True)
class Place:
    """A URL, its driver (an fsspec file system), and the driver's word for it."""

    fs: Any
    url: str
    path: str

    @property
    def is_s3(self) -> bool:
        return hasattr(self.fs, "call_s3")

    @property
    def is_http(self) -> bool:
        return self.url.lower().startswith(("http://", "https://"))

    def facts(self) -> dict[str, Any]:
        """What the store says of the file now: name, type, size, and more."""
        self.fs.invalidate_cache()  # listings that a driver remembers are no news
        return dict(self.fs.info(self.path))

    def remote(self, facts: dict[str, Any]) -> Remote:
        return Remote(self._url_of(facts["name"]), facts.get("size"), _version(facts))

    def _url_of(self, name: str) -> str:
        """A name of the driver's as a URL that begins like the one given: a driver may forget the host."""
        if name == self.path or URL.match(name):
            return self.url if name == self.path else name
        url, path = self.url.rstrip("/"), self.path.rstrip("/")
        return url.removesuffix(path) + name if url.endswith(path) else str(self.fs.unstrip_protocol(name))


def is_url(path: str) -> bool:
    """Whether a path is a URL (`s3://bucket/key`) and not a local path or `builtin:NAME`."""
    return URL.match(path) is not None


def shown(text: str) -> str:
    """A text without the passwords and signatures that URLs in it may hold: for messages and manifests."""
    text = re.sub(r"(\w+://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(https?://[^\s?]*)\?[^\s'\")]*", r"\1", text)


def reach(url: str) -> Place:
    """The driver for a URL, its own retries switched off, and the path as the driver knows it; nothing is asked yet.

    Raises MissingExtraError or InputError for a driver that is not installed, InputError for one that is not known.
    """
    scheme = url.partition("://")[0].lower()
    options: dict[str, Any] = {}
    core: Any = importlib.import_module("fsspec.core")  # fsspec comes with torch
    if scheme in ("s3", "s3a"):
        configured = importlib.import_module("fsspec.config").conf.get("s3", {}).get("config_kwargs", {})
        ours: dict[str, Any] = {"retries": {"total_max_attempts": 1}}
        # stores other than Amazon's refuse the checksums that are new in 2025; an upload has its MD5
        ours |= dict.fromkeys(("request_checksum_calculation", "response_checksum_validation"), "when_required")
        options["config_kwargs"] = ours | configured
    try:
        fs, path = core.url_to_fs(url, **options)
    except ImportError as error:
        if scheme in EXTRA:
            raise MissingExtraError(EXTRA[scheme], "remote", f"for {scheme}:// paths") from None
        raise InputError(
            f"url: no driver for {scheme}://, got {shown(url)}; {_reason(error)}; install that package with pip and try again"
        ) from None
    except (OSError, ValueError) as error:  # not known to fsspec; or HDFS without Java
        raise InputError(
            f"url: {scheme}:// cannot be opened, got {shown(url)} ({_reason(error)}); check the address and its driver"
        ) from None
    if hasattr(fs, "call_s3"):
        fs.retries = 1
    return Place(fs, url, path)


def _version(facts: dict[str, Any]) -> str:
    for key in (*CONTENT_KEYS, *TIME_KEYS):
        if value := facts.get(key):
            if hasattr(value, "timestamp"):
                value = (
                    value.timestamp()
                )  # a driver may give the same time as a number in one place, as a date in another
            return (
                f"{key.lower()}:{value:.6f}" if isinstance(value, float) else f"{key.lower()}:{value}".replace('"', "")
            )
    return ""


def listing(url: str) -> list[Remote]:
    """The files of a URL, sorted: a file, a folder with all below it, or a glob (also **); HTTP knows single files only.

    Raises InputError when nothing is there or access is refused.
    """
    place = reach(url)
    found = retry(lambda: _find(place), url, "listing")
    names = [name for name in sorted(found) if not name.endswith(("/", UPLOADING))]
    files = [place.remote(found[name]) for name in names]
    if not files:
        raise InputError(f"url: nothing found, got {shown(url)}; give a file, a folder or a glob that holds files")
    return sorted(files, key=lambda file: file.url)


def _find(place: Place) -> dict[str, dict[str, Any]]:
    """What the driver says of each file, by its name."""
    fs = place.fs
    try:
        top = {place.path: place.facts()}
    except FileNotFoundError:
        if not glob.has_magic(place.path) or place.is_http:
            raise
        top = fs.glob(place.path, detail=True)
    found = {name: facts for name, facts in top.items() if _is_file(fs, name, facts)}
    searched = "\0"
    for name in sorted(f"{name.rstrip('/')}/" for name, facts in top.items() if facts["type"] == "directory"):
        if not name.startswith(searched):
            searched = name
            below = fs.find(name.rstrip("/"), detail=True)
            found |= {inner: facts for inner, facts in below.items() if _is_file(fs, inner, facts)}
    return found


def _is_file(fs: Any, name: str, facts: dict[str, Any]) -> bool:
    if facts.get("islink") and fs.isfile(name):
        facts.update(fs.info(name))  # a link to a file, with the facts of the file itself
    return bool(facts["type"] == "file")


# -------------------------------------------------------------------------------------------------------- retries


def retry(action: Callable[[], T], url: str, doing: str, stop: threading.Event | None = None) -> T:
    """The result of `action`, tried up to ATTEMPTS times as long as its errors may pass; `stop` ends the waiting."""
    wait = FIRST_WAIT_SECONDS
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except JielongError:
            raise
        except Exception as error:
            passing = _passing(error)
            if passing is None:
                raise
            if not passing:
                raise _lasting(error, url, doing) from error
            if attempt == ATTEMPTS or (stop is not None and stop.is_set()):
                raise InputError(
                    f"url: {doing} failed {attempt} times, got {shown(url)} (the last time: {_reason(error)}); "
                    "check the connection and the endpoint, and run the same command again"
                ) from error
            pause = wait * random.SystemRandom().uniform(0.5, 1)  # many processes do not come back at the same moment
            say(
                f"{shown(url)}: {doing} broke off ({_reason(error)}); "
                f"trying again in {human_seconds(pause)} (attempt {attempt + 1} of {ATTEMPTS})"
            )
            (stop or threading.Event()).wait(pause)
            wait = min(2 * wait, LAST_WAIT_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _status(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, botocore, requests, httpx or oss2 carries."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else None


def _code(error: BaseException) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _passing(error: BaseException) -> bool | None:
    """Whether an error may be gone the next time; None for one that is not the store's but ours.

    Drivers wrap what happened: fsspec's HTTP says "not found" of a connection that broke, so the causes are asked first.
    """
    for link in _chain(error):
        if (status := _status(link)) is not None:
            later = status < 300 or (status >= 500 and status != 501)
            return later or status in PASSING_STATUSES or _code(link) in PASSING_CODES
        names = {kind.__name__ for kind in type(link).__mro__}
        if isinstance(link, (ConnectionError, TimeoutError, EOFError)) or names & PASSING_CLASSES:
            return not isinstance(link, ValueError)  # an address that is none is a ValueError too
        if "BotoCoreError" in names:  # an endpoint that does not answer passes; no credentials or a bad profile stay
            return "ConnectionError" in names
    if isinstance(error, LASTING_CLASSES) or getattr(error, "errno", None) in FULL:
        return False
    return True if isinstance(error, OSError) else None


def _lasting(error: BaseException, url: str, doing: str) -> JielongError:
    """The sentence for an error that trying again does not change."""
    place, reason = shown(url), _reason(error)
    status = next((status for link in _chain(error) if (status := _status(link)) is not None), None)
    if getattr(error, "errno", None) in FULL and (full := explain_os_error(error)) is not None:
        return full
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__ or status in REFUSED_STATUSES:
        return InputError(
            f"url: {doing} was refused, got {place} ({reason}); check the credentials in the environment and their rights"
        )
    if isinstance(error, FileNotFoundError):
        return InputError(
            f"url: nothing found, got {place} ({reason}); check the spelling, the bucket and the endpoint"
        )
    return InputError(f"url: {doing} is not possible, got {place} ({reason}); give another URL")


def _reason(error: BaseException) -> str:
    """An error in a few words, for a sentence."""
    text = " ".join(shown(str(error)).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _changed(url: str) -> InputError:
    return InputError(f"url: the file changed while it was being read, got {shown(url)}; run the same command again")


# -------------------------------------------------------------------------------------------------------- reading


def open_read(url: str, version: str = "") -> io.BufferedReader:
    """The bytes of a file as a stream that can seek, reads ahead, and goes on after a break at the byte where it stood.

    With a `version` (of `listing`) the file must still be that one. Raises InputError, now or while reading, when the file
    is not there, changes, or cannot be had after ATTEMPTS attempts: never OSError, so it is not taken for a damaged file.
    """
    place = reach(url)
    facts = retry(place.facts, url, "opening")
    if facts["type"] == "directory":
        raise InputError(f"url: a folder, got {shown(url)}; give a file")
    now = place.remote(facts)
    if version and version != now.version:
        raise _changed(url)
    return io.BufferedReader(_Stream(place, now), BUFFER_BYTES)


class _Stream(io.RawIOBase):
    """Blocks of a remote file, one after the other. Only the one thread of `_pool` touches the driver's file."""

    def __init__(self, place: Place, now: Remote) -> None:
        self._place, self._now = place, now
        self._file: Any = None
        self._from_start = False  # whether the server knows no ranges
        self._doubtful = False  # after a break: is it still the same file?
        self._want = FIRST_BYTES  # size of the next range
        self._at = 0  # of the reader
        self._rest = memoryview(b"")  # bytes from there on that are here already
        self._blocks = 0  # one after the other, since the last jump
        self._ahead: Future[bytes] | None = None
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "jielong-read")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END and self._now.size is None:
            raise io.UnsupportedOperation("the server does not say how long the file is")
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._now.size or 0}[whence]
        target = max(0, start + offset)
        if self._at <= target <= self._at + len(self._rest):
            self._rest = self._rest[target - self._at :]
        else:
            if self._ahead is not None:
                self._ahead.cancel()
            self._rest, self._ahead, self._blocks, self._want = memoryview(b""), None, 0, FIRST_BYTES
        self._at = target
        return target

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._next())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        self._at += size
        return size

    def _next(self) -> bytes:
        block = (self._ahead or self._pool.submit(self._fetch, self._at)).result()
        self._ahead = None
        self._blocks += bool(block)
        if block and self._blocks > 1:
            self._ahead = self._pool.submit(self._fetch, self._at + len(block))
        return block

    def _fetch(self, at: int) -> bytes:
        """The range at a byte, b"" at the end; there a file of several ranges is asked once more whether it is the same."""

        def attempt() -> bytes:
            try:
                if self._now.size is not None and at >= self._now.size:
                    if self._blocks > 1:
                        self._confirm()
                    return b""
                return self._range(at)
            except BaseException:
                self._doubtful, self._want = True, FIRST_BYTES
                self._let_go()
                raise

        block = retry(attempt, self._place.url, f"reading at byte {at}", self._stop)
        self._want = min(2 * self._want, BLOCK_BYTES)
        return block

    def _confirm(self) -> None:
        facts = self._place.remote(self._place.facts())
        if (facts.size, facts.version) != (self._now.size, self._now.version):
            raise _changed(self._place.url)
        self._doubtful = False

    def _range(self, at: int) -> bytes:
        if self._doubtful:
            self._confirm()
        if self._file is None:
            self._open()
        want = self._want if self._now.size is None else min(self._want, self._now.size - at)
        try:
            if self._from_start:
                _skip(self._file, at)
            else:
                self._file.seek(at)
            block = _read_fully(self._file, want)
        except ValueError:  # an HTTP server that sends files from their start only; fsspec finds out by the first range
            if self._from_start or not self._place.is_http:
                raise
            self._from_start = True
            self._let_go()
            return self._range(at)
        if self._now.size is not None and len(block) < want:
            raise EOFError(f"the connection ended {want - len(block)} bytes early")
        return block

    def _open(self) -> None:
        size = 0 if self._from_start else BLOCK_BYTES  # 0 is fsspec's word for a stream
        self._file = self._place.fs.open(self._place.path, "rb", block_size=size, cache_type="none")
        if self._place.is_s3 and _version(self._file.details) != self._now.version:
            raise _changed(self._place.url)  # from here on S3 itself refuses ranges of another version

    def _let_go(self) -> None:
        with contextlib.suppress(Exception):
            if self._file is not None:
                self._file.close()
        self._file = None

    def close(self) -> None:
        if not self.closed:
            self._stop.set()
            self._pool.submit(self._let_go)
            self._pool.shutdown(wait=False)
        super().close()


def _skip(file: Any, at: int) -> None:
    """Read on to a byte; a stream that is past it already cannot."""
    while (left := at - file.tell()) > 0:
        if not file.read(min(left, BLOCK_BYTES)):
            raise EOFError("the connection ended early")
    if left < 0:
        raise EOFError("the stream has to begin again")


def _read_fully(file: Any, size: int) -> bytes:
    first = bytes(file.read(size))
    pieces = [first]
    while first and (left := size - sum(map(len, pieces))) > 0 and (more := file.read(left)):
        pieces.append(bytes(more))
    return first if len(pieces) == 1 else b"".join(pieces)
