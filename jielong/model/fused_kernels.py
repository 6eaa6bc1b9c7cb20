"""What lies between the matrix products of training on a CPU, compiled: one pass over memory where torch makes five or ten.

Each kernel takes rows `begin` to `end` of its arrays, so that threads share them (`fused.py`), and computes in float32 whatever the
arrays hold. A bfloat16 array is given as uint16, its bits; the other type is float32.

Sums run in a fixed order that vectors allow ("reassoc": several partial sums), the same for every run on a machine and every
number of threads. The exponential of x is 2^n times a polynomial of degree 6, within 3e-7 + 8e-8 |x| of the true one (relative).

Shapes: R rows of N numbers; for rotation B rows, T tokens, H heads of D.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from jielong.data.compiled import kernel

LIBERTIES = {"reassoc", "contract", "nsz", "arcp"}
BFLOAT16 = np.dtype(np.uint16)
LOG2E, LEAST, MOST = np.float32(1.4426950408889634), np.float32(-87.0), np.float32(88.0)
# of 2^f, |f| <= 1/2, f^0 to f^6 (Taylor's: ln(2)^k / k!)
C1, C2, C3 = np.float32(0.6931471805599453), np.float32(0.2402265069591007), np.float32(0.05550410866482158)
C4, C5, C6 = np.float32(0.009618129107628477), np.float32(0.0013333558146428443), np.float32(0.00015403530393381608)
ONE, HALF, NOTHING = np.float32(1.0), np.float32(0.5), np.float32(np.nan)
BELOW_SIGN = np.int32(0x7FFFFFFF)
WHOLE = 32  # numbers that a loop takes at once (four vectors of eight); what is left over goes one by one


def _fused(function: Any) -> Any:
    return kernel(function, LIBERTIES)


def read(row: Any, into: Any) -> None:
    """Numbers of an array, as float32."""


def write(numbers: Any, row: Any) -> None:
    """Float32 numbers into an array, rounded to nearest even."""


@overload(read)
def _read(row: Any, into: Any) -> Any:
    if row.dtype == numba.types.uint16:

        def widen(row: Any, into: Any) -> None:
            bits = into.view(np.uint32)
            for i in range(len(into)):
                bits[i] = np.uint32(row[i]) << np.uint32(16)

        return widen

    def copy(row: Any, into: Any) -> None:
        for i in range(len(into)):
            into[i] = row[i]

    return copy


@overload(write)
def _write(numbers: Any, row: Any) -> Any:
    if row.dtype == numba.types.uint16:

        def narrow(numbers: Any, row: Any) -> None:
            bits = numbers.view(np.uint32)
            for i in range(len(numbers)):
                u = bits[i]
                if u & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
                    row[i] = np.uint16(0x7FC0)  # not a number stays none
                else:
                    row[i] = np.uint16((u + np.uint32(0x7FFF) + ((u >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))

        return narrow

    def copy(numbers: Any, row: Any) -> None:
        for i in range(len(numbers)):
            row[i] = numbers[i]

    return copy


@_fused
def exponentials(x: Any, powers: Any) -> None:
    """x = exp(x), in place. powers: int32, scratch of the same size. Below -87 it is exp(-87), above 88 exp(88)."""
    bits = x.view(np.int32)
    for i in range(len(x)):
        y = min(max(x[i], LEAST), MOST) * LOG2E
        n = np.floor(y + HALF)
        f = y - n
        x[i] = ONE + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
        powers[i] = np.int32(n) << np.int32(23)
    for i in range(len(x)):
        bits[i] += powers[i]


@_fused
def largest(x: Any) -> Any:
    """The largest of x, and 0; twice not a number if any of x is not finite: what a sum begins with.

    By bits: of floats a maximum is not made a vector, and forgets what is not a number, and in a sum of any order x - x may be
    cancelled. As integers, floats are in order when the bits below the sign of negative ones are turned round.
    """
    bits, most, widest = x.view(np.int32), np.int32(-0x80000000), np.int32(0)
    for i in range(len(x)):
        most = max(most, np.int32(bits[i] ^ ((bits[i] >> np.int32(31)) & BELOW_SIGN)))
        widest = max(widest, np.int32(bits[i] & BELOW_SIGN))
    if widest >= np.int32(0x7F800000):
        return NOTHING, NOTHING
    found = np.empty(1, np.float32)
    found.view(np.int32)[0] = most ^ ((most >> np.int32(31)) & BELOW_SIGN)
    return found[0], np.float32(0)


@_fused
def norm_forward(x: Any, weight: Any, epsilon: Any, out: Any, scale_R: Any, begin: int, end: int) -> None:
    """out = x * scale * weight, scale = 1 / sqrt(mean(x^2) + epsilon), which is kept. x, out: (R, N)."""
    size = x.shape[1]
    row = np.empty(size, np.float32)
    for r in range(begin, end):
        read(x[r], row)
        total = np.float32(0)
        for i in range(size):
            total += row[i] * row[i]
        scale = ONE / np.sqrt(total / np.float32(size) + epsilon)
        scale_R[r] = scale
        for i in range(size):
            row[i] *= scale * weight[i]
        write(row, out[r])


@_fused
def norm_backward(x: Any, weight: Any, scale_R: Any, given: Any, dx: Any, dweight: Any, begin: int, end: int) -> None:
    """Gradients of `norm_forward`; that of the weight is added to dweight, (N), float32."""
    size = x.shape[1]
    row, outer = np.empty(size, np.float32), np.empty(size, np.float32)
    for r in range(begin, end):
        read(x[r], row)
        read(given[r], outer)
        scale, inner = scale_R[r], np.float32(0)
        for i in range(size):
            row[i] *= scale
            dweight[i] += outer[i] * row[i]
            outer[i] *= weight[i]
            inner += outer[i] * row[i]
        inner /= np.float32(size)
        for i in range(size):
            row[i] = (outer[i] - row[i] * inner) * scale
        write(row, dx[r])


@_fused
def rotate_forward(x: Any, cos: Any, sin: Any, out: Any, begin: int, end: int) -> None:
    """Turn pairs (x[d], x[d + D/2]). x: (B, T, H, D); cos, sin: (B or 1, T, D); out: (B, H, T, D). Rows: B x T."""
    length, heads, size = x.shape[1:]
    half = size // 2
    row, turned = np.empty((heads, size), np.float32), np.empty(size, np.float32)
    for r in range(begin, end):
        b, t = r // length, r % length
        c, s = cos[b % len(cos), t], sin[b % len(cos), t]
        read(x[b, t].ravel(), row.ravel())
        for h in range(heads):
            for d in range(half):
                turned[d] = row[h, d] * c[d] - row[h, d + half] * s[d]
                turned[d + half] = row[h, d + half] * c[d + half] + row[h, d] * s[d + half]
            write(turned, out[b, h, t])


@_fused
def rotate_backward(given: Any, cos: Any, sin: Any, dx: Any, begin: int, end: int) -> None:
    """Turn them back. given: (B, H, T, D); dx: (B, T, H, D)."""
    length, heads, size = dx.shape[1:]
    half = size // 2
    row, turned = np.empty(size, np.float32), np.empty((heads, size), np.float32)
    for r in range(begin, end):
        b, t = r // length, r % length
        c, s = cos[b % len(cos), t], sin[b % len(cos), t]
        for h in range(heads):
            read(given[b, h, t], row)
            for d in range(half):
                turned[h, d] = row[d] * c[d] + row[d + half] * s[d + half]
                turned[h, d + half] = row[d + half] * c[d + half] - row[d] * s[d]
        write(turned.ravel(), dx[b, t].ravel())


@_fused
def gate_forward(gate: Any, up: Any, out: Any, begin: int, end: int) -> None:
    """out = silu(gate) * up. All (R, N)."""
    size = gate.shape[1]
    g, u, e, powers = (np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
                       np.empty(size, np.int32))  # fmt: skip
    for r in range(begin, end):
        read(gate[r], g)
        read(up[r], u)
        for i in range(size):
            e[i] = -g[i]
        exponentials(e, powers)
        for i in range(size):
            g[i] = g[i] / (ONE + e[i]) * u[i]
        write(g, out[r])


@_fused
def gate_backward(gate: Any, up: Any, given: Any, dgate: Any, dup: Any, begin: int, end: int) -> None:
    """Gradients of `gate_forward`."""
    size = gate.shape[1]
    g, u, e, powers = (np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32),
                       np.empty(size, np.int32))  # fmt: skip
    o = np.empty(size, np.float32)
    for r in range(begin, end):
        read(gate[r], g)
        read(up[r], u)
        read(given[r], o)
        for i in range(size):
            e[i] = -g[i]
        exponentials(e, powers)
        for i in range(size):
            share = ONE / (ONE + e[i])
            silu = g[i] * share
            g[i] = o[i] * u[i] * (share + silu * (ONE - share))
            u[i] = o[i] * silu
        write(g, dgate[r])
        write(u, dup[r])


@_fused
def soften(scores: Any, first: Any, groups: int, factor: Any, begin: int, end: int) -> None:
    """softmax(factor x scores) in place, over the keys that a query sees; zero elsewhere.

    scores: (B x G, h x T, S); first: (B, T), the first key that each query sees; the last one is S - T + its place. Rows: B x G.
    """
    queries, keys = scores.shape[1:]
    length = first.shape[1]
    row, powers = np.empty(keys, np.float32), np.empty(keys, np.int32)
    for r in range(begin, end):
        b = r // groups
        for q in range(queries):
            t = q % length
            low, high = first[b, t], keys - length + t + 1
            begins, ends = low // WHOLE * WHOLE, min(keys, -(-high // WHOLE) * WHOLE)
            seen = row[begins:ends]
            read(scores[r, q, begins:ends], seen)
            row[begins:low] = row[low]
            row[high:ends] = row[low]
            most, total = largest(seen)
            for i in range(len(seen)):
                seen[i] = (seen[i] - most) * factor
            exponentials(seen, powers[begins:ends])
            row[:low] = 0
            row[high:] = 0
            for i in range(len(seen)):
                total += seen[i]
            total = ONE / total
            for i in range(len(seen)):
                seen[i] *= total
            write(row, scores[r, q])


@_fused
def soften_backward(weights: Any, given: Any, first: Any, groups: int, factor: Any, begin: int, end: int) -> None:
    """From the gradient of `soften`'s weights to that of the scores, in place in `given`."""
    queries, keys = weights.shape[1:]
    length = first.shape[1]
    row, outer = np.empty(keys, np.float32), np.empty(keys, np.float32)
    for r in range(begin, end):
        b = r // groups
        for q in range(queries):
            t = q % length
            low, high = first[b, t], keys - length + t + 1
            begins, ends = low // WHOLE * WHOLE, min(keys, -(-high // WHOLE) * WHOLE)
            w, o = row[begins:ends], outer[begins:ends]
            read(weights[r, q, begins:ends], w)
            read(given[r, q, begins:ends], o)
            outer[begins:low] = 0
            outer[high:ends] = 0
            inner = np.float32(0)
            for i in range(len(w)):
                inner += w[i] * o[i]
            for i in range(len(w)):
                o[i] = w[i] * (o[i] - inner) * factor
            outer[:begins] = 0
            outer[ends:] = 0
            write(outer, given[r, q])


@_fused
def cross_entropies(logits: Any, labels: Any, z_loss: Any, wanted: bool, found: Any, begin: int, end: int) -> None:
    """Of each row its cross-entropy and z_loss x logsumexp^2, in found (R, 2); where wanted, the gradient of their sum in place.

    A negative label does not count; others are places of the row, which the caller has looked after.
    """
    size = logits.shape[1]
    row, powers = np.empty(size, np.float32), np.empty(size, np.int32)
    for r in range(begin, end):
        label = labels[r]
        if label < 0:
            found[r, 0] = found[r, 1] = 0
            if wanted:
                logits[r, :] = 0
            continue
        read(logits[r], row)
        most, total = largest(row)
        of_label = row[label] - most
        for i in range(size):
            row[i] -= most
        exponentials(row, powers)
        for i in range(size):
            total += row[i]
        normaliser = np.log(total)
        found[r, 0] = normaliser - of_label
        normaliser += most
        found[r, 1] = z_loss * normaliser * normaliser
        if wanted:
            share = (ONE + np.float32(2) * z_loss * normaliser) / total
            for i in range(size):
                row[i] *= share
            row[label] -= ONE
            write(row, logits[r])
