"""Pieces: those of the library, for every pattern that is compiled, on any text."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.tokenizer.bpe import pre_split
from jielong.tokenizer.encoding.splitting import GPT2_PATTERN, members, open_splitter, read_pattern, split_plain

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",  # Han, hiragana, katakana
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
PATTERNS = {
    "ours": (pre_split(True),),
    "digits": (pre_split(False),),
    "letters": (pre_split(True, True),),
    "gpt2": (GPT2_PATTERN,),
    "qwen2": (QWEN2,),
    "llama3": (LLAMA3,),
    "cl100k": (CL100K,),
    "deepseek": DEEPSEEK,
    "gaps": (r"\p{Han}{2,}|a{2}b?",),  # most characters match nothing
    "back": (r"[ab]+[bc]{2}|a?b*?c".replace("*?", "*"),),  # much is given back
    "none": (),
}
# what stands in text, and what pre-split patterns trip over
PARTS = [
    *"中国〇々，。！“”aBzKÉé1Ⅷ٣ \t\n\r#(_.'’`~$+-=",
    *"\u017f\uff12",  # long s, full-width two
    *"\u3000\u00a0\u2028\u0085\u200b\u200d\ufe0f\u0301\u0903\x00\x1f\x7f",  # blanks, joiners, marks, control characters
    *"😀🏽𠀀𝐀가하あカ\U000e0001\U000f0000\U0010ffff\ue000\uffff",
    *("'s", "'LL", "'ve", "don't", "\r\n", "  ", "\n\n\n", "hello", "2024", "人民", "bcb", "abbc"),
]
TEXTS = st.lists(st.sampled_from(PARTS), max_size=25).map("".join)


def cut(texts: list[str], patterns: tuple[str, ...]) -> list[list[str]]:
    splitter = open_splitter(patterns)
    assert splitter is not None
    data, offsets = encode(texts)
    bounds, first = splitter(data, offsets)
    raw = data.tobytes()
    pieces = [raw[bounds[n] : bounds[n + 1]].decode() for n in range(len(bounds) - 1)]
    return [[piece for piece in pieces[first[n] : first[n + 1]] if piece or patterns] for n in range(len(texts))]


@pytest.mark.parametrize("name", PATTERNS)
@given(st.lists(TEXTS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_the_pieces_of_the_library(name: str, texts: list[str]) -> None:
    assert cut(texts, PATTERNS[name]) == [split_plain(text, PATTERNS[name]) for text in texts]


@pytest.mark.parametrize("name", PATTERNS)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_pieces_of_any_unicode(name: str, text: str) -> None:
    assert cut([text], PATTERNS[name]) == [split_plain(text, PATTERNS[name])]


@pytest.mark.parametrize("name", ["ours", "qwen2", "deepseek"])
def test_every_code_point_has_the_library_s_class(name: str) -> None:
    codes = [code for code in range(0x20000) if not 0xD800 <= code < 0xE000]
    codes += random.Random(1).sample(range(0x20000, 0x110000), 3000)
    for start in range(0, len(codes), 10_000):
        text = "".join(f"a{chr(code)}中" for code in codes[start : start + 10_000])
        assert cut([text], PATTERNS[name]) == [split_plain(text, PATTERNS[name])]


def test_long_runs_are_not_quadratic() -> None:
    for text in (" " * 300_000, "\n" * 300_000, "a" * 300_000 + "!", " \n" * 100_000 + " ", "中" * 300_000):
        [pieces] = cut([text], (pre_split(True),))
        assert "".join(pieces) == text and len(pieces) <= 3


@pytest.mark.parametrize(
    "pattern",
    ["a|", "", "a*", "(a", "a)", "(ab)+c", "a+(b|c)", "(?<=a)b", "(?=a)b", "a+?", "^a", "a$", ".", r"\b", r"\1", "[a", "[[:alpha:]]",
     r"\p{L", r"\pL", "a{,2}", "a{1,2}+", "(?!a)b", "(?i:ss)", "(?i:[st]t)", "(?i:\u00df)", "\U00040000", "(?i)a", r"\p{Nothing}", r"\x41"],
)  # fmt: skip
def test_other_patterns_are_refused(pattern: str) -> None:
    assert open_splitter((pattern,)) is None


def test_a_group_is_written_out() -> None:
    found = read_pattern(r"'(?i:[st]|ll)|\s+(?!\S)")
    assert found is not None
    assert [[item.set for item in one.items] for one in found] == [
        ["'", "(?i:[st])"],
        ["'", "(?i:l)", "(?i:l)"],
        [r"\s"],
    ]
    assert [one.not_ahead for one in found] == [None, None, r"\S"]


def test_members() -> None:
    assert np.flatnonzero(members("(?i:s)")).tolist() == [ord("S"), ord("s"), 0x17F]  # long s
    assert np.flatnonzero(members(r"[\r\n]")).tolist() == [10, 13]
    assert members("[^a]").sum() == 0x110000 - 0x800 - 1
