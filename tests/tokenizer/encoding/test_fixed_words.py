"""Words that are tokens wherever they stand: the leftmost, the longest, as the library finds them."""

from __future__ import annotations

import numpy as np
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers

from jielong.data.cleaning.scan import encode
from jielong.tokenizer.encoding.fixed_words import ORDINARY, FixedWords


def segments(texts: list[str], words: dict[str, int | None]) -> list[list[tuple[str, int]]]:
    data, offsets = encode(texts)
    found = FixedWords((word.encode(), number) for word, number in words.items())
    bounds, first, ids = found.cut(data, offsets, np.full(len(texts), ORDINARY, np.int64))
    raw = data.tobytes()
    rows = [(raw[bounds[n] : bounds[n + 1]].decode(), int(ids[n])) for n in range(len(ids))]
    return [rows[first[n] : first[n + 1]] for n in range(len(texts))]


def test_leftmost_and_longest() -> None:
    words = {"人民": 1, "人民币": 2, "民币值": 3, "a b": 4, "text": None}
    assert segments(["中人民币值", "", "人民a ba b", "a "], words) == [
        [("中", ORDINARY), ("人民币", 2), ("值", ORDINARY)],
        [],
        [("人民", 1), ("a b", 4), ("a b", 4)],
        [("a ", ORDINARY)],
    ]


def test_a_word_that_stays_text_still_hides_others() -> None:
    assert segments(["xtexty"], {"text": None, "xty": 1}) == [[("xtexty", ORDINARY)]]
    assert segments(["xtex"], {"text": None, "tex": 1}) == [[("x", ORDINARY), ("tex", 1)]]


def test_what_is_fixed_stays() -> None:
    data, offsets = encode(["ab", "ab"])
    bounds, first, ids = FixedWords([(b"a", 7)]).cut(data, offsets, np.array([ORDINARY, 9]))
    assert (bounds.tolist(), first.tolist(), ids.tolist()) == ([0, 1, 2, 4], [0, 2, 3], [7, ORDINARY, 9])


LETTERS = "ab的国"


@given(
    st.dictionaries(st.text(LETTERS, min_size=1, max_size=4), st.booleans(), max_size=6),
    st.text(LETTERS, max_size=20),
)
@settings(max_examples=200, deadline=None)
def test_as_the_library_finds_them(words: dict[str, bool], text: str) -> None:
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(LETTERS)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ids: dict[str, int | None] = {}
    for number, (word, special) in enumerate(words.items()):
        if word not in LETTERS:
            tokenizer.add_tokens([AddedToken(word, normalized=False, special=special)])
            ids[word] = None if special else 100 + number
    tokenizer.encode_special_tokens = True
    expected = tokenizer.encode(text).tokens
    found = [[word] if number != ORDINARY else list(word) for row in segments([text], ids) for word, number in row]
    assert [token for part in found for token in part] == expected
