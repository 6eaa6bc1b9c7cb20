"""The decoding step itself: token ids in, logits out, all layers in one compiled call that several threads run together.

A step of a small model is a few hundred short operations, and torch spends more on starting each than on its arithmetic. Here
only the reading of the weights is left (`decoder.py` has the figures; `matrices.py` how they are read). Each layer has five
phases, q k v; attention; o; gate and up; down, and the pieces of a phase go to whichever thread is free (`sharing.py`). What comes
out does not depend on the number of threads, nor on who did what.

Suffixes: B rows, C hidden_size, H query heads, G key-value heads, D size of a head, I width of the feed-forward layer,
V vocabulary, T threads. `numbers` holds the shape (the names below are places in it), `addresses` where each layer's weights are
(0: it has none). Scratch is float32 and belongs to the caller.

All of it takes eight seconds to compile, once: numba keeps the code on disk, and reads it back in a third of a second. It looks at the
date of this file only, so after a change to one that is imported here (in a working copy; an installation dates all files anew)
this one has to be touched.
"""

from __future__ import annotations

import numpy as np
from numba import carray  # type: ignore[attr-defined]  # numba names no exports

from jielong.data.compiled import kernel
from jielong.infer.compiled.elements import copy, exponential, mix, normalise, normalise_rows, rotate, soften
from jielong.infer.compiled.matrices import multiply, pieces_of, rows_of_piece
from jielong.infer.compiled.sharing import claim, complete, complete_and_claim, leave, wait_for
from jielong.infer.compiled.vectors import address, pointer, widened

(
    LAYERS, HIDDEN, HEADS, GROUPS, SIZE, WIDTH, VOCABULARY, ROWS, KIND, LENGTH, ROTARY,
    KEYS, KEYS_LAYER, KEYS_ROW, KEYS_GROUP, VALUES, VALUES_LAYER, VALUES_ROW, VALUES_GROUP,
    EMBEDDING, LAST_NORM, OUTPUT, NUMBERS,
) = range(23)  # fmt: skip
(
    FIRST_NORM, Q, K, V, Q_BIAS, K_BIAS, V_BIAS, Q_NORM, K_NORM, OUT, OUT_BIAS, SECOND_NORM, GATE, UP, DOWN, WEIGHTS,
) = range(16)  # fmt: skip

PHASES = 5  # of a layer
NOTHING = np.int64(0)  # not the literal 0, for which numba would compile a function once more


def count_phases(layers: int) -> int:
    """Phases of a step: the embedding, PHASES a layer, the output."""
    return PHASES * layers + 2


@kernel
def embed(numbers: np.ndarray, tokens: np.ndarray, hidden_BC: np.ndarray) -> None:
    """Each row's hidden state is the embedding of its token."""
    kind, columns = numbers[KIND], hidden_BC.shape[1]
    width = 4 if kind == 0 else 2
    for b in range(tokens.shape[0]):
        start = numbers[EMBEDDING] + tokens[b] * columns * width
        for c in range(columns):
            if kind == 0:
                hidden_BC[b, c] = widened(0, start + 4 * c)
            elif kind == 1:
                hidden_BC[b, c] = widened(1, start + 2 * c)
            else:
                hidden_BC[b, c] = widened(2, start + 2 * c)


@kernel
def project(
    piece: int, kind: int, w: int, outputs: int, bias: int, x: np.ndarray, out: np.ndarray, column: int
) -> None:
    """A piece of a matrix: out[:, column + o] = w[o] . x + bias[o]."""
    columns = x.shape[1]
    size = rows_of_piece(columns, kind)
    first, last = piece * size, min((piece + 1) * size, outputs)
    multiply(kind, w, first, last, columns, address(x), columns, x.shape[0], address(out) + 4 * column, out.shape[1])
    if bias != 0:
        values = carray(pointer(bias), (outputs,), np.float32)
        for b in range(x.shape[0]):
            for o in range(first, last):
                out[b, column + o] += values[o]


@kernel
def query_key_value(piece: int, numbers: np.ndarray, weights: np.ndarray, x_BC: np.ndarray, qkv: np.ndarray) -> None:
    """A piece of the three projections: of q's pieces, then k's, then v's."""
    kind, columns = numbers[KIND], x_BC.shape[1]
    queries, keys = numbers[HEADS] * numbers[SIZE], numbers[GROUPS] * numbers[SIZE]
    q_pieces, k_pieces = pieces_of(queries, columns, kind), pieces_of(keys, columns, kind)
    if piece < q_pieces:
        project(piece, kind, weights[Q], queries, weights[Q_BIAS], x_BC, qkv, NOTHING)
    elif piece < q_pieces + k_pieces:
        project(piece - q_pieces, kind, weights[K], keys, weights[K_BIAS], x_BC, qkv, queries)
    else:
        project(piece - q_pieces - k_pieces, kind, weights[V], keys, weights[V_BIAS], x_BC, qkv, queries + keys)


@kernel
def attend(
    b: int, g: int, layer: int, numbers: np.ndarray, eps: np.float32, weights: np.ndarray, window: int, padding: int,
    cos: np.ndarray, sin: np.ndarray, slopes: np.ndarray, row: np.ndarray, scores: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """One row's query heads that share a key-value head: append to the cache, softmax(q k^T / sqrt(D)) v.

    row: this row's q, k and v. window: keys that are seen, this one included. out: this row of all heads.
    slopes: of ALiBi, each head's, or 0.
    """
    size, place = numbers[SIZE], numbers[LENGTH]
    group = numbers[HEADS] // numbers[GROUPS]
    keys = numbers[KEYS] + 4 * (layer * numbers[KEYS_LAYER] + b * numbers[KEYS_ROW] + g * numbers[KEYS_GROUP])
    values = numbers[VALUES] + 4 * (layer * numbers[VALUES_LAYER] + b * numbers[VALUES_ROW] + g * numbers[VALUES_GROUP])
    k_SD = carray(pointer(keys), (place + 1, size), np.float32)
    v_SD = carray(pointer(values), (place + 1, size), np.float32)
    heads = numbers[HEADS] * size
    new_k = row[heads + g * size : heads + (g + 1) * size]
    new_v = row[heads + (numbers[GROUPS] + g) * size : heads + (numbers[GROUPS] + g + 1) * size]
    position, scale = max(place - padding, 0), np.float32(1.0) / np.sqrt(np.float32(size))
    if weights[K_NORM] != 0:
        normalise(new_k, weights[K_NORM], eps, k_SD[place])
    else:
        copy(new_k, k_SD[place])
    copy(new_v, v_SD[place])
    if numbers[ROTARY]:
        rotate(k_SD[place], cos[position], sin[position])
    for h in range(g * group, (g + 1) * group):
        query = row[h * size : (h + 1) * size]
        if weights[Q_NORM] != 0:
            normalise(query, weights[Q_NORM], eps, query)
        if numbers[ROTARY]:
            rotate(query, cos[position], sin[position])
        for d in range(size):
            query[d] *= scale
    first = min(max(padding, place + 1 - window), place)
    multiply(
        NOTHING,
        keys,
        first,
        place + 1,
        size,
        address(row) + 4 * g * group * size,
        size,
        group,
        address(scores),
        scores.shape[1],
    )
    for h in range(group):
        soften(scores[h, first : place + 1], slopes[g * group + h])
        mix(scores[h], v_SD, first, place + 1, out[(g * group + h) * size : (g * group + h + 1) * size])


@kernel
def gate_and_up(
    piece: int, numbers: np.ndarray, weights: np.ndarray, x_BC: np.ndarray, gated_BI: np.ndarray, up_BI: np.ndarray
) -> None:
    """A piece of silu(gate(x)) * up(x)."""
    kind, width = numbers[KIND], numbers[WIDTH]
    project(piece, kind, weights[GATE], width, NOTHING, x_BC, gated_BI, NOTHING)
    project(piece, kind, weights[UP], width, NOTHING, x_BC, up_BI, NOTHING)
    size = rows_of_piece(x_BC.shape[1], kind)
    first, last = piece * size, min((piece + 1) * size, width)
    for b in range(x_BC.shape[0]):
        for i in range(first, last):
            gate = gated_BI[b, i]
            gated_BI[b, i] = gate / (np.float32(1.0) + exponential(-gate)) * up_BI[b, i]


@kernel
def add_projection(
    piece: int, kind: int, w: int, bias: int, x: np.ndarray, written_BC: np.ndarray, hidden_BC: np.ndarray
) -> None:
    """A piece of hidden += w x + bias."""
    rows, outputs = hidden_BC.shape
    project(piece, kind, w, outputs, bias, x, written_BC, NOTHING)
    size = rows_of_piece(x.shape[1], kind)
    for b in range(rows):
        for o in range(piece * size, min((piece + 1) * size, outputs)):
            hidden_BC[b, o] += written_BC[b, o]


@kernel
def step(
    thread: int, numbers: np.ndarray, eps: np.float32, addresses: np.ndarray, windows: np.ndarray, state: np.ndarray,
    tokens: np.ndarray, padding: np.ndarray, cos: np.ndarray, sin: np.ndarray, slopes: np.ndarray,
    hidden_BC: np.ndarray, normed_TBC: np.ndarray, qkv: np.ndarray, attended: np.ndarray, gated_BI: np.ndarray, up_BI: np.ndarray,
    written_BC: np.ndarray, scores_TGS: np.ndarray, logits_BV: np.ndarray,
) -> None:  # fmt: skip
    """What one thread does of a step; any number of them together do all of it. It ends when all is done.

    What a phase reads is ready when the phase before is over, and is not written before this one is over; so a thread that comes
    late may read what is half written, but finds no piece left to use it for.
    """
    rows, kind, groups = tokens.shape[0], numbers[KIND], numbers[GROUPS]
    heads, keys = numbers[HEADS] * numbers[SIZE], groups * numbers[SIZE]
    columns, width, vocabulary = numbers[HIDDEN], numbers[WIDTH], numbers[VOCABULARY]
    normed_BC = normed_TBC[thread]
    phase = NOTHING
    if claim(state, phase) == 0:
        embed(numbers, tokens, hidden_BC)
        complete(state, phase)
    wait_for(state, phase, phase + 1)
    for layer in range(numbers[LAYERS]):
        weights = addresses[layer]
        phase += 1
        pieces = pieces_of(heads, columns, kind) + 2 * pieces_of(keys, columns, kind)
        normalise_rows(hidden_BC, weights[FIRST_NORM], eps, normed_BC)
        piece = claim(state, phase)
        while piece < pieces:
            query_key_value(piece, numbers, weights, normed_BC, qkv)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
        phase += 1
        piece = claim(state, phase)
        while piece < rows * groups:
            b, g = piece // groups, piece % groups
            attend(
                b, g, layer, numbers, eps, weights, windows[layer], padding[b], cos, sin, slopes, qkv[b],
                scores_TGS[thread], attended[b],
            )  # fmt: skip
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, rows * groups)
        phase += 1
        pieces = pieces_of(columns, heads, kind)
        piece = claim(state, phase)
        while piece < pieces:
            add_projection(piece, kind, weights[OUT], weights[OUT_BIAS], attended, written_BC, hidden_BC)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
        phase += 1
        pieces = pieces_of(width, columns, kind)
        normalise_rows(hidden_BC, weights[SECOND_NORM], eps, normed_BC)
        piece = claim(state, phase)
        while piece < pieces:
            gate_and_up(piece, numbers, weights, normed_BC, gated_BI, up_BI)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
        phase += 1
        pieces = pieces_of(columns, width, kind)
        piece = claim(state, phase)
        while piece < pieces:
            add_projection(piece, kind, weights[DOWN], NOTHING, gated_BI, written_BC, hidden_BC)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
    phase += 1
    pieces = pieces_of(vocabulary, columns, kind)
    normalise_rows(hidden_BC, numbers[LAST_NORM], eps, normed_BC)
    piece = claim(state, phase)
    while piece < pieces:
        project(piece, kind, numbers[OUTPUT], vocabulary, NOTHING, normed_BC, logits_BV, NOTHING)
        piece = complete_and_claim(state, phase)
    wait_for(state, phase, pieces)
    if thread > 0:
        leave(state)
