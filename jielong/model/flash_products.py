"""Products of pairs of bfloat16 numbers and the softmax between them, in registers: what attention in training is made of on a CPU.

A matrix library's batched products reach less than half of its own rate where one side is as narrow as a head (bfloat16, 32: 175 of
400 GFLOP/s on two cores of AVX512_BF16), and leave the softmax to a pass of its own over scores in memory. Here a block of PART keys x
BLOCK queries of scores stays in sixteen registers: the instruction (vdpbf16ps) adds to each of 16 float32 sums the products of two pairs
of bfloat16 numbers, at 0.96 of its peak in this form, and what follows (scale, mask, exponential, the products of a gradient) finds
the scores there.

Layouts, in words of 32 bits, each a pair of numbers that a product sums over:

    turned       (rows / 16, D / 2, 16): pairs along the head; or (D / 2, 32) for a block of queries
    interleaved  (D / 32, rows / 2, 32): pairs of rows, of each number of the head

Scores lie with keys as rows and queries as lanes, so that a maximum or a sum over keys needs no shuffles. All emitters take addresses;
those of scratch memory begin at 64 bytes. The exponential is 2^floor(x) times a polynomial of degree 5, within 3e-7 (relative).
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]  # the package has no types
from numba import config, types

from jielong.data.emitters import FLOAT, I16, I32, I64, Value, foreign, inlined, load, loop

BLOCK, PART = 32, 8  # queries and keys whose scores are in registers together
LANES = 16
UNSEEN = -1e30  # a score that is not seen; finite, so that a difference of two is a number
# of 2^f, 0 <= f < 1, f^0 to f^5 (the polynomial whose largest relative error is the least)
POLYNOMIAL = (0.99999994, 0.6931531, 0.24015361, 0.055826318, 0.008989341, 0.0018775766)

_NEEDED = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16")
_found = binding.get_host_cpu_features()
# numba can be told to write for another processor than this one
SUPPORTED = all(_found.get(name) for name in _NEEDED) and not (config.CPU_NAME or config.CPU_FEATURES)  # type: ignore[attr-defined]


NUMBERS, WORDS, SHORTS = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES), ir.VectorType(I16, 2 * LANES)
Sums = list[Value]  # PART x 2 vectors


def _constant(kind: Any, value: float) -> Value:
    return ir.Constant(kind, [value] * kind.count)


def _at(build: Any, address: Value, offset: int, kind: Any = NUMBERS, align: int = 64) -> Value:
    return load(build, build.add(address, I64(offset)) if offset else address, kind, 1, align)


def _put(build: Any, value: Value, address: Value, offset: int = 0, align: int = 64) -> None:
    place = build.add(address, I64(offset)) if offset else address
    build.store(value, build.inttoptr(place, value.type.as_pointer())).align = align


def _splat(build: Any, scalar: Value, kind: Any = NUMBERS) -> Value:
    nothing = ir.Constant(kind, ir.Undefined)
    first = build.insert_element(nothing, scalar, I32(0))
    return build.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def _shuffle(build: Any, one: Value, two: Value, places: list[int]) -> Value:
    return build.shuffle_vector(one, two, ir.Constant(ir.VectorType(I32, len(places)), places))


def _fma(build: Any, a: Value, b: Value, c: Value) -> Value:
    return build.call(foreign(build, "llvm.fma.v16f32", NUMBERS, NUMBERS, NUMBERS, NUMBERS), [a, b, c])


def _dot(build: Any, total: Value, a: Value, b: Value) -> Value:
    """total + the products of pairs of a and b, words."""
    function = foreign(build, "llvm.x86.avx512bf16.dpbf16ps.512", NUMBERS, NUMBERS, WORDS, WORDS)
    return build.call(function, [total, a, b])


def _rounded(build: Any, first: Value, second: Value) -> Value:
    """Two vectors as 32 bfloat16 numbers, one behind the other."""
    function = foreign(build, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", SHORTS, NUMBERS, NUMBERS)
    return build.call(function, [second, first])


def _interleaved(build: Any, one: Value, two: Value) -> tuple[Value, Value]:
    """32 numbers of a row and of the next as 32 words."""
    places = [place for i in range(2 * LANES) for place in (i, i + 2 * LANES)]
    return _shuffle(build, one, two, places[: 2 * LANES]), _shuffle(build, one, two, places[2 * LANES :])


def _power(build: Any, x: Value) -> Value:
    """2^x; what is not a number stays none."""
    kind = (NUMBERS, NUMBERS, I32, NUMBERS, I16, I32)
    reduce = foreign(build, "llvm.x86.avx512.mask.reduce.ps.512", *kind)
    nothing, all_lanes, usual = _constant(NUMBERS, 0.0), I16(-1), I32(4)
    fraction = build.call(reduce, [x, I32(9), nothing, all_lanes, usual])  # x - floor(x)
    total = _constant(NUMBERS, POLYNOMIAL[-1])
    for factor in POLYNOMIAL[-2::-1]:
        total = _fma(build, total, fraction, _constant(NUMBERS, factor))
    kind = (NUMBERS, NUMBERS, NUMBERS, NUMBERS, I16, I32)
    scale = foreign(build, "llvm.x86.avx512.mask.scalef.ps.512", *kind)
    return build.call(scale, [total, x, nothing, all_lanes, usual])  # times 2^floor(x), down to 0


def _multiply(build: Any, a: Value, a_row: int, a_step: int, b: Value, steps: Value, sums: Sums) -> Sums:
    """sums[m] += sum over steps of word a[m] x the 32 words of b. Bytes: a_row from m to the next, a_step from a step to the next."""

    def body(step: Value, sums: Sums) -> Sums:
        here, there = build.add(a, build.mul(step, I64(a_step))), build.add(b, build.mul(step, I64(128)))
        columns = [_at(build, there, 64 * n, WORDS) for n in range(2)]
        found = []
        for m in range(PART):
            word = _splat(build, _at(build, here, m * a_row, I32, 4), WORDS)
            found += [_dot(build, sums[2 * m + n], word, columns[n]) for n in range(2)]
        return found

    return loop(build, I64(0), steps, 1, sums, body)


def _nothing() -> Sums:
    return [_constant(NUMBERS, 0.0)] * (2 * PART)


def _where_seen(
    build: Any, masked: Value, key: Value, query: Value, firsts: Value, numbers: list[list[Value]], other: list[float]
) -> list[list[Value]]:  # fmt: skip
    """Numbers (each PART x 2 vectors) where a query sees a key, else `other`; all of them where not masked.

    key, query: the first ones; firsts: address of the first key that each query sees, int32.
    """
    before, inside, after = build.block, build.append_basic_block("masked"), build.append_basic_block("seen")
    build.cbranch(build.icmp_signed("!=", masked, I64(0)), inside, after)
    build.position_at_end(inside)
    key, query = build.trunc(key, I32), _splat(build, build.trunc(query, I32), WORDS)
    lanes = [build.add(query, ir.Constant(WORDS, list(range(n * LANES, (n + 1) * LANES)))) for n in range(2)]
    lows = [_at(build, firsts, 64 * n, WORDS) for n in range(2)]
    found: list[list[Value]] = [[] for _ in numbers]
    for m in range(PART):
        place = _splat(build, build.add(key, I32(m)), WORDS)
        for n in range(2):
            seen = build.and_(build.icmp_signed("<=", place, lanes[n]), build.icmp_signed(">=", place, lows[n]))
            for into, values, instead in zip(found, numbers, other, strict=True):
                into.append(build.select(seen, values[2 * m + n], _constant(NUMBERS, instead)))
    inside = build.block
    build.branch(after)
    build.position_at_end(after)
    results: list[list[Value]] = [[] for _ in numbers]
    for into, values, news in zip(results, numbers, found, strict=True):
        for value, new in zip(values, news, strict=True):
            phi = build.phi(NUMBERS)
            phi.add_incoming(value, before)
            phi.add_incoming(new, inside)
            into.append(phi)
    return results


def _largest(build: Any, x: Value, most: Value) -> Value:
    return build.select(build.fcmp_ordered(">", x, most), x, most)


def _void(count: int, *more: Any) -> Any:
    return types.void(*[types.int64] * count, *more)


# ------------------------------------------------------------------------------------------------- layouts


@inlined
def keep(context: Any, source: Any, row: Any, rows: Any, chunks: Any, into: Any) -> Any:
    """BLOCK rows of `chunks` x 32 numbers, one after the other: copies of `rows` of them, then zeros. row: bytes from one to the next."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        source, row, rows, chunks, into = arguments
        size = build.mul(chunks, I64(64))

        def copy(r: Value, nothing: Sums) -> Sums:
            def part(offset: Value, nothing: Sums) -> Sums:
                value = _at(build, build.add(build.add(source, build.mul(r, row)), offset), 0, WORDS, 2)
                _put(build, value, build.add(build.add(into, build.mul(r, size)), offset))
                return []

            return loop(build, I64(0), size, 64, [], part)

        def clear(offset: Value, nothing: Sums) -> Sums:
            _put(build, _constant(WORDS, 0), build.add(into, offset))
            return []

        loop(build, I64(0), rows, 1, [], copy)
        loop(build, build.mul(rows, size), build.mul(I64(BLOCK), size), 64, [], clear)
        return target.get_dummy_value()

    return _void(5), emit


@inlined
def interleave(context: Any, source: Any, row: Any, into: Any) -> Any:
    """BLOCK rows of 32 numbers as pairs of rows: (BLOCK / 2, 32) words."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        source, row, into = arguments

        def body(pair: Value, nothing: Sums) -> Sums:
            here = build.add(source, build.mul(build.mul(pair, I64(2)), row))
            words = _interleaved(build, _at(build, here, 0, SHORTS, 2), _at(build, build.add(here, row), 0, SHORTS, 2))
            for n in range(2):
                _put(build, words[n], build.add(into, build.mul(pair, I64(128))), 64 * n)
            return []

        loop(build, I64(0), I64(BLOCK // 2), 1, [], body)
        return target.get_dummy_value()

    return _void(3), emit


@inlined
def turn(context: Any, source: Any, row: Any, into: Any, step: Any) -> Any:
    """16 rows of 32 numbers as 16 rows of 16 words, a pair of numbers of each. step: bytes from a row to the next in `into`."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        source, row, into, step = arguments
        rows = [_at(build, build.add(source, build.mul(row, I64(r))), 0, WORDS, 2) for r in range(LANES)]
        for distance in (1, 2, 4, 8):
            low = [i if not i & distance else i - distance + LANES for i in range(LANES)]
            high = [i + distance if not i & distance else i + LANES for i in range(LANES)]
            turned = list(rows)
            for r in range(LANES):
                if not r & distance:
                    one, two = rows[r], rows[r + distance]
                    turned[r] = _shuffle(build, one, two, low)
                    turned[r + distance] = _shuffle(build, one, two, high)
            rows = turned
        for r in range(LANES):
            _put(build, rows[r], build.add(into, build.mul(step, I64(r))))
        return target.get_dummy_value()

    return _void(4), emit


@inlined
def round_rows(context: Any, source: Any, rows: Any, chunks: Any, factors: Any, into: Any, row: Any) -> Any:
    """Rows of `chunks` x 32 float32 numbers, each times its factor, as bfloat16. row: bytes from one to the next in `into`."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        source, rows, chunks, factors, into, row = arguments

        def body(r: Value, nothing: Sums) -> Sums:
            factor = _splat(build, _at(build, build.add(factors, build.mul(r, I64(4))), 0, FLOAT, 4))
            line, out = build.add(source, build.mul(build.mul(r, chunks), I64(128))), build.add(into, build.mul(r, row))

            def part(c: Value, nothing: Sums) -> Sums:
                here = build.add(line, build.mul(c, I64(128)))
                halves = [build.fmul(_at(build, here, 64 * n), factor) for n in range(2)]
                _put(build, _rounded(build, *halves), build.add(out, build.mul(c, I64(64))), 0, 2)
                return []

            return loop(build, I64(0), chunks, 1, [], part)

        loop(build, I64(0), rows, 1, [], body)
        return target.get_dummy_value()

    return _void(6), emit


@inlined
def dots(context: Any, a: Any, a_row: Any, b: Any, b_row: Any, rows: Any, chunks: Any, out: Any) -> Any:
    """out[r] = sum of a[r] x b[r], of rows of `chunks` x 32 numbers, float32."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        a, a_row, b, b_row, rows, chunks, out = arguments
        reduce = foreign(build, "llvm.vector.reduce.fadd.v16f32", FLOAT, FLOAT, NUMBERS)

        def body(r: Value, nothing: Sums) -> Sums:
            lines = build.add(a, build.mul(r, a_row)), build.add(b, build.mul(r, b_row))

            def part(c: Value, sums: Sums) -> Sums:
                words = [_at(build, build.add(line, build.mul(c, I64(64))), 0, WORDS, 2) for line in lines]
                return [_dot(build, sums[0], *words)]

            (total,) = loop(build, I64(0), chunks, 1, [_constant(NUMBERS, 0.0)], part)
            total = build.call(reduce, [FLOAT(0.0), total], fastmath=("reassoc",))
            _put(build, total, build.add(out, build.mul(r, I64(4))), 0, 4)
            return []

        loop(build, I64(0), rows, 1, [], body)
        return target.get_dummy_value()

    return _void(7), emit


# ------------------------------------------------------------------------------------------------- scores and sums


@inlined
def make_scores(
    context: Any, keys: Any, queries: Any, steps: Any, masked: Any, key: Any, query: Any, firsts: Any, out: Any, most: Any
) -> Any:  # fmt: skip
    """Scores of PART keys x BLOCK queries, float32, not scaled, UNSEEN where they are not seen; `most` becomes the largest so far.

    keys: PART of a turned panel; queries: turned; steps: D / 2; the others as in `_where_seen`; most: BLOCK numbers.
    """

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        keys, queries, steps, masked, key, query, firsts, out, most = arguments
        scores = _multiply(build, keys, 4, 64, queries, steps, _nothing())
        (scores,) = _where_seen(build, masked, key, query, firsts, [scores], [UNSEEN])
        for n in range(2):
            largest = _at(build, most, 64 * n)
            for m in range(PART):
                largest = _largest(build, scores[2 * m + n], largest)
                _put(build, scores[2 * m + n], out, 128 * m + 64 * n)
            _put(build, largest, most, 64 * n)
        return target.get_dummy_value()

    return _void(9), emit


@inlined
def soften(context: Any, scores: Any, pairs: Any, factor: Any, state: Any, out: Any) -> Any:
    """2^(factor x (score - most)) of pairs of keys as words, (pairs, BLOCK); `state` goes on.

    state: four times BLOCK numbers: the largest score so far, the one before, the sum of weights so far, and what is made here:
    the share of former sums that is left, since the largest one is another.
    """

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        scores, pairs, factor, state, out = arguments
        factor, minus, sums = _splat(build, factor), [], []
        for n in range(2):
            most, before = _at(build, state, 64 * n), _at(build, state, 128 + 64 * n)
            left = _power(build, build.fmul(build.fsub(before, most), factor))
            _put(build, most, state, 128 + 64 * n)
            _put(build, left, state, 384 + 64 * n)
            minus.append(build.fneg(build.fmul(most, factor)))
            sums.append(build.fmul(_at(build, state, 256 + 64 * n), left))

        def body(pair: Value, sums: Sums) -> Sums:
            here, rows = build.add(scores, build.mul(pair, I64(256))), []
            for m in range(2):
                row = [
                    _power(build, _fma(build, _at(build, here, 128 * m + 64 * n), factor, minus[n])) for n in range(2)
                ]
                sums = [build.fadd(total, weight) for total, weight in zip(sums, row, strict=True)]
                rows.append(_rounded(build, *row))
            for n, words in enumerate(_interleaved(build, *rows)):
                _put(build, words, build.add(out, build.mul(pair, I64(128))), 64 * n)
            return sums

        for n, total in enumerate(loop(build, I64(0), pairs, 1, sums, body)):
            _put(build, total, state, 256 + 64 * n)
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32, types.int64, types.int64), emit


@inlined
def add_products(
    context: Any, a_row: Any, a_step: Any, a: Any, b: Any, steps: Any, out: Any, row: Any, left: Any
) -> Any:
    """out[m] = out[m] x left[m] + sum over steps of word a[m] x the 32 words of b: PART rows of 32 float32 numbers.

    a_row, a_step: constants in the call, bytes; row: bytes from a row of `out` to the next; left: PART numbers, or 0: as they are.
    """
    if not all(isinstance(argument, types.IntegerLiteral) for argument in (a_row, a_step)):
        return None  # not for these arguments; numba tries again with the constants
    row_of_a, step_of_a = int(a_row.literal_value), int(a_step.literal_value)
    scaled = not isinstance(left, types.NoneType)

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        _, _, a, b, steps, out, row, left = arguments
        places = [build.add(out, build.mul(row, I64(m))) for m in range(PART)]
        sums = []
        for m in range(PART):
            numbers = [_at(build, places[m], 64 * n) for n in range(2)]
            if scaled:
                factor = _splat(build, _at(build, left, 4 * m, FLOAT, 4))
                numbers = [build.fmul(number, factor) for number in numbers]
            sums += numbers
        sums = _multiply(build, a, row_of_a, step_of_a, b, steps, sums)
        for m in range(PART):
            for n in range(2):
                _put(build, sums[2 * m + n], places[m], 64 * n)
        return target.get_dummy_value()

    return types.void(a_row, a_step, *[types.int64] * 5, left), emit


@inlined
def make_gradients(
    context: Any, keys: Any, values: Any, queries: Any, given: Any, steps: Any, factor: Any, masked: Any, key: Any, query: Any,
    firsts: Any, state: Any, weights: Any, rows: Any, words: Any,
) -> Any:  # fmt: skip
    """Weights again, and the gradients of scores (but for the factor), of PART keys x BLOCK queries.

    keys, values: PART of turned panels; queries and given (gradients of the result): turned. state: twice BLOCK numbers: the logarithm
    (base 2) of the sum of weights, and the product of result and gradient. weights, rows: (PART, BLOCK) bfloat16, weights and
    gradients; words: gradients again, pairs of keys, (PART / 2, BLOCK) words.
    """

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        keys, values, queries, given, steps, factor, masked, key, query, firsts, state, weights, rows, words = arguments
        factor = _splat(build, factor)
        scores = _multiply(build, keys, 4, 64, queries, steps, _nothing())
        minus = [build.fneg(_at(build, state, 64 * n)) for n in range(2)]
        shares = [_power(build, _fma(build, score, factor, minus[i % 2])) for i, score in enumerate(scores)]
        outer = _multiply(build, values, 4, 64, given, steps, _nothing())
        inner = [_at(build, state, 128 + 64 * n) for n in range(2)]
        slopes = [
            build.fmul(share, build.fsub(one, inner[i % 2]))
            for i, (share, one) in enumerate(zip(shares, outer, strict=True))
        ]
        shares, slopes = _where_seen(build, masked, key, query, firsts, [shares, slopes], [0.0, 0.0])
        rounded = []
        for m in range(PART):
            _put(build, _rounded(build, *shares[2 * m : 2 * m + 2]), weights, 64 * m)
            rounded.append(_rounded(build, *slopes[2 * m : 2 * m + 2]))
            _put(build, rounded[m], rows, 64 * m)
        for pair in range(PART // 2):
            for n, part in enumerate(_interleaved(build, *rounded[2 * pair : 2 * pair + 2])):
                _put(build, part, words, 128 * pair + 64 * n)
        return target.get_dummy_value()

    return types.void(*[types.int64] * 5, types.float32, *[types.int64] * 8), emit
