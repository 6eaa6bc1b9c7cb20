"""Counts that must add up, statistics by hand, histograms, and the sample that is shown."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.align.config import Kind, Source
from jielong.align.encoding import encode
from jielong.align.parsing import parse
from jielong.align.summary import EXAMPLE_CHARS, Summary, figures_of, length_bias
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tune.summary import EXAMPLES, REJECTS
from tests.align.preferences import answer, marked, pair, user

SOURCES = (Source(name="甲", path="a"), Source(name="乙", path="b"))


def summed(template: ChatTemplate, kind: Kind, records: list[dict[str, Any]], source: str = "甲") -> Summary:
    """Of records that are all kept, every fourth one for validation."""
    summary = Summary(SOURCES, kind, 512)
    for number, record in enumerate(records):
        summary.by_source[source].records += 1
        for example in parse(record, kind):
            summary.by_source[source].read += 1
            split = "train" if number % 4 else "validation"
            summary.keep(source, split, encode(template, example, 512), ("甲.jsonl", number + 1))
    return summary


def test_statistics_of_pairs(template: ChatTemplate) -> None:
    """Characters 4, 2, 3 beside 1, 2, 5: one is longer, one as long, one shorter. Margins 2 and 0.5 of three."""
    records = [
        pair(1, chosen="等于二。", rejected="一", margin=2),
        pair(2, chosen="好的", rejected="不好", margin=0.5),
        pair(3, chosen="等于四", rejected="不知道呢。"),
    ]
    report = summed(template, "pairs", records).report()
    found = report["statistics"]
    assert (found["chosen_characters"], found["rejected_characters"]) == (3, 8 / 3)
    assert (found["chosen_longer"], found["equal_length"], found["rejected_longer"]) == (1 / 3, 1 / 3, 1 / 3)
    assert (found["margins"], found["margin"]) == (2, 1.25)
    encoded = [encode(template, parse(record, "pairs")[0], 512) for record in records]
    assert found["chosen_tokens"] == sum(len(one.answers["chosen"]) for one in encoded) / 3
    assert found["prompt_tokens"] == sum(len(one.prompt) for one in encoded) / 3
    assert length_bias(found) is None
    assert sum(report["answers"]["chosen"]) == sum(report["answers"]["rejected"]) == 3
    assert (sum(report["lengths"]["train"]), sum(report["lengths"]["validation"])) == (2, 1)
    empty = report["by_source"]["乙"]["statistics"]
    assert empty["chosen_characters"] is None and empty["margins"] == 0 and length_bias(empty) is None
    assert figures_of(encoded[0])["margin"] == 2


def test_length_bias(template: ChatTemplate) -> None:
    """Above 65 % of the pairs on either side; two of three are, and 65 of 100 are not."""
    longer, shorter = pair(1, chosen="等于二。", rejected="一"), pair(2, chosen="好", rejected="不好")
    many = [pair(n, chosen="等于二。", rejected="一") for n in range(65)]
    for records, said in (
        ([longer, shorter], None),
        ([longer, longer | {"prompt": "二？"}, shorter], "longer"),
        ([shorter, shorter | {"prompt": "三？"}, longer], "shorter"),
        ([pair(n, chosen="好的", rejected="不好") for n in range(9)], None),
        (many + [shorter | {"prompt": f"{n}？"} for n in range(35)], None),
    ):
        assert length_bias(summed(template, "pairs", records).report()["statistics"]) == said


def test_statistics_of_marked_answers(template: ChatTemplate) -> None:
    records = [
        marked(1),
        marked(2),
        marked(3, False) | {"completion": "不好"},
        pair(4, chosen="四四四四", rejected="四四"),
    ]
    report = summed(template, "unpaired", records).report()
    found = report["statistics"]
    assert (report["records"], report["read"], report["train"] + report["validation"]) == (4, 5, 5)
    assert (found["good"], found["good_characters"], found["bad_characters"]) == (3 / 5, 4, 2)
    assert (sum(report["answers"]["good"]), sum(report["answers"]["bad"])) == (3, 2)
    alone = summed(template, "unpaired", [marked(1)]).report()["statistics"]
    assert (alone["good"], alone["bad_characters"], alone["bad_tokens"]) == (1, None, None)


def test_statistics_of_prompts(template: ChatTemplate) -> None:
    report = summed(
        template, "prompts", [{"prompt": f"{n}？", "answer": 5, **({"甲": "一"} if n else {})} for n in range(3)]
    ).report()
    assert report["statistics"]["columns"] == {"answer": 3, "甲": 2}
    assert "answers" not in report and sum(report["lengths"]["train"]) == 2


def test_counts_and_examples(template: ChatTemplate) -> None:
    made = []
    for order in (range(40), reversed(range(40))):
        summary = Summary(SOURCES, "pairs", 512)
        for number in order:
            encoded = encode(template, parse(pair(number), "pairs")[0], 512)
            summary.by_source["甲"].read += 1
            summary.keep("甲", "train" if number % 4 else "validation", encoded, ("甲.jsonl", number + 1))
        for number in range(6):
            summary.by_source["乙"].read += 1
            summary.reject("乙", "duplicate", "x", ("乙.jsonl", number), "很长" * 1000)
        report = summary.report()
        assert report["read"] == 46 == report["train"] + report["validation"] + report["rejected"]["duplicate"]
        assert (report["train"], report["validation"]) == (30, 10)
        assert len(report["rejects"]["duplicate"]) == REJECTS and len(report["rejects"]["duplicate"][0]["text"]) == 400
        assert len(report["examples"]) == EXAMPLES // 2
        made.append(report)
    assert made[0] == made[1], "the sample does not depend on the order"
    shown = made[0]["examples"][0]
    number = shown["line"] - 1
    assert shown["prompt"] == [
        {"text": f"{number} 加一等于几？", "characters": len(f"{number} 加一等于几？"), "role": "user"}
    ]
    assert shown["answers"]["rejected"] | {"tokens": 0} == {"text": "不知道呢。", "characters": 5, "tokens": 0}


def test_long_texts_are_cut_where_they_are_shown(template: ChatTemplate) -> None:
    summary = Summary(SOURCES, "unpaired", 64)
    talk = [user("问"), answer("答" * 2000), user("再问")]
    encoded = encode(template, parse({"prompt": talk, "completion": "好" * 3000, "label": 0}, "unpaired")[0], 100_000)
    summary.by_source["甲"].read += 1
    summary.keep("甲", "train", encoded, ("a", 1))
    [shown] = summary.report()["examples"]
    assert [turn["characters"] for turn in shown["prompt"]] == [1, 2000, 2]
    assert list(shown["answers"]) == ["bad"] and len(shown["answers"]["bad"]["text"]) == EXAMPLE_CHARS
    assert summary.report()["lengths"]["train"][-1] == 1, "what is longer than the edges is in the last bin"


def test_what_has_vanished_is_noticed() -> None:
    summary = Summary(SOURCES, "pairs", 512)
    summary.by_source["甲"].read += 1
    with pytest.raises(AssertionError, match="examples are missing"):
        summary.report()
