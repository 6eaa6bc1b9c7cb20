"""Rows of a matrix times rows of activations, the way memory likes it.

A step reads every weight once, and reading is what it costs. Rows of a matrix are read one after the other. Four rows at
once, the usual form of such a loop, are four streams for the processor to fetch ahead: 10 GB/s instead of 27 on one core
of an EPYC 9004. So with one row of activations each output is one sum; with more, a piece of the matrix is first touched
in order, then multiplied from the core's cache in blocks of OUTPUTS x 4 sums held in registers: 88 GFLOP/s of that core's 100 or
so at 16 rows, and the matrix comes from memory once for all of them.

A matrix is described to the kernels by FIELDS int64, the names below: where it is, of which kind, and what belongs to it. Those of
integers are multiplied in quantized.py.
"""

from __future__ import annotations

import numpy as np

from jielong.data.compiled import kernel
from jielong.infer.compiled.sharing import LINE
from jielong.infer.compiled.vectors import INT4, INT8, OUTPUTS, products, touch_word

PIECE_BYTES = 1 << 17  # of a matrix, which a thread claims at once; 2^16 and 2^18 take 10 % longer
QUANTIZED_PIECE_BYTES = 1 << 15  # of one of integers
NOTHING = np.int64(0)  # not the literal 0, for which numba would compile a function once more

(
    ADDRESS,  # of the numbers, or of the codes
    KIND,
    BIAS,  # address, float32; 0: there is none
    SCALES,  # address, float32, (outputs, groups); from here on for integers only
    ZEROS,  # address, uint8, (outputs, groups)
    GROUP,  # columns of a scale
    ORDER,  # address, int64, of the column of the input that belongs to each column of codes; 0: they are in order
    FACTORS,  # address, float32, of what each column of the input is multiplied by; 0: nothing
    ROUNDED,  # 1: the input is rounded to 8 bits
    FIELDS,
) = range(10)


@kernel
def row_bytes(columns: int, kind: int) -> int:
    """Bytes of a row of a matrix."""
    bits = 4 if kind == INT4 else 8 if kind == INT8 else 32 if kind == 0 else 16
    return columns * bits // 8


@kernel
def rows_of_piece(columns: int, kind: int) -> int:
    """Rows of a matrix in a piece: a multiple of OUTPUTS."""
    size = QUANTIZED_PIECE_BYTES if kind >= INT8 else PIECE_BYTES
    rows: int = max(size // row_bytes(columns, kind) // OUTPUTS, 1) * OUTPUTS
    return rows


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
    w_row = row_bytes(columns, kind)
    if rows == 1:
        for o in range(first, last):
            multiply_1x1(kind, w + o * w_row, w_row, x, 4 * x_row, columns, out + 4 * o, 4 * out_row)
        return
    touch(w + first * w_row, (last - first) * w_row)
    multiply_blocks(kind, w, first, last, columns, x, x_row, rows, out, out_row)


@kernel
def multiply_blocks(
    kind: int, w: int, first: int, last: int, columns: int, x: int, x_row: int, rows: int, out: int, out_row: int
) -> None:
    """`multiply` for rows of a matrix that are in the core's cache, and more than one row of activations."""
    w_row, x_row, out_row = row_bytes(columns, kind), 4 * x_row, 4 * out_row
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
