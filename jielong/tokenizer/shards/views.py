"""Rows over shards, by number: any row can be asked for at once, in any order, and nothing is kept in memory.

- `PackedRows`: documents end to end in stored order, cut into rows; no token is left out, and only the end of the last row is
  filled up. What training reads (train/loader.py) is this, with the documents in another order.
- `TruncatedRows`: one document a row, cut or filled up, as many projects do it, to compare with. The end-of-text is kept
  when a document is cut (a model that never sees an end learns never to end), and `left_out` says what that way costs.
- `HfDataset`: the same stream for `transformers.Trainer`: what the usual `group_texts` (concatenate, cut into blocks) gives,
  but over all documents at once rather than a thousand, and without throwing the remainder away: the last row is filled up, its
  padding with label -100 and attention 0, because the Trainer's collator stacks rows of one length.

Rows of the first two are those of the loader's essay: `labels` are what is predicted and already shifted; the input before a
document's first token is the start of a row (`Shards.start_id`); positions and document numbers restart with a document.
`HfDataset` has labels equal to its inputs: Hugging Face's models shift them themselves, and a document's stored start id is
part of the stream. A row costs a few reads of the memory map a document in it, and one search (logarithmic) at its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jielong.tokenizer.shards.reading import Shards

IGNORE = -100  # the label of what is not predicted; PyTorch's and Hugging Face's default

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Row:
    """One row of T tokens, int64, shape (T,). `labels` are already shifted."""

    inputs: Numbers
    labels: Numbers
    positions: Numbers
    documents: Numbers  # numbered from 0 within the row; padding has the number behind the last


def _empty(length: int, end_id: int) -> Row:
    inputs, labels = np.full(length, end_id, np.int64), np.full(length, IGNORE, np.int64)
    return Row(inputs, labels, np.arange(length), np.zeros(length, np.int64))


def _lay(row: Row, at: int, targets: npt.NDArray[np.int64], before: int, number: int) -> int:
    """Put targets into a row from column `at`; `before` is the input of the first. Returns the column behind them."""
    to = slice(at, at + len(targets))
    row.labels[to] = targets
    row.inputs[to] = np.concatenate([[before], targets[:-1]])
    row.positions[to] = np.arange(len(targets))
    row.documents[to] = number
    row.documents[to.stop :] = number + 1
    row.positions[to.stop :] = np.arange(len(row.labels) - to.stop)
    return to.stop


class PackedRows:
    """Rows of `length` tokens over all documents end to end, in stored order. A sequence of `Row`."""

    def __init__(self, shards: Shards, length: int) -> None:
        assert length > 0
        self.shards, self.length = shards, length

    def __len__(self) -> int:
        return -(-self.shards.target_tokens // self.length)

    def __getitem__(self, number: int) -> Row:
        """Row `number`; raises IndexError behind the last."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        row, at, count = _empty(self.length, self.shards.end_id), 0, 0
        document, offset = self.shards.locate(number * self.length)
        while at < self.length and document < self.shards.documents:
            targets = self.shards.targets(document)
            part = targets[offset : offset + self.length - at].astype(np.int64)
            if len(part):
                at = _lay(row, at, part, int(targets[offset - 1]) if offset else self.shards.start_id, count)
                count += 1
            document, offset = document + 1, 0
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))


class TruncatedRows:
    """One document a row of `length` tokens, cut or filled up. A sequence of `Row`."""

    def __init__(self, shards: Shards, length: int) -> None:
        assert length > 0
        self.shards, self.length = shards, length

    def __len__(self) -> int:
        return self.shards.documents

    @property
    def supervised(self) -> int:
        """Tokens that are predicted in all rows together."""
        skipped = self.shards.tokens - self.shards.target_tokens
        given = skipped // max(1, self.shards.documents)
        return sum(int(np.minimum(lengths - given, self.length).sum()) for lengths in self.shards.lengths())

    @property
    def left_out(self) -> int:
        """Tokens that are in no row, because their document is longer."""
        return self.shards.target_tokens - self.supervised

    @property
    def padding(self) -> int:
        """Places in all rows together that hold nothing."""
        return len(self) * self.length - self.supervised

    def __getitem__(self, number: int) -> Row:
        """Row `number`; raises IndexError behind the last."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        row, targets = _empty(self.length, self.shards.end_id), self.shards.targets(number)
        part = targets[: self.length].astype(np.int64)
        if len(part) < len(targets) and self.shards.scheme.closes:
            part[-1] = self.shards.end_id
        if len(part):
            _lay(row, 0, part, self.shards.start_id, 0)
        return row

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))


class HfDataset:
    """Rows for `transformers.Trainer` (a map-style dataset of torch, which asks for nothing but these two methods)."""

    def __init__(self, shards: Shards, length: int) -> None:
        assert length > 0
        self.shards, self.length = shards, length

    def __len__(self) -> int:
        return -(-self.shards.tokens // self.length)

    def __getitem__(self, number: int) -> dict[str, Numbers]:
        """`input_ids`, `labels` and `attention_mask` of a row, int64, each of shape (length,)."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        ids = self.shards.stream(number * self.length, (number + 1) * self.length).astype(np.int64)
        padding = self.length - len(ids)
        return {
            "input_ids": np.pad(ids, (0, padding), constant_values=self.shards.end_id),
            "labels": np.pad(ids, (0, padding), constant_values=IGNORE),
            "attention_mask": np.pad(np.ones(len(ids), np.int64), (0, padding)),
        }
