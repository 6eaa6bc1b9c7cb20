"""Counts against plain loops; alignment, differences, speed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.reporting.measuring import (
    Counts,
    Measured,
    common_tokens,
    first_difference,
    growth_points,
    han_tokens,
    measure_all,
    speed,
)
from jielong.tokenizer.reporting.vocabulary import Vocabulary, han_characters, read_vocabulary
from tests.tokenizer.reporting.folders import TEXTS, byte_level, sentencepiece_like

OPENED: dict[str, Measured] = {}


@pytest.fixture(scope="module", autouse=True)
def _open(tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, make in (("bytes", byte_level), ("pieces", sentencepiece_like)):
        tokenizer = open_folder(make(tmp_path_factory.mktemp(name)))
        OPENED[name] = Measured(name, tokenizer, read_vocabulary(tokenizer.backend))


def fresh(name: str) -> Measured:
    one = OPENED[name]
    return Measured(name, one.tokenizer, one.vocabulary)


@pytest.mark.parametrize("name", ["bytes", "pieces"])
def test_counts_are_those_of_a_plain_loop(name: str) -> None:
    one = fresh(name)
    one.measure(TEXTS[:2], "a")
    one.measure(TEXTS[2:], "b")
    ids = Counter(
        number for text in TEXTS for number in one.tokenizer.backend.encode(text, add_special_tokens=False).ids
    )
    found = one.total.figures(one.vocabulary)
    assert {number: int(one.total.used[number]) for number in np.flatnonzero(one.total.used)} == ids
    assert found["tokens"] == ids.total() and found["documents"] == len(TEXTS)
    assert found["chars_per_token"] == sum(map(len, TEXTS)) / ids.total()
    assert found["bytes_per_token"] == sum(len(text.encode()) for text in TEXTS) / ids.total()
    assert found["used"] == len(ids) and found["used_share"] == len(ids) / one.vocabulary.usable
    broken = sum(count for number, count in ids.items() if one.vocabulary.broken[number])
    assert found["broken_share"] == broken / ids.total() and found["different"] == 0
    assert sum(counts.tokens for counts in one.texts.values()) == found["tokens"] and list(one.texts) == ["a", "b"]
    assert one.growth[-1] == (found["bytes"], found["used"]) and growth_points(one) == one.growth
    assert sum(row["share"] for row in common_tokens(one, 10**6)) == pytest.approx(1)


def plain_han_tokens(text: str, ids: list[int], vocabulary: Vocabulary) -> float:
    """The twin: byte by byte."""
    flags = [han_characters(char) == 1 for char in text for _ in char.encode()]
    lengths = [len(vocabulary.raw[number]) for number in ids]
    if sum(lengths) > len(flags):
        flags = [False, *flags]  # the space before the text: only of the first token
    total, at = 0.0, 0
    for place, length in enumerate(lengths):
        part = flags[at : at + length]
        own = length - (place == 0 and len(flags) > len(text.encode()))
        total += sum(part) / own if own else 0.0
        at += length
    return total


@given(st.lists(st.text(st.sampled_from("中国人民很高兴龘a ，\n𠮷👍GPT")), max_size=4))
def test_tokens_of_han_are_those_of_the_twin(texts: list[str]) -> None:
    texts = [text for text in texts if text and not text.startswith(" ")]
    for one in OPENED.values():
        ids = one.tokenizer.encode(texts)
        same = [one.tokenizer.decode(row) == text for text, row in zip(texts, ids, strict=True)]
        assert all(same)
        han, tokens = han_tokens(texts, ids, same, one.vocabulary)
        assert han == sum(map(han_characters, texts))
        expected = sum(plain_han_tokens(text, row, one.vocabulary) for text, row in zip(texts, ids, strict=True))
        assert tokens == pytest.approx(expected)


def test_one_token_a_character_by_hand() -> None:
    """中 and 国 are pieces of their own in no text here: 中国 is one token for two characters, 龘 three bytes for one."""
    one = OPENED["pieces"]
    for text, expected in (("中国", 1 / 2), ("龘", 3.0), ("中国龘", 4 / 3)):
        ids = one.tokenizer.encode([text])
        han, tokens = han_tokens([text], ids, [True], one.vocabulary)
        assert tokens / han == pytest.approx(expected)
    assert han_tokens(["中国"], one.tokenizer.encode(["中国"]), [False], one.vocabulary) == (0, 0.0)


def test_what_does_not_come_back_is_counted_and_shown() -> None:
    one = fresh("pieces")
    one.measure(["中国", " 中国", " 人"], "a")
    assert one.total.different == 2 and one.total.figures(one.vocabulary)["different_share"] == 2 / 3
    assert one.differences[0] == {"domain": "a", "at": 0, "before": "", "text": " 中国", "back": "中国"}
    assert one.total.han == 2, "only what came back is aligned"


def test_first_differences() -> None:
    assert first_difference("abc", "abd") == {"at": 2, "before": "ab", "text": "c", "back": "d"}
    assert first_difference("ab", "abc")["at"] == 2 and first_difference("ab", "abc")["text"] == ""
    assert first_difference("x" * 99 + "a", "x" * 99 + "b")["before"] == "x" * 24


def test_nothing_gives_no_ratios() -> None:
    one = fresh("bytes")
    found = Counts(np.zeros(len(one.vocabulary.raw), np.int64)).figures(one.vocabulary)
    assert found["chars_per_token"] is found["tokens_per_han"] is found["different_share"] is None
    one.measure([], "a")
    assert one.total.tokens == 0 and common_tokens(one, 5) == []


def test_text_without_a_token_is_unknown() -> None:
    """Two of four tokens stand for characters that the vocabulary lacks."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "中": 1, "国": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    backend.add_special_tokens(["<unk>"])
    one = fresh("bytes")
    one = Measured("words", replace(one.tokenizer, backend=backend), read_vocabulary(backend))
    one.measure(["中国龘a"], "a")
    found = one.total.figures(one.vocabulary)
    assert found["unknown_share"] == 0.5 and found["different"] == 1 and found["tokens_per_han"] is None
    assert found["used"] == 2 and found["used_share"] == 1.0, "the unknown token is no entry that text uses"


def test_speed_by_hand() -> None:
    """Three batches of 1 MB in 1, 2 and 4 seconds: 3/7 MB/s, and 1, 0.5 and 0.25 of them in one second each."""
    one, first = fresh("bytes"), fresh("bytes")
    one.times = [(1_000_000, 1.0), (10, 9.0), (1_000_000, 2.0), (1_000_000, 4.0)]
    first.times = [(1_000_000, 2.0), (10, 9.0), (1_000_000, 2.0), (1_000_000, 2.0)]
    found = speed(one, first)
    assert found is not None
    assert found["megabytes_per_second"] == pytest.approx(3 / 7) and found["batches"] == 3
    assert found["ratio"] == 1.0 and (found["low"], found["high"]) == pytest.approx((0.375, 0.75))
    one.times = one.times[:3]
    assert speed(one, first) is None


def test_each_begins_in_turn() -> None:
    order: list[str] = []

    class Spy(Measured):
        def measure(self, batch: list[str], domain: str) -> None:
            order.append(self.name)

    every: list[Measured] = [Spy(name, OPENED["bytes"].tokenizer, OPENED["bytes"].vocabulary) for name in "abc"]
    for number in range(3):
        measure_all(every, ["x"], "t", number)
    assert "".join(order) == "abcbcacab"


def test_growth_is_thinned() -> None:
    one = fresh("bytes")
    one.growth = [(n, n) for n in range(1000)]
    points = growth_points(one)
    assert len(points) <= 42 and points[-1] == (999, 999) and points[0] == (0, 0)
