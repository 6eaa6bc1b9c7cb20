"""The decoding step itself: token ids in, logits out, all layers in one compiled call that several threads run together.

A step of a small model is a few hundred short operations, and torch spends more on starting each than on its arithmetic. Here
only the reading of the weights is left (`decoder.py` has the figures; `matrices.py` how they are read). Each layer has five
phases, q k v; attention; o; gate and up; down, and the pieces of a phase go to whichever thread is free (`sharing.py`). What comes
out does not depend on the number of threads, nor on who did what.

Matrices are of any kind, each of its own: those of integers may ask for their input in another form, which every thread makes for
itself before it claims pieces (quantized.py).

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
from jielong.data.emitters import address
from jielong.infer.compiled.elements import copy, exponential, mix, normalise, normalise_rows, rotate, soften
from jielong.infer.compiled.matrices import (
    ADDRESS,
    BIAS,
    FIELDS,
    KIND,
    NOTHING,
    multiply,
    pieces_of,
    rows_of_piece,
)
from jielong.infer.compiled.quantized import multiply_quantized, prepare
from jielong.infer.compiled.sharing import claim, complete, complete_and_claim, leave, wait_for
from jielong.infer.compiled.vectors import INT8, pointer, widened

(
    LAYERS, HIDDEN, HEADS, GROUPS, SIZE, WIDTH, VOCABULARY, LENGTH, ROTARY,
    KEYS, KEYS_LAYER, KEYS_ROW, KEYS_GROUP, VALUES, VALUES_LAYER, VALUES_ROW, VALUES_GROUP,
    EMBEDDING, EMBEDDING_KIND, LAST_NORM, OUTPUT,
) = range(21)  # fmt: skip
NUMBERS = (
    OUTPUT + FIELDS
)  # the output layer is described in place, see matrices.py, and so are the matrices of a layer:
FIRST_NORM, Q_NORM, K_NORM, SECOND_NORM = range(4)
Q, K, V, OUT, GATE, UP, DOWN, WEIGHTS = range(4, 4 + 8 * FIELDS, FIELDS)

PHASES = 5  # of a layer
INPUTS = 3  # that a thread prepares for a phase: q's, k's and v's


def count_phases(layers: int) -> int:
    """Phases of a step: the embedding, PHASES a layer, the output."""
    return PHASES * layers + 2


@kernel
def embed(numbers: np.ndarray, tokens: np.ndarray, hidden_BC: np.ndarray) -> None:
    """Each row's hidden state is the embedding of its token."""
    kind, columns = numbers[EMBEDDING_KIND], hidden_BC.shape[1]
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
    first: int, last: int, matrix: np.ndarray, columns: int, x: int, whole: np.ndarray, out: np.ndarray, column: int
) -> None:
    """Rows of a matrix: out[:, column + o] = w[o] . x + bias[o] for o in [first, last).

    matrix: what describes it. x: address of (B, columns), as the matrix takes it. whole: the thread's own OUTPUTS x columns numbers.
    """
    kind, rows, stride = matrix[KIND], out.shape[0], out.shape[1]
    place = address(out) + 4 * column
    if kind >= INT8:
        multiply_quantized(matrix, first, last, columns, x, rows, place, stride, address(whole))
    else:
        multiply(kind, matrix[ADDRESS], first, last, columns, x, columns, rows, place, stride)
    if matrix[BIAS] != 0:
        values = carray(pointer(matrix[BIAS]), (last,), np.float32)
        for b in range(rows):
            for o in range(first, last):
                out[b, column + o] += values[o]


@kernel
def project_piece(
    piece: int, matrix: np.ndarray, outputs: int, columns: int, x: int, whole: np.ndarray, out: np.ndarray, column: int
) -> None:
    """A piece of a matrix: the rows that `project` takes."""
    size = rows_of_piece(columns, matrix[KIND])
    project(piece * size, min((piece + 1) * size, outputs), matrix, columns, x, whole, out, column)


@kernel
def query_key_value(
    piece: int, numbers: np.ndarray, weights: np.ndarray, q_x: int, k_x: int, v_x: int, whole: np.ndarray, qkv: np.ndarray
) -> None:  # fmt: skip
    """A piece of the three projections: of q's pieces, then k's, then v's. *_x: addresses of their inputs."""
    columns = numbers[HIDDEN]
    queries, keys = numbers[HEADS] * numbers[SIZE], numbers[GROUPS] * numbers[SIZE]
    q_pieces, k_pieces = pieces_of(queries, columns, weights[Q + KIND]), pieces_of(keys, columns, weights[K + KIND])
    if piece < q_pieces:
        project_piece(piece, weights[Q:], queries, columns, q_x, whole, qkv, NOTHING)
    elif piece < q_pieces + k_pieces:
        project_piece(piece - q_pieces, weights[K:], keys, columns, k_x, whole, qkv, queries)
    else:
        project_piece(piece - q_pieces - k_pieces, weights[V:], keys, columns, v_x, whole, qkv, queries + keys)


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
def rows_of_both(columns: int, weights: np.ndarray) -> int:
    """Rows of gate and up in a piece of both, which may be of different kinds."""
    rows: int = min(rows_of_piece(columns, weights[GATE + KIND]), rows_of_piece(columns, weights[UP + KIND]))
    return rows


@kernel
def gate_and_up(
    piece: int, numbers: np.ndarray, weights: np.ndarray, gate_x: int, up_x: int, whole: np.ndarray,
    gated_BI: np.ndarray, up_BI: np.ndarray,
) -> None:  # fmt: skip
    """A piece of silu(gate(x)) * up(x). *_x: addresses of their inputs."""
    columns = numbers[HIDDEN]
    size = rows_of_both(columns, weights)
    first, last = piece * size, min((piece + 1) * size, numbers[WIDTH])
    project(first, last, weights[GATE:], columns, gate_x, whole, gated_BI, NOTHING)
    project(first, last, weights[UP:], columns, up_x, whole, up_BI, NOTHING)
    for b in range(gated_BI.shape[0]):
        for i in range(first, last):
            gate = gated_BI[b, i]
            gated_BI[b, i] = gate / (np.float32(1.0) + exponential(-gate)) * up_BI[b, i]


@kernel
def add_projection(
    piece: int, matrix: np.ndarray, columns: int, x: int, whole: np.ndarray, written_BC: np.ndarray, hidden_BC: np.ndarray
) -> None:  # fmt: skip
    """A piece of hidden += w x + bias. x: address of (B, columns)."""
    rows, outputs = hidden_BC.shape
    project_piece(piece, matrix, outputs, columns, x, whole, written_BC, NOTHING)
    size = rows_of_piece(columns, matrix[KIND])
    for b in range(rows):
        for o in range(piece * size, min((piece + 1) * size, outputs)):
            hidden_BC[b, o] += written_BC[b, o]


@kernel
def step(
    thread: int, numbers: np.ndarray, eps: np.float32, addresses: np.ndarray, windows: np.ndarray, state: np.ndarray,
    tokens: np.ndarray, padding: np.ndarray, cos: np.ndarray, sin: np.ndarray, slopes: np.ndarray,
    hidden_BC: np.ndarray, normed_TBC: np.ndarray, qkv: np.ndarray, attended: np.ndarray, gated_BI: np.ndarray, up_BI: np.ndarray,
    written_BC: np.ndarray, scores_TGS: np.ndarray, prepared_TN: np.ndarray, whole_TN: np.ndarray, logits_BV: np.ndarray,
) -> None:  # fmt: skip
    """What one thread does of a step; any number of them together do all of it. It ends when all is done.

    What a phase reads is ready when the phase before is over, and is not written before this one is over; so a thread that comes
    late may read what is half written, but finds no piece left to use it for.
    """
    rows, groups = tokens.shape[0], numbers[GROUPS]
    heads, keys = numbers[HEADS] * numbers[SIZE], groups * numbers[SIZE]
    columns, width, vocabulary = numbers[HIDDEN], numbers[WIDTH], numbers[VOCABULARY]
    normed_BC, whole = normed_TBC[thread], whole_TN[thread]
    spare, spare_bytes = address(prepared_TN[thread]), 4 * (prepared_TN.shape[1] // INPUTS)
    output = numbers[OUTPUT:]
    phase = NOTHING
    if claim(state, phase) == 0:
        embed(numbers, tokens, hidden_BC)
        complete(state, phase)
    wait_for(state, phase, phase + 1)
    for layer in range(numbers[LAYERS]):
        weights = addresses[layer]
        phase += 1
        pieces = pieces_of(heads, columns, weights[Q + KIND]) + pieces_of(keys, columns, weights[K + KIND])
        pieces += pieces_of(keys, columns, weights[V + KIND])
        normalise_rows(hidden_BC, weights[FIRST_NORM], eps, normed_BC)
        q_x = prepare(weights[Q:], normed_BC, spare)
        k_x = prepare(weights[K:], normed_BC, spare + spare_bytes)
        v_x = prepare(weights[V:], normed_BC, spare + 2 * spare_bytes)
        piece = claim(state, phase)
        while piece < pieces:
            query_key_value(piece, numbers, weights, q_x, k_x, v_x, whole, qkv)
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
        pieces = pieces_of(columns, heads, weights[OUT + KIND])
        x = prepare(weights[OUT:], attended, spare)
        piece = claim(state, phase)
        while piece < pieces:
            add_projection(piece, weights[OUT:], heads, x, whole, written_BC, hidden_BC)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
        phase += 1
        pieces = -(-width // rows_of_both(columns, weights))
        normalise_rows(hidden_BC, weights[SECOND_NORM], eps, normed_BC)
        gate_x = prepare(weights[GATE:], normed_BC, spare)
        up_x = prepare(weights[UP:], normed_BC, spare + spare_bytes)
        piece = claim(state, phase)
        while piece < pieces:
            gate_and_up(piece, numbers, weights, gate_x, up_x, whole, gated_BI, up_BI)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
        phase += 1
        pieces = pieces_of(columns, width, weights[DOWN + KIND])
        x = prepare(weights[DOWN:], gated_BI, spare)
        piece = claim(state, phase)
        while piece < pieces:
            add_projection(piece, weights[DOWN:], width, x, whole, written_BC, hidden_BC)
            piece = complete_and_claim(state, phase)
        wait_for(state, phase, pieces)
    phase += 1
    pieces = pieces_of(vocabulary, columns, output[KIND])
    normalise_rows(hidden_BC, numbers[LAST_NORM], eps, normed_BC)
    x = prepare(output, normed_BC, spare)
    piece = claim(state, phase)
    while piece < pieces:
        project_piece(piece, output, vocabulary, columns, x, whole, logits_BV, NOTHING)
        piece = complete_and_claim(state, phase)
    wait_for(state, phase, pieces)
    if thread > 0:
        leave(state)
