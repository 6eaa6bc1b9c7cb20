"""Learn the merges of a byte-level BPE from pieces of text: the same merges as the `tokenizers` library's trainer, from a
fifth of its memory, faster, on one core.

The text is first reduced to its *different* pieces and how often each occurs (`PieceCounter`): documents stream through and
are not kept. Then the most frequent pair of neighbours becomes a token, again and again (`learn_merges`):

- the pieces lie end to end in one array of token ids, two bytes each (four with more than 65,536 tokens); a merge shortens
  a piece where it lies;
- every pair has a count, and the list of the pieces it stands in. A merge of a and b into n walks the list of (a, b) and
  collects what stands left and right of n, in arrays indexed by token; so the tables are touched once a *different*
  neighbour, not once an occurrence. The list of a pair is written once, when the pair arises: all pairs of n arise now;
- pairs below `min_frequency` are not kept at all: two of three arise with the count 1, and a count only falls from then on;
- the largest count comes from a heap whose entries may be too high and are then put back (a count only falls).

Equal counts: the smaller pair of ids first, as in the library. It has two habits that can show in results and are kept: a
merged pair keeps its count, and a token that arises although it exists (a special token is spelled so; no case was seen
where two pairs make one token) keeps its id, the pairs around it count on, and a pair that is merged again takes the later
rank. Only then a pair that was not kept may come back: its count is found by walking over all pieces.

Memory: about 13 bytes for each byte of distinct pieces (16 with more than 65,536 tokens): 2 or 4 for its id, 5 to 6 for
lists, the rest for pairs and the heap. Chinese text of 50 MB has 32 MB of distinct pieces. Measured on it, with 32,000 tokens: 15 seconds on one core from text to merges and 410 MB above what the
process held before; with 150,000 tokens 18 seconds and 510 MB. The library's trainer takes 95 to 118 seconds and 3.6 GB.

The twin: `learn_merges_plain`, the definition in thirty lines of Python, and the library's own trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jielong.tokenizer.training import merge_steps as steps
from jielong.tokenizer.training.merge_steps import EMPTY
from jielong.tokenizer.training.piece_counts import PieceCounter, grown

Bytes = NDArray[np.uint8]
Numbers = NDArray[np.int64]
NARROW_IDS = 1 << 16
PRINTABLE = 188  # bytes that stand for themselves in a byte-level vocabulary
PROGRESS_EVERY = 100  # merges


@dataclass
class Merges:
    """What was learned. Ids: the fixed tokens, then the bytes that are not among them, then one for each new token."""

    tokens: list[bytes]  # of every id that is made of bytes; b"" for a fixed token that is not
    pairs: list[tuple[int, int]]  # ids of the two parts, in the order of their rank
    reached: int = field(default=0)  # the count of the last pair that was merged


def byte_order() -> list[int]:
    """The bytes in the order of their ids in a Hugging Face vocabulary: printable ones, then the others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return printable + [byte for byte in range(256) if byte not in printable]


def byte_chars() -> dict[str, int]:
    """Character -> byte of a Hugging Face byte-level vocabulary (GPT-2's): printable bytes are themselves, the others
    stand behind U+00FF, in order."""
    order = byte_order()
    return {chr(byte): byte for byte in order[:PRINTABLE]} | {
        chr(256 + number): byte for number, byte in enumerate(order[PRINTABLE:])
    }


def first_tokens(fixed: Iterable[bytes | None]) -> tuple[list[bytes], list[int]]:
    """The tokens before any merge (fixed ones, then bytes) and the id of every byte; None: a fixed token whose spelling
    cannot arise from bytes."""
    tokens = [b"" if token is None else token for token in fixed]
    byte_ids = [0] * 256
    for byte in byte_order():
        if bytes([byte]) not in tokens:
            tokens.append(bytes([byte]))
        byte_ids[byte] = tokens.index(bytes([byte]))
    return tokens, byte_ids


def learn_merges(
    pieces: PieceCounter,
    vocab_size: int,
    min_frequency: int,
    fixed: Iterable[bytes | None] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Merges:
    """Merges until there are `vocab_size` tokens or no pair occurs `min_frequency` times. `progress` is called now and then
    with the tokens there are and `vocab_size`. The counter is emptied: its memory is needed."""
    tokens, byte_ids = first_tokens(fixed)
    known = {token: number for number, token in enumerate(tokens) if token}
    learner = _Learner(pieces, max(vocab_size, len(tokens)), max(min_frequency, 1), byte_ids)
    ranks: dict[tuple[int, int], None] = {}
    reached = 0
    while len(tokens) < vocab_size:
        pair = learner.most_frequent()
        if pair is None:
            break
        left, right, reached = pair
        token = tokens[left] + tokens[right]
        fresh = token not in known
        number = known.setdefault(token, len(tokens))
        if fresh:
            tokens.append(token)
        ranks.pop((left, right), None)  # merged once more: the later rank counts
        ranks[left, right] = None
        learner.merge(left, right, number, fresh)
        if progress is not None and len(tokens) % PROGRESS_EVERY == 0:
            progress(len(tokens), vocab_size)
    return Merges(tokens, list(ranks), reached)


def learn_merges_plain(
    pieces: dict[bytes, int], vocab_size: int, min_frequency: int, fixed: Iterable[bytes | None] = ()
) -> Merges:
    """The twin: counts every pair again after every merge. Its counts are always true, so it may differ where a token
    arises that exists already (see above); there the library is the twin."""
    tokens, byte_ids = first_tokens(fixed)
    words = [([byte_ids[byte] for byte in piece], count) for piece, count in pieces.items()]
    ranks: dict[tuple[int, int], None] = {}
    reached = 0
    while len(tokens) < vocab_size:
        counts: dict[tuple[int, int], int] = {}
        for symbols, count in words:
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + count
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < max(min_frequency, 1):
            break
        reached = counts[best]
        token = tokens[best[0]] + tokens[best[1]]
        if token not in tokens:
            tokens.append(token)
        ranks.pop(best, None)
        ranks[best] = None
        for symbols, _ in words:
            at = 0
            while at < len(symbols) - 1:
                if (symbols[at], symbols[at + 1]) == best:
                    symbols[at : at + 2] = [tokens.index(token)]
                at += 1
    return Merges(tokens, list(ranks), reached)


class _Learner:
    """The arrays. `key` is a pair as one number, left << 32 | right."""

    def __init__(self, pieces: PieceCounter, most_ids: int, least: int, byte_ids: list[int]) -> None:
        self.least = least
        ids = np.array(byte_ids, np.uint16 if most_ids <= NARROW_IDS else np.uint32)
        size = pieces.size
        raw, starts, weights = pieces.bytes, pieces.starts[: size + 1].copy(), pieces.counts[:size].copy()
        pieces.clear()  # its tables go now, the bytes at the end of this function
        self.starts, self.weights = starts, weights
        self.lengths = np.diff(self.starts).astype(np.int32)
        self.symbols = np.empty(int(self.starts[-1]), ids.dtype)
        steps.to_ids(raw, ids, self.symbols)
        counts, listed = steps.count_byte_pairs(raw, self.starts, self.weights)
        # sums over the neighbours of the token that arises: weight, pieces, the last piece, the place of the list
        self.beside = np.zeros((2, most_ids), np.int64)
        self.pieces = np.zeros((2, most_ids), np.int32)
        self.last = np.full((2, most_ids), EMPTY, np.int32)
        self.place = np.zeros((2, most_ids), np.int64)
        self.touched = np.zeros((2, most_ids), np.int32)
        self.noted = np.zeros((2, 1 << 16), np.int32)  # neighbour (right ones as ~id), piece
        chosen = np.flatnonzero(counts >= least)
        self.keys = np.full(1 << 17, EMPTY, np.int64)
        self.counts = np.zeros(1 << 17, np.int64)
        self.used = 0
        self.heap = np.zeros((4, 1 << 17), np.int64)  # count, key, begin and end of the list
        self.heaped = 0
        total = int(listed[chosen].sum())
        self.lists = np.empty(total + total // 8 + 1024, np.int32)
        ends = np.cumsum(listed[chosen])
        begins = np.full(1 << 16, EMPTY, np.int64)
        begins[chosen] = ends - listed[chosen]
        self.listed = total
        steps.list_byte_pairs(raw, self.starts, begins.copy(), self.lists)
        for pair, end in zip(chosen.tolist(), ends.tolist(), strict=True):
            key = int(ids[pair >> 8]) << 32 | int(ids[pair & 255])
            self._push(key, int(counts[pair]), int(begins[pair]), end)
            self._set(key, int(counts[pair]))

    def most_frequent(self) -> tuple[int, int, int] | None:
        """The ids of the pair that is merged next, and its count."""
        self.heaped = steps.settle(self.heap, self.heaped, self.keys, self.counts, self.least)
        if self.heaped == 0:
            return None
        key = int(self.heap[1, 0])
        return key >> 32, key & 0xFFFFFFFF, int(self.heap[0, 0])

    def merge(self, left: int, right: int, number: int, fresh: bool) -> None:
        """Merge the pair on top of the heap into the token `number`, which is `fresh` or existed already."""
        count, begin, end = (int(self.heap[row, 0]) for row in (0, 2, 3))
        self.heaped = steps.pop(self.heap, self.heaped)
        # an occurrence weighs at least 1 and notes two neighbours
        self._make_room_for_notes(2 * min(count, int(self.lengths[self.lists[begin:end]].sum()) // 2))
        sums = (self.beside, self.pieces, self.last, self.touched, self.noted)
        found = steps.merge_pieces(
            self.symbols, self.starts, self.lengths, self.weights, self.lists[begin:end], left, right, number, *sums
        )
        if not fresh:
            self._merge_again(left, right, number, *found)
            return
        lefts, rights, notes = found
        self._make_room(lefts + rights, notes)
        all_sums = (self.beside, self.pieces, self.last, self.place, self.touched, self.noted)
        tables = (self.keys, self.counts, self.heap, self.lists)
        sizes = np.array([self.used, self.heaped, self.listed], np.int64)
        steps.introduce(left, right, number, lefts, rights, notes, self.least, *all_sums, *tables, sizes)
        self.used, self.heaped, self.listed = (int(size) for size in sizes)

    def _merge_again(self, left: int, right: int, number: int, lefts: int, rights: int, notes: int) -> None:
        """The token existed: pairs with it may exist, or were too rare to be kept. Seldom, so in Python."""
        changes: dict[int, int] = {}
        grown = set()
        for side, found in ((0, lefts), (1, rights)):
            for other in self.touched[side, :found].tolist():
                weight = int(self.beside[side, other])
                lost, won = _key(other, left, side), _key(other, number, side)
                if side:
                    lost = right << 32 | other
                changes[lost] = changes.get(lost, 0) - weight
                changes[won] = changes.get(won, 0) + weight
                grown.add(won)
        where = self._lists_of(number, notes)
        self._forget(lefts, rights)
        for key, change in changes.items():
            before = steps.get(self.keys, self.counts, key)
            if before >= 0:
                self._set(key, before + change)
        strange = {key for key in grown if steps.get(self.keys, self.counts, key) < 0}
        if strange:
            self._make_room_for_notes(2 * int(self.lengths.sum()))
            sums = (self.beside, self.pieces, self.last, self.touched, self.noted)
            lefts, rights, notes = steps.look_around(
                self.symbols, self.starts, self.lengths, self.weights, number, *sums
            )
            everywhere = self._lists_of(number, notes)
            for key in sorted(strange):
                side = int(key >> 32 == number and key != _key(number, number, 0))
                other = key & 0xFFFFFFFF if side else key >> 32
                count = int(self.beside[side, other])
                if count >= self.least:
                    self._set(key, count)
                    where[key] = everywhere[key]
            self._forget(lefts, rights)
        for key in sorted(grown):
            count = steps.get(self.keys, self.counts, key)
            if count >= self.least:
                self._make_room(1, len(where[key]))
                end = self.listed + len(where[key])
                self.lists[self.listed : end] = where[key]
                self._push(key, count, self.listed, end)
                self.listed = end

    def _lists_of(self, number: int, notes: int) -> dict[int, list[int]]:
        """Pair -> pieces, from what was noted."""
        where: dict[int, list[int]] = {}
        for other, piece in self.noted[:, :notes].T.tolist():
            key = _key(~other, number, 1) if other < 0 else _key(other, number, 0)
            where.setdefault(key, []).append(piece)
        return where

    def _forget(self, lefts: int, rights: int) -> None:
        for side, found in ((0, lefts), (1, rights)):
            others = self.touched[side, :found]
            self.beside[side, others] = 0
            self.pieces[side, others] = 0
            self.last[side, others] = EMPTY

    def _set(self, key: int, count: int) -> None:
        self._make_room(1, 0)
        self.used += steps.put(self.keys, self.counts, key, count)

    def _push(self, key: int, count: int, begin: int, end: int) -> None:
        self._make_room(1, 0)
        self.heaped = steps.push_entry(self.heap, self.heaped, count, key, begin, end)

    def _make_room_for_notes(self, most: int) -> None:
        if most > self.noted.shape[1]:
            self.noted = np.zeros((2, most), np.int32)

    def _make_room(self, pairs: int, notes: int) -> None:
        """For so many more pairs, and so many more places in lists."""
        if 3 * (self.used + pairs) > 2 * len(self.keys):
            alive = int(np.count_nonzero(self.counts >= self.least))  # an empty place counts 0
            size = len(self.keys)
            while 2 * (alive + pairs) > size:
                size *= 2
            keys, counts = np.full(size, EMPTY, np.int64), np.zeros(size, np.int64)
            self.used = steps.move_pairs(self.keys, self.counts, keys, counts, self.least)
            self.keys, self.counts = keys, counts
        if self.heaped + pairs > self.heap.shape[1]:
            self._drop_dead()
            if self.heaped + pairs > self.heap.shape[1] * 3 // 4:
                heap = np.zeros((4, max(self.heap.shape[1] * 3 // 2, self.heaped + 2 * pairs)), np.int64)
                heap[:, : self.heaped] = self.heap[:, : self.heaped]
                self.heap = heap
        if self.listed + notes > len(self.lists):
            self._drop_dead()
            order = np.argsort(self.heap[2, : self.heaped])
            self.listed = steps.close_gaps(self.heap, order, self.lists)
            if self.listed + notes > len(self.lists) * 7 // 8:
                self.lists = grown(self.lists[: self.listed], len(self.lists) * 5 // 4 + notes)

    def _drop_dead(self) -> None:
        """Entries of pairs that have become too rare leave the heap."""
        self.heaped = steps.keep_alive(self.heap, self.heaped, self.keys, self.counts, self.least)


def _key(other: int, number: int, side: int) -> int:
    return number << 32 | other if side else other << 32 | number
