"""Keys through a terminal of the system (a pseudo-terminal), and the terminal afterwards."""

from __future__ import annotations

import os
import pty
import signal
import termios
from collections.abc import Iterator

import pytest

from jielong.train.control.keyboard import Keyboard, split


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def typed(keyboard: Keyboard, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found += keyboard.read(5.0)
    return found


def test_keys_come_at_once_and_chinese_in_pieces(ends: tuple[int, int]) -> None:
    master, slave = ends
    with Keyboard(slave) as keyboard:
        assert keyboard.read(0.0) == []
        os.write(master, b"p")
        assert typed(keyboard, 1) == ["p"]
        half = "中国".encode()
        os.write(master, half[:4])
        assert typed(keyboard, 1) == ["中"]
        os.write(master, half[4:] + b"\r")
        assert typed(keyboard, 2) == ["国", "\n"]


def test_arrows_are_no_keys() -> None:
    assert split("a\x1b[A\x1b[1;5C\x1bOPb") == ["a", "b"] and split("\x1b") == ["\x1b"]


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_terminal_is_left_as_it_was(ends: tuple[int, int], error: type[BaseException] | None) -> None:
    before = termios.tcgetattr(ends[1])
    try:
        with Keyboard(ends[1]):
            now = termios.tcgetattr(ends[1])
            assert not now[3] & (termios.ICANON | termios.ECHO) and now[3] & termios.ISIG
            if error is not None:
                raise error
    except BaseException as caught:
        assert type(caught) is error
    assert termios.tcgetattr(ends[1]) == before


def test_a_signal_that_ends_the_process_leaves_it_too(ends: tuple[int, int]) -> None:
    before, handler = termios.tcgetattr(ends[1]), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, Keyboard(ends[1]):
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143 and termios.tcgetattr(ends[1]) == before
    assert signal.getsignal(signal.SIGTERM) == handler


def test_the_end_of_input() -> None:
    read, write = os.pipe()
    os.close(write)
    keyboard = Keyboard(read)
    with pytest.raises(EOFError):
        keyboard.read(1.0)
    os.close(read)
