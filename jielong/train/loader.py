"""Packed rows from token shards, with a small state that says exactly where reading stands.

Documents are laid end to end in an order shuffled anew every epoch, and the stream is cut into rows. Nothing is padded and
nothing is dropped: in one epoch every token of every document, its end-of-text included, is predicted exactly once.

The end-of-text that closes a document is, as an *input*, the start of the next one: row inputs are

    inputs     <eot> 他  说  <eot> 我  们           (a document "他说" and the start of "我们...")
    labels      他   说 <eot> 我   们  ...
    documents    0   0   0    1   1   1
    positions    0   1   2    0   1   2

so the first token of a document is predicted from a lone <eot>, not from the end of an unrelated text, and a model can be
asked for a fresh text by giving it <eot>. (Where the shards open documents with a start id, it stands there in <eot>'s place, and
is never a label.) A document that was cut by the end of a row goes on in the next row with
positions from 0 and without its earlier part in view.

With a mix (mixing.py) each source has a shuffle of its own, and the next document comes from the source that is furthest behind
its share of the tokens. With phases that is the share of the phase it is in, counted from the phase's beginning.

The shuffle is a Feistel network over the document numbers (4 rounds of xxh3, cycle-walking to the exact range): a
permutation that is computed one element at a time, so memory does not grow with the corpus and a state is three numbers (with a
mix, 8 bytes a document, and two numbers more a source). Cost: about 10 microseconds a document, in a step of milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from jielong.errors import ShardError
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import IGNORE as IGNORE  # evaluation takes it from here
from jielong.train.mixing import Mix, furthest_behind, phase_shares, shares

FEISTEL_ROUNDS = 4


@dataclass(frozen=True)
class Batch:
    """Rows of T tokens, int64, shape (rows, T). `labels` are already shifted."""

    inputs: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]


@dataclass(frozen=True)
class LoaderState:
    """The next token to predict: which epoch, which place in that epoch's order, which token of that document."""

    epoch: int = 0
    place: int = 0
    offset: int = 0
    taken: tuple[
        tuple[int, int], ...
    ] = ()  # with a mix, of each source: documents and tokens that were read to their end

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> LoaderState:
        """The state that `to_json` gave."""
        rows = tuple((documents, tokens) for documents, tokens in value.get("taken", ()))
        return LoaderState(value["epoch"], value["place"], value["offset"], rows)


def shuffled(number: int, size: int, seed: int, epoch: int) -> int:
    """Where `number` (0 <= number < size) goes in the permutation of range(size) named by seed and epoch."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(FEISTEL_ROUNDS):
            mixed = xxhash.xxh3_64_intdigest(b"%d,%d,%d,%d" % (seed, epoch, turn, right))
            left, right = right, left ^ (mixed & mask)
        number = left << half | right
        if number < size:
            return number


class Natural:
    """Documents as they lie there: all of them, in another order each epoch."""

    def __init__(self, shards: Shards, seed: int) -> None:
        self._size, self._seed = shards.documents, seed

    def first(self) -> LoaderState:
        """Where a run begins."""
        return LoaderState()

    def document(self, state: LoaderState) -> int:
        """The number of the document that is read at a state."""
        return shuffled(state.place, self._size, self._seed, state.epoch)

    def after(self, state: LoaderState, tokens: int) -> LoaderState:
        """The state behind that document, which has so many tokens."""
        last = state.place + 1 == self._size
        return LoaderState(state.epoch + 1, 0) if last else LoaderState(state.epoch, state.place + 1)


class Mixed:
    """Documents by a mix: from the source that is furthest behind, in an order of its own, another one each epoch."""

    def __init__(self, shards: Shards, seed: int, mix: Mix, tokens: int | None = None) -> None:
        """`tokens`: of the whole run, which phases are shares of."""
        available = shards.available()
        wanted = shares(mix, available)
        self.names, self._wanted = list(wanted), list(wanted.values())
        assert tokens is not None or not mix.phases
        self._phases = list[
            tuple[float, list[float], list[float]]
        ]()  # where it begins, its shares, what was due before it
        begin, due = 0.0, [0.0] * len(self.names)
        for part, given in phase_shares(mix, available):
            current, size = [given.get(name, 0.0) for name in self.names], part * (tokens or 0)
            self._phases.append((begin, current, due))
            begin, due = begin + size, [old + size * share for old, share in zip(due, current, strict=True)]
        self._numbers = [shards.numbers_of(name) for name in self.names]
        self._seeds = [xxhash.xxh3_64_intdigest(name.encode(), seed) for name in self.names]  # not by place in the list
        bound = mix.max_epochs
        self._most = [None if bound is None else int(bound * len(numbers)) for numbers in self._numbers]

    def first(self) -> LoaderState:
        """Where a run begins."""
        return LoaderState(taken=((0, 0),) * len(self.names))

    def source(self, state: LoaderState) -> int:
        """The number of the source whose turn it is."""
        read = sum(tokens for _, tokens in state.taken)
        _, wanted, due = next(phase for phase in reversed(self._phases) if phase[0] <= read)
        named = [share > 0 for share in wanted]
        open_ = [
            there and (most is None or taken < most)
            for there, (taken, _), most in zip(named, state.taken, self._most, strict=True)
        ]
        if not any(open_):  # the last step's rounding up
            open_ = named
        since = [tokens - before for (_, tokens), before in zip(state.taken, due, strict=True)]
        return furthest_behind(since, wanted, open_)

    def document(self, state: LoaderState) -> int:
        """The number of the document that is read at a state."""
        source = self.source(state)
        numbers = self._numbers[source]
        epoch, place = divmod(state.taken[source][0], len(numbers))
        return int(numbers[shuffled(place, len(numbers), self._seeds[source], epoch)])

    def after(self, state: LoaderState, tokens: int) -> LoaderState:
        """The state behind that document, which has so many tokens."""
        source, taken = self.source(state), list(state.taken)
        taken[source] = (taken[source][0] + 1, taken[source][1] + tokens)
        return LoaderState(state.epoch, state.place + 1, 0, tuple(taken))

    def report(self, state: LoaderState) -> dict[str, dict[str, float]]:
        """Of each source: the share that was wanted, the share of the tokens read, tokens, passes."""
        whole = max(1, sum(tokens for _, tokens in state.taken))
        return {
            name: {"wanted": share, "share": tokens / whole, "tokens": tokens, "epochs": documents / len(numbers)}
            for name, share, (documents, tokens), numbers in zip(
                self.names, self._wanted, state.taken, self._numbers, strict=True
            )
        }


class PackedLoader:
    """An endless source of packed rows. `state` may be read, stored as JSON and given back at any time."""

    def __init__(
        self,
        shards: Shards,
        sequence_length: int,
        seed: int,
        state: LoaderState | None = None,
        mix: Mix | None = None,
        tokens: int | None = None,
    ) -> None:
        """`tokens`: of the whole run; a mix with phases needs them. Raises ShardError for a split without a document."""
        if shards.target_tokens == 0:
            raise ShardError(f"{shards.folder}: the split {shards.split!r} holds no document; give more text")
        self.shards, self.length, self.seed = shards, sequence_length, seed
        self.order: Natural | Mixed = Natural(shards, seed) if mix is None else Mixed(shards, seed, mix, tokens)
        self.state = state or self.order.first()
        # the current document is kept between rows, so a row that continues it maps nothing again
        self._held: LoaderState | None = None
        self._document: npt.NDArray[Any] = shards.targets(0)

    def next_batch(self, rows: int) -> Batch:
        """The next `rows` rows, read in order; row after row, the stream has no gap."""
        batch = _empty(rows, self.length)
        for row in range(rows):
            self._fill(batch, row)
        return batch

    def _fill(self, batch: Batch, row: int) -> None:
        place, offset = replace(self.state, offset=0), self.state.offset
        at = number = 0
        while at < self.length:
            if self._held != place:
                self._document = self.shards.targets(self.order.document(place))
                self._held = place
            count = _lay(batch, row, at, self._document, offset, self.shards.start_id, number)
            at, offset, number = at + count, offset + count, number + 1
            if offset == len(self._document):
                place, offset = self.order.after(place, offset), 0
        self.state = replace(place, offset=offset)


def evaluation_batches(
    shards: Shards,
    sequence_length: int,
    rows: int,
    max_tokens: int | None,
    start_id: int | None = None,
    documents: Iterable[int] | None = None,
) -> Iterator[tuple[Batch, int]]:
    """Batches over whole documents in stored order until `max_tokens` are covered, and the text bytes each one finishes.

    start_id: the input before a document's first token (None: that of the shards, as in training). documents: the numbers of
    those that are covered (None: all). The last row is filled up with inputs of end-of-text whose labels are IGNORE. Yields (batch, bytes of the documents
    that end in it), so that loss and bytes cover the same documents.
    """
    start = shards.start_id if start_id is None else start_id
    batch, row, at, number, text_bytes, covered = _empty(rows, sequence_length), 0, 0, 0, 0, 0
    batch.labels.fill(IGNORE)
    for document_number in range(shards.documents) if documents is None else documents:
        document, offset = shards.targets(document_number), 0
        covered += len(document)
        while offset < len(document):
            count = _lay(batch, row, at, document, offset, start, number)
            offset, at, number = offset + count, at + count, number + 1
            if offset == len(document):
                text_bytes += shards.document_bytes(document_number)
            if at == sequence_length:
                row, at = row + 1, 0
            if row == rows:
                yield batch, text_bytes
                batch, row, number, text_bytes = _empty(rows, sequence_length), 0, 0, 0
                batch.labels.fill(IGNORE)
        if max_tokens is not None and covered >= max_tokens:
            break
    if row or at:
        batch.inputs[row:, :][batch.labels[row:, :] == IGNORE] = shards.end_id
        batch.documents[batch.labels == IGNORE] = number
        used, columns = (row + 1, sequence_length) if row else (1, at)
        if at == 0:  # the last row began with nothing left
            used, columns = row, sequence_length
        # what no document reached is cut off: a short text costs little, however long the context
        yield (
            Batch(*(x[:used, :columns] for x in (batch.inputs, batch.labels, batch.positions, batch.documents))),
            text_bytes,
        )


def _empty(rows: int, length: int) -> Batch:
    return Batch(*(np.zeros((rows, length), dtype=np.int64) for _ in range(4)))


def _lay(batch: Batch, row: int, at: int, document: npt.NDArray[Any], offset: int, start_id: int, number: int) -> int:
    """Lay a document from `offset` into a row from column `at`; returns how many tokens fitted."""
    count: int = min(batch.labels.shape[1] - at, len(document) - offset)
    to = slice(at, at + count)
    batch.labels[row, to] = document[offset : offset + count]
    batch.inputs[row, at] = document[offset - 1] if offset else start_id
    batch.inputs[row, at + 1 : at + count] = document[offset : offset + count - 1]
    batch.positions[row, to] = np.arange(count)
    batch.documents[row, to] = number
    return count
