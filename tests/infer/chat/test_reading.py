"""Messages from a pipe and a file; a terminal is in test_running.py."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jielong.errors import InputError
from jielong.infer.chat.reading import MORE, SIGN, from_file, from_keyboard, from_pipe, messages


def reader(lines: list[str], signs: list[str]) -> Callable[[str], str]:
    left = iter(lines)

    def read(sign: str) -> str:
        signs.append(sign)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["一", "二"], ["一", "二"]),
        (["一", "", "二"], ["一"]),
        (["一", "  ", "二"], ["一"]),
        (["一\\", "二\\", "", "三"], ["一\n二\n", "三"]),
        (["一\\"], ["一"]),
        (["\\", "二"], ["\n二"]),
        (["\\"], []),
        ([], []),
    ],
)
def test_messages_of_one_line_or_several(lines: list[str], found: list[str]) -> None:
    assert list(messages(reader(lines, []))) == found


def test_further_lines_have_a_sign_of_their_own() -> None:
    signs = list[str]()
    assert list(messages(reader(["一\\", "二", "三"], signs))) == ["一\n二", "三"]
    assert signs == [SIGN, MORE, SIGN, SIGN]


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "questions.txt"
    path.write_bytes("\ufeff一\r\n\r\n二\\\r\n三\n\n".encode())
    assert list(from_file(path)) == ["一", "二\n三"]
    path.write_text("\n \n", encoding="utf-8")
    with pytest.raises(InputError, match=r"--file: holds no question, got .*questions.txt; write one a line"):
        from_file(path)


def test_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("一\n二\n"))
    assert list(from_pipe()) == ["一", "二"]
    monkeypatch.setattr(sys, "stdin", None)
    assert list(from_pipe()) == []


@pytest.mark.parametrize("end", [KeyboardInterrupt, EOFError])
def test_ctrl_c_and_ctrl_d_leave(
    end: type[BaseException], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the middle of a message of several lines does not send it."""
    left = iter(["一", "二\\"])

    def typed(sign: str = "") -> str:
        for line in left:
            return line
        raise end

    monkeypatch.setattr("builtins.input", typed)
    assert list(from_keyboard()) == ["一"] + (["二"] if end is EOFError else [])
    said = capsys.readouterr()
    assert said.out == "" and said.err == f"{SIGN}{SIGN}{MORE}\n"  # results go elsewhere: the signs are not among them
