from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.pipeline.docs import PLACE, Docs
from jielong.data.pipeline.final import CODE_POINTS, _documents, counted, repeated_lines


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), max_size=4))
def test_characters_are_counted(texts: list[str]) -> None:
    expected = Counter(ord(char) for text in texts for char in text)
    characters = np.zeros(CODE_POINTS, np.int32)
    repeated_lines(Docs(texts, np.zeros(len(texts), PLACE)), characters)
    assert dict(counted(characters).tolist()) == expected and counted(characters).dtype == np.int64


def test_the_lines_that_stand_in_most_documents() -> None:
    texts = [
        "转载请注明本站出处\n甲篇的正文在这里",
        "转载请注明本站出处！\n转载请注明本站出处\n乙篇另有内容",
        "丙篇只有一行正文",
        "乙篇另有内容\n短\n短",
    ]
    docs = Docs(texts, np.zeros(len(texts), PLACE), {})
    characters = np.zeros(CODE_POINTS, np.int32)
    assert repeated_lines(docs, characters) == [
        (line, 2) for line in sorted(["乙篇另有内容", "转载请注明本站出处"], key=order_of(docs))
    ]
    assert repeated_lines(Docs([], np.zeros(0, PLACE), {}), characters) == []


def test_meta_is_what_orjson_writes() -> None:
    names = ['a"b\\c/正文.jsonl', "d\t.txt"]
    setting = SimpleNamespace(files=tuple((0, name, name) for name in names), sources=("甲",))
    places = np.array([(0, 0, 1, 0), (0, 1, 2**40, 10_001), (0, 0, 7, 3)], PLACE)
    docs = Docs(["一", "二", "三"], places)
    table = _documents(docs, [memoryview(text.encode()) for text in docs.texts], cast(Any, setting))
    parts = [{}, {"part": 10_001}, {"part": 3}]
    rows = zip((names[0], names[1], names[0]), (1, 2**40, 7), parts, strict=True)
    expected = [orjson.dumps({"file": name, "line": line} | part).decode() for name, line, part in rows]
    assert table.column("meta").to_pylist() == expected


def order_of(docs: Docs):  # type: ignore[no-untyped-def]
    """Lines of the same count come in the order of their hashes."""
    from jielong.data.deduplicating.fingerprints import unit_hashes_plain

    return lambda line: unit_hashes_plain(line, 1, 0)[0]
