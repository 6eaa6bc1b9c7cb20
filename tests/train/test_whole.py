"""Rows of whole documents: nothing divided, everything once an epoch, the mask in the labels, any number of ranks, any resume."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.errors import ShardError
from jielong.metrics import read_jsonl
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import Documents, ShardWriter
from jielong.train.config import Config
from jielong.train.loader import IGNORE, LoaderState, PackedLoader, evaluation_batches, open_loader, rows_of_an_epoch
from jielong.train.whole import WholeLoader, fitted
from tests.train.conftest import RunTraining

END, START = 3, 2


def make(folder: Path, sizes: list[int], seed: int = 0) -> Shards:
    """Conversations of so many targets: ids that tell document and place, about half of them learned."""
    scheme, chance = Scheme(60_000, END, START, closes=False, masked=True), np.random.default_rng(seed)
    rows = [[START, *(100 * (number + 1) + place for place in range(size))] for number, size in enumerate(sizes)]
    marks = np.concatenate([[False, *(chance.random(size) < 0.5)] for size in sizes]).astype(bool)
    lengths = np.array([len(row) for row in rows])
    documents = Documents(np.concatenate(rows), lengths, lengths, lengths, lengths * 0, marks)
    with ShardWriter(folder, "train", scheme, 50) as writer:
        writer.append(documents)
    write_manifest(folder, scheme, {"train": writer.summary()})
    return Shards(folder, "train")


SIZES = [3, 8, 5, 1, 7, 2, 6, 4, 8, 3, 2, 5]


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 10))
def test_fitted(sizes: list[int], length: int) -> None:
    rows = fitted(sizes, length)
    assert sorted(place for row in rows for place in row) == list(range(len(sizes)))
    totals = [sum(min(sizes[place], length) for place in row) for row in rows]
    assert all(0 < total <= length for total in totals)
    assert sum(2 * total <= length for total in totals) <= 1  # two rows that are half empty would have been one


def test_full_rows_where_they_can_be() -> None:
    assert fitted([3, 5, 4, 4, 8], 8) == [[4], [0, 1], [2, 3]]


def read(loader: WholeLoader, rows: int) -> list[tuple[list[int], ...]]:
    """Each document of the next rows: its inputs, labels and positions."""
    batch, found = loader.next_batch(rows), []
    for row in range(rows):
        for number in range(int(batch.documents[row].max()) + 1):
            at = batch.documents[row] == number
            found.append(tuple(part[row][at].tolist() for part in (batch.inputs, batch.labels, batch.positions)))
    return found


def test_every_document_once_and_whole(tmp_path: Path) -> None:
    shards = make(tmp_path, SIZES)
    loader = WholeLoader(shards, 8, 1)
    rows = loader.rows_in_an_epoch
    assert (
        rows_of_an_epoch("whole", shards, 8, 1) == rows == -(-sum(SIZES) // 8)
    )  # these fill rows without a gap but the last
    for _ in range(3):
        seen = list[int]()
        for inputs, labels, positions in read(loader, rows):
            assert positions == list(range(len(positions)))
            if inputs[0] == END:
                assert set(inputs) == {END} and set(labels) == {IGNORE}  # the rest of a row
                continue
            number = next(n for n in range(len(SIZES)) if shards.length(n) == len(labels) and (
                len(inputs) == 1 or inputs[1] == shards.targets(n)[0]))  # fmt: skip
            targets, learned = shards.targets(number), shards.learned(number)
            assert inputs == [START, *targets[:-1].tolist()]
            assert labels == [int(t) if use else IGNORE for t, use in zip(targets, learned, strict=True)]
            seen.append(len(labels))
        assert sorted(seen) == sorted(SIZES)
    assert loader.state == LoaderState(3, 0)


def test_epochs_differ_and_seeds_too(tmp_path: Path) -> None:
    shards = make(tmp_path, SIZES * 4)
    rows = [[WholeLoader(shards, 8, seed)._rows(epoch) for epoch in (0, 1)] for seed in (1, 2)]
    assert rows[0][0] != rows[0][1] != rows[1][1]
    longest = [max(shards.length(n) for n in row) for row in rows[0][0]]
    assert longest != sorted(longest, reverse=True)  # rows do not come longest first


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_rows_of_a_step(tmp_path: Path, world: int) -> None:
    shards = make(tmp_path, SIZES)
    whole = WholeLoader(shards, 8, 1)
    parts = [WholeLoader(shards, 8, 1) for _ in range(world)]
    for _ in range(5):  # over the end of an epoch
        one = whole.step(4, 4)
        found = [part.step(4, 1, rank, world) for rank, part in enumerate(parts)]
        laid = np.concatenate([batch.labels for step in found for batch in step.batches])
        assert (laid == one.batches[0].labels).all()
        assert {step.labels for step in found} == {one.labels} == {int((one.batches[0].labels != IGNORE).sum())}
        assert {part.state for part in parts} == {whole.state}


def test_going_on_from_any_state(tmp_path: Path) -> None:
    shards = make(tmp_path, SIZES)
    loader = WholeLoader(shards, 8, 1)
    for _ in range(9):
        state = LoaderState.from_json(loader.state.to_json())
        other = pickle.loads(pickle.dumps(open_loader("whole", shards, 8, 1, state)))
        skipped = WholeLoader(shards, 8, 1, state)
        skipped.skip(1)
        first = loader.next_batch(1)
        assert (other.next_batch(1).inputs == first.inputs).all() and other.state == loader.state == skipped.state
        spans = loader.spans(state, 1)
        assert sum(span.end - span.begin for span in spans) == int((first.inputs != END).sum())
    same = loader.at_length(8)
    assert type(same) is WholeLoader
    assert same.state == loader.state and (same.next_batch(2).labels == loader.next_batch(2).labels).all()


def test_what_is_longer_than_a_row_loses_its_end_and_is_counted(tmp_path: Path) -> None:
    shards = make(tmp_path, [12, 3])
    step = WholeLoader(shards, 8, 1).step(2, 2)
    assert step.left_out == 4
    assert step.labels == int((step.batches[0].labels != IGNORE).sum())


def test_validation_counts_what_is_learned(tmp_path: Path) -> None:
    shards = make(tmp_path, SIZES)
    labels = sum(int((batch.labels != IGNORE).sum()) for batch, _ in evaluation_batches(shards, 8, 2, None))
    assert labels == shards.learned_counts().sum()


@pytest.mark.parametrize("rows", [1, 2, 16])
def test_validation_never_tears_an_answer_from_its_question(rows: int, tmp_path: Path) -> None:
    """Every document that fits stands whole in a row, with what is given in its inputs, however many rows go together."""
    shards = make(tmp_path, SIZES)
    seen = []
    for batch, _ in evaluation_batches(shards, 8, rows, None):
        for row in range(len(batch.inputs)):
            for number in dict.fromkeys(batch.documents[row].tolist()):
                places = batch.documents[row] == number
                if (batch.labels[row][places] != IGNORE).any():
                    seen.append((batch.inputs[row][places].tolist(), batch.labels[row][places].tolist()))
    expected = []
    for number in range(shards.documents):
        targets, learned = shards.targets(number).tolist(), shards.learned(number)
        for begin in range(0, len(targets), 8):
            part, marks = targets[begin : begin + 8], learned[begin : begin + 8]
            first = targets[begin - 1] if begin else shards.start_id
            if marks.any():
                labels = [token if mark else IGNORE for token, mark in zip(part, marks, strict=True)]
                expected.append(([first, *part[:-1]], labels))
    whole = [row for row in expected if len(row[0]) <= 8]
    assert [row for row in seen if len(row[0]) == len(row[1])] == whole


def test_a_training_that_is_killed_goes_on(run_training: RunTraining, tmp_path: Path) -> None:
    settings = {"packing": "whole", "save_every_steps": 2}
    whole = run_training(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError):
        run_training(tmp_path / "killed", fail_at=6, **settings)
    assert run_training(tmp_path / "killed", **settings)["final_loss"] == whole["final_loss"]
    one, two = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed"))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    assert all(0 < row["labels"] <= 64 and row["left_out"] >= 0 for row in one)


def test_rows_of_an_epoch_by_packing(tmp_path: Path) -> None:
    scheme = Scheme(100, END)
    with ShardWriter(tmp_path, "train", scheme, 50) as writer:
        writer.add(["x"] * 3, [[5] * 6, [6] * 7, [7]])  # with their ends 7, 8 and 2
    write_manifest(tmp_path, scheme, {"train": writer.summary()})
    shards = Shards(tmp_path, "train")
    assert [rows_of_an_epoch(packing, shards, 9, 1) for packing in ("packed", "whole", "truncated")] == [0, 2, 3]


def test_what_is_refused(tmp_path: Path) -> None:
    shards = make(tmp_path, SIZES)
    with pytest.raises(ShardError, match=r'not all of its tokens are to be learned.*packing = "whole"'):
        PackedLoader(shards, 8, 1)
    tables: list[dict[str, Any]] = [
        {"packing": "whole", "mix": {"weights": {"a": 1.0}}},
        {"packing": "whole", "phases": [{"share": 1, "weights": {"a": 1.0}}]},
        {"packing": "whole", "phases": [{"share": 1, "sequence_length": 8}, {"share": 1, "sequence_length": 16}]},
    ]
    for table in tables:
        with pytest.raises(ValueError, match="whole"):
            Config.model_validate(table)
