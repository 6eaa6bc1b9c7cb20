"""Vector arithmetic and shared counters that numba has no words for, written in LLVM's language and inlined into kernels.

`products` is where a decoding step spends its time: sums of products between rows of a weight matrix and rows of activations.
numba's own loops would need `fastmath` to be vectorised, and can not keep sixteen sums in registers; here the order of a sum
is fixed (LANES x unroll partial sums, then a tree, then what is left of the row), so results do not depend on the number of
threads. Weights are float32, or bfloat16 / float16 widened in registers: a shift for bfloat16; for float16 a shift and one
multiplication by 2^112, which is exact for all finite values, subnormal ones included.

The counters are what several threads share: a claim on the next piece of work, the number of pieces done.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]  # the package has no types
from numba import types
from numba.core import cgutils

from jielong.data.emitters import FLOAT, I16, I32, I64, Value, foreign, inlined, load, loop, vector

FLOAT32, BFLOAT16, FLOAT16, INT8, INT4 = 0, 1, 2, 3, 4  # kinds of matrices; of integers: quantized.py
WIDE = bool(binding.get_host_cpu_features().get("avx512f"))  # 32 registers of 16 lanes; else 16 of 8 are assumed
LANES, OUTPUTS = (16, 4) if WIDE else (8, 2)  # lanes of a vector; rows of a matrix that are multiplied together


@inlined
def products(
    context: Any, kind: Any, outputs: Any, rows: Any, unroll: Any, w: Any, w_row: Any, x: Any, x_row: Any, columns: Any,
    out: Any, out_row: Any,
) -> Any:  # fmt: skip
    """out[b, o] = sum over c of w[o, c] x[b, c], for `outputs` rows of w and `rows` rows of x.

    kind, outputs, rows, unroll: constants in the call; unroll: vectors of a row in flight for each sum.
    w, x, out: addresses; *_row: bytes from a row to the next; columns: numbers in a row of w, any number.
    """
    if not all(isinstance(argument, types.IntegerLiteral) for argument in (kind, outputs, rows, unroll)):
        return None  # not for these arguments; numba tries again with the constants
    constants = [int(argument.literal_value) for argument in (kind, outputs, rows, unroll)]

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        _emit_products(build, constants, *arguments[4:])
        return target.get_dummy_value()

    return types.void(kind, outputs, rows, unroll, *[types.int64] * 7), emit


def _emit_products(
    build: Any, constants: list[int],
    w: Value, w_row: Value, x: Value, x_row: Value, columns: Value, out: Value, out_row: Value,
) -> None:  # fmt: skip
    kind, outputs, rows, unroll = constants
    width, step = 4 if kind == FLOAT32 else 2, LANES * unroll
    w_rows = [build.add(w, build.mul(w_row, I64(o))) for o in range(outputs)]
    x_rows = [build.add(x, build.mul(x_row, I64(b))) for b in range(rows)]
    pairs = list(product(range(outputs), range(rows)))

    def add(column: Value, sums: list[Value], lanes: int) -> list[Value]:
        """The sums with `lanes` columns more."""
        x_parts = [_number(build, build.add(base, build.mul(column, I64(4))), FLOAT32, lanes) for base in x_rows]
        w_parts = [_number(build, build.add(base, build.mul(column, I64(width))), kind, lanes) for base in w_rows]
        contract = ("contract",)  # one fused instruction where the processor has it
        return [
            build.fadd(total, build.fmul(w_parts[o], x_parts[b], flags=contract), flags=contract)
            for total, (o, b) in zip(sums, pairs, strict=True)
        ]

    def body(column: Value, sums: list[Value]) -> list[Value]:
        size = len(pairs)
        return [
            new
            for u in range(unroll)
            for new in add(build.add(column, I64(u * LANES)), sums[u * size : (u + 1) * size], LANES)
        ]

    whole = build.mul(build.sdiv(columns, I64(step)), I64(step))
    zero = ir.Constant(ir.VectorType(FLOAT, LANES), [0.0] * LANES)
    parts = loop(build, I64(0), whole, step, [zero] * (unroll * len(pairs)), body)
    reduce = foreign(build, f"llvm.vector.reduce.fadd.v{LANES}f32", FLOAT, FLOAT, zero.type)
    vectors = [add_lanes(build, parts[index :: len(pairs)]) for index in range(len(pairs))]
    whole_lanes = build.mul(build.sdiv(columns, I64(LANES)), I64(LANES))
    if unroll > 1:
        vectors = loop(build, whole, whole_lanes, LANES, vectors, lambda column, sums: add(column, sums, LANES))
    sums = [build.call(reduce, [FLOAT(0.0), total], fastmath=("reassoc",)) for total in vectors]
    sums = loop(build, whole_lanes, columns, 1, sums, lambda column, sums: add(column, sums, 1))
    for total, (o, b) in zip(sums, pairs, strict=True):
        place = build.add(build.add(out, I64(4 * o)), build.mul(out_row, I64(b)))
        build.store(total, build.inttoptr(place, FLOAT.as_pointer()), align=4)


def add_lanes(build: Any, vectors: list[Value]) -> Value:
    """The sum of vectors, lane by lane, from the first to the last."""
    together = vectors[0]
    for following in vectors[1:]:
        together = build.fadd(together, following)
    return together


def _number(build: Any, address: Value, kind: int, lanes: int) -> Value:
    """`lanes` numbers of a kind at an address, as float32."""
    if kind == FLOAT32:
        return load(build, address, FLOAT, lanes, 4)
    return _widen(build, load(build, address, I16, lanes, 2), kind, lanes)


def _widen(build: Any, bits: Value, kind: int, lanes: int) -> Value:
    """16 bits of a bfloat16 or a float16 -> float32."""
    word, number = vector(I32, lanes), vector(FLOAT, lanes)

    def constant(kind: Any, value: float) -> Value:
        return ir.Constant(kind, value if lanes == 1 else [value] * lanes)

    wide = build.zext(bits, word)
    if kind == BFLOAT16:
        return build.bitcast(build.shl(wide, constant(word, 16)), number)
    sign = build.shl(build.and_(wide, constant(word, 0x8000)), constant(word, 16))
    size = build.bitcast(build.shl(build.and_(wide, constant(word, 0x7FFF)), constant(word, 13)), number)
    scaled = build.bitcast(build.fmul(size, constant(number, 2.0**112)), word)
    return build.bitcast(build.or_(scaled, sign), number)


# ------------------------------------------------------------------------------------------- single numbers and counters


@inlined
def widened(context: Any, kind: Any, address: Any) -> Any:
    """The number at an address as float32. kind: a constant in the call."""
    constant = getattr(kind, "literal_value", None)
    if constant is None:
        return None

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        return _number(build, arguments[1], constant, 1)

    return types.float32(kind, types.int64), emit


@inlined
def float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 that these 32 bits are."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        return build.bitcast(arguments[0], FLOAT)

    return types.float32(types.int32), emit


@inlined
def pointer(context: Any, address: Any) -> Any:
    """An address as what `numba.carray` makes an array of."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        return build.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@inlined
def fetch_add(context: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address, at once for all threads; what was there before."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        place = build.inttoptr(arguments[0], I64.as_pointer())
        return build.atomic_rmw("add", place, arguments[1], "acq_rel")

    return types.int64(types.int64, types.int64), emit


@inlined
def fetch(context: Any, address: Any) -> Any:
    """The int64 at an address, with all that was written before it was set."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        return build.load_atomic(build.inttoptr(arguments[0], I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), emit


@inlined
def touch_word(context: Any, address: Any) -> Any:
    """Read the int64 at an address and forget it; a read that the compiler may not leave out."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        build.load_atomic(build.inttoptr(arguments[0], I64.as_pointer()), "monotonic", 8)
        return target.get_dummy_value()

    return types.void(types.int64), emit


@inlined
def give_way(context: Any) -> Any:
    """Let another thread have this core (POSIX sched_yield)."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        build.call(foreign(build, "sched_yield", I32), [])
        return target.get_dummy_value()

    return types.void(), emit
