from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.pipeline.docs import PLACE, Docs, Raw

TEXTS = ["床前明月光", "", "abc\n疑是地上霜", "𠀀举头"]


def docs(form: str) -> Docs:
    places = np.array([(0, 0, n + 1, 0) for n in range(len(TEXTS))], PLACE)
    columns = {"n": np.arange(len(TEXTS))}
    return Docs(list(TEXTS) if form == "strings" else encode(TEXTS), places, columns)


@pytest.mark.parametrize("form", ["strings", "bytes"])
@pytest.mark.parametrize("look", [True, False])
def test_both_forms_say_the_same(form: str, look: bool) -> None:
    some = docs(form)
    if look:
        assert some.texts == TEXTS
    taken = some.take(np.array([3, 0]))
    assert len(taken) == 2 and taken.columns["n"].tolist() == [3, 0] and taken.places["line"].tolist() == [4, 1]
    assert taken.text(0) == TEXTS[3] and taken.texts == [TEXTS[3], TEXTS[0]]
    assert [values.tobytes() for values in taken.encoded()] == [
        values.tobytes() for values in encode([TEXTS[3], TEXTS[0]])
    ]
    some.replace({1: "新的", 3: ""})
    new = [TEXTS[0], "新的", TEXTS[2], ""]
    assert some.text(1) == "新的" and some.texts == new
    assert some.encoded()[0].tobytes() == "".join(new).encode() and some.encoded()[1][-1] == len("".join(new).encode())
    assert taken.texts == [TEXTS[3], TEXTS[0]], "what was taken before does not change"


def test_all_rows_are_the_same_object() -> None:
    some = docs("bytes")
    assert some.take(np.arange(4)) is some and some.take(np.arange(3)) is not some
    assert len(some.take(np.arange(0))) == 0 and some.take(np.arange(0)).texts == []


def test_raw_becomes_docs() -> None:
    raw = Raw(0, (1, 0), ["甲"], [(0, 0, 5, 0)])
    assert Docs.of(raw).places["line"].tolist() == [5]
    assert len(Docs.of(Raw(0, (0, 0)))) == 0


ROWS = st.lists(st.integers(0, 3), max_size=5).map(sorted)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("replace"), st.dictionaries(st.integers(0, 3), st.text("甲b𠀀\n", max_size=3))),
        st.tuples(st.just("take"), ROWS),
        st.tuples(st.sampled_from(["texts", "encoded", "lengths"]), st.none()),
    ),
    max_size=8,
)


@given(st.sampled_from(["strings", "bytes"]), CHANGES)
def test_whatever_happens_both_forms_and_the_lengths_agree(form: str, changes: list[tuple[str, Any]]) -> None:
    some, plain = docs(form), list(TEXTS)
    for what, value in changes:
        if what == "replace":
            new = {row: text for row, text in value.items() if row < len(plain)}
            before = some.lengths().copy() if some._lengths is not None else None
            given_away = some._lengths
            assert some.replace(new) == [text.encode() for text in new.values()]
            assert before is None or (given_away == before).all(), "lengths that were given away do not change"
            for row, text in new.items():
                plain[row] = text
        elif what == "take":
            rows = [row for row in value if row < len(plain)]
            some, plain = some.take(np.array(rows, np.int64)), [plain[row] for row in rows]
        elif what == "texts":
            assert some.texts == plain
        elif what == "encoded":
            assert some.encoded()[0].tobytes() == "".join(plain).encode()
        else:
            assert some.lengths().tolist() == list(map(len, plain))
    assert some.texts == plain and [some.text(row) for row in range(len(plain))] == plain
    assert [values.tobytes() for values in some.encoded()] == [values.tobytes() for values in encode(plain)]
    assert some.lengths().tolist() == list(map(len, plain)) and some.lengths().dtype == np.int32


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4), st.integers(0, 13)
)
def test_the_opening_of_a_text(texts: list[str], chars: int) -> None:
    for form in (list(texts), encode(texts)):
        some = Docs(form, np.zeros(len(texts), PLACE))
        for row, text in enumerate(texts):
            assert some.opening(row, chars) == text[:chars]
            assert some.utf8(row) == text.encode()
