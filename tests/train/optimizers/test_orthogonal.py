"""Newton-Schulz in runs against one matrix at a time, written plainly, and against what it is for."""

from __future__ import annotations

import pytest
import torch

from jielong.model import memory_of_optimizers
from jielong.train.optimizers import orthogonal as module
from jielong.train.optimizers.orthogonal import orthogonal, runs


def plain(matrix: torch.Tensor) -> torch.Tensor:
    """The slow twin: one matrix, operators only."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 12), (2, 12, 5), (4, 1, 7)])
def test_many_equal_one_by_one(shape: tuple[int, int, int]) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = orthogonal(given.unbind(0), torch.float64)
    for matrix, expected in zip(found, given, strict=True):
        torch.testing.assert_close(matrix, plain(expected), rtol=1e-10, atol=1e-12)


def test_singular_values_come_to_about_one() -> None:
    given = torch.randn(2, 20, 40, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(torch.stack(list(orthogonal(given.unbind(0), torch.float32))))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    exact = torch.linalg.svdvals(given)
    assert float(exact.max() / exact.min()) > 3


def test_zero_stays_zero() -> None:
    assert not orthogonal([torch.zeros(3, 4)], torch.bfloat16)[0].any()


def test_runs_are_of_one_shape_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RUN", 24)
    found = list(runs([(2, 4), (3, 3), (2, 4), (2, 4), (2, 4), (9, 9)]))
    assert found == [[0, 2, 3], [4], [1], [5]]


def test_the_given_ones_stay_and_results_are_laid_out_for_products() -> None:
    given = [torch.ones(5, 3), torch.full((5, 3), 2.0)]
    found = orthogonal(given, torch.bfloat16)
    assert [m.shape for m in found] == [(5, 3)] * 2 and found[0].dtype == torch.bfloat16
    assert given[1].sum() == 30 and found[0].mT.is_contiguous()


def test_the_plan_knows_the_bound() -> None:
    assert memory_of_optimizers.RUN == module.RUN
