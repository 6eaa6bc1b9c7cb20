"""Splitting one big array: against json where it is valid, against a plain twin where it is anything."""

from __future__ import annotations

import io
import json
import string
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.reading import arrays, streams
from jielong.data.reading.arrays import iter_array
from jielong.data.reading.streams import BrokenStreamError

Elements = list[tuple[int, bytes, bool]]


class Slow(io.BytesIO):
    """A stream that gives its bytes in pieces of a few, and may break at its end."""

    def __init__(self, data: bytes, pieces: list[int], breaks: bool = False) -> None:
        super().__init__(data)
        self._pieces, self._number, self._breaks = pieces, 0, breaks

    def read1(self, size: int | None = -1) -> bytes:
        self._number += 1
        piece = self.read(self._pieces[self._number % len(self._pieces)])
        if not piece and self._breaks:
            raise BrokenStreamError("the gzip data is truncated")
        return piece


def split(data: bytes, encoding: str = "utf-8", pieces: tuple[int, ...] = (1 << 20,)) -> tuple[Elements, bool]:
    """The elements, and whether the array was broken off."""
    got: Elements = []
    try:
        for element in iter_array(Slow(data, list(pieces)), encoding):
            got.append(element)
    except BrokenStreamError:
        return got, True
    return got, False


def texts(data: str, encoding: str = "utf-8") -> list[str]:
    return [raw.decode(encoding) for _, raw, _ in split(data.encode(encoding), encoding)[0]]


# ---------------------------------------------------------------------------------------------------- by hand


def test_an_array_written_in_every_way() -> None:
    data = '\ufeff [ {"a": 1} ,\n\n {"b": "}]\\"{\\\\"},\n[1, [2, {}]], 12 ,null, "x,\\"]y" ,] \n'.encode()
    got, broken = split(data)
    assert not broken
    assert got == [
        (1, b'{"a": 1}', False),
        (3, b'{"b": "}]\\"{\\\\"}', False),
        (4, b"[1, [2, {}]]", False),
        (4, b"12", False),
        (4, b"null", False),
        (4, b'"x,\\"]y"', False),
    ]


@pytest.mark.parametrize("data", [b"", b" \n", b"[]", b"[ ]\n", b"\xef\xbb\xbf[\n]", b"[,,]"])
def test_nothing_in_it(data: bytes) -> None:
    assert split(data) == ([], False)


@pytest.mark.parametrize(
    ("data", "last"),
    [
        (b"[", None),
        (b'[{"a": 1},', b'{"a": 1}'),
        (b'[{"a": 1}\n', b'{"a": 1}'),
        (b'[{"a": 1}, {"b": "te', b'{"b": "te'),
        (b'[{"a": 1}, {"b": "te\\', b'{"b": "te\\'),
        (b'[{"a": 1}, {"b": [1, 2]', b'{"b": [1, 2]'),
        (b'[{"a": 1}, 12 ', b"12"),
        (b'[{"a": 1}, "x', b'"x'),
    ],
)
def test_a_file_that_ends_too_early_gives_what_there_is_and_says_so(data: bytes, last: bytes | None) -> None:
    got, broken = split(data)
    assert broken and (got[-1][1] if got else None) == last


def test_a_stream_that_breaks_gives_what_came_before() -> None:
    got = []
    with pytest.raises(BrokenStreamError, match="gzip data is truncated"):
        for element in iter_array(Slow(b'[{"a": 1}, {"b": "te', [7], breaks=True)):
            got.append(element[1])
    assert got == [b'{"a": 1}', b'{"b": "te']


def test_damage_costs_the_elements_it_is_in() -> None:
    good = '{"text": "好"}'
    assert texts(f'[{{"text": "他说"好"了"}}, {good}]') == ['{"text": "他说"好"了"}', good]  # quotes not escaped
    assert texts(f'[{{"a": "文, "b": "字"}}, {good}]') == ['{"a": "文, "b": "字"}', good]  # one quote missing
    assert texts(f'[{{"a": 1, {good}]') == ['{"a": 1,', good]  # a brace missing
    assert texts(f'[{{"a": "b"}} {good} {good}]') == ['{"a": "b"}', good, good]  # commas missing
    assert texts(f'[{{"a": [1]]}}, {good}]') == ['{"a": [1]]', "}", good]  # a bracket too many
    assert texts(f'[{{"a": 1}}}}, {good}]') == ['{"a": 1}', "}", good]
    assert texts(f'[{{"a": 1, [{good}, {good}]') == ['{"a": 1,', good, good]  # cut off, another file joined to it


def test_what_follows_the_array_is_given_too() -> None:
    assert texts('[{"a": 1}] x, y\n[{"b": 2}]]') == ['{"a": 1}', "x", "y", '{"b": 2}', "]"]
    assert texts('{"a": 1}\n{"b":\n 2}') == ['{"a": 1}', '{"b":\n 2}']  # no array at all


@pytest.mark.parametrize("pieces", [(1,), (7, 3), (1 << 20,)])
def test_too_long_elements_are_cut_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, pieces: tuple[int]) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD_BYTES", 10)
    data = b'[{"a": 234},\n{"a": "' + b"x" * 50 + b'\n"}, 1234567890, 12345678901, {"a": 2}]'
    assert split(data, pieces=pieces)[0] == [
        (1, b'{"a": 234}', False),
        (2, b'{"a": "xxx', True),
        (3, b"1234567890", False),
        (3, b"1234567890", True),
        (3, b'{"a": 2}', False),
    ]


def test_second_bytes_that_look_like_brackets() -> None:
    odd = "乗俓亅亄臶侺璡"  # in GB18030 their second bytes are the backslash, the brackets, and their like
    assert set(b"\\[]{}") & set(odd.encode("gb18030"))
    elements = [json.dumps({"text": odd * n + '"'}, ensure_ascii=False) for n in (1, 2, 3)]
    for encoding in ("gb18030", "utf-8"):
        data = f"[{', '.join(elements)}]"
        for pieces in ((1 << 20,), (1,), (3, 2)):
            got, broken = split(data.encode(encoding), encoding, pieces)
            assert [raw.decode(encoding) for _, raw, _ in got] == elements and not broken
    assert texts("\ufeff[1]", "gb18030") == ["1"]
    assert texts("[功\\]", "big5") == ["功\\"]


def test_more_elements_than_room_for_them() -> None:
    count = arrays.EVENTS * 2 + 1
    data = json.dumps(list(range(count)), indent=1).encode()
    assert split(data) == ([(n + 2, b"%d" % n, False) for n in range(count)], False)


# ---------------------------------------------------------------------------------------------------- by machine


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-99, 99)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=string.ascii_letters + '\\"{}[],:\n\t 床前明月光𠮷', max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a{}[]"\\,文', max_size=3), inner, max_size=3),
    max_leaves=9,
)
pieces = st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)
styles = st.sampled_from(
    [{}, {"indent": 0}, {"indent": 2}, {"indent": "\t"}, {"separators": (",", ":")}, {"separators": (" , ", " : ")}]
)


@given(st.lists(values, max_size=6), styles, st.booleans(), pieces, st.sampled_from(["utf-8", "gb18030"]))
def test_the_same_values_as_json(
    elements: list[Any], style: dict[str, Any], ascii_only: bool, pieces: tuple[int, ...], encoding: str
) -> None:
    data = json.dumps(elements, ensure_ascii=ascii_only, **style).encode(encoding)
    got, broken = split(data, encoding, pieces)
    assert not broken and [json.loads(raw.decode(encoding)) for _, raw, _ in got] == elements
    at = 0
    for line, raw, cut in got:
        at = data.index(raw, at)
        assert line == data.count(b"\n", 0, at) + 1 and not cut
        at += len(raw)


@given(st.lists(values, min_size=1, max_size=4), styles, pieces, st.data())
def test_cut_anywhere(elements: list[Any], style: dict[str, Any], pieces: tuple[int, ...], data: st.DataObject) -> None:
    whole = json.dumps(elements, ensure_ascii=False, **style).encode()
    cut = data.draw(st.integers(1, len(whole) - 1))
    got, broken = split(whole[:cut], pieces=pieces)
    complete = split(whole)[0]
    assert broken and len(got) <= len(complete)
    assert got[:-1] == complete[: max(len(got) - 1, 0)]
    assert not got or complete[len(got) - 1][1].startswith(got[-1][1])


@given(
    st.lists(st.sampled_from(["[", "]", "{", "}", '"', "\\", ",", ":", "\n", " ", "a", "1", "文", "\ufeff"])),
    pieces,
    st.sampled_from([3, 1 << 26]),
)
def test_the_same_as_the_plain_twin_on_anything(symbols: list[str], pieces: tuple[int, ...], limit: int) -> None:
    text = "".join(symbols)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "MAX_RECORD_BYTES", limit)
        got, broken = split(text.encode(), pieces=pieces)
    expected, open_at_end = plain(text.removeprefix("\ufeff"))
    assert got == [
        (line, raw[:limit], True) if len(raw) > limit else (line, raw.rstrip(), False) for line, raw in expected
    ]
    assert broken == open_at_end


def plain(text: str) -> tuple[list[tuple[int, bytes]], bool]:
    """The same over a whole text, character by character, with a list for a stack. Each part is (line, bytes)."""
    found: list[tuple[int, int]] = []
    at, in_array = 0, False

    def strings_end(at: int) -> int | None:
        while at < len(text) and text[at] != '"':
            at += 2 if text[at] == "\\" else 1
        return at + 1 if at < len(text) else None

    def inner(at: int) -> Iterator[int | None]:
        """Where the container that begins here ends; None: nowhere. A second value: it was broken by this bracket."""
        stack = [text[at]]
        before = ""
        at += 1
        while at < len(text):
            character = text[at]
            if character in "[{":
                if stack[-1] == "{" and before != ":":
                    yield at
                    yield at
                    return
                stack.append(character)
            elif character in "]}":
                stack.pop()
                if not stack:
                    yield at + 1
                    return
            if character == '"' or not character.isascii():
                end = strings_end(at + (1 if character == '"' else 0))
                if end is None:
                    break
                at, before = end, '"'
                continue
            before = character if not character.isspace() else before
            at += 1
        yield None

    missing = False
    while at < len(text):
        character = text[at]
        if character.isspace() or character == ",":
            at += 1
        elif (character == "[" and not in_array) or (character == "]" and in_array):
            in_array = not in_array
            at += 1
        else:
            start = at
            if character in "[{":
                ends = list(inner(at))
                at = len(text) if ends[0] is None else ends[0]
                missing = missing or ends[0] is None
                if len(ends) == 2 and text[at] == "[":
                    in_array = False
            elif character == '"':
                end = strings_end(at + 1)
                at = len(text) if end is None else end
                missing = missing or end is None
            else:
                at += 1
                while at < len(text) and text[at] not in ',{["' and not (text[at] == "]" and in_array):
                    at += 1
            found.append((start, at))
    parts = [(text.count("\n", 0, start) + 1, text[start:end].encode()) for start, end in found]
    return parts, missing or in_array
