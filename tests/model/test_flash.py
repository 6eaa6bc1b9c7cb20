"""Attention by products of pairs, forward and gradients: against float32, against tiles of matrix products, whatever the threads.

Tolerances are those of test_tiles.py for bfloat16; SHARE is of a norm (weights, gradients of scores and results have 8 bits),
FLOOR what is added to it, since with one key gradients of queries and keys are nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from jielong.model import flash, tiles
from jielong.model.attention import Kind, Sight, attend
from tests.model.test_tiles import BFLOAT16, agree, packed, random, run, sight

SHARE, FLOOR = 0.006, 0.1
SHAPES = ((32, 4, 2), (32, 6, 1), (32, 3, 3), (64, 4, 2), (96, 2, 1))  # size, query heads, key-value heads
LENGTHS = (1, 7, 31, 32, 33, 64, 129, 300)

fast = pytest.mark.skipif(not flash.SUPPORTED, reason="no AVX512_BF16 here")


def make(rows: int, length: int, size: int = 32, heads: int = 4, groups: int = 2) -> list[Tensor]:
    """In bfloat16: queries and keys as they come from a rotation, values as they come from a projection."""
    parts = random(rows, heads, length, size), random(rows, groups, length, size, seed=1), random(rows, length, groups, size, seed=2)  # fmt: skip
    return [x.bfloat16() for x in (parts[0], parts[1], parts[2].transpose(1, 2))]


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor that has no such instruction."""
    with monkeypatch.context() as patch:
        patch.setattr(flash, "SUPPORTED", False)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check(parts: list[Tensor], seen: Sight, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Result and gradients against float32 on the same numbers; not further from it than the other way by tiles."""
    assert flash.usable(*parts)
    ours, exact = run("tiles", parts, seen, window), run("eager", [x.float() for x in parts], seen, window)
    with without(monkeypatch):
        plain = run("tiles", parts, seen, window)
    assert all(x.dtype == torch.bfloat16 for x in ours)
    for one, other, right in zip(ours, plain, exact, strict=True):
        agree([one.float()], [right], BFLOAT16)
        agree([one.float()], [other.float()], BFLOAT16)
        error, bound = ((x.float() - right).norm() / (right.norm() + FLOOR) for x in (one, other))
        assert error <= SHARE and error <= 1.1 * bound + 1e-3


@fast
@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.parametrize("window", [None, 1, 3, 140])
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_plain_arithmetic(
    length: int, window: int | None, documents: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(make(3, length), sight(length, packed(length) if documents else None), window, monkeypatch)


@fast
@pytest.mark.parametrize(("size", "heads", "groups"), SHAPES)
def test_sizes_and_groups(size: int, heads: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(make(2, 150, size, heads, groups), sight(150, packed(150)[1:]), None, monkeypatch)


@fast
def test_large_scores() -> None:
    """The largest one comes last, or first, by far; nothing overflows, nothing is lost."""
    q, k, v = make(1, 100)
    for order in (torch.linspace(0.1, 30, 100), torch.linspace(30, 0.1, 100)):
        parts = [q, (k.float() * order[:, None]).bfloat16(), v]
        ours, exact = run("tiles", parts, sight(100, None), None), run("eager", [x.float() for x in parts], sight(100, None), None)  # fmt: skip
        agree([x.float() for x in ours], exact, BFLOAT16)


@fast
def test_bit_for_bit_whatever_the_threads_and_twice() -> None:
    parts, seen = make(4, 300, heads=8), sight(300, packed(300)[[0, 1, 2, 1]])
    assert parts[0].numel() >= flash.fused.LEAST  # else one thread does all
    found = []
    for count in (1, 2, 2, 3):
        with threads(count):
            found.append(run("tiles", parts, seen, None))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@fast
def test_memory_of_any_layout() -> None:
    """Queries, keys, values and the gradient in other orders, spread out, or with gaps: the same numbers."""
    parts, seen = make(2, 70), sight(70, None)
    expected = run("tiles", parts, seen, None)
    q, k, v = parts
    others = [q.transpose(1, 2).contiguous().transpose(1, 2), k.transpose(2, 3).contiguous().transpose(2, 3), torch.cat([v, v], 3)[..., :32]]  # fmt: skip
    others = [x.detach().requires_grad_() for x in others]
    out = attend(*others, seen, Kind("tiles"))  # type: ignore[arg-type]  # three of them
    outer = random(*out.shape, seed=9).bfloat16()
    out.backward(outer.transpose(2, 3).contiguous().transpose(2, 3))
    assert all(torch.equal(one, two) for one, two in zip([out, *(x.grad for x in others)], expected, strict=True))
    spread = [q[:, :1].expand(-1, 4, -1, -1), k[:1].expand(2, -1, -1, -1), v[:1].expand(2, -1, -1, -1)]
    agree(run("tiles", spread, seen, None), run("tiles", [x.contiguous() for x in spread], seen, None), 0.0)


@fast
def test_types_that_differ() -> None:
    """float32 queries and keys with bfloat16 values: rounded on the way in, gradients in their types."""
    q, k, v = make(2, 40)
    mixed = run("tiles", [q.float(), k.float(), v], sight(40, None), None)
    assert [x.dtype for x in mixed] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    agree([x.float() for x in mixed], [x.float() for x in run("tiles", [q, k, v], sight(40, None), None)], 0.0)


@fast
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_those_who_see_it(bad: float) -> None:
    """In a key: the queries from there on to the end of the document, of that row and group, and no others."""
    q, k, v = (x.abs() for x in make(2, 40))
    k[1, 0, 7, 2] = bad
    out = attend(q, k, v, sight(40, torch.arange(40)[None].expand(2, -1) // 20), Kind("tiles"))
    spoiled = ~out.isfinite().all(dim=-1)
    expected = torch.zeros_like(spoiled)
    expected[1, :2, 7:20] = True
    assert torch.equal(spoiled, expected)


@fast
def test_the_result_lies_as_the_projection_reads_it() -> None:
    out = attend(*make(2, 40), sight(40, None), Kind("tiles"))  # type: ignore[arg-type]  # three of them
    assert out.transpose(1, 2).is_contiguous()


def test_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, small = make(1, 8), make(1, 8, size=48)
    assert flash.usable(*parts) == flash.SUPPORTED
    assert not flash.usable(*small) and not flash.usable(*(x.float() for x in parts))
    with without(monkeypatch):
        assert not flash.usable(*parts)
    monkeypatch.setattr(flash._Flash, "apply", None)
    attend(*small, sight(8, None), Kind("tiles"))  # type: ignore[arg-type]  # three of them


def test_the_plan_knows_the_first_keys() -> None:
    plan = tiles.tiles(packed(300), 3, 300, 140)
    assert plan.earliest_BT.dtype == torch.int32
    for tile in plan:
        assert torch.equal(plan.earliest_BT[tile.rows, tile.begin : tile.end], (tile.earliest + tile.first).int())
