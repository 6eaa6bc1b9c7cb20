"""Rows of training from token shards, with a small state that says exactly where reading stands.

`PackedLoader`: documents are laid end to end in an order shuffled anew every epoch, and the stream is cut into rows. Nothing is
padded and nothing is dropped: in one epoch every token of every document, its end-of-text included, is predicted exactly once.

The end-of-text that closes a document is, as an *input*, the start of the next one: row inputs are

    inputs     <eot> 他  说  <eot> 我  们           (a document "他说" and the start of "我们...")
    labels      他   说 <eot> 我   们  ...
    documents    0   0   0    1   1   1
    positions    0   1   2    0   1   2

so the first token of a document is predicted from a lone <eot>, not from the end of an unrelated text, and a model can be
asked for a fresh text by giving it <eot>. (Where the shards open documents with a start id, it stands there in <eot>'s place, and
is never a label.) A document that was cut by the end of a row goes on in the next row with
positions from 0 and without its earlier part in view.

`WholeLoader` (whole.py): no document is divided, as many in a row as fit. Shards with a mask are read by it alone.

`TruncatedLoader`: one document a row in the same order, cut or filled up, as many small projects do it, to compare with. The
end-of-text takes the place of a cut document's last token that fits: a model that never sees an end learns never to end.

Which document comes next is in orders.py. Several processes read the same rows in the same order whatever their number: `step`
gives each its part, and leaves all of them at the same state, so that a run can go on with another number of processes.

The work is compiled (walking.py): a few microseconds a row of 512 tokens, where a step takes a GPU a thousand, and no thread or
process beside; benchmarks/loader.py shows it. `plain_rows` is the same in Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from jielong.errors import ShardError
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import IGNORE as IGNORE  # evaluation takes it from here
from jielong.train.mixing import Mix
from jielong.train.orders import LoaderState as LoaderState  # so does the loop, with the next two
from jielong.train.orders import Mixed as Mixed
from jielong.train.orders import Natural as Natural
from jielong.train.walking import Walk

PACKINGS = ("packed", "whole", "truncated")


@dataclass(frozen=True)
class Batch:
    """Rows of T tokens, int64, shape (rows, T). `labels` are already shifted."""

    inputs: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """What one process reads in a step."""

    batches: list[Batch]  # micro-batches, of its own rows
    labels: int  # that count, in the rows of all processes
    left_out: int = 0  # tokens of documents that were cut, of all processes


@dataclass(frozen=True)
class Span:
    """A piece of a document in a row: `shards.targets(document)[begin:end]`. Rows count from where reading began."""

    row: int
    document: int
    begin: int
    end: int


class Loader:
    """An endless source of rows. `state` may be read, stored as JSON and set (to one of the same order) at any time."""

    truncated: bool

    def __init__(
        self,
        shards: Shards,
        sequence_length: int,
        seed: int,
        state: LoaderState | None = None,
        mix: Mix | None = None,
        tokens: int | None = None,
    ) -> None:
        """`tokens`: of the whole run, rows x sequence_length; a mix with phases needs them. Raises ShardError for a split
        without a document.
        """
        if shards.target_tokens == 0:
            raise ShardError(f"{shards.folder}: the split {shards.split!r} holds no document; give more text")
        self.shards, self.length, self.seed, self._made_with = shards, sequence_length, seed, (mix, tokens)
        self.order: Natural | Mixed = (
            Natural(shards, seed)
            if mix is None
            else Mixed(shards, seed, mix, tokens, sequence_length if self.truncated else None)
        )
        self.state = state or self.order.first()
        self._prepare()

    def _prepare(self) -> None:
        """Make ready what rows are laid with."""
        if self.shards.scheme.masked:
            raise ShardError(
                f"{self.shards.folder}: not all of its tokens are to be learned, which rows that divide documents do not tell apart; "
                'use packing = "whole"'
            )
        self._walk = Walk(self.shards, self.order, self.length, self.truncated)

    def __reduce__(self) -> tuple[Any, ...]:  # another process maps the files itself, at addresses of its own
        return type(self), (self.shards, self.length, self.seed, self.state, *self._made_with)

    def step(self, rows: int, micro: int, rank: int = 0, world: int = 1) -> Step:
        """The rows of one step: `rows` in all, of which process `rank` of `world` gets its part, `micro` at a time.

        The parts are equal and one behind the other (`world` divides `rows`); the last micro-batch is smaller where `micro`
        does not divide a part. The state is that behind all the rows, for every process. Raises ShardError for a damaged index.
        """
        assert rows % world == 0 and 0 <= rank < world and micro > 0
        own = rows // world
        laid, self.state, labels, left_out = self._walk.read(self.state, rows, rank * own, own)
        return Step([Batch(*laid[:, at : at + micro]) for at in range(0, own, micro)], labels, left_out)

    def next_batch(self, rows: int) -> Batch:
        """The next `rows` rows, read in order; row after row, the stream has no gap."""
        return self.step(rows, rows).batches[0]

    def skip(self, rows: int) -> None:
        """Pass over the next `rows` rows."""
        _, self.state, _, _ = self._walk.read(self.state, rows, 0, 0)

    def at_length(self, sequence_length: int) -> Loader:
        """One that reads on where this one stands, in the same order, in rows of another length.

        A document that was cut goes on where it was cut, so no token is read twice or left out.
        """
        return type(self)(self.shards, sequence_length, self.seed, self.state, *self._made_with)

    def spans(self, state: LoaderState, rows: int) -> list[Span]:
        """What stands in the `rows` rows behind a state, piece by piece. Nothing is moved, and no token is read."""
        return _walk_plainly(self.shards, self.order, self.length, state, rows, self.truncated)[0]

    def texts(self, state: LoaderState, rows: int, tokenizer: TokenizerFolder) -> list[dict[str, Any]]:
        """The same as text, each piece with its place and source."""
        return [
            {"row": span.row, "document": span.document, "source": self.shards.source_of(span.document),
             "begin": span.begin, "end": span.end,
             "text": tokenizer.decode(self.shards.targets(span.document)[span.begin : span.end].tolist())}
            for span in self.spans(state, rows)
        ]  # fmt: skip


class PackedLoader(Loader):
    """An endless source of packed rows: documents end to end."""

    truncated = False


class TruncatedLoader(Loader):
    """An endless source of rows of one document each, cut or filled up; what is cut is counted (`Step.left_out`).

    Padding is end-of-text with labels IGNORE, and in `documents` a number of its own. A document without a token has no row. With
    a mix, shares are those of the labels, and phases are shares of the rows (on average, by the lengths of the documents).
    """

    truncated = True


def open_loader(
    packing: str,
    shards: Shards,
    sequence_length: int,
    seed: int,
    state: LoaderState | None = None,
    mix: Mix | None = None,
    tokens: int | None = None,
) -> Loader:
    """The loader of a packing, one of PACKINGS; the rest is as `Loader` has it."""
    return _kind(packing)(shards, sequence_length, seed, state, mix, tokens)


def _kind(packing: str) -> type[Loader]:
    from jielong.train.whole import WholeLoader

    return {"packed": PackedLoader, "whole": WholeLoader, "truncated": TruncatedLoader}[packing]


def rows_of_an_epoch(packing: str, shards: Shards, sequence_length: int, seed: int) -> int:
    """Rows that the documents of a split fill once where rows are not full; 0 where they are."""
    if packing == "whole":
        from jielong.train.whole import WholeLoader

        return WholeLoader(shards, sequence_length, seed).rows_in_an_epoch
    return shards.documents if packing == "truncated" else 0


def _walk_plainly(
    shards: Shards, order: Natural | Mixed, length: int, state: LoaderState, rows: int, truncated: bool
) -> tuple[list[Span], LoaderState]:
    """The pieces of documents in the next rows, and the state behind them: `walking.walk` in Python."""
    spans, row, column = list[Span](), 0, 0
    place, offset = replace(state, offset=0), state.offset
    while row < rows:
        number = order.document(place)
        read = size = shards.length(number)
        count = min(size - offset, length - column)
        if count:
            spans.append(Span(row, number, offset, offset + count))
        column, offset = column + count, offset + count
        if truncated and count:
            column, offset, read = length, size, count
        if offset == size:
            place, offset = order.after(place, read), 0
        if column == length:
            row, column = row + 1, 0
    return spans, replace(place, offset=offset)


def plain_rows(loader: Loader, state: LoaderState, rows: int) -> tuple[Batch, LoaderState]:
    """The rows behind a state, and the state behind them, in Python: the slow twin of `Loader.step`."""
    shards, batch = loader.shards, _empty(rows, loader.length)
    batch.inputs.fill(shards.end_id)
    batch.labels.fill(IGNORE)
    spans, state = _walk_plainly(shards, loader.order, loader.length, state, rows, loader.truncated)
    row, at, number = -1, 0, 0
    for span in spans:
        at, number = (at, number + 1) if span.row == row else (0, 0)
        row, document = span.row, shards.targets(span.document)
        at += _lay(batch, row, at, document[: span.end], span.begin, shards.start_id, number)
        if loader.truncated:
            if span.end < len(document) and shards.scheme.closes:
                batch.labels[row, at - 1] = shards.end_id
            batch.positions[row, at:] = np.arange(loader.length - at)
            batch.documents[row, at:] = 1
    return batch, state


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
    ends = [0] * rows  # of each row, how far documents reach

    def finished() -> Batch:
        """The batch with its rows filled up. What no document reached is cut off: a short text costs little, however long the context."""
        used = sum(end > 0 for end in ends)
        for place, end in enumerate(ends[:used]):
            batch.inputs[place, end:], batch.labels[place, end:] = shards.end_id, IGNORE
            batch.documents[place, end:] = number
        columns = max(ends)
        return Batch(*(x[:used, :columns] for x in (batch.inputs, batch.labels, batch.positions, batch.documents)))

    for document_number in range(shards.documents) if documents is None else documents:
        document, offset = shards.targets(document_number), 0
        covered += len(document)
        while offset < len(document):
            divided = (
                len(document) > sequence_length or not shards.scheme.masked
            )  # an answer is not torn from its question
            if at == sequence_length or (not divided and len(document) > sequence_length - at):
                row, at = row + 1, 0
            if row == rows:
                yield finished(), text_bytes
                batch, row, at, number, text_bytes, ends = _empty(rows, sequence_length), 0, 0, 0, 0, [0] * rows
            count = _lay(batch, row, at, document, offset, start, number)
            if shards.scheme.masked:
                given = ~shards.learned(document_number)[offset : offset + count]
                batch.labels[row, at : at + count][given] = IGNORE
            offset, at, number = offset + count, at + count, number + 1
            ends[row] = at
            if offset == len(document):
                text_bytes += shards.document_bytes(document_number)
        if max_tokens is not None and covered >= max_tokens:
            break
    if ends[0]:
        yield finished(), text_bytes


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
