"""Chunks on all cores: a bounded number under way, each done somewhere, and a dead worker replaced.

Workers are fresh processes (spawn): forking a process in which Arrow's threads run can lock up. A worker that is killed (out of
memory, say) takes the pool with it; its chunks are given to a new one, and only a chunk that kills its worker three times stops the run. A
worker whose parent is gone ends itself.

With one process everything is done here, without workers.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from jielong.data.pipeline.passes import Setting, Task, Worker
from jielong.errors import DataError
from jielong.progress import say

ATTEMPTS = 3
COLLECT_AFTER = 200_000  # new objects between two looks of the collector of cycles; 700 is Python's default
AHEAD = 2  # tasks that wait for a worker, beyond those at work: memory grows with them

_worker: Worker | None = None


def _begin(setting: Setting, parent: int) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; a chunk under way is finished
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    _worker = Worker(setting)
    seldom()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(task: Task) -> int:
    assert _worker is not None
    return _worker.do(task)


def seldom() -> None:
    """Let the collector of cycles run seldom, and not over what is there already: chunks are many small objects without
    cycles, and looking through them again and again takes 3 % of the time."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 20, 20)


def died_too_often(chunk: int | str) -> DataError:
    """What is said when there is no use in trying again."""
    return DataError(
        f"data: a worker process died {ATTEMPTS} times, got chunk {chunk} under way each time; it may need more memory than "
        "there is; lower data.processes or data.chunk_megabytes and run the same command again"
    )


class Crew:
    """The processes of a run, from its first pass to its last: they start once, and keep their tables."""

    def __init__(self, setting: Setting, processes: int) -> None:
        self.setting, self.processes = setting, processes
        self._here: Worker | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        if self.processes == 1:
            self._before = gc.get_threshold()
            seldom()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.processes == 1:
            gc.unfreeze()
            gc.set_threshold(*self._before)
        if self._pool is not None:  # after an error, what is under way is waited for; else they go home while we go on
            self._pool.shutdown(wait=kind is not None, cancel_futures=True)

    def do(self, tasks: Iterable[Task]) -> Iterator[int]:
        """Do every task; yields the numbers of chunks as they are done, in any order.

        Raises DataError for a chunk whose worker died ATTEMPTS times, and what a task raises.
        """
        if self.processes > 1:
            yield from self._in_processes(iter(tasks))
            return
        self._here = self._here or Worker(self.setting)
        for task in tasks:
            yield self._here.do(task)

    def _in_processes(self, source: Iterator[Task]) -> Iterator[int]:
        waiting, running = list[Task](), dict[Future[int], Task]()
        attempts: dict[int, int] = {}
        unborn = 0  # times that the processes died before they were given anything
        while True:
            try:
                self._start()  # they import what they need while the first chunk is read
                while len(running) < self.processes + AHEAD:
                    if not waiting:
                        waiting += itertools.islice(source, 1)
                    if not waiting:
                        break
                    running[self._submit(_do, waiting[-1])] = waiting[-1]
                    waiting.pop()
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = future.result()
                    del running[future]
                    yield number
            except BrokenProcessPool:
                for future in [future for future in running if future.done() and future.exception() is None]:
                    yield running.pop(future).number
                unborn += not running
                for task in running.values():
                    attempts[task.number] = attempts.get(task.number, 0) + 1
                if unborn == ATTEMPTS or any(attempts[task.number] == ATTEMPTS for task in running.values()):
                    worst = max(running.values(), key=lambda task: attempts[task.number]).number if running else "none"
                    raise died_too_often(worst) from None
                waiting += running.values()
                say(f"data: a worker process died; {len(waiting)} chunks are done again")
                running = {}
                if self._pool is not None:
                    self._pool.shutdown(cancel_futures=True)
                self._pool = None

    def _start(self) -> None:
        """Start the processes, if they are not there: each starts with a task."""
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.processes, context, _begin, (self.setting, os.getpid()))
            for _ in range(self.processes):
                self._submit(os.getpid)

    def _submit(self, function: Any, *given: Any) -> Future[int]:
        assert self._pool is not None
        try:
            return self._pool.submit(function, *given)
        except OSError as error:  # a worker died while another one was started
            raise BrokenProcessPool(str(error)) from None
