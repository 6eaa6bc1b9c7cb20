"""From counts to words: scores against arithmetic by hand, joining, and a planted difference that is found."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest

from jielong.data.cleaning.scan import encode
from jielong.data.measuring.associations import MIN_COUNT, Triples, log_likelihood, log_odds, looked_up, summary
from jielong.data.measuring.balance import HAN_FIRST, PLACE_BITS, Counter, Counts, merge
from jielong.data.measuring.terms import Group

SEXES = Group.model_validate({"name": "sexes", "terms": {"女": ["女", "她"], "男": ["男", "他", "-他山"]}})


def key(word: str) -> int:
    result = 0
    for char in word:
        result = result << PLACE_BITS | ord(char) - HAN_FIRST
    return result


def counts(rows: dict[str, int]) -> Counts:
    ordered = sorted((key(word), n) for word, n in rows.items())
    return Counts(np.array([k for k, _ in ordered]), np.array([n for _, n in ordered]), np.ones(len(ordered), np.int64))


def test_log_likelihood_by_hand() -> None:
    """10 of 100 places here, 20 of 1000 in all: expected 2, 98, 18, 882; G2 = 2 (10 ln 5 + 90 ln(90/98) + 10 ln(10/18) + 890 ln(890/882))."""
    found = log_likelihood(np.array([10.0, 0.0, 2.0]), np.array([20.0, 20.0, 20.0]), 100.0, 1000.0)
    expected = 2 * (10 * math.log(5) + 90 * math.log(90 / 98) + 10 * math.log(10 / 18) + 890 * math.log(890 / 882))
    assert found[0] == pytest.approx(expected) and found[1] < 0 and found[2] == pytest.approx(0)


def test_log_odds_by_hand() -> None:
    """12 of 100 and 4 of 200 with a prior of 1 in 10: odds 13/97 and 5/205, variance 1/13 + 1/5."""
    found = log_odds(np.array([12.0]), np.array([4.0]), np.array([1.0]), (100.0, 200.0), 10.0)
    expected = (math.log(13 / 97) - math.log(5 / 205)) / math.sqrt(1 / 13 + 1 / 5)
    assert found[0] == pytest.approx(expected)
    mirrored = log_odds(np.array([4.0]), np.array([12.0]), np.array([1.0]), (200.0, 100.0), 10.0)
    assert mirrored[0] == pytest.approx(-expected)


def test_pairs_grow_into_words() -> None:
    triples = Triples(counts({"委员会": 90, "员会议": 10, "互联网": 50, "联网络": 48, "大学生": 30, "学生会": 5}))
    assert triples.grown(key("员会"), 100) == "委员会"
    assert triples.grown(key("委员"), 200) == "委员"
    assert triples.grown(key("互联"), 50) == "互联网络"
    assert triples.grown(key("学生"), 33) == "大学生"
    assert triples.grown(key("甲乙"), 9) == "甲乙"
    assert len(Triples(counts({"哈哈哈": 9})).grown(key("哈哈"), 9)) == 8


def test_looked_up() -> None:
    assert looked_up(counts({"甲乙": 3, "丙丁": 4}), np.array([key("丙丁"), key("甲丁"), key("甲乙")])).tolist() == [
        4,
        0,
        3,
    ]
    assert looked_up(counts({}), np.array([1])).tolist() == [0]


def corpus() -> tuple[list[str], list[int]]:
    chance = random.Random(5)
    filler = ["山水", "天气", "时间", "问题", "公司", "城市", "音乐", "电影", "经济", "历史"]
    texts = []
    for n in range(240):
        who, what = (("她", ["护士", "厨房"]), ("他", ["工程师", "足球"]))[n % 2]
        words = [
            *chance.choices(filler, k=30),
            "，",
            who,
            chance.choice(what),
            "朋友",
            "。",
            *chance.choices(filler, k=30),
        ]
        texts.append("".join(f"{word}的" if chance.random() < 0.5 else word for word in words))
    return texts, [n % 3 for n in range(240)]


def test_a_planted_difference_is_found() -> None:
    texts, numbers = corpus()
    counter = Counter([SEXES])
    parts = [counter.count(*encode(texts[n : n + 50]), numbers[n : n + 50]) for n in range(0, 240, 50)]
    chars = dict.fromkeys(("新闻", "网页", "空"), 1000)
    found = summary(merge(parts), [SEXES], chars)
    assert json.loads(json.dumps(found)) == found == summary(merge(parts[::-1]), [SEXES], chars)
    assert found["chars"] == chars and found["documents"] == {"新闻": 80, "网页": 80, "空": 80}
    group = found["groups"][0]
    women, men = group["members"]
    assert group["no_mentions"] and "他山" in group["no_mentions"]
    assert men["terms"] == ["男", "他"] and men["mentions"] == {"新闻": 40, "网页": 40, "空": 40}
    distinct = [{row["word"] for row in member["distinct"]} for member in (women, men)]
    assert {"护士", "厨房"} <= distinct[0] and {"工程师", "足球"} <= distinct[1]
    assert not any("朋友" in words for words in distinct), "what stands near both tells nothing"
    for member, own in ((women, "护士"), (men, "足球")):
        near = {row["word"]: row for row in member["neighbours"]}
        assert {own, "朋友"} <= near.keys() and "天气" not in near
        assert near["朋友"]["count"] == near["朋友"]["documents"] == 120 and near["朋友"]["times"] > 2
    row = next(row for row in men["distinct"] if row["word"] == "足球")
    assert row["others"] == 0 and row["times"] is None and row["z"] > 2


def test_too_little_says_nothing() -> None:
    few = ["她喜欢读书"] * (MIN_COUNT - 1)
    result = Counter([SEXES]).count(*encode(few), [0] * len(few))
    women, men = summary(result, [SEXES], {"新闻": 20})["groups"][0]["members"]
    assert women["neighbours"] == women["distinct"] == men["neighbours"] == men["samples"] == []
    assert women["mentions"] == {"新闻": 4} and men["mentions"] == {}
    nothing = summary(Counter([SEXES]).count(*encode([]), []), [SEXES], {})
    assert nothing["documents"] == {}
