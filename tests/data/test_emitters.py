"""The words that kernels are written with: a loop that carries numbers, loads of one and of several, a function of LLVM's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import types

from jielong.data.compiled import kernel
from jielong.data.emitters import FLOAT, I64, Value, address, foreign, inlined, load, loop, vector


@inlined
def _sums(context: Any, source: Any, count: Any, out: Any) -> Any:
    """Of `count` float32 numbers, in fours, the root of the sum of each lane."""

    def emit(target: Any, build: Any, signature: Any, arguments: Any) -> Value:
        source, count, out = arguments
        fours = vector(FLOAT, 4)

        def body(i: Value, sums: list[Value]) -> list[Value]:
            return [build.fadd(sums[0], load(build, build.add(source, build.mul(i, I64(4))), FLOAT, 4, 4))]

        (total,) = loop(build, I64(0), count, 4, [fours([0.0] * 4)], body)
        root = build.call(foreign(build, "llvm.sqrt.v4f32", fours, fours), [total])
        build.store(root, build.inttoptr(out, fours.as_pointer())).align = 4
        return target.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@kernel
def _roots(numbers, out):  # type: ignore[no-untyped-def]
    _sums(address(numbers), len(numbers), address(out))


@pytest.mark.parametrize("count", [0, 4, 12])
def test_a_loop_carries_its_sums(count: int) -> None:
    numbers, out = np.arange(count, dtype=np.float32), np.full(4, 7, np.float32)
    _roots(numbers, out)
    np.testing.assert_allclose(out, np.sqrt(numbers.reshape(-1, 4).sum(axis=0)), rtol=1e-6)


def test_one_lane_is_a_number() -> None:
    assert vector(FLOAT, 1) is FLOAT and vector(FLOAT, 4).count == 4
