from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.deduplicating import fingerprints as prints

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(TEXT, max_size=6))
@example(["\x00", "，", "", "\x00甲"])
def test_normalise_agrees_with_its_twin(texts: list[str]) -> None:
    codes, starts = prints.normalise(*encode(texts))
    found = [codes[start:end].tolist() for start, end in pairwise(starts)]
    assert found == [prints.normalise_plain(text) for text in texts]


def test_what_is_left_out() -> None:
    def same(first: str, second: str) -> bool:
        return prints.normalise_plain(first) == prints.normalise_plain(second)

    assert (
        same("今天，天气 很好！", "今天天气很好")
        and same("\uff21\uff22\uff23\uff11\uff12", "abc12")
        and same("（一）\n　二", "一二")
    )
    assert not same("今天天气", "今天天汽") and not same("123", "124")
    assert prints.normalise_plain("！！") == [ord("！")] * 2, "nothing but punctuation is compared as it is"
    assert prints.normalise_plain("") == []


def test_digests() -> None:
    texts = ["今天，天气", "今天 天气", "明天天气", ""]
    found = prints.digests(*prints.normalise(*encode(texts)))
    assert found.shape == (4, 2) and (found[0] == found[1]).all() and (found[0] != found[2]).any()
    raw = prints.raw_digests(texts)
    assert (raw[0] != raw[1]).any() and raw.dtype == found.dtype == np.uint64
    assert prints.raw_digests([]).shape == (0, 2) and prints.digests(*prints.normalise(*encode([]))).shape == (0, 2)


@settings(max_examples=30)
@given(st.lists(st.text(st.sampled_from("中文字母天地人ab1"), max_size=700), min_size=1, max_size=4))
def test_signatures_agree_with_their_twin(texts: list[str]) -> None:
    codes, starts = prints.normalise(*encode(texts))
    lows, bands = prints.signatures(codes, starts, 5, 32, 4, 8)
    for row, text in enumerate(texts):
        least = prints.signature_plain(prints.normalise_plain(text), 5, 32)
        assert lows[row].tolist() == [prints.mix_plain(value) & 0xFF for value in least]
        for other in range(row):
            twin = prints.signature_plain(prints.normalise_plain(texts[other]), 5, 32)
            equal = [least[8 * band : 8 * band + 8] == twin[8 * band : 8 * band + 8] for band in range(4)]
            assert equal == (bands[row] == bands[other]).tolist()


def test_signatures_at_the_edges_of_blocks_and_with_odd_numbers_of_functions() -> None:
    random, alphabet = np.random.default_rng(2), "".join(map(chr, range(0x4E00, 0x4E80)))
    for size in (1, 4, 5, 6, prints.PAD + 3, prints.PAD + 4, prints.PAD + 5, 1027, 1028, 1029, 2100):
        text = "".join(random.choice(list(alphabet), size))
        for permutations in (1, 3, 6):
            lows, _ = prints.signatures(*prints.normalise(*encode([text])), 5, permutations, 1, 1)
            least = prints.signature_plain(prints.normalise_plain(text), 5, permutations)
            assert lows[0].tolist() == [prints.mix_plain(value) & 0xFF for value in least], (size, permutations)


def test_the_share_of_equal_bytes_is_the_similarity() -> None:
    """Sets A = 600 and B = 600 n-grams with 500 in common: Jaccard 500 / 700 = 0.714; of 512 functions so many agree."""
    random = np.random.default_rng(1)
    pool = "".join(chr(0x4E00 + n) for n in random.permutation(8000))
    first, second = pool[:604], pool[100:704]
    codes, starts = prints.normalise(*encode([first, second]))
    lows, _ = prints.signatures(codes, starts, 5, 512, 1, 1)
    share = ((lows[0] == lows[1]).mean() - 1 / 256) / (1 - 1 / 256)
    assert abs(share - 500 / 700) < 4 * (0.714 * 0.286 / 512) ** 0.5


def test_fewer_functions_are_the_first_of_more() -> None:
    few, many = prints.functions(32), prints.functions(128)
    assert (few[0] == many[0][:32]).all() and (few[1] == many[1][:32]).all() and (many[1] % 2 == 1).all()


@given(st.lists(st.text(st.sampled_from("中文字ab 1，\n\U00020000"), max_size=40), max_size=5), st.integers(0, 4))
def test_unit_hashes_agree_with_their_twin(texts: list[str], min_han: int) -> None:
    salt = np.arange(len(texts), dtype=np.int64)
    counts = np.zeros(0x110000, np.int32)
    hashes, starts = prints.unit_hashes(*encode(texts), min_han, salt, counts)
    assert {chr(code): counts[code] for code in np.flatnonzero(counts)} == Counter("".join(texts))
    assert (prints.unit_hashes(*encode(texts), min_han, salt)[0] == hashes).all()
    found = [hashes[start:end].tolist() for start, end in pairwise(starts)]
    assert found == [prints.unit_hashes_plain(text, min_han, n) for n, text in enumerate(texts)]


def test_lines_are_compared_by_their_letters_within_a_source() -> None:
    one, two = ["关注 我们的公众号！\n正文\n关注我们的公众号", "关注我们的公众号。"], np.array([0, 1])
    hashes, starts = prints.distinct(*prints.unit_hashes(*encode(one), 4, np.zeros(2, np.int64)))
    assert starts.tolist() == [0, 1, 2] and hashes[0] == hashes[1]
    apart, _ = prints.distinct(*prints.unit_hashes(*encode(one), 4, two))
    assert apart[0] != apart[1]
    empty, none = prints.distinct(*prints.unit_hashes(*encode(["正文", ""]), 4, np.zeros(2, np.int64)))
    assert empty.tolist() == [] and none.tolist() == [0, 0, 0]
