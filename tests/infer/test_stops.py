"""Stop strings are never shown, not even a part of one, however the text is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.infer.stops import StopStrings


def shown(strings: tuple[str, ...], pieces: list[str]) -> tuple[str, bool]:
    stops = StopStrings(strings)
    text = "".join(stops.push(piece) for piece in pieces) + stops.finish()
    return text, stops.found


@pytest.mark.parametrize(
    ("strings", "text", "expected"),
    [
        (("。",), "天气很好。我们", "天气很好"),
        (("。", "很"), "天气很好。", "天气"),
        (("\n\n",), "一\n二\n\n三", "一\n二"),
        (("abc", "b"), "xabc", "xa"),  # b is complete first
        (("bc", "abc"), "xabc", "x"),  # complete at the same character: the longer one
        (("aab",), "aaab", "a"),  # a beginning inside a beginning
        (("结束",), "结果结结束了", "结果结"),
    ],
)
def test_by_hand(strings: tuple[str, ...], text: str, expected: str) -> None:
    assert shown(strings, [text]) == (expected, True)
    assert shown(strings, list(text)) == (expected, True)


def test_what_could_be_a_beginning_is_held_back_and_given_at_the_end() -> None:
    stops = StopStrings(("<结束>",))
    assert [stops.push(piece) for piece in ("好<", "结", "果", "<结束")] == ["好", "", "<结果", ""]
    assert stops.finish() == "<结束" and not stops.found


def test_nothing_after_the_end() -> None:
    stops = StopStrings(("b",))
    assert (stops.push("ab"), stops.push("c"), stops.finish()) == ("a", "", "")


def test_without_stop_strings_everything_passes() -> None:
    assert shown((), ["a", "b"]) == ("ab", False)


def reading(strings: tuple[str, ...], text: str) -> tuple[str, bool]:
    """The slow twin: character by character, the longest string that the text ends with."""
    for end in range(len(text) + 1):
        ends = [string for string in strings if text[:end].endswith(string)]
        if ends:
            return text[: end - max(map(len, ends))], True
    return text, False


@given(st.lists(st.text("ab中", min_size=1, max_size=4), max_size=4), st.lists(st.text("ab中", max_size=5), max_size=8))
def test_equals_reading_character_by_character(strings: list[str], pieces: list[str]) -> None:
    assert shown(tuple(strings), pieces) == reading(tuple(strings), "".join(pieces))


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1), st.lists(st.text("ab", max_size=5)))
def test_no_part_of_the_one_that_ends_it_is_ever_shown(strings: list[str], pieces: list[str]) -> None:
    stops, before = StopStrings(tuple(strings)), ""
    final, _ = reading(tuple(strings), "".join(pieces))
    for piece in pieces:
        before += stops.push(piece)
        assert final.startswith(before)
