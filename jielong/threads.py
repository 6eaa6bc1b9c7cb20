"""Threads that run one compiled function together: kept, so that a step costs a wake-up and not a start.

Not numba's own parallel loops: their OpenMP layer ends a process that forks afterwards (as the data stage does), their other
one breaks when two threads call it, and both compile for many seconds. And not torch's threads, which nothing but torch can
use. The kernel runs without the interpreter's lock; who comes late finds less to do (`kernels.py`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

_queues: list[SimpleQueue[Callable[[int], Any]]] = []
_owner = 0  # the process that the threads are of: they do not outlive a fork
_making = threading.Lock()


def run_together(function: Callable[[int], Any], threads: int) -> None:
    """function(0) here, function(1) ... function(threads - 1) in kept threads, which may begin later and may still run after."""
    global _owner
    if threads > 1:
        with _making:
            if _owner != os.getpid():
                _queues.clear()
                _owner = os.getpid()
            while len(_queues) < threads - 1:
                queue: SimpleQueue[Callable[[int], Any]] = SimpleQueue()
                number = len(_queues) + 1
                threading.Thread(target=_serve, args=(queue, number), name=f"decoder {number}", daemon=True).start()
                _queues.append(queue)
            for queue in _queues[: threads - 1]:
                queue.put(function)
    function(0)


def _serve(queue: SimpleQueue[Callable[[int], Any]], number: int) -> None:
    while True:
        function = queue.get()
        with suppress(Exception):  # no memory, say; thread 0 does all the work then, or meets the same
            function(number)
        del function  # what it holds may be a model


def share(work: Callable[[int, int], Any], rows: int, threads: int) -> None:
    """work(begin, end) over all rows, in pieces that `threads` threads take as they come; done when this returns.

    How many pieces there are depends on the threads: what is found in a row must not depend on its piece. An error of a piece is
    raised, after all of them were done.
    """
    if threads <= 1 or rows < 2:
        work(0, rows)
        return
    pieces = min(rows, 4 * threads)
    bounds = [rows * piece // pieces for piece in range(pieces + 1)]
    claims, done, errors = iter(range(pieces)), threading.Semaphore(0), list[BaseException]()

    def run(thread: int) -> None:
        for piece in claims:  # taking the next of a range is one operation of the interpreter
            try:
                work(bounds[piece], bounds[piece + 1])
            except BaseException as error:
                errors.append(error)
            done.release()

    run_together(run, threads)
    for _ in range(pieces):
        done.acquire()
    if errors:
        raise errors[0]
