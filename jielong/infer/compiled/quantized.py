"""Products with matrices of integers, read where `model/quantized/linear.py` holds them: W = (codes - zeros) x scales by groups of columns.

Half a byte or a byte a weight is what memory brings, so here it is arithmetic that has to be saved. With one row of activations, each output
is one sum over the codes as they come:

- bytes (INT8): widened, the zero taken off, made float32, multiplied and added; a group's sum is multiplied by its scale once;
- halves (INT4): sixteen bytes are 32 columns. Where the processor has AVX-512, the sixteen values (code - zero) x scale of a group are a
  vector, from which one instruction takes those that sixteen codes name: nothing is widened or scaled any more.
  Other processors do as for bytes.

With more rows, OUTPUTS rows of the matrix are made float32 in memory of the thread (the core's first cache), and multiplied as others are.

A matrix may ask for its input in another form: columns in the order of the codes (act order), multiplied by factors (OneBit), rounded to
8 bits (BitNet). Each thread makes that for itself: cheaper than to wait for one another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # the package has no types
from numba import carray, config, types  # type: ignore[attr-defined]  # numba names no exports

from jielong.data.compiled import kernel
from jielong.data.emitters import FLOAT, I8, I32, I64, Value, address, foreign, inlined, load, loop, vector
from jielong.infer.compiled.matrices import (
    ADDRESS,
    FACTORS,
    GROUP,
    KIND,
    NOTHING,
    ORDER,
    ROUNDED,
    SCALES,
    ZEROS,
    multiply_blocks,
    row_bytes,
)
from jielong.infer.compiled.vectors import INT4, INT8, LANES, OUTPUTS, WIDE, add_lanes, pointer

HALF = 16  # columns in the low halves of a block's bytes, and in the high ones (packing.BLOCK / 2)
# numba can be told to write for another processor than this one; such code must not name this one's instructions
TABLES = WIDE and not (config.CPU_NAME or config.CPU_FEATURES)  # type: ignore[attr-defined]
UNROLL = 4  # vectors of INT8 in flight; of INT4 those of a block, with more of them short groups take longer


class _Group(NamedTuple):
    """What is known of a group of columns while its code is emitted."""

    zero: Value  # int32
    scale: Value  # float32
    table: Value | None  # float32 x 16: what each code of a half is worth, scale included


class _Emitter:
    """Emits the passes over one row of codes."""

    def __init__(self, build: Any, kind: int, codes: Value, scales: Value, zeros: Value) -> None:
        self.build, self.kind = build, kind
        self.codes, self.scales, self.zeros = codes, scales, zeros
        self.table = kind == INT4 and TABLES
        self.block = 2 * HALF if kind == INT4 else LANES  # columns that are read together

    def group(self, number: Value) -> _Group:
        """Scale and zero of a group."""
        build = self.build
        scale = load(build, build.add(self.scales, build.mul(number, I64(4))), FLOAT, 1, 4)
        zero = build.zext(load(build, build.add(self.zeros, number), I8, 1, 1), I32)
        table = None
        if self.table:
            codes = ir.Constant(ir.VectorType(FLOAT, HALF), [float(code) for code in range(HALF)])
            distance = build.fsub(codes, self.spread(build.uitofp(zero, FLOAT), HALF))
            table = build.fmul(distance, self.spread(scale, HALF))
        return _Group(zero, scale, table)

    def spread(self, value: Value, lanes: int) -> Value:
        """A number in all lanes."""
        if lanes == 1:
            return value
        kind, build = ir.VectorType(value.type, lanes), self.build
        single = build.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return build.shuffle_vector(
            single, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        )

    def weights(self, group: _Group, column: Value, lanes: int = LANES) -> list[tuple[Value, int]]:
        """Vectors of the columns that are read together from `column` on, and how far from it each begins.

        They are code - zero, with a table times the scale. lanes: 1 for a single column of bytes.
        """
        build = self.build
        if self.kind == INT8:
            codes = build.zext(load(build, build.add(self.codes, column), I8, lanes, 1), vector(I32, lanes))
            return [(self._distance(group, codes, lanes), 0)]
        found, start = [], build.add(self.codes, build.ashr(column, I64(1)))
        for part in range(0, HALF, LANES):
            both = build.zext(load(build, build.add(start, I64(part)), I8, LANES, 1), vector(I32, LANES))
            low = both if self.table else build.and_(both, self.spread(I32(15), LANES))
            high = build.lshr(both, self.spread(I32(4), LANES))
            found += [(low, part), (high, HALF + part)]
        return [(self._distance(group, codes, LANES), place) for codes, place in found]

    def _distance(self, group: _Group, codes: Value, lanes: int) -> Value:
        build = self.build
        if group.table is not None:  # the instruction heeds the low four bits of each index only
            kind = ir.VectorType(FLOAT, HALF)
            take = foreign(build, "llvm.x86.avx512.permvar.sf.512", kind, kind, ir.VectorType(I32, HALF))
            return build.call(take, [group.table, codes])
        return build.sitofp(build.sub(codes, self.spread(group.zero, lanes)), vector(FLOAT, lanes))

    def groups(
        self, columns: Value, size: Value, carried: list[Value], body: Callable[[_Group, Value, list[Value]], list[Value]]
    ) -> list[Value]:  # fmt: skip
        """carried = body(group, first column, carried) for every group of `size` columns."""
        build = self.build

        def inside(number: Value, old: list[Value]) -> list[Value]:
            return body(self.group(number), build.mul(number, size), old)

        return loop(build, I64(0), build.sdiv(columns, size), 1, carried, inside)

    def whole(self, first: Value, size: Value, step: int) -> Value:
        """Where the last whole `step` columns of a group end."""
        return self.build.add(first, self.build.mul(self.build.sdiv(size, I64(step)), I64(step)))


@inlined
def quantized_products(
    context: Any, kind: Any, codes: Any, scales: Any, zeros: Any, group: Any, x: Any, columns: Any, out: Any
) -> Any:  # fmt: skip
    """out[0] = sum over c of w[c] x[c], for a row of a matrix of integers.

    kind: INT8 or INT4, a constant in the call. codes, scales, zeros, x, out: addresses; group: columns of a scale, a divisor of `columns`,
    for INT4 a multiple of 32.
    """
    constant = getattr(kind, "literal_value", None)
    if constant is None:
        return None  # not for these arguments; numba tries again with the constants

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        _emit_products(build, constant, *arguments[1:])
        return target.get_dummy_value()

    return types.void(kind, *[types.int64] * 7), emit


def _emit_products(
    build: Any, kind: int, codes: Value, scales: Value, zeros: Value, size: Value, x: Value, columns: Value, out: Value
) -> None:  # fmt: skip
    emitter = _Emitter(build, kind, codes, scales, zeros)
    contract = ("contract",)  # one fused instruction where the processor has it
    nothing = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    step = emitter.block if kind == INT4 else UNROLL * LANES
    together = step // LANES

    def add(group: _Group, column: Value, sums: list[Value], lanes: int = LANES) -> list[Value]:
        """The sums with the columns more that are read together."""
        found = []
        for total, (part, place) in zip(sums, emitter.weights(group, column, lanes), strict=True):
            start = build.add(x, build.mul(build.add(column, I64(place)), I64(4)))
            activations = load(build, start, FLOAT, lanes, 4)
            found.append(build.fadd(total, build.fmul(part, activations, flags=contract), flags=contract))
        return found

    def add_step(group: _Group, column: Value, sums: list[Value]) -> list[Value]:
        if kind == INT4:
            return add(group, column, sums)
        starts = [build.add(column, I64(number * LANES)) for number in range(UNROLL)]
        return [new for start, total in zip(starts, sums, strict=True) for new in add(group, start, [total])]

    def add_group(group: _Group, first: Value, carried: list[Value]) -> list[Value]:
        sums = carried if emitter.table else [nothing] * together
        whole, last = emitter.whole(first, size, step), build.add(first, size)
        sums = loop(build, first, whole, step, sums, lambda column, old: add_step(group, column, old))
        if emitter.table:
            return sums
        rest = []
        if kind == INT8:  # columns that are fewer than a step, or fill no vector
            lanes = emitter.whole(first, size, LANES)
            sums[:1] = loop(build, whole, lanes, LANES, sums[:1], lambda column, old: add(group, column, old))
            rest = loop(build, lanes, last, 1, [FLOAT(0.0)], lambda column, old: add(group, column, old, 1))
        found = [add_lanes(build, sums), *rest]
        return [
            build.fadd(total, build.fmul(part, scale, flags=contract), flags=contract)
            for total, part, scale in zip(
                carried, found, [emitter.spread(group.scale, LANES), group.scale], strict=False
            )
        ]

    if emitter.table:
        carried = [nothing] * together
    else:
        carried = [nothing, FLOAT(0.0)] if kind == INT8 else [nothing]
    totals = emitter.groups(columns, size, carried, add_group)
    vectors = [total for total in totals if total.type == nothing.type]
    reduce = foreign(build, f"llvm.vector.reduce.fadd.v{LANES}f32", FLOAT, FLOAT, nothing.type)
    total = build.call(reduce, [FLOAT(0.0), add_lanes(build, vectors)], fastmath=("reassoc",))
    for single in totals[len(vectors) :]:
        total = build.fadd(total, single)
    build.store(total, build.inttoptr(out, FLOAT.as_pointer()), align=4)


@inlined
def made_whole(
    context: Any, kind: Any, codes: Any, scales: Any, zeros: Any, group: Any, columns: Any, out: Any
) -> Any:  # fmt: skip
    """out[c] = (codes[c] - zero) x scale, float32, for a row of a matrix of integers; arguments as for `quantized_products`."""
    constant = getattr(kind, "literal_value", None)
    if constant is None:
        return None

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        _emit_whole(build, constant, *arguments[1:])
        return target.get_dummy_value()

    return types.void(kind, *[types.int64] * 6), emit


def _emit_whole(
    build: Any, kind: int, codes: Value, scales: Value, zeros: Value, size: Value, columns: Value, out: Value
) -> None:  # fmt: skip
    emitter = _Emitter(build, kind, codes, scales, zeros)

    def put(group: _Group, column: Value, lanes: int = LANES) -> list[Value]:
        for part, place in emitter.weights(group, column, lanes):
            value = part if emitter.table else build.fmul(part, emitter.spread(group.scale, lanes))
            start = build.add(out, build.mul(build.add(column, I64(place)), I64(4)))
            build.store(value, build.inttoptr(start, value.type.as_pointer()), align=4)
        return []

    def put_group(group: _Group, first: Value, carried: list[Value]) -> list[Value]:
        whole = emitter.whole(first, size, emitter.block)
        loop(build, first, whole, emitter.block, [], lambda column, old: put(group, column))
        if kind == INT8:
            loop(build, whole, build.add(first, size), 1, [], lambda column, old: put(group, column, 1))
        return carried

    emitter.groups(columns, size, [], put_group)


@kernel
def multiply_quantized(
    matrix: np.ndarray, first: int, last: int, columns: int, x: int, rows: int, out: int, out_row: int, whole: int
) -> None:
    """out[b, o] = w[o] . x[b] for o in [first, last) and all rows b; matrix: what describes it, see matrices.py.

    x: address of (rows, columns), float32; out: address, out_row: numbers in a row of it; whole: address of OUTPUTS x columns numbers.
    """
    kind, group = matrix[KIND], matrix[GROUP]
    groups, width = columns // group, row_bytes(columns, kind)
    codes, scales, zeros = matrix[ADDRESS], matrix[SCALES], matrix[ZEROS]
    if rows == 1:
        for o in range(first, last):
            place, scale, zero = codes + o * width, scales + 4 * o * groups, zeros + o * groups
            if kind == INT4:
                quantized_products(4, place, scale, zero, group, x, columns, out + 4 * o)
            else:
                quantized_products(3, place, scale, zero, group, x, columns, out + 4 * o)
        return
    for start in range(first, last, OUTPUTS):
        count = min(OUTPUTS, last - start)
        for number in range(count):
            o = start + number
            place, scale, zero = codes + o * width, scales + 4 * o * groups, zeros + o * groups
            if kind == INT4:
                made_whole(4, place, scale, zero, group, columns, whole + 4 * number * columns)
            else:
                made_whole(3, place, scale, zero, group, columns, whole + 4 * number * columns)
        multiply_blocks(NOTHING, whole, NOTHING, count, columns, x, columns, rows, out + 4 * start, out_row)


@kernel
def prepare(matrix: np.ndarray, x_BC: np.ndarray, spare: int) -> int:
    """The address of the input as a matrix takes it: of x itself, or of `spare`, memory for as many numbers as x has."""
    if matrix[ORDER] == 0 and matrix[FACTORS] == 0 and matrix[ROUNDED] == 0:
        own: int = address(x_BC)
        return own
    rows, columns = x_BC.shape
    order = carray(pointer(matrix[ORDER]), (columns,), np.int64)
    factors = carray(pointer(matrix[FACTORS]), (columns,), np.float32)
    for b in range(rows):
        out = carray(pointer(spare + 4 * b * columns), (columns,), np.float32)
        for c in range(columns):
            source = order[c] if matrix[ORDER] != 0 else c
            out[c] = x_BC[b, source] * factors[source] if matrix[FACTORS] != 0 else x_BC[b, source]
        if matrix[ROUNDED] != 0:
            round_to_bytes(out)
    return spare


@kernel
def round_to_bytes(x: np.ndarray) -> None:
    """Each number becomes the nearest of 256 that the largest one spans (linear.rounded_inputs), in place."""
    largest = np.float32(1e-5)
    for c in range(x.shape[0]):
        largest = max(largest, abs(x[c]))
    scale = np.float32(127.0) / largest
    for c in range(x.shape[0]):
        whole = np.rint(x[c] * scale)
        x[c] = min(max(whole, np.float32(-128.0)), np.float32(127.0)) / scale
