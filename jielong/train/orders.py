"""Which document comes next: as they lie there, shuffled anew every epoch, or by a mix of sources.

An order says which document is read at a state and what the state behind it is. That is the plain way, one document at a time in
Python; what training calls is the same arithmetic compiled (walking.py), for which an order gives its numbers as a `Table` and its
states as counts. Both are exact: divisions and comparisons of the same float64 numbers, so they never choose differently.

With a mix (mixing.py) each source has a shuffle of its own, and the next document comes from the source that is furthest behind
its share of the tokens. With phases that is the share of the phase it is in, counted from the phase's beginning.

Memory: nothing that grows with the corpus for the natural order; with a mix, 8 bytes a document and two numbers a source.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from jielong.tokenizer.shards.reading import Shards
from jielong.train.mixing import Mix, furthest_behind, phase_shares, shares
from jielong.train.shuffling import WORD, shuffled

Counts = npt.NDArray[np.int64]  # shape (sources, 2): documents and tokens that were read to their end


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


@dataclass(frozen=True)
class Table:
    """An order in numbers, for compiled code: S sources, P phases (at least one)."""

    numbers: list[npt.NDArray[np.int64] | None]  # S: the documents of each source; None: all there are
    sizes: npt.NDArray[np.int64]  # S: how many
    most: npt.NDArray[np.int64]  # S: documents that are read at most, all passes together; -1: no bound
    seeds: npt.NDArray[np.uint64]  # S: of each source's shuffle
    begins: npt.NDArray[np.float64]  # P: tokens read where the phase begins; the first is 0
    wanted: npt.NDArray[np.float64]  # (P, S): shares
    due: npt.NDArray[np.float64]  # (P, S): tokens that were due of a source before the phase


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
        """The state behind that document, of which so many tokens are read."""
        last = state.place + 1 == self._size
        return LoaderState(state.epoch + 1, 0) if last else LoaderState(state.epoch, state.place + 1)

    def table(self) -> Table:
        """This order in numbers: one source."""
        seeds, none = np.array([self._seed & WORD], np.uint64), np.zeros((1, 1))
        return Table([None], np.array([self._size]), np.array([-1]), seeds, none[0], none + 1, none)

    def counts(self, state: LoaderState) -> Counts:
        """A state in numbers. What was read of the document in hand is not in them."""
        return np.array([[state.epoch * self._size + state.place, 0]], np.int64)

    def state(self, counts: Counts, offset: int) -> LoaderState:
        """The state that `counts` came from, or that they have become."""
        return LoaderState(*divmod(int(counts[0, 0]), self._size), offset)


class Mixed:
    """Documents by a mix: from the source that is furthest behind, in an order of its own, another one each epoch."""

    def __init__(
        self, shards: Shards, seed: int, mix: Mix, tokens: int | None = None, row_length: int | None = None
    ) -> None:
        """tokens: of the whole run, which phases are shares of. row_length: that of rows with one document each, of which
        a long one gives its beginning and a short one leaves the rest empty (None: rows are full); the phases are shares of the
        rows then, and the shares of the sources still those of the tokens that are learned.
        """
        available = shards.available()
        wanted = shares(mix, available)
        self.names, self._wanted = list(wanted), list(wanted.values())
        self._numbers = [shards.numbers_of(name) for name in self.names]
        self._seeds = [xxhash.xxh3_64_intdigest(name.encode(), seed) for name in self.names]  # not by place in the list
        bound = mix.max_epochs
        self._most = [None if bound is None else int(bound * len(numbers)) for numbers in self._numbers]
        assert tokens is not None or not mix.phases
        full = None if row_length is None or not mix.phases else self._fullness(shards, row_length)
        self._phases = list[
            tuple[float, list[float], list[float]]
        ]()  # where it begins, its shares, what was due before it
        begin, due = 0.0, [0.0] * len(self.names)
        for part, given in phase_shares(mix, available):
            current, size = [given.get(name, 0.0) for name in self.names], part * (tokens or 0)
            if full is not None:  # a source's rows are its tokens over what one of them holds
                size /= math.fsum(share / held for share, held in zip(current, full, strict=True) if share)
            self._phases.append((begin, current, due))
            begin, due = begin + size, [old + size * share for old, share in zip(due, current, strict=True)]

    def _fullness(self, shards: Shards, row_length: int) -> list[float]:
        """Of each source, how much of a row its documents fill on average, 0 to 1; those without a token have no row."""
        skipped = (shards.tokens - shards.target_tokens) // shards.documents
        lengths = np.concatenate(list(shards.lengths())) - skipped
        found = []
        for numbers in self._numbers:
            own = lengths[numbers]
            found.append(float(np.minimum(own[own > 0], row_length).mean()) / row_length)
        return found

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
        """The state behind that document, of which so many tokens are read."""
        source, taken = self.source(state), list(state.taken)
        taken[source] = (taken[source][0] + 1, taken[source][1] + tokens)
        return LoaderState(state.epoch, state.place + 1, 0, tuple(taken))

    def table(self) -> Table:
        """This order in numbers."""
        begins, wanted, due = (np.array(column, np.float64) for column in zip(*self._phases, strict=True))
        sizes = np.array([len(numbers) for numbers in self._numbers])
        most = np.array([-1 if most is None else most for most in self._most])
        return Table([*self._numbers], sizes, most, np.array(self._seeds, np.uint64), begins, wanted, due)

    def counts(self, state: LoaderState) -> Counts:
        """A state in numbers. What was read of the document in hand is not in them."""
        return np.array(state.taken, np.int64)

    def state(self, counts: Counts, offset: int) -> LoaderState:
        """The state that `counts` came from, or that they have become."""
        rows = tuple((documents, tokens) for documents, tokens in counts.tolist())
        return LoaderState(0, sum(documents for documents, _ in rows), offset, rows)

    def report(self, state: LoaderState) -> dict[str, dict[str, float]]:
        """Of each source: the share that was wanted, the share of the tokens read, tokens, passes."""
        whole = max(1, sum(tokens for _, tokens in state.taken))
        return {
            name: {"wanted": share, "share": tokens / whole, "tokens": tokens, "epochs": documents / len(numbers)}
            for name, share, (documents, tokens), numbers in zip(
                self.names, self._wanted, state.taken, self._numbers, strict=True
            )
        }
