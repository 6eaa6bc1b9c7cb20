"""Remote paths, found and read: in memory, on disk, over HTTP, and against an S3 behind a line that breaks."""

from __future__ import annotations

import functools
import http.server
import io
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jielong import storage
from jielong.errors import DiskError, InputError, MissingExtraError
from jielong.storage import is_url, listing, open_read, reach, retry, shown
from tests.s3_server import ALWAYS, BUCKET, MISSING, BreakingLine, s3_port, use

needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; they are in the extra test")


@pytest.fixture
def port() -> int:
    return s3_port()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(storage, "LAST_WAIT_SECONDS", 0.01)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 4 kB, so that a small file has many."""
    monkeypatch.setattr(storage, "FIRST_BYTES", 1 << 10)
    monkeypatch.setattr(storage, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(storage, "BUFFER_BYTES", 1 << 9)


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def tries(capsys: pytest.CaptureFixture[str]) -> int:
    return capsys.readouterr().err.count("trying again")


def test_what_is_a_url() -> None:
    urls = ("s3://bucket/key", "hdfs://host:9000/a", "memory://x", "file:///tmp/a", "HF://datasets/a")
    assert all(map(is_url, urls))
    assert not any(map(is_url, ("a/b.jsonl", "/tmp/s3://x", "builtin:snownlp", "C://x", "数据://x", "", "s3:/x")))


def test_secrets_are_not_shown() -> None:
    assert shown("no http://me:word@host/a?X-Sig=1 nor hdfs://me:w@host/a?b") == "no http://host/a nor hdfs://host/a?b"


# ------------------------------------------------------------------------------------------------ memory and disk


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_file_a_folder_and_a_glob(scheme: str, tmp_path: Path, memory: Any) -> None:
    base = f"memory://{tmp_path}" if scheme == "memory" else f"file://{tmp_path}"
    for name, size in {"a/部分.jsonl": 3, "a/b/c.txt": 5, "top.txt": 7, "a/.x.uploading": 1}.items():
        place = reach(f"{base}/{name}")
        place.fs.makedirs(place.path.rpartition("/")[0], exist_ok=True)
        place.fs.pipe_file(place.path, bytes(size))

    def names(pattern: str) -> list[tuple[str, int | None]]:
        return [(file.url.removeprefix(f"{base}/"), file.size) for file in listing(f"{base}{pattern}")]

    everything = [("a/b/c.txt", 5), ("a/部分.jsonl", 3), ("top.txt", 7)]
    assert names("") == names("/") == names("/*") == names("/**") == everything
    assert names("/a") == everything[:2] and names("/a/*") == everything[:2]
    assert names("/*.txt") == everything[2:] and names("/**/*.txt") == [everything[0], everything[2]]
    assert names("/a/部分.jsonl") == [everything[1]]
    for file in listing(base):
        assert file.version and listing(file.url) == [file]
        assert open_read(file.url).read() == bytes(file.size or 0)
    for pattern in ("/nothing", "/*.csv"):
        with pytest.raises(InputError, match="url: nothing found, got "):
            listing(base + pattern)


def test_a_link_is_its_file(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.txt").symlink_to(tmp_path / "file.txt")
    (tmp_path / "folder" / "broken.txt").symlink_to(tmp_path / "nothing")
    (link,) = listing(f"file://{tmp_path}/folder")
    assert link.size == 3 and link.url.endswith("folder/link.txt")
    assert open_read(link.url, link.version).read() == b"abc"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 3072, 100_000])
def test_the_same_bytes_however_they_are_read(size: int, small: None, memory: Any) -> None:
    data, draw = some_bytes(size), random.Random(1)
    memory.pipe_file("/f", data)
    plain = io.BytesIO(data)
    with open_read("memory://f") as stream:
        assert stream.seekable() and stream.readable() and not stream.writable()
        for _ in range(300):
            if draw.random() < 0.3:
                to = draw.choice([(draw.randrange(size + 10), 0), (-draw.randrange(size + 1), 2)])
                assert stream.seek(*to) == plain.seek(*to)
            count = draw.choice([0, 1, 100, 600, 5000])
            assert stream.read(count) == plain.read(count)
            assert stream.tell() == plain.tell()
        stream.seek(0)
        assert b"".join(stream) == data


def test_read_by_arrow(small: None, memory: Any) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": [f"第{n}句" for n in range(5000)]})
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink, row_group_size=1000)
    memory.pipe_file("/t.parquet", sink.getvalue())
    with open_read("memory://t.parquet") as stream:
        assert pyarrow.parquet.ParquetFile(stream).read() == table


class Flaky(io.RawIOBase):
    """A file that fails after so many reads, and then is opened anew."""

    def __init__(self, data: bytes, errors: list[Exception | None]) -> None:
        self._file, self._errors = io.BytesIO(data), errors

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        error = self._errors.pop(0) if self._errors else None
        if error is not None:
            raise error
        return self._file.read(min(size, 700))  # short reads are no ends


def flaky(monkeypatch: pytest.MonkeyPatch, memory: Any, data: bytes, errors: list[Exception | None]) -> None:
    memory.pipe_file("/f", data)
    real = memory.open

    def opened(path: str, mode: str, **options: Any) -> Any:
        return Flaky(data, errors) if mode == "rb" else real(path, mode, **options)

    monkeypatch.setattr(memory, "open", opened)


def test_breaks_are_bridged_and_said(
    small: None, memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_bytes(20_000)
    errors: list[Exception | None] = [ConnectionResetError(), None, None, TimeoutError("slow"), OSError("broken"), None]
    flaky(monkeypatch, memory, data, errors)
    with open_read("memory://f") as stream:
        assert stream.read() == data
    lines = [line for line in capsys.readouterr().err.splitlines() if "trying again" in line]
    assert len(lines) == 3
    assert lines[0].startswith("memory://f: reading at byte 0 broke off (ConnectionResetError); trying again in ")
    assert "TimeoutError: slow" in lines[1] and lines[2].endswith(f"(attempt 3 of {storage.ATTEMPTS})")


def test_given_up_after_the_attempts(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flaky(monkeypatch, memory, b"abc", [ConnectionResetError("gone") for _ in range(100)])
    with open_read("memory://f") as stream, pytest.raises(InputError, match=r"failed 9 times, got memory://f .*gone"):
        stream.read()
    assert tries(capsys) == storage.ATTEMPTS - 1


def test_what_does_not_pass_is_not_tried_again(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, kind, message in (
        (PermissionError("no"), InputError, "refused, got memory://f"),
        (FileNotFoundError("gone"), InputError, "url: nothing found, got memory://f"),
        (OSError(28, "No space left on device"), DiskError, "no space left"),
        (ValueError("strange"), InputError, "not possible, got memory://f"),
        (ZeroDivisionError("ours"), ZeroDivisionError, "ours"),
    ):
        flaky(monkeypatch, memory, b"abc", [error])
        with open_read("memory://f") as stream, pytest.raises(kind, match=message):
            stream.read()
    assert tries(capsys) == 0


def answer(status: int, code: str = "") -> Exception:
    error = Exception(f"status {status}")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (answer(503), True),
        (answer(500), True),
        (answer(429), True),
        (answer(200, "InternalError"), True),
        (answer(400, "RequestTimeout"), True),
        (answer(400, "InvalidArgument"), False),
        (answer(403), False),
        (answer(404), False),
        (answer(501), False),
        (answer(301), False),
    ],
)
def test_answers_that_pass(error: Exception, again: bool, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = [error]

    def action() -> int:
        if outcomes:
            raise FileNotFoundError("wrapped, as drivers do") from outcomes.pop()
        return 1

    if again:
        assert retry(action, "s3://a/b", "reading") == 1
    else:
        with pytest.raises(InputError, match="got s3://a/b"):
            retry(action, "s3://a/b", "reading")
    assert tries(capsys) == again


def test_a_file_that_changes_is_refused(small: None, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/f", bytes(9000))
    (before,) = listing("memory://f")
    stream = open_read("memory://f", before.version)
    assert stream.read(10) == bytes(10)
    memory.pipe_file("/f", b"x" * 9000)
    with pytest.raises(InputError, match="changed while it was being read, got memory://f"):
        stream.read()
    stream.close()
    with pytest.raises(InputError, match="changed"):
        open_read("memory://f", before.version)
    # and after a break, before a byte of the new one is used
    flaky(monkeypatch, memory, bytes(9000), [None, ConnectionResetError()])
    stream = open_read("memory://f")
    memory.pipe_file("/f", b"x" * 9000)
    with stream, pytest.raises(InputError, match="changed"):
        stream.read()


def test_a_file_that_ends_early_is_a_break(
    memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    memory.pipe_file("/f", b"abcdef")
    files = [io.BytesIO(b"abc"), io.BytesIO(b"abcdef")]
    monkeypatch.setattr(memory, "open", lambda *_, **__: files.pop(0))
    assert open_read("memory://f").read() == b"abcdef"
    assert tries(capsys) == 1


def test_folders_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="url: a folder, got file://"):
        open_read(f"file://{tmp_path}")


def test_a_stream_that_is_closed_early_leaves_no_thread_waiting(
    small: None, memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT_SECONDS", 1000.0)
    monkeypatch.setattr(storage, "LAST_WAIT_SECONDS", 1000.0)
    flaky(monkeypatch, memory, bytes(100_000), [None] * 7 + [ConnectionResetError() for _ in range(100)])
    stream = open_read("memory://f")
    stream.read(2000)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("jielong-read"):
            thread.join(10)
            assert not thread.is_alive()


def test_drivers_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"url: nosuch:// cannot be opened, got nosuch://a/b .*nosuch"):
        reach("nosuch://a/b")
    monkeypatch.setitem(sys.modules, "ossfs", None)
    with pytest.raises(InputError, match=r"no driver for oss://, got oss://a/b; .*ossfs.*; install"):
        listing("oss://a/b")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    for scheme in ("s3", "s3a"):
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    with pytest.raises(MissingExtraError, match=r"s3fs: not installed, .*jielong\[remote\]"):
        open_read("s3://a/b")


# ----------------------------------------------------------------------------------------------------------- HTTP


class Server(http.server.SimpleHTTPRequestHandler):
    """Sends files from their start only, whatever range is asked for."""

    def log_message(self, *_: object) -> None:
        pass


def test_over_http_without_ranges(tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed; it is in the extra remote")
    data = some_bytes(200_000)
    (tmp_path / "f.bin").write_bytes(data)
    handler = functools.partial(Server, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with BreakingLine(server.server_port, down=[150_000, 100_000]) as line:
                url = f"{line.url}/f.bin?secret=1"
                (file,) = listing(url)
                assert (file.url, file.size) == (url, len(data)) and file.version.startswith("last-modified:")
                with open_read(url, file.version) as stream:
                    assert stream.read() == data
                    assert stream.seek(100) == 100 and stream.read(5) == data[100:105]
                said = capsys.readouterr().err
                assert line.broken == 2 and "trying again" in said and "secret" not in said
                with pytest.raises(InputError, match="url: nothing found"):
                    listing(f"{line.url}/nothing")
        finally:
            server.shutdown()
            thread.join()


# ------------------------------------------------------------------------------------------------------------- S3


@needs_s3
def test_s3_through_a_line_that_breaks(
    port: int, small: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = some_bytes(60_000)
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir(BUCKET)
    for name in ("a/部分 1.jsonl", "a/b/c[1].txt", "top.txt"):
        fs.pipe_file(f"{BUCKET}/{name}", data)
    fs.call_s3("put_object", Bucket=BUCKET, Key="a/marker/")  # a folder that a console made
    files = listing(f"s3://{BUCKET}")
    assert [file.url.removeprefix(f"s3://{BUCKET}/") for file in files] == ["a/b/c[1].txt", "a/部分 1.jsonl", "top.txt"]
    assert listing(f"s3://{BUCKET}/a/*.jsonl") == listing(f"s3a://{BUCKET}/a/部分 1.jsonl".replace("s3a", "s3"))
    assert listing(f"s3://{BUCKET}/a/b/c[1].txt") == files[:1]
    assert all(file.size == len(data) and file.version.startswith("etag:") for file in files)
    capsys.readouterr()
    with BreakingLine(port, down=[3_000, 5_000, 900, 12_000, 4_000]) as line:
        use(monkeypatch, line.url)
        with open_read(files[1].url, files[1].version) as stream:
            assert stream.read() == data
        assert line.broken == 5
        assert 3 <= tries(capsys) <= 5  # aiohttp repeats a request itself when a kept connection has gone


@needs_s3
def test_s3_that_never_answers(port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(storage, "ATTEMPTS", 3)
    with BreakingLine(port, down=ALWAYS(50)) as line:
        use(monkeypatch, line.url)
        with pytest.raises(InputError, match=r"opening failed 3 times, got s3://corpus/f .*check the connection"):
            open_read(f"s3://{BUCKET}/f")
    assert tries(capsys) == 2


@needs_s3
def test_s3_answers_that_stay(port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, f"http://127.0.0.1:{port}")
    for url in (f"s3://{BUCKET}-not/f", f"s3://{BUCKET}-not", f"s3://{BUCKET}-not/*.txt"):
        with pytest.raises(InputError, match="url: nothing found, got s3://"):
            listing(url)
    with pytest.raises(InputError, match="got s3://"):
        listing("s3://*/a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    reach("s3://a/b").fs.clear_instance_cache()
    with pytest.raises(InputError, match=r"refused, got s3://.*check the credentials"):
        listing(f"s3://{BUCKET}")
    assert tries(capsys) == 0


@needs_s3
def test_s3_file_that_is_replaced(port: int, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir("replaced")
    fs.pipe_file("replaced/f", bytes(50_000))
    with open_read("s3://replaced/f") as stream:
        stream.read(10)
        fs.pipe_file("replaced/f", b"x" * 50_000)
        with pytest.raises(InputError, match="changed while it was being read"):
            stream.read()
