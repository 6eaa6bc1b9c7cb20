from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.pipeline.chunks import Reject
from jielong.data.pipeline.docs import PLACE, Docs
from jielong.data.pipeline.recorder import (
    Recorder,
    Sampler,
    around,
    edges_of,
    histogram,
    nearest,
    same_end,
    same_start,
    smallest,
)
from jielong.data.steps import Rule

FILES = ((0, "甲.txt", "甲.txt"), (1, "乙.txt", "乙.txt"))


def docs(count: int) -> Docs:
    places = np.array([(n % 2, n % 2, n, 0) for n in range(count)], PLACE)
    return Docs([f"第{n}篇" for n in range(count)], places, {"han_ratio": np.linspace(0, 1, count, dtype=np.float32)})


def test_a_lost_document_is_noticed() -> None:
    recorder, some = Recorder(("甲", "乙"), FILES), docs(4)
    recorder.enter("filter", some.places["source"], 12)
    recorder.reject(Reject(some.texts[0], some.places[0], "filter", "han_ratio", "0"))
    with pytest.raises(AssertionError):
        recorder.leave("filter", some.places["source"], 12)
    recorder.leave("filter", some.places["source"][1:], 9)
    row = recorder.as_dict()["steps"]["filter"]
    assert (row["in"], row["out"], row["rejected"]) == (4, 3, {"han_ratio": 1})
    assert row["by_source"]["甲"]["rejected"] == {"han_ratio": 1} and row["by_source"]["乙"]["out"] == 2


def test_splitting_adds() -> None:
    recorder, some = Recorder(("甲", "乙"), FILES), docs(2)
    recorder.enter("split", some.places["source"], 6)
    recorder.split("split", some.places[0], 3)
    recorder.leave("split", some.places["source"][[0, 0, 0, 1]], 6)
    assert recorder.steps["split"]["added"] == 2


def test_samples_do_not_depend_on_the_order() -> None:
    rows = [(n * 7919 % 101 / 101, {"text": str(n)}) for n in range(101)]
    found = []
    for order in (rows, rows[::-1]):
        sampler = Sampler(5)
        for key, sample in order:
            if sampler.wants(key):
                sampler.add(key, sample)
        found.append(sampler.sorted())
    assert found[0] == found[1] and [row["key"] for row in found[0]] == [n / 101 for n in range(5)]
    assert smallest(found[0] + found[1][:1], 2)[0]["text"] == "0"


def test_samples_next_to_the_threshold() -> None:
    recorder, some = Recorder(("甲", "乙"), FILES), docs(101)
    stays = some.columns["han_ratio"] >= 0.5
    recorder.near_thresholds("filter", some, np.arange(101), stays, (Rule(column="han_ratio", min=0.5),))
    kinds = recorder.as_dict()["samples"]["filter"]["han_ratio"]
    assert [round(row["value"], 2) for row in kinds["kept_near"]] == [round(0.5 + n / 100, 2) for n in range(10)]
    assert [round(row["value"], 2) for row in kinds["rejected_near"]] == [round(0.49 - n / 100, 2) for n in range(10)]
    assert 0 < len(kinds["kept"]) <= 10


def test_nearest() -> None:
    distance = np.array([5.0, 1, 4, 1, 3, 2, 9, 9, 9, 9, 9, 9])
    assert nearest(np.arange(12), distance) == [1, 3, 5, 4, 2, 0, 6, 7, 8, 9]
    assert nearest(np.array([2, 0]), distance) == [2, 0]


@given(st.text("中文字", max_size=30), st.text("中文字", max_size=30))
def test_same_start(first: str, second: str) -> None:
    expected = next(
        (n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
    assert same_start(first, second) == expected
    assert same_end(first[::-1], second[::-1]) == expected


def test_an_edit_is_shown_with_its_surroundings() -> None:
    before = "前" * 100 + "<b>" + "后" * 100
    old, new = around(before, before.replace("<b>", ""))
    assert old == "前" * 60 + "<b>" + "后" * 60 and new == "前" * 60 + "后" * 60
    recorder, some = Recorder(("甲", "乙"), FILES), docs(1)
    recorder.enter("markup", some.places["source"], 3)
    recorder.edited("markup", "a<b>c", "ac", some.places[0], Counter(html_tag=1))
    recorder.leave("markup", some.places["source"], 2)
    found = recorder.as_dict()
    assert found["steps"]["markup"]["edits"] == {"html_tag": 1} and found["steps"]["markup"]["edited"] == 1
    assert found["samples"]["markup"]["html_tag"]["edit"][0]["before"] == "a<b>c"


def test_histograms_lose_nothing_but_what_is_missing() -> None:
    assert sum(histogram("han_ratio", np.array([0, 0.5, 1, np.nan]))) == 3
    counts = histogram("text_len", np.array([0, 1, 10, 10**12]))
    assert sum(counts) == 4 and counts[-1] == 1 and len(counts) == len(edges_of("text_len")) - 1


@pytest.mark.parametrize("column", ["han_ratio", "stopwords_ratio", "text_len", "avg_line_length"])
def test_histograms_are_those_of_numpy(column: str) -> None:
    edges = edges_of(column)
    around_edges = [np.nextafter(edges, to) for to in (-np.inf, np.inf)]
    some = np.random.default_rng(2).random(2000)
    values = np.concatenate([edges, *around_edges, some, some * 1e9, [-1, -0.0, np.inf, -np.inf, np.nan, 1e300]])
    finite = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
    assert histogram(column, values) == np.histogram(finite, edges)[0].tolist()
    assert histogram(column, values[:0]) == [0] * (len(edges) - 1)
