from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.cleaning.cleaner import Triggers
from jielong.data.cleaning.scan import (
    BLOCK,
    HEAD,
    MAX_STEPS,
    ROOM,
    Scanner,
    WordSearch,
    codes_of,
    encode,
    flags_plain,
    longest_number,
)

TRIGGERS = [
    Triggers(chars=frozenset("<&")),
    Triggers(pairs=frozenset({"！！", " \n", "\n\n", "扫码"})),
    Triggers(digits=7),
    Triggers(chars=frozenset("😀")),
    Triggers(always=True),
    Triggers(chars=frozenset("繁"), pairs=frozenset({"微信"}), digits=3),
]
TEXT = st.text(st.sampled_from("中文扫码微信繁！<&a 1.-\n2😀😁é"), max_size=40)


@given(st.lists(TEXT, max_size=5))
def test_the_pass_sets_every_bit_that_its_twin_sets(texts: list[str]) -> None:
    found = Scanner(TRIGGERS).flags(*encode(texts))
    for text, flags in zip(texts, found.tolist(), strict=True):
        exact = flags_plain(text, TRIGGERS)
        assert flags & exact == exact
        if not any(char > "\uffff" for char in text):
            assert flags == exact


def test_clean_text_sets_hardly_any() -> None:
    texts = [f"第{n}段：今天天气很好，我们去公园散步。大家都很高兴！" for n in range(100, 200)]
    found = Scanner(TRIGGERS[:3]).flags(*encode(texts))
    assert found.tolist() == [0] * 100


def test_the_ends_of_a_text_are_line_feeds() -> None:
    scanner = Scanner(TRIGGERS)
    bit = 1 << 1
    assert [bool(flags & bit) for flags in scanner.flags(*encode(["中文 ", " 中文", "\n中文", "中文\n", "中文"]))] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_numbers() -> None:
    assert [longest_number(text) for text in ("138-1234-5678", "1.2.3.4", "12  34", "12 34", "二〇", "1--2")] == [
        11, 4, 2, 4, 0, 1,
    ]  # fmt: skip
    bit = 1 << 2
    found = Scanner(TRIGGERS).flags(*encode(["138-1234-5678", "12 34 56", "电话1234567。", "1234567"]))
    assert [bool(flags & bit) for flags in found] == [True, False, True, True]


def test_characters_beyond_the_basic_plane_stand_for_one_another() -> None:
    bit = 1 << 3
    assert [bool(flags & bit) for flags in Scanner(TRIGGERS).flags(*encode(["😀", "😁", "中"]))] == [True, True, False]


def test_as_many_steps_as_bits() -> None:
    many = [Triggers(chars=frozenset(chr(0x4E00 + n))) for n in range(MAX_STEPS)]
    text = "".join(chr(0x4E00 + n) for n in range(MAX_STEPS))
    assert Scanner(many).flags(*encode([text, ""])).tolist() == [2**MAX_STEPS - 1, 0]


def test_encode() -> None:
    data, offsets = encode(["中", "", "ab"])
    assert data.tobytes() == "中ab".encode() and offsets.tolist() == [0, 3, 3, 5]
    assert offsets.dtype == np.int64 and encode([])[1].tolist() == [0]


WORDS = ("中文", "中文字", "文字", "aa", "aab", "字", "]", "\\n", "😀中", "a😀", "://")
HEADS = ("://", "中文", "字b")
SEARCHED = st.lists(st.sampled_from([*WORDS, *"中文字ab😀😁]:/\n", "中" * HEAD])).map("".join)


def check_search(words: tuple[str, ...], heads: tuple[str, ...], text: str) -> None:
    """The compiled search finds what alternations find."""
    slow = re.compile("|".join(f"(?={re.escape(word)})" for word in words) or "(?!)")
    heads_at = [at for at in range(len(text)) if text.startswith(heads, at)] if heads else []
    lines = [(at, text.rfind("\n", 0, at) + 1) for at in heads_at]
    places, starts = WordSearch(words, heads).places(text)
    assert places == [match.start() for match in slow.finditer(text)]
    assert starts == sorted({start for at, start in lines if at - start <= HEAD})


@given(SEARCHED)
def test_search_finds_what_the_alternation_finds(text: str) -> None:
    for words, heads in ((WORDS, ()), (WORDS, HEADS), (WORDS[:3], HEADS), (("a-]b", "]^"), ("b中",)), ((), HEADS)):
        check_search(words, heads, text)


def test_search_over_the_borders_of_blocks_and_of_the_room_for_places() -> None:
    for size in (0, 1, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK):
        check_search(WORDS, HEADS, "天" * size + "中文字")
        check_search(WORDS, HEADS, "天\n" * (size // 2) + "字b://")
    check_search(WORDS, HEADS, "中文字\n://" * ROOM)


def test_a_head_counts_at_the_last_place_of_a_line_where_it_may() -> None:
    for behind in (HEAD - 1, HEAD, HEAD + 1):
        for before in ("", "\n", "天\n"):
            check_search(WORDS, HEADS, before + "中" * behind + "中文")


@given(st.text(st.characters()))  # surrogates as well
def test_codes(text: str) -> None:
    assert codes_of(text).tolist() == [ord(character) for character in text]
