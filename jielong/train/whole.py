"""Rows of whole documents: none is divided, as many documents in a row as fit, the rest filled up. For conversations.

A conversation that is cut loses the question to its answer, so each is in one row; attention and positions stay inside it, as in packed
rows. Which ones share a row: the documents of an epoch are shuffled, and of each WINDOW of them the longest comes first, into the
fullest row that has room for it (best fit). A document that is longer than a row loses its end, which is counted (`Step.left_out`).

What is not learned (the mask of the shards) is given and not predicted: its labels are IGNORE. Only labels count in the loss of a step.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from jielong.train.loader import IGNORE, Batch, Loader, Span, Step
from jielong.train.orders import LoaderState, Natural
from jielong.train.shuffling import shuffled

WINDOW = 4096  # documents that are sorted together: more would fill rows no better, and sort an epoch by length
Row = tuple[int, ...]  # numbers of documents


def fitted(sizes: list[int], length: int) -> list[list[int]]:
    """Places of `sizes` in rows of `length`, best fit of the longest first; each row's in the order of `sizes`."""
    rows, room = list[list[int]](), list[tuple[int, int]]()  # room: (what is left, row), ascending
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        size = min(sizes[place], length)
        at = bisect_left(room, (size, -1))
        if at == len(room):
            left, row = length, len(rows)
            rows.append([])
        else:
            left, row = room.pop(at)
        rows[row].append(place)
        insort(room, (left - size, row))
    return [sorted(row) for row in rows]


class WholeLoader(Loader):
    """See the module's text. Of the state, `place` is a row of the epoch."""

    truncated = False

    def _prepare(self) -> None:
        assert isinstance(self.order, Natural), "a mix is refused when the recipe is read"
        self._sizes = np.array([self.shards.length(number) for number in range(self.shards.documents)], np.int64)
        self._learned = self.shards.learned_counts()
        self._rows = lru_cache(maxsize=2)(self._rows_of)

    def _rows_of(self, epoch: int) -> list[Row]:
        """The rows of an epoch."""
        order = [shuffled(place, self.shards.documents, self.seed, epoch) for place in range(self.shards.documents)]
        order = [number for number in order if self._sizes[number]]
        found, chance = list[Row](), np.random.default_rng([self.seed, epoch])
        for begin in range(0, len(order), WINDOW):
            window = order[begin : begin + WINDOW]
            rows = fitted([int(self._sizes[number]) for number in window], self.length)
            found += [tuple(window[place] for place in rows[row]) for row in chance.permutation(len(rows))]
        return found

    @property
    def rows_in_an_epoch(self) -> int:
        """Of the first one; others may have a few more or less."""
        return len(self._rows(0))

    def _take(self, state: LoaderState, count: int) -> tuple[list[Row], LoaderState]:
        """The next rows behind a state, and the state behind them."""
        found, epoch, place = list[Row](), state.epoch, state.place
        while True:
            rows = self._rows(epoch)
            taken = rows[place : place + count - len(found)]
            found, place = found + taken, place + len(taken)
            if place == len(rows):
                epoch, place = epoch + 1, 0
            if len(found) == count:
                return found, LoaderState(epoch, place)

    def step(self, rows: int, micro: int, rank: int = 0, world: int = 1) -> Step:
        """See `Loader.step`. `labels` are those that are learned."""
        assert rows % world == 0 and 0 <= rank < world and micro > 0
        own, (found, self.state) = rows // world, self._take(self.state, rows)
        labels = sum(self._labels(row) for row in found)
        left_out = sum(max(0, int(self._sizes[number]) - self.length) for row in found for number in row)
        mine = [self._laid(row) for row in found[rank * own : (rank + 1) * own]]
        batches = [Batch(*(np.stack(part) for part in zip(*mine[at : at + micro], strict=True)))
                   for at in range(0, own, micro)]  # fmt: skip
        return Step(batches, labels, left_out)

    def _labels(self, row: Row) -> int:
        if len(row) == 1 and self._sizes[row[0]] > self.length:
            return int(self.shards.learned(row[0])[: self.length].sum())
        return int(sum(self._learned[number] for number in row))

    def _laid(self, row: Row) -> tuple[npt.NDArray[np.int64], ...]:
        """Inputs, labels, positions and documents of a row."""
        inputs = np.full(self.length, self.shards.end_id, np.int64)
        labels, positions = np.full(self.length, IGNORE, np.int64), np.empty(self.length, np.int64)
        documents, at = np.empty(self.length, np.int64), 0
        for place, number in enumerate(row):
            targets = self.shards.targets(number)[: self.length - at].astype(np.int64)
            to = slice(at, at + len(targets))
            inputs[at] = self.shards.start_id
            inputs[at + 1 : to.stop] = targets[:-1]
            labels[to] = np.where(self.shards.learned(number)[: len(targets)], targets, IGNORE)
            positions[to], documents[to], at = np.arange(len(targets)), place, to.stop
        positions[at:], documents[at:] = np.arange(self.length - at), len(row)
        return inputs, labels, positions, documents

    def skip(self, rows: int) -> None:
        """Pass over the next `rows` rows."""
        _, self.state = self._take(self.state, rows)

    def spans(self, state: LoaderState, rows: int) -> list[Span]:
        """What stands in the `rows` rows behind a state."""
        found, _ = self._take(state, rows)
        return [
            Span(place, number, 0, min(int(self._sizes[number]), self.length))
            for place, row in enumerate(found)
            for number in row
        ]
