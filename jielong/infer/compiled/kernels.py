"""The decoding step itself: token ids in, logits out, all layers in one compiled call that several threads run together.

A step of a small model is a few hundred short operations, and torch spends more on starting each than on its arithmetic. Here
only the reading of the weights is left (`decoder.py` has the figures). What decides how fast that is:

- Rows of a matrix are read one after the other. Four rows at once, the usual form of such a loop, are four streams for the
  processor to fetch ahead: 10 GB/s instead of 27 on one core of an EPYC 9004. So with one row of activations each
  output is one sum; with more, a piece of the matrix is first touched in order, then multiplied from the core's cache in blocks
  of OUTPUTS x 4 sums held in registers, so that it comes from memory once for all rows.
- Threads do not wait for each other but for work: each phase of a layer (q k v; attention; o; gate and up; down) is cut into
  pieces of PIECE_BYTES that threads claim, and is over when all its pieces are done. A thread that the system keeps from
  running delays the others by one piece at most, and all is done even if it never comes. Results do not depend on who did what.

Suffixes: B rows, C hidden_size, H query heads, G key-value heads, D size of a head, I width of the feed-forward layer,
V vocabulary, T threads. `numbers` holds the shape (the names below are places in it), `addresses` where each layer's weights are
(0: it has none). Scratch is float32 and belongs to the caller.
"""

from __future__ import annotations

import numpy as np
from numba import carray  # type: ignore[attr-defined]  # numba names no exports

from jielong.data.compiled import kernel
from jielong.infer.compiled.vectors import (
    OUTPUTS,
    fetch,
    fetch_add,
    float_of_bits,
    give_way,
    pointer,
    products,
    touch_word,
    widened,
)

(
    LAYERS, HIDDEN, HEADS, GROUPS, SIZE, WIDTH, VOCABULARY, ROWS, KIND, LENGTH, ROTARY,
    KEYS, KEYS_LAYER, KEYS_ROW, KEYS_GROUP, VALUES, VALUES_LAYER, VALUES_ROW, VALUES_GROUP,
    EMBEDDING, LAST_NORM, OUTPUT, NUMBERS,
) = range(23)  # fmt: skip
(
    FIRST_NORM, Q, K, V, Q_BIAS, K_BIAS, V_BIAS, Q_NORM, K_NORM, OUT, OUT_BIAS, SECOND_NORM, GATE, UP, DOWN, WEIGHTS,
) = range(16)  # fmt: skip

PIECE_BYTES = 1 << 16  # of a matrix, which a thread claims at once
LINE = 64  # bytes that come to a core together
COUNTER = LINE // 8  # int64 from a counter to the next: threads do not disturb each other
SPINS = 1000  # looks at a counter before the core is given to another thread
PHASES = 5  # of a layer
NOTHING = np.int64(0)  # not the literal 0, for which numba would compile a function once more


def count_phases(layers: int) -> int:
    """Phases of a step: the embedding, PHASES a layer, the output."""
    return PHASES * layers + 2


def state_size(layers: int) -> int:
    """How many int64 the counters of a step take: two a phase, and the threads that left, each with a line to itself."""
    return (2 * count_phases(layers) + 1) * COUNTER


# ------------------------------------------------------------------------------------------------------ threads


@kernel
def address(array: np.ndarray) -> np.int64:
    """Where an array begins; signed, as what is added to it."""
    return np.int64(array.ctypes.data)


@kernel
def claim(state: np.ndarray, phase: int) -> int:
    """The number of a piece that nobody else has."""
    piece: int = fetch_add(address(state) + (2 * phase + 1) * LINE, 1)
    return piece


@kernel
def complete(state: np.ndarray, phase: int) -> None:
    """A claimed piece is done."""
    fetch_add(address(state) + 2 * phase * LINE, 1)


@kernel
def complete_and_claim(state: np.ndarray, phase: int) -> int:
    """Give back a piece, take the next one."""
    complete(state, phase)
    piece: int = claim(state, phase)
    return piece


@kernel
def wait_for(state: np.ndarray, phase: int, pieces: int) -> None:
    """Until all pieces of a phase are done."""
    spins = 0
    while fetch(address(state) + 2 * phase * LINE) < pieces:
        spins += 1
        if spins > SPINS:
            give_way()


@kernel
def wait_until_left(state: np.ndarray, layers: int, threads: int) -> None:
    """Until so many threads, the first not counted, have left the step that these counters belong to."""
    wait_for(state, PHASES * layers + 2, threads)


# ----------------------------------------------------------------------------------------------------- matrices


@kernel
def rows_of_piece(columns: int, kind: int) -> int:
    """Rows of a matrix in a piece: a multiple of OUTPUTS."""
    wide = PIECE_BYTES // (columns * (4 if kind == 0 else 2))
    return max(wide // OUTPUTS, 1) * OUTPUTS


@kernel
def pieces_of(outputs: int, columns: int, kind: int) -> int:
    """Pieces of a matrix."""
    pieces: int = -(-outputs // rows_of_piece(columns, kind))
    return pieces


@kernel
def multiply_1x1(kind: int, w: int, w_row: int, x: int, x_row: int, columns: int, out: int, out_row: int) -> None:
    """`products` of one row of each; the kind is known when the program runs."""
    if kind == 0:
        products(0, 1, 1, 4, w, w_row, x, x_row, columns, out, out_row)
    elif kind == 1:
        products(1, 1, 1, 4, w, w_row, x, x_row, columns, out, out_row)
    else:
        products(2, 1, 1, 4, w, w_row, x, x_row, columns, out, out_row)


@kernel
def multiply_nx1(kind: int, w: int, w_row: int, x: int, x_row: int, columns: int, out: int, out_row: int) -> None:
    """OUTPUTS rows of the matrix, one of activations."""
    if kind == 0:
        products(0, OUTPUTS, 1, 2, w, w_row, x, x_row, columns, out, out_row)
    elif kind == 1:
        products(1, OUTPUTS, 1, 2, w, w_row, x, x_row, columns, out, out_row)
    else:
        products(2, OUTPUTS, 1, 2, w, w_row, x, x_row, columns, out, out_row)


@kernel
def multiply_nx2(kind: int, w: int, w_row: int, x: int, x_row: int, columns: int, out: int, out_row: int) -> None:
    """OUTPUTS rows of the matrix, two of activations."""
    if kind == 0:
        products(0, OUTPUTS, 2, 1, w, w_row, x, x_row, columns, out, out_row)
    elif kind == 1:
        products(1, OUTPUTS, 2, 1, w, w_row, x, x_row, columns, out, out_row)
    else:
        products(2, OUTPUTS, 2, 1, w, w_row, x, x_row, columns, out, out_row)


@kernel
def multiply_nx4(kind: int, w: int, w_row: int, x: int, x_row: int, columns: int, out: int, out_row: int) -> None:
    """OUTPUTS rows of the matrix, four of activations."""
    if kind == 0:
        products(0, OUTPUTS, 4, 1, w, w_row, x, x_row, columns, out, out_row)
    elif kind == 1:
        products(1, OUTPUTS, 4, 1, w, w_row, x, x_row, columns, out, out_row)
    else:
        products(2, OUTPUTS, 4, 1, w, w_row, x, x_row, columns, out, out_row)


@kernel
def touch(address: int, size: int) -> None:
    """Read memory in order, a word of each line, so that it is in the core's cache."""
    for place in range(address & -LINE, address + size, LINE):
        touch_word(place)


@kernel
def multiply(
    kind: int, w: int, first: int, last: int, columns: int, x: int, x_row: int, rows: int, out: int, out_row: int
) -> None:
    """out[b, o] = w[o] . x[b] for o in [first, last) and all rows b. w, x, out: addresses; *_row: numbers in a row."""
    width = 4 if kind == 0 else 2
    w_row, x_row, out_row = columns * width, 4 * x_row, 4 * out_row
    if rows == 1:
        for o in range(first, last):
            multiply_1x1(kind, w + o * w_row, w_row, x, x_row, columns, out + 4 * o, out_row)
        return
    touch(w + first * w_row, (last - first) * w_row)
    whole = first + (last - first) // OUTPUTS * OUTPUTS
    for o in range(first, whole, OUTPUTS):
        w_o, out_o = w + o * w_row, out + 4 * o
        b = 0
        while b + 4 <= rows:
            multiply_nx4(kind, w_o, w_row, x + b * x_row, x_row, columns, out_o + b * out_row, out_row)
            b += 4
        if b + 2 <= rows:
            multiply_nx2(kind, w_o, w_row, x + b * x_row, x_row, columns, out_o + b * out_row, out_row)
            b += 2
        if b < rows:
            multiply_nx1(kind, w_o, w_row, x + b * x_row, x_row, columns, out_o + b * out_row, out_row)
    for o in range(whole, last):
        for b in range(rows):
            multiply_1x1(kind, w + o * w_row, w_row, x + b * x_row, x_row, columns, out + b * out_row + 4 * o, out_row)


# --------------------------------------------------------------------------------------------- element by element


@kernel
def exponential(x: np.float32) -> np.float32:
    """e^x, float32, without branches, so that loops of it are vectorised; relative error below 3e-7 (test), x >= -87."""
    bounded = min(max(x, np.float32(-87.0)), np.float32(88.0))
    whole = np.floor(bounded * np.float32(1.4426950408889634) + np.float32(0.5))
    # ln 2 in two parts (Cody and Waite), the first one exact in few bits
    rest = bounded - whole * np.float32(0.693359375) + whole * np.float32(2.12194440e-4)
    value = np.float32(1 / 5040)
    value = value * rest + np.float32(1 / 720)
    value = value * rest + np.float32(1 / 120)
    value = value * rest + np.float32(1 / 24)
    value = value * rest + np.float32(1 / 6)
    value = value * rest + np.float32(0.5)
    value = value * rest + np.float32(1.0)
    value = value * rest + np.float32(1.0)
    power: np.float32 = float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
    return value * power


@kernel
def copy(x: np.ndarray, out: np.ndarray) -> None:
    """out = x. (numba's own assignment of arrays takes seconds to compile, for the message of an error that cannot be.)"""
    for c in range(x.shape[0]):
        out[c] = x[c]


@kernel
def normalise(x: np.ndarray, weight: int, eps: np.float32, out: np.ndarray) -> None:
    """RMSNorm of one row: x / sqrt(mean(x^2) + eps) * weight."""
    size = x.shape[0]
    weights = carray(pointer(weight), (size,), np.float32)
    first = x[0]
    products(
        0, 1, 1, 4, address(x), 0, address(x), 0, size, address(out), 0
    )  # the sum of squares, in out[0] for a moment
    scale = np.float32(1.0) / np.sqrt(out[0] / np.float32(size) + eps)
    if address(out) == address(x):
        out[0] = first
    for c in range(size):
        out[c] = x[c] * scale * weights[c]


@kernel
def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> None:
    """Turn each pair (x[d], x[d + D/2]) by its angle, in place."""
    half = cos.shape[0]
    for d in range(half):
        left, right = x[d], x[d + half]
        x[d] = left * cos[d] - right * sin[d]
        x[d + half] = right * cos[d] + left * sin[d]


# --------------------------------------------------------------------------------------------------------- phases


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
def soften(scores: np.ndarray, slope: np.float32) -> None:
    """Softmax in place, after ALiBi's slope x distance is taken off. The last key is the query's own."""
    count = scores.shape[0]
    if slope != 0:
        for s in range(count):
            scores[s] -= slope * np.float32(count - 1 - s)
    highest = scores[0]
    for s in range(count):
        highest = max(highest, scores[s])
    total = np.float32(0.0)
    for s in range(count):
        scores[s] = exponential(scores[s] - highest)
    for s in range(count):
        total += scores[s]
    scale = np.float32(1.0) / total
    for s in range(count):
        scores[s] *= scale


@kernel
def mix(weights: np.ndarray, v_SD: np.ndarray, first: int, last: int, out: np.ndarray) -> None:
    """out = sum of weights[s] v[s] over s in [first, last); four keys in each pass over out."""
    size, s = out.shape[0], first
    for d in range(size):
        out[d] = np.float32(0.0)
    while s + 4 <= last:
        w0, w1, w2, w3 = weights[s], weights[s + 1], weights[s + 2], weights[s + 3]
        for d in range(size):
            out[d] += (w0 * v_SD[s, d] + w1 * v_SD[s + 1, d]) + (w2 * v_SD[s + 2, d] + w3 * v_SD[s + 3, d])
        s += 4
    while s < last:
        for d in range(size):
            out[d] += weights[s] * v_SD[s, d]
        s += 1


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
def normalise_rows(x_BC: np.ndarray, weight: int, eps: np.float32, out_BC: np.ndarray) -> None:
    """RMSNorm of each row. Every thread does it for itself: cheaper than to wait for one another."""
    for b in range(x_BC.shape[0]):
        normalise(x_BC[b], weight, eps, out_BC[b])


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
        complete(state, phase + 1)  # it has left
