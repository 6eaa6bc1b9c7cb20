"""Attention of packed rows on the CPU, a tile of queries at a time, with the products left to the matrix library; or by kernels of ours.

torch's fused kernel on the CPU reaches an eighth of what plain matrix products do there (heads of 32, bfloat16: 46 of 380 GFLOP/s on
two cores), needs a mask of all pairs for packed rows, and computes every pair of it. Here the queries of a row are cut into tiles of
TILE; a tile sees keys from the beginning of its first query's document to its own end, and scores outside of that range are never
made. So the future of a row costs nothing, nor do documents that have ended. Scores of a tile fit into the cache: two batched
products and a softmax forward; backward makes the weights again, as flash attention does (arXiv:2205.14135), and keeps nothing of size
T x T. Against the fused kernel, forward and backward: 0.5 of its time for one document a row of 512, 0.35 for four (docs/LOG.md).

Under autocast to bfloat16 scores are bfloat16, as in transformers' eager attention, and softmax and sums are float32 inside; in
any other precision all is float32. The slow twin is `attention.plain_attention`. Where processor and shapes allow it, bfloat16 goes
another way, which rounds less and takes a third of the time: flash.py, whose slow twin is this one.

Shapes: B rows, T tokens, H query heads, G key-value heads, h = H / G, D size of a head.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jielong.model import flash, fused
from jielong.model import fused_kernels as kernels

TILE = 128  # queries; smaller ones make products too small, larger ones compute more of what is not seen


class Tile(NamedTuple):
    """Queries begin to end of some rows, the keys from `first` to `end` that they see, and from where."""

    rows: slice
    begin: int
    end: int
    first: int
    earliest: Tensor  # (rows, queries), int64: the first key that each query sees, counted from `first`


class Plan(list[Tile]):
    """All tiles of packed rows, and the first key that each query sees: (B, T), int32, which does not fall along a row."""

    def __init__(self, earliest_BT: Tensor) -> None:
        super().__init__()
        self.earliest_BT = earliest_BT.to(torch.int32).contiguous()


def tiles(documents_BT: Tensor | None, rows: int, length: int, window: int | None) -> Plan:
    """All tiles of packed rows. documents_BT: number of each token's document; None: a row is one. window: keys a query sees at most."""
    places_T = torch.arange(length)
    earliest_BT = torch.zeros(rows, length, dtype=torch.long)
    if documents_BT is not None:
        begins = torch.ones_like(documents_BT, dtype=torch.bool)
        begins[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        earliest_BT = torch.where(begins, places_T, 0).cummax(dim=1).values
    if window is not None:
        earliest_BT = torch.maximum(earliest_BT, places_T - (window - 1))
    found = Plan(earliest_BT)
    for begin in range(0, length, TILE):
        end = min(begin + TILE, length)
        firsts = (earliest_BT[:, begin] // TILE * TILE).tolist()  # few sizes: the library prepares each one once
        row = 0
        while row < rows:
            after = next((other for other in range(row, rows) if firsts[other] != firsts[row]), rows)
            earliest = (earliest_BT[row:after, begin:end] - firsts[row]).contiguous()
            found.append(Tile(slice(row, after), begin, end, firsts[row], earliest))
            row = after
    return found


def tiled_attention(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: Plan) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what the tiles show: (B, H, T, D), in v's type."""
    if flash.usable(q_BHTD, k_BGTD, v_BGTD):
        return flash.flash_attention(q_BHTD, k_BGTD, v_BGTD, plan.earliest_BT)
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _Tiled.apply(q_BHTD, k_BGTD, v_BGTD, plan)  # type: ignore[no-untyped-call]  # torch's
    return out


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, plan: Plan) -> Tensor:
        rows, _, length, size = q_BHTD.shape
        dtype = torch.bfloat16 if v_BGTD.dtype == torch.bfloat16 else torch.float32
        q = q_BHTD.to(dtype).reshape(rows, k_BGTD.shape[1], -1, length, size)
        k, v = k_BGTD.to(dtype).contiguous(), v_BGTD.to(dtype).contiguous()
        out = torch.empty_like(q)
        for tile in plan:
            q_t, k_t, v_t = _parts(q, k, v, tile)
            weights = _weights(q_t, k_t, tile)
            into = out[tile.rows, :, :, tile.begin : tile.end]
            into.copy_(torch.bmm(weights, v_t).view(into.shape))
        ctx.save_for_backward(q, k, v)
        ctx.plan, ctx.types = plan, (q_BHTD.dtype, k_BGTD.dtype, v_BGTD.dtype)
        return out.view(q_BHTD.shape).to(v_BGTD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        given = outer[0].to(q.dtype).reshape(q.shape)
        dq, (rows, groups, length, size) = torch.empty_like(q), k.shape
        dk, dv = torch.zeros(2, rows, groups, size, length)  # tokens last: products of this shape are the faster ones
        with torch.autocast("cpu", enabled=False):  # it may be called inside of one
            for tile in ctx.plan:
                q_t, k_t, v_t = _parts(q, k, v, tile)
                given_t = _queries(given, tile)
                weights = _weights(q_t, k_t, tile)
                dv_t, dk_t = (x[tile.rows, :, :, tile.first : tile.end] for x in (dv, dk))
                dv_t += torch.bmm(given_t.transpose(1, 2), weights).view(dv_t.shape)
                d_weights = torch.bmm(given_t, v_t.transpose(1, 2))
                d_scores = _softened_backward(weights, d_weights, tile, 1 / math.sqrt(q.shape[-1]))
                into = dq[tile.rows, :, :, tile.begin : tile.end]
                into.copy_(torch.bmm(d_scores, k_t).view(into.shape))
                dk_t += torch.bmm(q_t.transpose(1, 2), d_scores).view(dk_t.shape)
        of_q, of_k, of_v = ctx.types
        dk, dv = (x.transpose(2, 3).to(kind) for x, kind in ((dk, of_k), (dv, of_v)))
        return dq.flatten(1, 2).to(of_q), dk, dv, None


def _queries(x: Tensor, tile: Tile) -> Tensor:
    """(rows x G, h x queries, D) of (B, G, h, T, D)."""
    part = x[tile.rows, :, :, tile.begin : tile.end]
    return part.reshape(part.shape[0] * part.shape[1], -1, part.shape[-1])


def _parts(q: Tensor, k: Tensor, v: Tensor, tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
    k_t, v_t = (x[tile.rows, :, tile.first : tile.end].flatten(0, 1) for x in (k, v))
    return _queries(q, tile), k_t, v_t


def _weights(q_t: Tensor, k_t: Tensor, tile: Tile) -> Tensor:
    """softmax of the scores, (rows x G, h x queries, keys)."""
    scores = torch.bmm(q_t, k_t.transpose(1, 2))
    groups = len(scores) // len(tile.earliest)
    arrays = fused.array(scores), fused.array(tile.earliest), groups, np.float32(1 / math.sqrt(q_t.shape[-1]))
    fused.in_threads(lambda a, b: kernels.soften(*arrays, a, b), len(scores), scores.numel())
    return scores


def _softened_backward(weights: Tensor, given: Tensor, tile: Tile, factor: float) -> Tensor:
    """The gradient of the scores, in the memory of `given`."""
    groups = len(weights) // len(tile.earliest)
    arrays = fused.array(weights), fused.array(given), fused.array(tile.earliest), groups, np.float32(factor)
    fused.in_threads(lambda a, b: kernels.soften_backward(*arrays, a, b), len(weights), weights.numel())
    return given
