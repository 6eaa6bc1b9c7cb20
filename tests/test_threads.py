"""Threads that are kept: all numbers are called, a fork makes new ones, an error in one of them is not its end."""

import os
import threading

from jielong.threads import run_together


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
