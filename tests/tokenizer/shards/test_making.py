"""Shards from documents: the same bytes for any number of processes, killed or not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jielong.errors import DiskError, explain_os_error
from jielong.runs import list_outputs
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards import chunks, making
from jielong.tokenizer.shards.making import make_shards
from jielong.tokenizer.shards.manifest import Scheme
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.workers import Setting, Task, Worker
from tests.corpus import write_jsonl
from tests.tokenizer.shards.corpus import SOURCES, texts, write_documents, write_tokenizer

KILLS = 3
RECIPE = """
name = "killed"
[data]
sources = [{ name = "web", path = "web.jsonl" }]
chunk_megabytes = 1
steps = []
[tokenizer]
path = "given"
processes = 2
shard_tokens = 120000
"""


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2000)
    rows = texts(120)
    return write_documents(tmp_path / "documents", {"train": [rows[:50], rows[50:100]], "validation": [rows[100:]]})


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    folder = write_tokenizer(tmp_path / "tokenizer")
    return Setting(folder, Scheme(open_folder(folder).size, 0), SOURCES)


def make(setting: Setting, documents: Path, place: Path, processes: int = 1) -> list[dict[str, object]]:
    make_shards(setting, documents, "documents", place / "work", place / "shards", 700, processes)
    return list_outputs(place / "shards")


def test_every_document_in_order_for_any_number_of_processes(setting: Setting, documents: Path, tmp_path: Path) -> None:
    found = [make(setting, documents, tmp_path / str(count), count) for count in (1, 3)]
    assert found[0] == found[1]
    tokenizer, rows = open_folder(setting.tokenizer), texts(120)
    for split, expected in (("train", rows[:100]), ("validation", rows[100:])):
        shards = Shards(tmp_path / "1" / "shards", split)
        shards.verify()
        assert [row.tolist() for row in shards] == [[*ids, 0] for ids in tokenizer.encode(expected)]
        assert shards.tokens == sum(len(row) for row in shards) and shards.text_bytes == sum(
            len(t.encode()) for t in expected
        )
        assert len(shards.files) > 2
    assert not list((tmp_path / "3" / "work").rglob("*.npy"))  # chunks go when their shards are whole


@pytest.mark.parametrize("after", [0, 1, 5, 12])
def test_what_was_done_is_not_done_again(
    setting: Setting, documents: Path, tmp_path: Path, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full after some chunks; with room, it goes on, and writes what it would have written."""
    whole = make(setting, documents, tmp_path / "whole")
    done: list[tuple[str, int]] = []
    do = Worker.do

    def full(self: Worker, task: Task) -> Task:
        if len(done) == after:
            raise OSError(28, "No space left on device")
        done.append((task.work.name, task.chunk.number))
        return do(self, task)

    monkeypatch.setattr(Worker, "do", full)
    with pytest.raises(OSError, match="No space left") as caught:
        make(setting, documents, tmp_path / "again")
    assert isinstance(explain_os_error(caught.value), DiskError)
    after = -1  # there is room
    assert make(setting, documents, tmp_path / "again") == whole
    assert len(done) == len(set(done))


def test_a_kill_while_a_shard_is_open(
    setting: Setting, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(setting, documents, tmp_path / "whole")
    second, calls = making.write_json, [0]

    def killed(path: Path, value: object) -> None:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        second(path, value)

    monkeypatch.setattr(making, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        make(setting, documents, tmp_path / "again")
    assert make(setting, documents, tmp_path / "again", 2) == whole


def test_other_documents_or_another_tokenizer_begin_anew(setting: Setting, documents: Path, tmp_path: Path) -> None:
    make(setting, documents, tmp_path)
    [old] = (tmp_path / "work").iterdir()
    shutil.rmtree(tmp_path / "shards")
    config = setting.tokenizer / "tokenizer_config.json"
    config.write_bytes(config.read_bytes() + b"\n")
    make(setting, documents, tmp_path)
    [new] = (tmp_path / "work").iterdir()
    assert new != old


def jielong(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jielong", "tokenizer", "killed.toml"]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL through the command line, after the data stage; what comes out at the end is the same to the byte."""
    write_jsonl(tmp_path / "web.jsonl", texts(12_000))
    write_tokenizer(tmp_path / "given")
    (tmp_path / "killed.toml").write_text(RECIPE, encoding="utf-8")
    run = tmp_path / "runs" / "killed"
    assert jielong(tmp_path).wait() == 0
    whole = list_outputs(run / "tokenizer")
    assert sum(str(row["path"]).startswith("shards/train") for row in whole) >= 16  # four shards of four files
    shutil.rmtree(run / "tokenizer")
    started = time.monotonic()
    assert jielong(tmp_path).wait() == 0
    needed = time.monotonic() - started
    assert list_outputs(run / "tokenizer") == whole
    shutil.rmtree(run / "tokenizer")
    chance, killed = random.Random(1), 0
    while killed < KILLS:
        process = jielong(tmp_path)
        time.sleep(chance.uniform(0.3, needed))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        assert process.wait() in (0, -signal.SIGKILL)
        if (run / "tokenizer").is_dir():  # it came to its end: begin anew, so that every kill hits something
            assert list_outputs(run / "tokenizer") == whole
            shutil.rmtree(run / "tokenizer")
    assert jielong(tmp_path).wait() == 0
    assert list_outputs(run / "tokenizer") == whole
    assert not run.joinpath("tokenizer.work").exists() and not run.joinpath("tokenizer.partial").exists()
