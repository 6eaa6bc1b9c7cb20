"""Events as text: what goes to standard output, what to standard error."""

from __future__ import annotations

import pytest

from jielong.infer.chat import showing
from jielong.infer.chat.session import Asked, Began, Ended, Event, Listed, Piece, Told
from jielong.infer.chat.showing import Display, OneBelowTheOther, SideBySide
from jielong.infer.generate import Continuation


def record(text: str, stopped: str = "end_of_text") -> Continuation:
    return Continuation("问", text, len(text), stopped, 0)


ONE: list[Event] = [Asked("问"), Began(0), Piece(0, "答"), Piece(0, "案"), Ended(0, record("答案"))]
TWO: list[Event] = [*ONE, Began(1), Piece(1, "另一个"), Ended(1, record("另一个", "length"))]
TOGETHER: list[Event] = [
    Asked("问"), Began(0), Began(1), Piece(0, "答"), Piece(1, "另一"), Piece(0, "案"), Piece(1, "个"), Ended(0, record("答案")),
    Ended(1, record("另一个", "interrupted")),
]  # fmt: skip


def shown(display: Display, events: list[Event], capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    for event in events:
        display(event)
    said = capsys.readouterr()
    return said.out, said.err


def test_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(OneBelowTheOther(["甲"], turns=True, typed=True), ONE, capsys) == ("答案\n", "")
    assert shown(OneBelowTheOther(["甲"], turns=True, typed=False), ONE, capsys) == ("答案\n", "> 问\n")
    assert shown(OneBelowTheOther(["甲"], turns=False, typed=False), ONE, capsys) == ("问答案\n", "")


def test_two_models_one_below_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = shown(OneBelowTheOther(["甲", "乙"], turns=True, typed=True), TWO, capsys)
    assert out == "【甲】\n答案\n【乙】\n另一个\n" and err == "[乙: cut after 3 tokens, see /set max_new_tokens]\n"


def test_two_models_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, err = shown(SideBySide(["甲", "乙"], turns=True, typed=True), [*TOGETHER, *TOGETHER], capsys)
    rows = [line.split("\r")[-1].split() for line in out.split("\n")[:-1]]
    assert rows[0] == ["甲", "│", "乙"] and rows[2] == ["答案", "│", "另一个"] and rows[3:] == rows[:3]
    assert err == "[乙: stopped]\n" * 2
    out, _ = shown(SideBySide(["甲", "乙"], turns=False, typed=True), TOGETHER, capsys)
    assert out.split("\n")[-2].split("\r")[-1].split() == ["问答案", "│", "问另一个"]
    assert showing.has_room()
    monkeypatch.setenv("COLUMNS", "40")
    assert not showing.has_room()


def test_only_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(["甲", "乙"], turns=True, typed=False)
    assert shown(display, [*TWO, Told("一句"), Listed("列表")], capsys) == ("列表\n", "> 问\n一句\n")


@pytest.mark.parametrize(
    ("stopped", "turns", "said"),
    [
        ("interrupted", True, "[stopped]\n"),
        ("context", True, "[the context is full]\n"),
        ("length", True, "[cut after 2 tokens, see /set max_new_tokens]\n"),
        ("length", False, ""),  # texts that are continued mostly end so
        ("end_of_text", True, ""),
        ("stop", True, ""),
    ],
)
def test_why_a_text_ended(stopped: str, turns: bool, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    end = Ended(0, record("答案", stopped))
    assert shown(OneBelowTheOther(["甲"], turns, typed=True), [Began(0), end], capsys)[1] == said
    assert shown(OneBelowTheOther(["甲"], turns, typed=False), [Began(0), end], capsys)[1] == ""


def test_an_asked_again_message_is_shown_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(OneBelowTheOther(["甲"], turns=True, typed=True), [Asked("问", again=True)], capsys) == ("", "> 问\n")


def test_control_characters_are_shown_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(OneBelowTheOther(["甲"], turns=True, typed=True), [Piece(0, "\x1b[2J")], capsys)[0] == "\\x1b[2J"
