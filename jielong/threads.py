"""Threads that run one compiled function together: kept, so that a step costs a wake-up and not a start.

Not numba's own parallel loops: their OpenMP layer ends a process that forks afterwards (as the data stage does), their other
one breaks when two threads call it, and both compile for many seconds. The kernel runs without the interpreter's lock; who comes
late finds less to do (`kernels.py`).

`share`, which works between torch's operations, takes torch's own threads where it finds them (GNU's OpenMP, Linux): they go on turning
for some milliseconds after each operation, and a thread of ours on the same core would wait for them: a step of training took 1.13
times as long. In a fork they are gone, and ours are taken.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
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


_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_HOME = os.getpid()


@cache
def _torch_threads(process: int) -> Callable[[Callable[[Any], None], int], None] | None:
    """(function, threads): function(...) in each of torch's threads, this one among them; None where there is no way to them.

    process: its number. A fork has another one, and none of these threads.
    """
    if process != _HOME or (torch := sys.modules.get("torch")) is None:
        return None
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
        home = str(Path(torch.__path__[0]))
        found = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and "/libgomp" in line}
        library = ctypes.CDLL(next(path for path in sorted(found) if path.startswith(home)))  # the one that is loaded
        start = library.GOMP_parallel
    except (OSError, StopIteration, AttributeError):
        return None
    start.argtypes, start.restype = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None

    def together(function: Callable[[Any], None], threads: int) -> None:
        errors = list[BaseException]()

        def body(nothing: Any) -> None:
            try:
                function(nothing)
            except (
                BaseException
            ) as error:  # what leaves a body (Ctrl-C between two pieces, say) would be printed and forgotten
                errors.append(error)

        start(_BODY(body), None, threads, 0)
        if errors:
            raise errors[0]

    return together


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
    claims, done, errors = iter(range(pieces)), SimpleQueue[None](), list[BaseException]()

    def run(thread: Any) -> None:
        for piece in claims:  # taking the next of a range is one operation of the interpreter
            try:
                work(bounds[piece], bounds[piece + 1])
            except BaseException as error:
                errors.append(error)
            if together is None:
                done.put(None)

    together = _torch_threads(os.getpid())
    if together is not None:
        together(run, threads)  # back when all are
    else:
        run_together(run, threads)
        for _ in range(pieces):
            done.get()
    if errors:
        raise errors[0]
