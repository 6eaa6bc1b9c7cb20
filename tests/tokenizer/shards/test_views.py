"""Views against slow twins: rows laid in a loop, the loader's stream, and the usual group_texts."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import IGNORE, HfDataset, PackedRows, Row, TruncatedRows
from jielong.train.loader import PackedLoader
from jielong.train.shuffling import shuffled
from tests.tokenizer.shards.documents import END, SCHEMES, make, stored

ROWS = st.lists(st.lists(st.integers(4, 99), max_size=9), min_size=1, max_size=8)


def group_texts(rows: list[list[int]], block_size: int) -> list[list[int]]:
    """What fine-tuning scripts do with a batch of tokenized documents: end to end, in blocks, the remainder left out."""
    concatenated = list(chain(*rows))
    total = len(concatenated) // block_size * block_size
    return [concatenated[at : at + block_size] for at in range(0, total, block_size)]


def as_lists(row: Row) -> list[list[int]]:
    return [part.tolist() for part in (row.inputs, row.labels, row.positions, row.documents)]


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(1, 12), st.sampled_from(sorted(SCHEMES)))
def test_hf_rows_are_group_texts_and_the_tail(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], length: int, name: str
) -> None:
    documents = [stored(ids, SCHEMES[name]) for ids in rows]
    data = HfDataset(make(tmp_path_factory.mktemp("s"), rows, SCHEMES[name]), length)
    found = [data[number] for number in range(len(data))]
    blocks, tail = group_texts(documents, length), sum(map(len, documents)) % length
    assert len(found) == len(blocks) + bool(tail)
    for row, block in zip(found, blocks, strict=False):
        assert row["input_ids"].tolist() == row["labels"].tolist() == block
        assert row["attention_mask"].tolist() == [1] * length
    if tail:
        whole, padding = list(chain(*documents)), length - tail
        assert found[-1]["input_ids"].tolist() == whole[-tail:] + [END] * padding
        assert found[-1]["labels"].tolist() == whole[-tail:] + [IGNORE] * padding
        assert found[-1]["attention_mask"].tolist() == [1] * tail + [0] * padding
    with pytest.raises(IndexError):
        data[len(data)]


def test_torch_takes_it_as_a_dataset(tmp_path: Path) -> None:
    data: Any = HfDataset(make(tmp_path, [[5, 6], [7], [8, 9, 10]]), 4)
    [batch] = torch.utils.data.DataLoader(data, batch_size=3)
    assert batch["input_ids"].tolist() == [[5, 6, END, 7], [END, 8, 9, 10], [END] * 4]
    assert batch["labels"].dtype == torch.int64 and batch["labels"][2].tolist() == [END, IGNORE, IGNORE, IGNORE]


def slow_packed(shards: Shards, length: int) -> list[list[list[int]]]:
    """One token at a time."""
    flat, before = [], shards.start_id
    for number in range(shards.documents):
        before = shards.start_id
        for token in shards.targets(number).tolist():
            flat.append((before, token, number))
            before = token
    rows = []
    for start in range(0, len(flat), length):
        part, count, position, last = flat[start : start + length], -1, 0, -1
        row: list[list[int]] = [[], [], [], []]
        for before, token, number in part:
            count, position = (count, position + 1) if number == last else (count + 1, 0)
            last = number
            for column, value in zip(row, (before, token, position, count), strict=True):
                column.append(value)
        padding = length - len(part)
        for column, values in zip(
            row, ([END] * padding, [IGNORE] * padding, range(padding), [count + 1] * padding), strict=True
        ):
            column += values
        rows.append(row)
    return rows


@settings(deadline=None, max_examples=60)
@given(ROWS, st.integers(1, 12), st.sampled_from(sorted(SCHEMES)))
def test_packed_rows_are_those_of_a_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], length: int, name: str
) -> None:
    shards = make(tmp_path_factory.mktemp("s"), rows, SCHEMES[name])
    packed = PackedRows(shards, length)
    assert [as_lists(row) for row in packed] == slow_packed(shards, length) and len(packed) == len(list(packed))
    for number in (-1, len(packed)):
        with pytest.raises(IndexError):
            packed[number]


@pytest.mark.parametrize("name", SCHEMES)
def test_packed_rows_are_the_loader_s(tmp_path: Path, name: str) -> None:
    """The same rows as training reads, when documents lie so that its order puts them into the one of the view."""
    rows = [[n + 4] * (n % 5 + 1) for n in range(20)]
    turned = dict(zip((shuffled(place, 20, 1, 0) for place in range(20)), rows, strict=True))
    shards = make(tmp_path / "a", rows, SCHEMES[name])
    loader = PackedLoader(make(tmp_path / "b", [turned[n] for n in range(20)], SCHEMES[name]), 6, seed=1)
    packed = PackedRows(shards, 6)
    for number in range(shards.target_tokens // 6):
        batch, row = loader.next_batch(1), packed[number]
        for ours, theirs in zip(
            as_lists(row), (batch.inputs, batch.labels, batch.positions, batch.documents), strict=True
        ):
            assert ours == theirs[0].tolist()


@pytest.mark.parametrize("name", SCHEMES)
def test_truncated_rows(tmp_path: Path, name: str) -> None:
    rows = [[10, 11, 12, 13, 14], [20], [], [30, 31, 32]]
    scheme = SCHEMES[name]
    shards = make(tmp_path, rows, scheme)
    truncated = TruncatedRows(shards, 4)
    kept = 0
    for ids, row in zip(rows, truncated, strict=True):
        targets = [*ids, END] if scheme.closes else ids
        expected = targets if len(targets) <= 4 else [*targets[:3], END] if scheme.closes else targets[:4]
        kept += len(expected)
        padding = 4 - len(expected)
        assert row.labels.tolist() == expected + [IGNORE] * padding
        assert row.inputs.tolist() == ([shards.start_id, *expected[:-1]] if expected else []) + [END] * padding
        assert row.positions.tolist() == [*range(len(expected)), *range(padding)]
        assert not np.intersect1d(row.documents[: len(expected)], row.documents[len(expected) :]).size or not expected
    assert truncated.supervised == kept and truncated.left_out == shards.target_tokens - kept
    assert truncated.padding == 16 - kept
    with pytest.raises(IndexError):
        truncated[4]
