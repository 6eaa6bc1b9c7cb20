"""Counting mentions and what stands near them: by hand, against a plain twin, thinned, merged."""

from __future__ import annotations

import json
import random
from collections import Counter as Tally
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.measuring.balance import (
    GRAMMAR,
    HAN_COUNT,
    HAN_FIRST,
    PLACE_BITS,
    REACH,
    SAMPLES,
    Counter,
    Counts,
    counted,
    merge,
    mixed,
    pack,
    thinned,
    unpack,
)
from jielong.data.measuring.terms import Group

SEXES = Group.model_validate({"name": "sexes", "terms": {"女": ["女", "她", "妇女"], "男": ["男", "他", "AI男"]}})
LETTERS = Group.model_validate({"name": "letters", "terms": {"甲": ["ab", "甲"], "乙": ["乙", "甲乙", "\U00020000"]}})


def is_han(char: str) -> bool:
    return HAN_FIRST <= ord(char) < HAN_FIRST + HAN_COUNT


def find(text: str, words: list[tuple[str, int]]) -> list[tuple[int, int, int]]:
    """The twin of the search: start, end, member."""
    found, at = [], 0
    while at < len(text):
        fitting = [
            (len(word), member)
            for word, member in words
            if text.startswith(word, at) and alone(text, at, at + len(word))
        ]
        size, member = max(fitting, default=(1, -1))
        if member >= 0:
            found.append((at, at + size, member))
        at += size
    return found


def alone(text: str, start: int, end: int) -> bool:
    def joined(at: int) -> bool:
        return 0 < at < len(text) and all(char.isascii() and char.isalnum() for char in text[at - 1 : at + 1])

    return not joined(start) and not joined(end)


def by_hand(group: Group, texts: list[str]) -> list[dict[str, Any]]:
    """The twin of the whole counting: for each member mentions, documents, total, pairs with documents, triples."""
    rows: list[dict[str, Any]] = [
        {"mentions": 0, "documents": 0, "total": 0, "pairs": Tally(), "held": Tally(), "triples": Tally()}
        for _ in group.members
    ]
    for text in texts:
        mentions = find(text, group.words())
        covered = {place for start, end, _ in mentions for place in range(start, end)}
        for member, row in enumerate(rows):
            own = [(start, end) for start, end, number in mentions if number == member]
            row["mentions"] += len(own)
            row["documents"] += bool(own)
            places: set[int] = set()
            for start, end in own:
                line, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", end) % (len(text) + 1)
                places |= set(range(max(start - REACH, line), min(end + REACH, line_end)))
            good = {place for place in places if is_han(text[place]) and place not in covered}
            pairs = [text[n : n + 2] for n in sorted(good) if n + 1 in good]
            triples = [text[n : n + 3] for n in sorted(good) if {n + 1, n + 2} <= good]
            row["total"] += len(pairs)
            found = Tally(pair for pair in pairs if not set(pair) & set(GRAMMAR))
            row["pairs"] += found
            row["held"] += Tally(found.keys())
            row["triples"] += Tally(triple for triple in triples if not set(triple) & set(GRAMMAR))
    return rows


def words_of(packed: dict[str, Any], size: int) -> tuple[Tally[str], Tally[str]]:
    counts = unpack(packed)
    mask = (1 << PLACE_BITS) - 1
    names = ["".join(chr(HAN_FIRST + (key >> PLACE_BITS * n & mask)) for n in range(size - 1, -1, -1)) for key in counts.keys.tolist()]  # fmt: skip
    return (
        Tally(dict(zip(names, counts.counts.tolist(), strict=True))),
        Tally(dict(zip(names, counts.documents.tolist(), strict=True))),
    )


def check(group: Group, texts: list[str]) -> None:
    result = Counter([group]).count(*encode(texts), [0] * len(texts))
    for row, expected in zip(result["groups"][0]["members"], by_hand(group, texts), strict=True):
        assert (row["mentions"].get("0", 0), row["documents"].get("0", 0)) == (
            expected["mentions"],
            expected["documents"],
        )
        assert row["total"] == expected["total"]
        pairs, held = words_of(row["pairs"], 2)
        assert pairs == expected["pairs"] and held == expected["held"]
        assert words_of(row["triples"], 3)[0] == expected["triples"]
    everything = Tally(
        text[n : n + 2] for text in texts for n in range(len(text) - 1) if is_han(text[n]) and is_han(text[n + 1])
    )
    assert result["pairs"]["total"] == sum(everything.values())
    kept = {pair: n for pair, n in everything.items() if not set(pair) & set(GRAMMAR)}
    assert words_of(result["pairs"], 2)[0] == kept


def test_mentions_by_hand() -> None:
    texts = ["其他妇女和他们的子女，她。", "他说：女AI男，xAI男", "", "没有人"]
    result = Counter([SEXES]).count(*encode(texts), [1, 0, 0, 1])
    women, men = result["groups"][0]["members"]
    assert women["mentions"] == {"0": 1, "1": 2}, "妇女 and 她; 女"
    assert men["mentions"] == {"0": 3}, "他, AI男, and the 男 of xAI男, where AI does not begin a word"
    assert women["documents"] == {"0": 1, "1": 1} and result["groups"][0]["documents"] == {"0": 1, "1": 1}
    assert result["documents"] == {"0": 2, "1": 2}
    assert {(row["mention"], row["source"]) for row in women["samples"]} <= {("妇女", 1), ("她", 1), ("女", 0)}


def test_windows_end_at_lines_and_documents() -> None:
    texts = ["前面几字\n她喜欢读书\n后面几字", "另文", "她爱花"]
    pairs, held = words_of(Counter([SEXES]).count(*encode(texts), [0, 0, 0])["groups"][0]["members"][0]["pairs"], 2)
    assert pairs == held == Tally(["喜欢", "欢读", "读书", "爱花"])


@given(
    st.lists(st.text(alphabet="女她妇男他其们AIx甲山水\n，的\U00020000", max_size=60), max_size=4),
    st.sampled_from([SEXES, LETTERS]),
)
def test_same_as_by_hand(texts: list[str], group: Group) -> None:
    check(group, texts)


@given(st.lists(st.text(alphabet="ab甲乙丙\U00020000 \n", max_size=40), max_size=3))
def test_letters_and_rare_characters(texts: list[str]) -> None:
    check(LETTERS, texts)


def corpus(seed: int, size: int = 60) -> list[str]:
    chance = random.Random(seed)
    words = ["她", "他", "喜欢", "读书", "跑步", "孩子", "工作", "学校", "，", "的", "\n", "天气", "医生", "老师"]
    return ["".join(chance.choices(words, k=40)) + str(n) for n in range(size)]


def test_order_of_documents_and_chunks_has_no_part() -> None:
    texts = corpus(1)
    numbers = [n % 3 for n in range(len(texts))]
    counter = Counter([SEXES, LETTERS], limit=10, pairs_limit=20)
    once = counter.count(*encode(texts), numbers)
    assert counter.count(*encode(texts[::-1]), numbers[::-1]) == once
    assert len(unpack(once["pairs"]).keys) < 35 and len(unpack(once["groups"][0]["members"][0]["pairs"]).keys) < 20
    parts = [counter.count(*encode(corpus(seed)), [0] * 60) for seed in range(20)]
    whole = merge(parts)
    assert merge(parts[::-1]) == whole == merge([merge(parts[:7]), *parts[7:]])
    assert merge([once]) == once and json.loads(json.dumps(whole)) == whole
    assert all(len(row["samples"]) == SAMPLES for row in whole["groups"][0]["members"])


def test_chunks_add_up_to_the_whole() -> None:
    texts = corpus(3)
    counter = Counter([SEXES])
    whole = counter.count(*encode(texts), [n % 2 for n in range(60)])
    parts = [
        counter.count(*encode(texts[n : n + 7]), [m % 2 for m in range(n, min(n + 7, 60))]) for n in range(0, 60, 7)
    ]
    assert merge(parts) == whole


def test_a_kept_count_is_right_on_average() -> None:
    counts = np.array([1, 2, 3, 50] * 50)
    found = Counts(np.arange(200), counts, np.ones(200, np.int64))
    sums, sizes = np.zeros(200), []
    for salt in range(400):
        kept = thinned(found, 80, salt * 7919)
        sums[kept.keys] += kept.counts
        sizes.append(len(kept.keys))
        assert (kept.counts >= counts[kept.keys]).all()
    assert set(sums[3::4]) == {400 * 50}, "a large count is kept exactly"
    for n, count in enumerate((1, 2, 3)):
        assert sums[n::4].mean() / 400 == pytest.approx(count, rel=0.05)
    assert max(sizes) < 110 and np.mean(sizes) == pytest.approx(80, abs=5)
    assert thinned(found, 200, 5) is found


@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(1, 2**40)), max_size=30))
def test_packing(rows: list[tuple[int, int]]) -> None:
    keys = np.unique(np.array([key for key, _ in rows], np.int64))
    found = Counts(keys, np.array([n for _, n in rows][: len(keys)], np.int64), np.arange(len(keys)))
    for before, after in zip(found, unpack(json.loads(json.dumps(pack(found)))), strict=True):
        assert (before == after).all()


def test_counted_by_document() -> None:
    keys = np.array([5 << 32 | 1, 5 << 32 | 1, 5 << 32 | 2, 9 << 32])
    assert [column.tolist() for column in counted(keys)] == [[5, 9], [3, 1], [2, 1]]
    assert counted(keys[:0]).keys.tolist() == []
    assert len(set(mixed(np.arange(1000, dtype=np.uint64)).tolist())) == 1000


def test_empty() -> None:
    result = Counter([SEXES]).count(*encode([]), [])
    assert result["documents"] == {} and merge([result, result]) == result
