"""Files and folders brought to a URL: whole or not at all, in memory, on disk, and to an S3 behind a line that breaks."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jielong import storage, uploads
from jielong.errors import DiskError, InputError
from jielong.storage import listing, open_read
from jielong.uploads import upload, upload_folder
from tests.s3_server import ALWAYS, MISSING, BreakingLine, s3_port, use

needs_s3 = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; they are in the extra test")
PART = 5 << 20  # the smallest that S3 takes
NAMES = ["documents/0.parquet", "documents/1.parquet", "报告.html"]


@pytest.fixture
def port() -> int:
    return s3_port()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(storage, "LAST_WAIT_SECONDS", 0.01)


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished stage, in small."""
    top = tmp_path / "data"
    (top / "documents").mkdir(parents=True)
    for name in (*NAMES, "manifest.json"):
        (top / name).write_bytes(random.Random(name).randbytes(5000))
    (top / "documents" / "x.tmp").write_bytes(b"rest of a kill")
    return top


def content(url: str) -> dict[str, bytes]:
    return {file.url.removeprefix(f"{url}/"): open_read(file.url).read() for file in listing(url)}


def expected(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in [*NAMES, "manifest.json"]}


def tries(capsys: pytest.CaptureFixture[str]) -> int:
    return capsys.readouterr().err.count("trying again")


# ------------------------------------------------------------------------------------------------ memory and disk


@pytest.mark.parametrize("scheme", ["memory", "file"])
@pytest.mark.parametrize("size", [0, 1, 3000])
def test_one_file(scheme: str, size: int, tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    (tmp_path / "local").write_bytes(bytes(size))
    url = f"{scheme}://{tmp_path}/new/folder/f.bin"
    for _ in range(2):  # the second time over the first
        upload(tmp_path / "local", url)
        assert open_read(url).read() == bytes(size)
    assert len(listing(f"{scheme}://{tmp_path}/new")) == 1
    assert not list(tmp_path.rglob("*.uploading"))


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_a_folder_once_and_again(scheme: str, folder: Path, tmp_path: Path, memory: Any) -> None:
    url = f"{scheme}://{tmp_path}/corpus"
    assert upload_folder(folder, f"{url}/") == [*NAMES, "manifest.json"]
    assert content(url) == expected(folder)
    assert upload_folder(folder, url) == []
    (folder / "documents/1.parquet").write_bytes(bytes(5000))  # the same size
    (folder / "报告.html").write_bytes(b"shorter")
    assert upload_folder(folder, url) == [*NAMES[1:], "manifest.json"]  # a reader waits for the manifest once more
    (folder / "manifest.json").write_bytes(b"{}")
    assert upload_folder(folder, url) == ["manifest.json"]
    assert content(url) == expected(folder)
    assert upload_folder(folder, f"{url}-2", last=None) == sorted([*NAMES, "manifest.json"])


def test_a_reader_never_sees_half_a_folder(folder: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed again and again, one file further each time: the manifest is there only with all that it belongs to."""
    upload_folder(folder, "memory://corpus")
    before, send = expected(folder), uploads._send
    for name in NAMES:
        (folder / name).write_bytes(b"new" + name.encode())
    (folder / "manifest.json").write_bytes(b"new manifest")
    sent: list[str] = []

    def one_then_kill(local: Path, *rest: Any) -> None:
        if sent:
            raise KeyboardInterrupt
        sent.append(local.name)
        send(local, *rest)

    monkeypatch.setattr(uploads, "UPLOADS", 1)
    monkeypatch.setattr(uploads, "_send", one_then_kill)
    for times in (1, 2, 3):
        sent.clear()
        with pytest.raises(KeyboardInterrupt):
            upload_folder(folder, "memory://corpus")
        there = content("memory://corpus")
        assert "manifest.json" not in there
        assert sum(there[name] != before[name] for name in NAMES) == times
    sent.clear()
    assert upload_folder(folder, "memory://corpus") == ["manifest.json"]
    assert content("memory://corpus") == expected(folder)


def test_files_that_are_not_the_folder_s_stop_it(folder: Path, memory: Any) -> None:
    upload_folder(folder, "memory://corpus")
    memory.pipe_file("/corpus/documents/2.parquet", b"of an older run")
    (folder / "报告.html").write_bytes(b"changed")
    before = content("memory://corpus")
    with pytest.raises(InputError, match=r"url: 1 other files are there, got memory://corpus with documents/2.parquet"):
        upload_folder(folder, "memory://corpus")
    assert content("memory://corpus") == before


class Breaking(io.RawIOBase):
    """A file opened for writing that fails at its second piece, and is closed with the first in it."""

    def __init__(self, file: Any, error: Exception) -> None:
        self._file, self._error, self._pieces = file, error, 0

    def write(self, data: Any) -> int:
        self._pieces += 1
        if self._pieces == 2:
            raise self._error
        written: int = self._file.write(data)
        return written

    def close(self) -> None:
        self._file.close()
        super().close()


def test_half_a_file_is_never_under_its_name(
    tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)
    (tmp_path / "local").write_bytes(b"x" * 2500)
    memory.pipe_file("/f", b"old")
    real = memory.open
    errors: list[Exception] = [ConnectionResetError(), TimeoutError()]

    def opened(path: str, mode: str, **options: Any) -> Any:
        file = real(path, mode, **options)
        return Breaking(file, errors.pop()) if mode == "wb" and errors else file

    monkeypatch.setattr(memory, "open", opened)
    upload(tmp_path / "local", "memory://f")
    assert memory.cat_file("/f") == b"x" * 2500 and tries(capsys) == 2
    for error, kind in ((OSError(28, "No space left on device"), DiskError), (PermissionError("no"), InputError)):
        errors.append(error)
        with pytest.raises(kind):
            upload(tmp_path / "local", "memory://g")
    assert tries(capsys) == 0
    errors += [ConnectionResetError() for _ in range(20)]
    with pytest.raises(InputError, match="writing failed 9 times, got memory://g"):
        upload(tmp_path / "local", "memory://g")
    assert sorted(memory.store) == ["/f"]


def test_a_store_that_does_not_rename_over_a_file(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local").write_bytes(b"new")
    memory.pipe_file("/f", b"old")
    real = memory.mv

    def move(source: str, target: str) -> None:
        if memory.exists(target):
            raise OSError("exists")
        real(source, target)

    monkeypatch.setattr(memory, "mv", move)
    upload(tmp_path / "local", "memory://f")
    assert memory.cat_file("/f") == b"new"


def test_a_file_that_changes_meanwhile(tmp_path: Path, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "local").write_bytes(b"new")
    monkeypatch.setattr(uploads, "_md5", lambda _: hashlib.md5(b"old").hexdigest())
    with pytest.raises(InputError, match="file: it changed while it was being sent to memory://f"):
        upload(tmp_path / "local", "memory://f")
    assert not memory.store


def test_nothing_is_written_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed; it is in the extra remote")
    with pytest.raises(InputError, match=r"cannot be written over HTTP, got http://127\.0\.0\.1/f"):
        upload_folder(tmp_path, "http://127.0.0.1/f")


# ------------------------------------------------------------------------------------------------------------- S3


@needs_s3
def test_s3_folder(port: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir("folders")
    url = "s3://folders/run/data"
    assert upload_folder(folder, url) == [*NAMES, "manifest.json"]
    assert content(url) == expected(folder)
    assert upload_folder(folder, url) == []
    (folder / "documents/0.parquet").write_bytes(bytes(5000))
    assert upload_folder(folder, url) == [NAMES[0], "manifest.json"]
    assert content(url) == expected(folder)
    with pytest.raises(InputError, match="url: nothing found, got s3://not-there"):
        upload_folder(folder, "s3://not-there/data")


@needs_s3
def test_s3_parts_through_a_line_that_breaks(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    data = random.Random(1).randbytes(2 * PART + 1000)
    (tmp_path / "big.bin").write_bytes(data)
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir("parts")
    with BreakingLine(port, up=[2_000_000, 100_000, 200_000, PART + 2_000_000], down=[500]) as line:
        use(monkeypatch, line.url)
        upload(tmp_path / "big.bin", "s3://parts/big.bin")
        # aiohttp repeats a request itself when a kept connection has gone
        assert line.broken == 5 and 2 <= tries(capsys) <= 5
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    (file,) = listing("s3://parts")
    assert file.version.endswith("-3") and fs.cat_file("parts/big.bin") == data
    # known again, though its ETag is no MD5
    (tmp_path / "to").mkdir()
    (tmp_path / "big.bin").rename(tmp_path / "to" / "big.bin")
    assert upload_folder(tmp_path / "to", "s3://parts") == []


@needs_s3
def test_s3_that_always_breaks_leaves_nothing(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    monkeypatch.setattr(storage, "ATTEMPTS", 3)
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir("broken")
    for size in (100_000, PART + 1):
        (tmp_path / "f.bin").write_bytes(bytes(size))
        with BreakingLine(port, up=ALWAYS(50_000)) as line:
            use(monkeypatch, line.url)
            with pytest.raises(InputError, match=r"writing.* failed 3 times, got s3://broken/f.bin"):
                upload(tmp_path / "f.bin", "s3://broken/f.bin")
        assert tries(capsys) == 2
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    assert fs.ls("broken") == []
    assert not fs.call_s3("list_multipart_uploads", Bucket="broken").get("Uploads")


@needs_s3
def test_s3_answer_that_is_lost(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parts are an object already when the connection breaks; the second attempt finds no upload, but the object."""
    monkeypatch.setattr(uploads, "PART_BYTES", PART)
    (tmp_path / "f.bin").write_bytes(bytes(PART + 1))
    fs = use(monkeypatch, f"http://127.0.0.1:{port}")
    fs.mkdir("lost")
    driver, lost = type(fs).call_s3, []

    def call(self: Any, method: str, *args: Any, **options: Any) -> Any:
        answer = driver(self, method, *args, **options)
        if method == "complete_multipart_upload" and not lost:
            lost.append(answer)
            raise ConnectionResetError("the answer is lost")
        return answer

    monkeypatch.setattr(type(fs), "call_s3", call)
    upload(tmp_path / "f.bin", "s3://lost/f.bin")
    assert lost and tries(capsys) == 1
    assert open_read("s3://lost/f.bin").read() == bytes(PART + 1)
