"""Attention of a row and a key-value head, forward and back, compiled: blocks of queries against the keys that they see.

As flash attention does it (arXiv:2205.14135): no scores are kept. Forward goes over the keys of a block of queries in pieces of KEYS,
with the largest score so far and the sum of weights so far of each query; backward makes the weights again from the logarithm
of that sum. Scores, weights and sums are float32; weights and the gradients of scores are rounded to bfloat16 for the products that
they go into. What no query of a block sees is not computed, in steps of PART keys.

Keys and values are laid out once for all queries of their group, each block of queries once (`flash_products.py`). A piece of
work is one row and key-value head, whose gradients one thread sums up in a fixed order: nothing depends on the number of threads.

Tensors come as addresses and strides: `places`, one line a tensor: address, then bytes from a row, a head, a token to the next.
Shapes: B rows, H query heads, G key-value heads, T tokens, D size of a head, a multiple of 32; `sizes` is (H, G, T, D).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jielong.data.compiled import kernel
from jielong.data.emitters import address
from jielong.model.flash_products import (
    BLOCK,
    PART,
    UNSEEN,
    add_products,
    dots,
    interleave,
    keep,
    make_gradients,
    make_scores,
    round_rows,
    soften,
    turn,
)

KEYS = 64  # whose weights are in the cache together
LINE = 64  # bytes; where everything begins
LOG2E = np.float32(1.4426950408889634)


@kernel
def _whole(place: Any, row: int, head: int, token: int, length: int, size: int, spare: int) -> tuple[int, int]:
    """Where BLOCK rows of a tensor are, and the bytes from one to the next: there, or with zeros behind its end in `spare`."""
    source, step = place[0] + row * place[1] + head * place[2] + token * place[3], place[3]
    if token + BLOCK <= length:
        return source, step
    keep(source, step, length - token, size // 32, spare)
    return spare, size * 2


@kernel
def _turn_panel(source: int, step: int, size: int, into: int) -> None:
    """BLOCK rows into panels of 16: (BLOCK / 16, D / 2, 16) words."""
    for half in range(0, BLOCK, 16):
        for chunk in range(size // 32):
            turn(source + half * step + chunk * 64, step, into + half * size * 2 + chunk * 1024, 64)


@kernel
def _turn_block(source: int, step: int, size: int, into: int) -> None:
    """BLOCK rows into (D / 2, BLOCK) words."""
    for half in range(0, BLOCK, 16):
        for chunk in range(size // 32):
            turn(source + half * step + chunk * 64, step, into + half * 4 + chunk * 2048, 128)


@kernel
def _interleave(source: int, step: int, size: int, into: int, far: int) -> None:
    """BLOCK rows as pairs: D / 32 parts of (BLOCK / 2, 32) words. far: bytes from a part to the next."""
    for chunk in range(size // 32):
        interleave(source + chunk * 64, step, into + chunk * far)


@kernel
def _sight(earliest: Any, row: int, query: int, firsts: Any) -> Any:
    """Of a block of queries: the first key that is seen, the first that all see, and the end of all; `firsts` of each query."""
    last = min(query + BLOCK, earliest.shape[1]) - 1
    for i in range(BLOCK):
        firsts[i] = earliest[row, min(query + i, last)]
    return firsts[0] // PART * PART, np.int64(firsts[BLOCK - 1]), -(-(last + 1) // PART) * PART


@kernel
def forward(places: Any, sizes: Any, earliest: Any, factor: Any, logs: Any, begin: int, end: int) -> None:
    """softmax(factor x q k^T) v, rounded, and the logarithm (base 2) of each sum of weights.

    places: of queries, keys, values and the result. earliest: (B, T), int32, of each query the first key that it sees, which does not
    fall along the row. logs: (B, H, T), float32. Pieces: B x G.
    """
    heads, groups, length, size = sizes
    chunks, share, whole = size // 32, heads // groups, -(-length // BLOCK) * BLOCK
    scratch = np.empty(2 * whole * size * 2 + 4 * BLOCK * size * 2 + KEYS * BLOCK * 6 + 8 * BLOCK * 4 + LINE, np.uint8)
    keys = address(scratch) // LINE * LINE + LINE
    values = keys + whole * size * 2
    spare = values + whole * size * 2
    queries = spare + BLOCK * size * 2
    sums = queries + BLOCK * size * 2
    scores = sums + BLOCK * size * 4
    weights = scores + KEYS * BLOCK * 4
    begins = weights + KEYS * BLOCK * 2 - (address(scratch))
    state = scratch[begins : begins + 4 * BLOCK * 4].view(np.float32)
    firsts = scratch[begins + 4 * BLOCK * 4 : begins + 5 * BLOCK * 4].view(np.int32)
    total_of_sums = scratch[sums - address(scratch) : scores - address(scratch)].view(np.float32)
    state_at, firsts_at, far = address(state), address(firsts), whole // 2 * 128
    scale = factor * LOG2E
    for piece in range(begin, end):
        row, group = piece // groups, piece % groups
        for token in range(0, whole, BLOCK):
            source, step = _whole(places[1], row, group, token, length, size, spare)
            _turn_panel(source, step, size, keys + token * size * 2)
            source, step = _whole(places[2], row, group, token, length, size, spare)
            _interleave(source, step, size, values + token // 2 * 128, far)
        for query in range(0, whole, BLOCK):
            low, common, high = _sight(earliest, row, query, firsts)
            for head in range(group * share, (group + 1) * share):
                source, step = _whole(places[0], row, head, query, length, size, spare)
                _turn_block(source, step, size, queries)
                state[: 2 * BLOCK] = UNSEEN
                state[2 * BLOCK :] = 0
                total_of_sums[:] = 0
                for first in range(low, high, KEYS):
                    last = min(first + KEYS, high)
                    for key in range(first, last, PART):
                        masked = np.int64(key < common or key + PART > query + 1)
                        panel = keys + key // 16 * size * 32 + key % 16 * 4
                        out = scores + (key - first) * 128
                        make_scores(panel, queries, size // 2, masked, key, query, firsts_at, out, state_at)
                    soften(scores, (last - first) // 2, scale, state_at, weights)
                    for i in range(0, BLOCK, PART):
                        for chunk in range(chunks):
                            add_products(
                                4, 128, weights + i * 4, values + chunk * far + first // 2 * 128, (last - first) // 2,
                                sums + i * size * 4 + chunk * 128, size * 4, state_at + 12 * BLOCK + i * 4,
                            )  # fmt: skip
                for i in range(BLOCK):
                    total = state[2 * BLOCK + i]
                    if query + i < length:
                        logs[row, head, query + i] = state[i] * scale + np.log2(total)
                    state[3 * BLOCK + i] = np.float32(1) / total
                out = places[3, 0] + row * places[3, 1] + head * places[3, 2] + query * places[3, 3]
                count = min(length - query, BLOCK)
                round_rows(sums, count, chunks, state_at + 12 * BLOCK, out, places[3, 3])


@kernel
def backward(places: Any, sizes: Any, earliest: Any, factor: Any, logs: Any, begin: int, end: int) -> None:
    """Gradients of `forward`.

    places: of queries, keys, values, the result, its gradient, and the gradients of queries, keys and values; the others as there.
    """
    heads, groups, length, size = sizes
    chunks, share, whole = size // 32, heads // groups, -(-length // BLOCK) * BLOCK
    steps, panel, part = size // 2, whole * size * 2, BLOCK * size * 2
    scratch = np.empty(7 * panel + 9 * part + KEYS * BLOCK * 6 + 8 * BLOCK * 4 + LINE, np.uint8)
    start = address(scratch)
    keys = start // LINE * LINE + LINE
    values, paired_keys = keys + panel, keys + 2 * panel
    key_sums, value_sums = keys + 3 * panel, keys + 5 * panel
    spare = keys + 7 * panel
    queries, given, paired_queries, paired_given = spare + part, spare + 2 * part, spare + 3 * part, spare + 4 * part
    query_sums = spare + 5 * part
    weights = query_sums + 2 * part
    slopes, words = weights + KEYS * BLOCK * 2, weights + KEYS * BLOCK * 4
    begins = words + KEYS * BLOCK * 2 - start
    state = scratch[begins : begins + 3 * BLOCK * 4].view(np.float32)
    firsts = scratch[begins + 3 * BLOCK * 4 : begins + 4 * BLOCK * 4].view(np.int32)
    of_groups = scratch[key_sums - start : spare - start].view(np.float32)
    of_queries = scratch[query_sums - start : weights - start].view(np.float32)
    state_at, firsts_at, far, near = address(state), address(firsts), whole // 2 * 128, BLOCK // 2 * 128
    scale = factor * LOG2E
    for piece in range(begin, end):
        row, group = piece // groups, piece % groups
        of_groups[:] = 0
        for token in range(0, whole, BLOCK):
            source, step = _whole(places[1], row, group, token, length, size, spare)
            _turn_panel(source, step, size, keys + token * size * 2)
            _interleave(source, step, size, paired_keys + token // 2 * 128, far)
            source, step = _whole(places[2], row, group, token, length, size, spare)
            _turn_panel(source, step, size, values + token * size * 2)
        for query in range(0, whole, BLOCK):
            low, common, high = _sight(earliest, row, query, firsts)
            count = min(length - query, BLOCK)
            for head in range(group * share, (group + 1) * share):
                result = places[3, 0] + row * places[3, 1] + head * places[3, 2] + query * places[3, 3]
                source, step = _whole(places[0], row, head, query, length, size, spare)
                _turn_block(source, step, size, queries)
                _interleave(source, step, size, paired_queries, near)
                source, step = _whole(places[4], row, head, query, length, size, spare)
                _turn_block(source, step, size, given)
                _interleave(source, step, size, paired_given, near)
                state[: 2 * BLOCK] = 0
                state[:count] = logs[row, head, query : query + count]
                dots(source, step, result, places[3, 3], count, chunks, state_at + 4 * BLOCK)
                of_queries[:] = 0
                for first in range(low, high, KEYS):
                    last = min(first + KEYS, high)
                    for key in range(first, last, PART):
                        masked = np.int64(key < common or key + PART > query + 1)
                        panel_at = key // 16 * size * 32 + key % 16 * 4
                        line = (key - first) * 64
                        make_gradients(
                            keys + panel_at, values + panel_at, queries, given, steps, scale, masked, key, query, firsts_at,
                            state_at, weights + line, slopes + line, words + line,
                        )  # fmt: skip
                    for key in range(first, last, PART):
                        line, sums = (key - first) * 64, key * size * 4
                        for chunk in range(chunks):
                            out = sums + chunk * 128
                            add_products(64, 4, weights + line, paired_given + chunk * near, BLOCK // 2,
                                         value_sums + out, size * 4, None)  # fmt: skip
                            add_products(64, 4, slopes + line, paired_queries + chunk * near, BLOCK // 2,
                                         key_sums + out, size * 4, None)  # fmt: skip
                    for i in range(0, BLOCK, PART):
                        for chunk in range(chunks):
                            add_products(
                                4, 128, words + i * 4, paired_keys + chunk * far + first // 2 * 128, (last - first) // 2,
                                query_sums + i * size * 4 + chunk * 128, size * 4, None,
                            )  # fmt: skip
                state[2 * BLOCK :] = factor
                out = places[5, 0] + row * places[5, 1] + head * places[5, 2] + query * places[5, 3]
                round_rows(query_sums, count, chunks, state_at + 8 * BLOCK, out, places[5, 3])
        for gradient, sums in ((6, key_sums), (7, value_sums)):
            place = places[gradient]
            out = place[0] + row * place[1] + group * place[2]
            state[:BLOCK] = factor if gradient == 6 else np.float32(1)
            for token in range(0, length, BLOCK):
                count = min(length - token, BLOCK)
                round_rows(sums + token * size * 4, count, chunks, state_at, out + token * place[3], place[3])
