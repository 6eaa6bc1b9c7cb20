"""Shares of the work, by arithmetic; the exchange itself is tested with Muon, in two processes (test_muon.py)."""

from __future__ import annotations

import pytest
import torch

from jielong.train.optimizers import exchange
from jielong.train.optimizers.exchange import Ranks, buckets, cut, owners, rows_of


@pytest.mark.parametrize(("high", "size"), [(7, 2), (8, 2), (5, 4), (3, 8), (1, 2), (10, 3)])
def test_rows_are_those_of_torch_chunk(high: int, size: int) -> None:
    chunks = [len(part) for part in torch.arange(high).chunk(size)]
    assert [rows_of(high, Ranks(0, size), rank) for rank in range(size)] == chunks + [0] * (size - len(chunks))


def test_costs_are_balanced_and_each_has_one_owner() -> None:
    shapes = [(8, 8)] * 5 + [(4, 8)] * 6 + [(16, 16)]
    found = owners(shapes, 3)
    loads = [
        sum(min(s) ** 2 * max(s) for s, owner in zip(shapes, found, strict=True) if owner == rank) for rank in range(3)
    ]
    assert len(found) == 12 and loads[found[11]] == 16**3  # the largest alone
    others = sorted(load for rank, load in enumerate(loads) if rank != found[11])
    assert others[1] - others[0] <= 8**3


def test_buckets_hold_all_once_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BUCKET", 20)
    shapes = [(4, 4), (2, 4), (4, 4), (2, 4), (9, 9)]
    found = list(buckets(shapes, 2))
    assert found == [[1, 3, 0], [2], [4]]
    assert list(buckets([], 2)) == []


def test_cut() -> None:
    assert [part.tolist() for part in cut(torch.arange(6), [2, 0, 3])] == [[0, 1], [], [2, 3, 4]]
