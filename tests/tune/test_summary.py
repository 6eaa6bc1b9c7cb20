"""Counts that must add up, histograms, and the sample that is shown."""

from __future__ import annotations

from itertools import pairwise

import pytest

from jielong.tokenizer.chat.conversations import parse
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tune.config import Source
from jielong.tune.cutting import Cutter
from jielong.tune.summary import EXAMPLES, REJECTS, Summary, token_edges
from tests.tune.talks import asked, turns

SOURCES = (Source(name="甲", path="a"), Source(name="乙", path="b"))


def test_edges() -> None:
    """Two to a doubling: 1, 2, 3, 4, 6, 8, 11, 16, ...; the last one is above the longest conversation."""
    assert token_edges(16) == [1, 2, 3, 4, 6, 8, 11, 16, 23]
    for length in (2, 100, 511, 512, 4096):
        edges = token_edges(length)
        assert edges[-1] > length >= edges[-2] and all(a < b for a, b in pairwise(edges))


def test_counts_and_examples(tokenizer: TokenizerFolder) -> None:
    template, made = Cutter(tokenizer), []
    for order in (range(40), reversed(range(40))):
        summary = Summary(SOURCES, 512)
        for number in order:
            cut = template.fit(parse(asked(number)), 512)
            summary.by_source["甲"].read += 1
            summary.keep("甲", "train" if number % 4 else "validation", cut, number == 7, ("甲.jsonl", number + 1))
        for number in range(6):
            summary.by_source["乙"].read += 1
            summary.reject("乙", "duplicate", "x", ("乙.jsonl", number), "很长" * 1000)
        report = summary.report(tokenizer)
        assert report["read"] == 46 == report["train"] + report["validation"] + report["rejected"]["duplicate"]
        assert (report["train"], report["validation"], report["shortened"], report["exchanges_left_out"]) == (
            30,
            10,
            1,
            1,
        )
        assert report["by_source"]["乙"] == {
            "read": 6, "train": 0, "validation": 0, "rejected": {"duplicate": 6}, "shortened": 0, "exchanges_left_out": 0,
            "tokens": 0, "learned_tokens": 0, "learned_bytes": 0, "learned_characters": 0,
        }  # fmt: skip
        assert sum(report["lengths"]["train"]) == sum(report["turns"]["train"]) == 30 == report["turns"]["train"][0]
        assert len(report["rejects"]["duplicate"]) == REJECTS and len(report["rejects"]["duplicate"][0]["text"]) == 400
        assert len(report["examples"]) == EXAMPLES // 2
        made.append(report)
    assert made[0] == made[1], "the sample does not depend on the order"
    shown = made[0]["examples"][0]
    assert [number for number, _, _ in shown["shown"]] == template.fit(
        parse(asked(shown["line"] - 1)), 512
    ).ids.tolist()
    learned = [number for number, _, mark in shown["shown"] if mark]
    assert tokenizer.backend.decode(learned, skip_special_tokens=False) == f"等于{shown['line']}。<|im_end|>"


def test_many_turns_are_in_the_last_bin(tokenizer: TokenizerFolder) -> None:
    summary = Summary(SOURCES, 16)
    cut = Cutter(tokenizer).fit(parse(turns(*["问", "答"] * 5)), 10_000)
    summary.by_source["甲"].read += 1
    summary.keep("甲", "train", cut, 0, ("a", 1))
    report = summary.report(tokenizer)
    assert report["turns"]["train"][4] == 1 and report["lengths"]["train"][-1] == 1


def test_what_has_vanished_is_noticed(tokenizer: TokenizerFolder) -> None:
    summary = Summary(SOURCES, 512)
    summary.by_source["甲"].read += 1
    with pytest.raises(AssertionError, match="conversations are missing"):
        summary.report(tokenizer)
