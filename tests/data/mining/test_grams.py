"""Folding with digits alike, rolling hashes, keys: each against its plain twin, and what keys are good for."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.mining import grams as g

TEXT = st.text(st.sampled_from("中文字母天地人a1\uff12-。，\n \U00020000"), max_size=80)


@settings(max_examples=60)
@given(st.lists(TEXT, max_size=5), st.sampled_from([6, 8, 12, 20]))
def test_all_agree_with_their_twins(texts: list[str], n: int) -> None:
    data, offsets = encode(texts)
    folded = g.fold(data, offsets)
    hashes = g.hashes_of(folded.codes, folded.starts, n)
    keys, starts = g.gram_hashes(data, offsets, n)
    for row, text in enumerate(texts):
        part = slice(int(folded.starts[row]), int(folded.starts[row + 1]))
        letters = list(zip(folded.codes[part].tolist(), folded.begins[part].tolist(), folded.ends[part].tolist(),
                           folded.gaps[part].tolist(), strict=True))  # fmt: skip
        plain = g.fold_plain(text)
        assert letters == plain
        assert [value for value in hashes[part].tolist() if value] == g.hashes_plain([x[0] for x in plain], n)
        assert keys[starts[row] : starts[row + 1]].tolist() == g.keys_plain(text, n)


def test_what_counts_as_the_same() -> None:
    def codes(text: str) -> list[int]:
        return [letter[0] for letter in g.fold_plain(text)]

    assert codes("电话：138-1234-5678") == codes("电话 13912340000") == codes("电话\uff11\uff12\uff13456789")
    assert codes("电话123") != codes("电话1234") and codes("ABC") == codes("\uff41bc")
    assert codes("，。！") == []
    number = g.fold_plain("号13812345678。后")
    assert number[8][2] == 3 + 11 and number[9][0] == ord("后"), (
        "the digits that do not count belong to the number's last"
    )


def test_what_stands_before_a_letter() -> None:
    gaps = [letter[3] for letter in g.fold_plain("甲，乙。丙\n丁戊（己")]
    assert gaps == [g.EDGE, g.MARK, g.SENTENCE, g.LINE, g.GLUED, g.MARK]


@pytest.mark.parametrize("n", [6, 12, 24])
def test_one_of_any_span_of_grams_is_a_key(n: int) -> None:
    random = np.random.default_rng(n)
    text = "".join(chr(0x4E00 + value) for value in random.integers(0, 3000, 4000))
    keys = set(g.keys_plain(text, n))
    hashes = g.hashes_plain([letter[0] for letter in g.fold_plain(text)], n)
    places = [at for at, hashed in enumerate(hashes) if hashed in keys]
    assert max(later - at for at, later in pairwise(places)) <= g.span(n)
    assert abs(len(places) / len(hashes) - 2 / (g.span(n) + 1)) < 0.03


def test_keys_hold_han_and_are_different() -> None:
    data, offsets = encode(["abcdefghijklmnopqrstuvwxyz" * 4, "春天来了" * 200, ""])
    keys, starts = g.gram_hashes(data, offsets, 12)
    assert starts[1] == 0 and 0 < starts[2] <= 4 and starts[3] == starts[2]
    assert len(set(keys.tolist())) == len(keys)
    keys, starts = g.gram_hashes(*encode([]), 12)
    assert len(keys) == 0 and starts.tolist() == [0]
