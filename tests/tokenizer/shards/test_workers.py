"""Workers: here and in processes the same; one that dies is replaced, one that always dies stops the run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from jielong.errors import TokenizerError
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards import chunks
from jielong.tokenizer.shards.chunks import chunks_of
from jielong.tokenizer.shards.manifest import Scheme
from jielong.tokenizer.shards.workers import Crew, Setting, Task
from tests.tokenizer.shards.corpus import SOURCES, texts, write_documents, write_tokenizer


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    folder = write_tokenizer(tmp_path / "tokenizer")
    tokenizer = open_folder(folder)
    return Setting(folder, Scheme(tokenizer.size, tokenizer.end_id), SOURCES)


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    documents = write_documents(tmp_path / "documents", {"train": [texts(40)]})
    return [Task(chunk, tmp_path / "work") for chunk in chunks_of(documents, "train")]


def kept(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*")) if path.is_file()}


def test_here_and_in_processes(setting: Setting, tasks: list[Task], tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        with Crew(setting, processes) as crew:
            done = list(crew.do(Task(task.chunk, tmp_path / str(processes)) for task in tasks))
        assert sorted(task.chunk.number for task in done) == list(range(len(tasks)))
        found.append(kept(tmp_path / str(processes)))
    assert found[0] == found[1] and len(found[0]) == 2 * len(tasks)


def test_a_worker_that_dies_is_replaced(
    setting: Setting, tasks: list[Task], capsys: pytest.CaptureFixture[str]
) -> None:
    done = []
    with Crew(setting, 2) as crew:
        for task in crew.do(tasks):
            if not done:
                assert crew._pool is not None
                os.kill(next(iter(crew._pool._processes)), signal.SIGKILL)
            done.append(task.chunk.number)
    assert sorted(done) == list(range(len(tasks)))


def test_a_chunk_that_always_kills_its_worker_stops_the_run(setting: Setting, tasks: list[Task]) -> None:
    """A tokenizer folder that is gone makes every worker end at its start."""
    import shutil

    shutil.rmtree(setting.tokenizer)
    with (
        pytest.raises(TokenizerError, match="a worker process died 3 times, got train-00000"),
        Crew(setting, 2) as crew,
    ):
        list(crew.do(tasks))
