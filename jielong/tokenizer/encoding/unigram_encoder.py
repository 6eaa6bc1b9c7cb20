"""Encode with a vocabulary of scored pieces over bytes in compiled code: the ids of the `tokenizers` library, many times as fast.

The way of writing a segment whose scores have the highest sum is found from left to right: at each character the trie of
pieces (piece_trie) is walked, and every piece that begins there tries to improve the place where it ends. A character that is in
no piece, or is better spelled, goes as its bytes. The order of trying and the comparisons are the library's (a later
start wins only if it is better), so equal sums end the same way; `tests` hold the two against each other.

The library's Unigram model walks a trie over bytes written as characters (ByteLevel), and may begin a piece in the middle of a character.
Covered here are vocabularies whose pieces are whole characters, single bytes, and the first two bytes of longer characters;
ours are.

Cost: one core, Chinese web text, 32,000 pieces: see docs/LOG.md. The twin is the library: `encode_batch_fast`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel
from jielong.tokenizer.encoding.batching import BatchEncoder, Bytes, Ids, Offsets
from jielong.tokenizer.encoding.fixed_words import ORDINARY, FixedWords
from jielong.tokenizer.encoding.piece_trie import NOTHING, Table, child
from jielong.tokenizer.encoding.splitting import CODES, Splitter

WITH_PREFIX = -2  # in the place of a node: the character goes as its prefix and bytes
PREFIXES = 1 << 16


class UnigramEncoder(BatchEncoder):
    """Texts to ids. `threads`: how many at most work at once on one batch."""

    def __init__(
        self,
        pieces: list[tuple[bytes, int, float]],
        splitter: Splitter,
        words: tuple[FixedWords, ...] = (),
        threads: int = 1,
    ) -> None:
        """`pieces`: UTF-8, id and score of each; all 256 bytes are among them. Raises ValueError for a piece of another kind."""
        super().__init__(splitter, words, threads)
        self._byte_ids, self._byte_scores = np.zeros(256, np.uint32), np.zeros(256, np.float64)
        self._prefix_ids, self._prefix_scores = np.zeros(PREFIXES, np.uint32), np.full(PREFIXES, -np.inf)
        texts = list[tuple[str, int, float]]()
        for piece, number, score in pieces:
            if len(piece) == 1:
                self._byte_ids[piece[0]], self._byte_scores[piece[0]] = number, score
            if len(piece) == 2 and piece[0] >= 0xE0:
                prefix = piece[0] << 8 | piece[1]
                self._prefix_ids[prefix], self._prefix_scores[prefix] = number, score
            elif len(piece) > 1 or piece[0] < 0x80:
                texts.append((piece.decode("utf-8"), number, score))
        self._trie = _trie(texts)

    def _encode_pieces(
        self, data: Bytes, bounds: Offsets, first: Offsets, fixed: NDArray[np.int64]
    ) -> tuple[Ids, Offsets]:
        ids = np.empty(int(bounds[-1] - bounds[0]), np.uint32)  # memory is used as far as it is written
        ends = np.empty(len(first), np.int64)
        longest = int(np.diff(bounds).max(initial=0)) + 1
        best, back = np.empty(longest, np.float64), np.empty(longest, np.int32)
        codes, starts = np.empty(longest, np.int32), np.empty(longest, np.int64)
        small = (self._byte_ids, self._byte_scores, self._prefix_ids, self._prefix_scores)
        _encode(data, bounds, first, fixed, *self._trie, *small, best, back, codes, starts, ids, ends)
        return ids[: ends[-1]], ends


def _trie(pieces: list[tuple[str, int, float]]) -> tuple[Any, ...]:
    """Dense numbers of characters, the lookup, and of each node its piece's id and score (-inf: no piece) and characters."""
    chars = sorted({char for piece, _, _ in pieces for char in piece})
    numbers = np.full(CODES, NOTHING, np.int32)
    numbers[[ord(char) for char in chars]] = np.arange(len(chars), dtype=np.int32)
    dense = {char: number for number, char in enumerate(chars)}
    nodes: dict[tuple[int, int], int] = {}
    depths, of_piece = [1] * len(chars), dict[int, tuple[int, float]]()
    for piece, number, score in pieces:
        node = dense[piece[0]]
        for depth, char in enumerate(piece[1:], 2):
            node = nodes.setdefault((node, dense[char]), len(depths))
            if node == len(depths):
                depths.append(depth)
        of_piece[node] = (number, score)
    table = Table(len(nodes))
    edges = np.array([(*edge, node) for edge, node in nodes.items()], np.int32).reshape(-1, 3)
    table.add(*(np.ascontiguousarray(edges[:, column]) for column in range(3)))
    ids, scores = np.zeros(len(depths), np.uint32), np.full(len(depths), -np.inf)
    for node, (number, score) in of_piece.items():
        ids[node], scores[node] = number, score
    return numbers, table.keys, table.nodes, ids, scores, np.array(depths, np.int32)


@kernel
def _read(data, begin, end, numbers, codes, starts):  # type: ignore[no-untyped-def]
    """The dense number of each character of a segment and the byte at which it begins; how many there are."""
    count, at = 0, begin
    while at < end:
        byte = np.uint32(data[at])
        starts[count] = at
        if byte < 0x80:
            code, size = byte, 1
        elif byte < 0xE0:
            code, size = (byte & 0x1F) << 6 | np.uint32(data[at + 1]) & 0x3F, 2
        elif byte < 0xF0:
            code = (byte & 0x0F) << 12 | (np.uint32(data[at + 1]) & 0x3F) << 6 | np.uint32(data[at + 2]) & 0x3F
            size = 3
        else:
            code = (byte & 0x07) << 18 | (np.uint32(data[at + 1]) & 0x3F) << 12
            code |= (np.uint32(data[at + 2]) & 0x3F) << 6 | np.uint32(data[at + 3]) & 0x3F
            size = 4
        codes[count] = numbers[code]
        count += 1
        at += size
    starts[count] = end
    return count


@kernel
def _encode(  # type: ignore[no-untyped-def]
    data, bounds, first, fixed, numbers, keys, nodes, piece_ids, scores, depths, byte_ids, byte_scores,
    prefix_ids, prefix_scores, best, back, codes, starts, ids, ends,
):  # fmt: skip
    """`back`: the node of the piece that ends at a place; NOTHING, WITH_PREFIX: the character before it goes as bytes."""
    at = 0
    for part in range(len(first) - 1):
        ends[part] = at
        if fixed[part] != ORDINARY:
            ids[at] = fixed[part]
            at += 1
            continue
        for segment in range(first[part], first[part + 1]):
            size = _read(data, bounds[segment], bounds[segment + 1], numbers, codes, starts)
            best[0] = 0.0
            for place in range(1, size + 1):
                best[place] = -np.inf
            for place in range(size):
                here, node, end = best[place], codes[place], place + 1
                while node >= 0:
                    if here + scores[node] > best[end]:
                        best[end], back[end] = here + scores[node], node
                    if end == size or codes[end] < 0:
                        break
                    node = child(keys, nodes, node, codes[end])
                    end += 1
                begin, stop = starts[place], starts[place + 1]
                if stop - begin > 1:
                    way = NOTHING
                    spelled = here + byte_scores[data[begin]] + byte_scores[data[begin + 1]]
                    prefixed = here + prefix_scores[np.int64(data[begin]) << 8 | np.int64(data[begin + 1])]
                    if stop - begin > 2 and prefixed >= spelled:
                        way, spelled = WITH_PREFIX, prefixed
                    for byte in range(begin + 2, stop):
                        spelled += byte_scores[data[byte]]
                    if spelled > best[place + 1]:
                        best[place + 1], back[place + 1] = spelled, way
            last, place = at, size
            while place > 0:
                node = back[place]
                if node < 0:
                    begin = starts[place - 1]
                    for byte in range(starts[place] - 1, begin - 1 if node == NOTHING else begin + 1, -1):
                        ids[at] = byte_ids[data[byte]]
                        at += 1
                    if node == WITH_PREFIX:
                        ids[at] = prefix_ids[np.int64(data[begin]) << 8 | np.int64(data[begin + 1])]
                        at += 1
                    place -= 1
                else:
                    ids[at] = piece_ids[node]
                    at += 1
                    place -= depths[node]
            ids[last:at] = ids[last:at][::-1].copy()
    ends[len(first) - 1] = at
