"""Words of LLVM's language for numba: what kernels of vectors are written with, where numba has none of its own.

`inlined` makes a function that a compiled kernel calls, whose body is written by an emitter: Python that appends instructions to
LLVM's builder. `loop` is what most of them are made of. Addresses are numbers (int64), as `address` gives them, so that one
compiled kernel serves tensors of any layout.

infer/compiled/vectors.py makes products for decoding of these, model/flash_products.py those of attention in training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # the package has no types
from numba.core import cgutils
from numba.extending import intrinsic

from jielong.data.compiled import kernel

I8, I16, I32, I64, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
Value = Any  # of llvmlite's builder, which has no types of its own


def inlined(function: Any) -> Any:
    """A function that kernels call, whose body is written for the compiler: numba's `intrinsic`."""
    return intrinsic(function)


def foreign(build: Any, name: str, result: Any, *arguments: Any) -> Value:
    """A function that LLVM or the C library has."""
    return cgutils.get_or_insert_function(build.module, ir.FunctionType(result, arguments), name)  # type: ignore[no-untyped-call]


def vector(kind: Any, lanes: int) -> Any:
    """The LLVM type of `lanes` values."""
    return kind if lanes == 1 else ir.VectorType(kind, lanes)


def load(build: Any, address: Value, kind: Any, lanes: int, align: int) -> Value:
    """`lanes` values of an LLVM type at an address."""
    loaded = build.load(build.inttoptr(address, vector(kind, lanes).as_pointer()))
    loaded.align = align
    return loaded


def loop(
    build: Any, start: Value, end: Value, step: int, carried: list[Value], body: Callable[[Value, list[Value]], list[Value]]
) -> list[Value]:  # fmt: skip
    """for i in range(start, end, step): carried = body(i, carried). Returns what is carried out of it."""
    before, inside, after = build.block, build.append_basic_block("inside"), build.append_basic_block("after")
    build.cbranch(build.icmp_signed("<", start, end), inside, after)
    build.position_at_end(inside)
    index = build.phi(I64)
    index.add_incoming(start, before)
    old = [build.phi(value.type) for value in carried]
    new = body(index, list(old))
    following = build.add(index, I64(step))
    index.add_incoming(following, build.block)
    for phi, first, again in zip(old, carried, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(again, build.block)
    last = build.block
    build.cbranch(build.icmp_signed("<", following, end), inside, after)
    build.position_at_end(after)
    results = []
    for first, again in zip(carried, new, strict=True):
        result = build.phi(first.type)
        result.add_incoming(first, before)
        result.add_incoming(again, last)
        results.append(result)
    return results


@kernel
def address(array: np.ndarray) -> np.int64:
    """Where an array begins; signed, as what is added to it."""
    return np.int64(array.ctypes.data)
