"""Threads that are kept: all numbers are called, a fork makes new ones, an error in one of them is not its end. Shared rows."""

import os
import subprocess
import sys
import threading
from collections import Counter

import pytest
import torch

from jielong import threads as module
from jielong.threads import run_together, share

IN_A_FORK = """
import os, torch
from jielong import threads
torch.ones(1 << 20).add_(1)  # torch's threads are there
def total():
    done = []
    threads.share(lambda begin, end: done.extend(range(begin, end)), 100, 2)
    return sum(done)
print(total(), threads._torch_threads(os.getpid()) is not None, flush=True)
child = os.fork()
if not child:
    print(total(), threads._torch_threads(os.getpid()) is not None, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1], total())
"""


@pytest.fixture(params=["torch's", "ours"])
def whose(request, monkeypatch) -> None:
    """Threads that `share` takes."""
    if request.param == "ours":
        monkeypatch.setattr(module, "_torch_threads", lambda process: None)


def numbers(threads: int) -> dict[int, int]:
    """Which thread each number was called in."""
    seen: dict[int, int] = {}
    all_here = threading.Barrier(threads, timeout=30)

    def note(number: int) -> None:
        seen[number] = threading.get_ident()
        all_here.wait()

    run_together(note, threads)
    return seen


def test_every_number_is_called_and_threads_are_kept() -> None:
    assert list(numbers(1)) == [0]
    first, second = numbers(3), numbers(3)
    assert sorted(first) == [0, 1, 2] and first == second and first[0] == threading.get_ident()


def test_other_threads_are_made_in_another_process(monkeypatch) -> None:
    before = numbers(2)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    after = numbers(2)
    assert before[0] == after[0] and before[1] != after[1]


def test_an_error_in_a_thread_is_left_to_the_caller() -> None:
    called = threading.Event()

    def fail(number: int) -> None:
        if number:
            called.set()
            raise ValueError("compiled functions raise nothing else than the caller's")

    run_together(fail, 2)
    assert called.wait(30) and sorted(numbers(2)) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
def test_every_row_is_done_once(rows: int, threads: int, whose: None) -> None:
    done: Counter[int] = Counter()
    lock = threading.Lock()

    def work(begin: int, end: int) -> None:
        with lock:
            done.update(range(begin, end))

    share(work, rows, threads)
    assert done == Counter(range(rows))


def test_rows_are_shared_by_threads(whose: None) -> None:
    """Two pieces that wait for each other."""
    both, met = threading.Barrier(2, timeout=30), threading.Event()

    def work(begin: int, end: int) -> None:
        if not met.is_set():
            both.wait()
            met.set()

    share(work, 2, 2)
    assert met.is_set()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_a_piece_is_raised_when_all_are_done(threads: int, error: type[BaseException], whose: None) -> None:
    done: list[int] = []

    def work(begin: int, end: int) -> None:
        if begin <= 5 < end:
            raise error("row 5")
        done.extend(range(begin, end))

    with pytest.raises(error, match="row 5"):
        share(work, 12, threads)
    assert sorted(done) == ([] if threads == 1 else [row for row in range(12) if row != 5])
    assert sorted(numbers(3)) == [0, 1, 2]  # nobody died of it


def test_sharing_inside_of_a_piece_and_from_two_threads_at_once(whose: None) -> None:
    done: list[int] = []

    def work(begin: int, end: int) -> None:
        for row in range(begin, end):
            share(lambda first, last, row=row: done.extend(range(10 * row + first, 10 * row + last)), 10, 3)  # type: ignore[misc]

    others = [threading.Thread(target=share, args=(work, 8, 3), daemon=True) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert not any(other.is_alive() for other in others), "a deadlock"
    assert sorted(done) == sorted([*range(80), *range(80)])


def test_torch_threads_are_taken_where_they_are_found_and_not_in_a_fork() -> None:
    there = any(module.Path(torch.__path__[0], "lib").glob("libgomp*"))
    result = subprocess.run([sys.executable, "-c", IN_A_FORK], capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines() == [f"4950 {there}", "4950 False", "0 4950"], result.stderr


def test_without_torch_threads_are_ours() -> None:
    script = "import os; from jielong import threads; print(threads._torch_threads(os.getpid()))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "None"
