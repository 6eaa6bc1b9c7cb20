"""Tiles of packed rows: what they show, and attention over them against plain arithmetic in float64.

Tolerances: FLOAT32 products and sums of at most 300 numbers; BFLOAT16 scores, weights and sums of 8 bits.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jielong.model import tiles as tiles_module
from jielong.model.attention import Kind, Sight, attend
from jielong.model.tiles import TILE, tiled_attention, tiles

FLOAT32, BFLOAT16 = 1e-5, 0.02
LENGTHS = (1, 7, TILE - 1, TILE, TILE + 33, 2 * TILE + 1)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(length: int) -> Tensor:
    """Three rows: one document; documents of 50; one token each at first, then one that begins in the middle of a tile."""
    places = torch.arange(length)
    return torch.stack([torch.zeros_like(places), places // 50, places.clamp(max=min(length - 1, TILE + 10))])


def run(kernel: str, parts: list[Tensor], sight: Sight, window: int | None) -> list[Tensor]:
    """The result, and the gradients of queries, keys and values."""
    parts = [x.clone().requires_grad_() for x in parts]
    out = attend(*parts, sight, Kind(kernel, window))  # type: ignore[arg-type]  # three of them
    out.backward(random(*out.shape, seed=9).to(out.dtype))
    return [out.detach(), *(x.grad for x in parts if x.grad is not None)]


def make(rows: int, length: int, size: int = 6, heads: int = 6, groups: int = 2) -> list[Tensor]:
    """Queries as they come from a rotation, keys and values as they come from a projection."""
    q, k = random(rows, heads, length, size), random(rows, groups, length, size, seed=1)
    return [q, k, random(rows, length, groups, size, seed=2).transpose(1, 2)]


def agree(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for one, two in zip(ours, theirs, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape
        assert (one.double() - two.double()).abs().max() <= tolerance * (1 + two.double().abs().max())


def sight(length: int, documents: Tensor | None) -> Sight:
    places = torch.arange(length)
    return Sight(places, places, True, documents)


@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.parametrize("window", [None, 1, 3, 140])
@pytest.mark.parametrize("length", LENGTHS)
def test_every_query_sees_what_the_mask_shows(length: int, window: int | None, documents: bool) -> None:
    numbers = packed(length) if documents else None
    seen = torch.zeros(3, length, length, dtype=torch.bool)
    for tile in tiles(numbers, 3, length, window):
        assert tile.end - tile.begin <= TILE and tile.first % TILE == 0
        assert tile.earliest.shape == (len(seen[tile.rows]), tile.end - tile.begin) and tile.earliest.is_contiguous()
        for row, firsts in zip(range(3)[tile.rows], tile.earliest.tolist(), strict=True):
            for query, first in enumerate(firsts, tile.begin):
                assert first >= 0 and not seen[row, query].any()  # once
                seen[row, query, tile.first + first : query + 1] = True
    assert torch.equal(seen, sight(length, numbers)._mask(window)[:, 0].expand(3, -1, -1))


def test_documents_that_have_ended_cost_nothing() -> None:
    documents = torch.arange(3 * TILE)[None] // TILE
    assert [(tile.begin, tile.end, tile.first) for tile in tiles(documents, 1, 3 * TILE, None)] == [
        (0, TILE, 0), (TILE, 2 * TILE, TILE), (2 * TILE, 3 * TILE, 2 * TILE)
    ]  # fmt: skip
    assert [tile.first for tile in tiles(None, 1, 3 * TILE, None)] == [0, 0, 0]
    assert [tile.first for tile in tiles(None, 1, 3 * TILE, 2)] == [
        0,
        0,
        TILE,
    ]  # the first query sees the key before it


@pytest.mark.parametrize("documents", [False, True], ids=["", "documents"])
@pytest.mark.parametrize("window", [None, 3, 140])
@pytest.mark.parametrize("length", LENGTHS)
def test_attention_equals_plain_arithmetic(length: int, window: int | None, documents: bool) -> None:
    seen, parts = sight(length, packed(length) if documents else None), make(3, length)
    plain = run("eager", parts, seen, window)
    agree(run("tiles", parts, seen, window), plain, FLOAT32)
    halves = [x.bfloat16() for x in parts]
    ours, rounded = run("tiles", halves, seen, window), run("eager", [x.float() for x in halves], seen, window)
    assert all(part.dtype == torch.bfloat16 for part in ours)
    agree([part.float() for part in ours], rounded, BFLOAT16)


@pytest.mark.parametrize(("size", "heads", "groups"), [(1, 1, 1), (7, 3, 3), (33, 4, 1), (6, 5, 5)])
def test_sizes_and_groups(size: int, heads: int, groups: int) -> None:
    parts, seen = make(2, 150, size, heads, groups), sight(150, packed(150)[1:])
    agree(run("tiles", parts, seen, None), run("eager", parts, seen, None), FLOAT32)


def test_types_that_differ_and_memory_that_is_shared() -> None:
    """float32 queries and keys with bfloat16 values, as without a compiled rotation; spread out keys and values."""
    q, k, v = make(2, 40)
    mixed = run("tiles", [q, k, v.bfloat16()], sight(40, None), None)
    assert [part.dtype for part in mixed] == [torch.bfloat16, torch.float32, torch.float32, torch.bfloat16]
    agree([x.float() for x in mixed], run("eager", [q, k, v.bfloat16().float()], sight(40, None), None), BFLOAT16)
    wide = [q[:, :1].expand(-1, 6, -1, -1), k[:1].expand(2, -1, -1, -1), v[:1].expand(2, -1, -1, -1)]
    with torch.no_grad():
        ours, plain = (attend(*wide, sight(40, None), Kind(kernel)) for kernel in ("tiles", "eager"))
    agree([ours], [plain], FLOAT32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_reaches_those_who_see_it(bad: float) -> None:
    """In a key: the queries from there on to the end of the document, of that row and group, and no others."""
    q, k, v = (x.abs() for x in make(2, 40))
    k[1, 0, 7, 2] = bad
    documents = torch.arange(40)[None].expand(2, -1) // 20
    out = attend(q, k, v, sight(40, documents.contiguous()), Kind("tiles"))
    spoiled = ~out.isfinite().all(dim=-1)
    expected = torch.zeros_like(spoiled)
    expected[1, :3, 7:20] = True
    assert torch.equal(spoiled, expected)


def test_bit_for_bit_whatever_the_threads() -> None:
    scores, given = random(5, 256, 128), random(5, 256, 128, seed=1)  # torch's products are another matter
    tile = tiles(packed(128)[:1].expand(5, -1), 5, 128, None)[0]
    before, found = torch.get_num_threads(), []
    eye = torch.eye(128).expand(5, -1, -1)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            weights = tiles_module._weights(scores, eye, tile)
            found.append((weights, tiles_module._softened_backward(weights, given.clone(), tile, 0.3)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for other in found[1:] for one, two in zip(found[0], other, strict=True))


def test_back_inside_of_autocast_and_twice() -> None:
    """The way back does not care what is on around it; a second one is torch's error."""
    q, k, v = (x.clone().requires_grad_() for x in make(2, 40))
    out = tiled_attention(q, k, v, tiles(None, 2, 40, None)).square().sum()
    expected = torch.autograd.grad(out, (q, k, v), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(out, (q, k, v))
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    with pytest.raises(RuntimeError, match="a second time"):
        out.backward()
    (first,) = torch.autograd.grad(
        tiled_attention(q, k, v, tiles(None, 2, 40, None)).square().sum(), q, create_graph=True
    )
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_not_with_padding_nor_with_a_cache() -> None:
    q, k, v = make(2, 8)
    padded = Sight(torch.arange(8), torch.arange(8), True, None, torch.tensor([3, 0]))
    agree([attend(q, k, v, padded, Kind("tiles"))], [attend(q, k, v, padded, Kind("eager"))], FLOAT32)
    last = Sight(torch.tensor([7]), torch.arange(8))
    agree([attend(q[:, :, 7:], k, v, last, Kind("tiles"))], [attend(q[:, :, 7:], k, v, last, Kind("eager"))], FLOAT32)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # and does so itself
def test_not_in_what_torch_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = make(2, 8)
    seen = sight(8, packed(8)[:2])
    expected = attend(q, k, v, seen, Kind("tiles"))
    monkeypatch.setattr(tiles_module._Tiled, "apply", None)
    compiled = torch.compile(
        lambda q, k, v: attend(q, k, v, sight(8, seen.documents_BT), Kind("tiles")), backend="eager"
    )
    agree([compiled(q, k, v)], [expected], FLOAT32)
