"""Orders: their states and numbers, and phases over rows that are not full. More of the mix is in test_mixing.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jielong.train.mixing import Mix
from jielong.train.orders import LoaderState, Mixed, Natural
from jielong.train.walking import turn
from tests.train.test_mixing import PHASES, corpus, make


def test_a_state_is_json() -> None:
    state = LoaderState(0, 7, 3, ((4, 50), (3, 20)))
    assert LoaderState.from_json({"epoch": 0, "place": 7, "offset": 3, "taken": [[4, 50], [3, 20]]}) == state
    assert LoaderState.from_json(state.to_json()) == state
    assert LoaderState.from_json({"epoch": 2, "place": 1, "offset": 0}) == LoaderState(2, 1)  # without a mix


def test_states_in_numbers(tmp_path: Path) -> None:
    """Five documents: place 3 of epoch 2 is the 14th document, 13 were read."""
    shards = make(tmp_path, {"a": [3, 4, 5], "b": [7, 8]})
    natural, state = Natural(shards, 1), LoaderState(2, 3, 6)
    assert natural.counts(state).tolist() == [[13, 0]]
    assert natural.state(natural.counts(state), 6) == state
    mixed = Mixed(shards, 1, Mix(weights={"a": 1, "b": 1}))
    state = LoaderState(0, 7, 2, ((4, 50), (3, 20)))
    assert mixed.state(mixed.counts(state), 2) == state
    assert mixed.state(mixed.counts(mixed.first()), 0) == mixed.first()


def test_the_natural_order_holds_nothing_of_the_corpus(tmp_path: Path) -> None:
    table = Natural(make(tmp_path, {"a": [3] * 500}), 1).table()
    assert table.numbers == [None] and table.sizes.tolist() == [500]
    assert sum(part.nbytes for part in vars(table).values() if isinstance(part, np.ndarray)) < 100


@pytest.mark.parametrize("mix", [Mix.model_validate(PHASES), Mix(temperature=2, max_epochs=1.5)])
def test_the_compiled_turn_is_the_plain_one(tmp_path: Path, mix: Mix) -> None:
    """At every document of a run, and at states that a run does not come to."""
    mixed = Mixed(corpus(tmp_path), 1, mix, 20_000)
    table = mixed.table()
    sources = np.stack([table.sizes * 0, table.sizes, table.most], axis=1)
    state, random = mixed.first(), np.random.default_rng(1)
    for n in range(1500):
        given = state if n % 2 else LoaderState(taken=tuple(map(tuple, random.integers(0, 1500, (3, 2)).tolist())))
        found = turn(sources, table.begins, table.wanted, table.due, mixed.counts(given))
        assert found == mixed.source(given)
        state = mixed.after(state, int(random.integers(1, 40)))


def test_phases_of_rows_that_are_not_full_by_hand(tmp_path: Path) -> None:
    """Rows of 10. Documents of a have 4 tokens, of b 20, of which 10 are kept: rows are 0.4 and 1 full.

    100 rows, 1,000 places. Half a run of equal shares: tokens t = rows / (0.5/0.4 + 0.5/1) = 500 / 1.75 = 285.7, of which a gets
    142.9, in 35.7 rows, b 142.9 in 14.3: 50 rows. Then a alone: 500 x 0.4 = 200 tokens in 50 rows. The document that crosses the border may be of b.
    """
    shards = make(tmp_path, {"a": [4] * 200, "b": [20] * 40})
    mix = Mix.model_validate({"phases": [{"share": 1, "weights": {"a": 1, "b": 1}}, {"share": 1, "weights": {"a": 1}}]})
    mixed = Mixed(shards, 1, mix, 1000, row_length=10)
    assert mixed.table().begins.tolist() == pytest.approx([0, 285.714], abs=1e-3)
    state, turns = mixed.first(), list[int]()
    for _ in range(100):
        turns.append(mixed.source(state))
        state = mixed.after(state, min(10, shards.length(mixed.document(state))))
    assert turns[51:] == [0] * 49 and turns.count(1) in (14, 15)
    assert Mixed(shards, 1, mix, 1000).table().begins.tolist() == [0, 500]  # full rows
