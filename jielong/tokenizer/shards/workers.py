"""Chunks of documents encoded on all cores, and a dead worker replaced.

Processes, not threads: where the library encodes, turning what it gives into arrays holds the interpreter's lock, and threads would
wait for each other; reading Parquet and framing run on all cores as well; the cache of a compiled encoder needs no locks; and
a process that the system kills for its memory takes one chunk with it, not the run. They are fresh ones (spawn): forking a process in which Arrow's threads run can lock up. A chunk that kills its
worker ATTEMPTS times stops the run. A worker whose parent is gone ends itself.

With one process everything is done here, and the encoder uses all cores by threads of its own.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from jielong.errors import TokenizerError
from jielong.progress import say
from jielong.tokenizer.encoding_arrays import bulk_encoder
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.chunks import Chunk, encode_chunk
from jielong.tokenizer.shards.manifest import Scheme

ATTEMPTS = 3
AHEAD = 2  # chunks that wait for a worker, beyond those at work


@dataclass(frozen=True)
class Setting:
    """What is the same for every chunk."""

    tokenizer: Path  # its folder
    scheme: Scheme
    sources: tuple[str, ...]
    end_token: str | None = None


@dataclass(frozen=True)
class Task:
    """A chunk, and where it is kept."""

    chunk: Chunk
    work: Path


class Worker:
    """Encodes chunks."""

    def __init__(self, setting: Setting, threads: int | None = None) -> None:
        self._setting = setting
        self._encode = bulk_encoder(open_folder(setting.tokenizer, setting.end_token), threads)

    def do(self, task: Task) -> Task:
        """Encode one chunk and keep it."""
        encode_chunk(task.chunk, task.work, self._encode, self._setting.scheme, self._setting.sources)
        return task


_worker: Worker | None = None


def _begin(setting: Setting, parent: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; a chunk under way is finished
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a process
    _worker = Worker(setting, threads=1)


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(task: Task) -> Task:
    assert _worker is not None
    return _worker.do(task)


class Crew:
    """The processes that encode; they start with the first task and keep their tokenizer. A context manager."""

    def __init__(self, setting: Setting, processes: int) -> None:
        self.setting, self.processes = setting, processes
        self._here: Worker | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:  # what is under way after an error is waited for
            self._pool.shutdown(wait=True, cancel_futures=True)

    def do(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """Encode every chunk; yields each when it is kept, in any order.

        Raises TokenizerError for a chunk whose worker died ATTEMPTS times, and what encoding raises.
        """
        if self.processes > 1:
            yield from self._in_processes(iter(tasks))
            return
        self._here = self._here or Worker(self.setting)
        for task in tasks:
            yield self._here.do(task)

    def _in_processes(self, source: Iterator[Task]) -> Iterator[Task]:
        waiting, running = list[Task](), dict[Future[Task], Task]()
        attempts: dict[Task, int] = {}
        unborn = 0  # times that the processes died before they were given anything
        while True:
            try:
                while len(running) < self.processes + AHEAD:
                    waiting += itertools.islice(source, int(not waiting))
                    if not waiting:
                        break
                    running[self._submit(waiting[-1])] = waiting[-1]
                    waiting.pop()
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    task = future.result()
                    del running[future]
                    yield task
            except BrokenProcessPool:
                for future in [future for future in running if future.done() and future.exception() is None]:
                    yield running.pop(future)
                unborn += not running
                for task in running.values():
                    attempts[task] = attempts.get(task, 0) + 1
                if unborn == ATTEMPTS or any(attempts[task] == ATTEMPTS for task in running.values()):
                    raise TokenizerError(_too_often(running.values(), attempts)) from None
                waiting += running.values()
                say(f"tokenizer: a worker process died; {len(waiting)} chunks are done again")
                running = {}
                if self._pool is not None:
                    self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _submit(self, task: Task) -> Future[Task]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, context, _begin, (self.setting, os.getpid()))
        try:
            return self._pool.submit(_do, task)
        except OSError as error:  # a worker died while another one was started
            raise BrokenProcessPool(str(error)) from None


def _too_often(tasks: Iterable[Task], attempts: dict[Task, int]) -> str:
    worst = max(tasks, key=lambda task: attempts[task], default=None)
    place = "none" if worst is None else f"{worst.chunk.file.name}, row group {worst.chunk.groups[0]}"
    return (
        f"tokenizer: a worker process died {ATTEMPTS} times, got {place} under way each time; it may need more memory than "
        "there is; lower tokenizer.processes and run the same command again"
    )
