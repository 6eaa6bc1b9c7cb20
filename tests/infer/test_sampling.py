"""Each sampling step gives what Hugging Face's processor of the same name gives."""

from __future__ import annotations

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from jielong.infer.sampling import choose, keep_top_k, keep_top_p, penalise_repetition

LOGITS = torch.randn(50, generator=torch.Generator().manual_seed(0)) * 3
SEEN = torch.tensor([3, 7, 49])
MARKED = torch.zeros(50, dtype=torch.bool).index_fill(0, SEEN, True)


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.5])
def test_repetition_penalty_equals_theirs(penalty: float) -> None:
    expected = RepetitionPenaltyLogitsProcessor(penalty)(SEEN[None], LOGITS[None])[0]
    assert torch.equal(penalise_repetition(LOGITS, MARKED, penalty), expected)


@pytest.mark.parametrize("k", [1, 5, 50, 99])
def test_top_k_equals_theirs(k: int) -> None:
    assert torch.equal(keep_top_k(LOGITS, k), TopKLogitsWarper(min(k, 50))(SEEN[None], LOGITS[None])[0])


@pytest.mark.parametrize("p", [0.01, 0.5, 0.9, 0.999])
def test_top_p_equals_theirs(p: float) -> None:
    assert torch.equal(keep_top_p(LOGITS, p), TopPLogitsWarper(p)(SEEN[None], LOGITS[None])[0])


def test_off_means_untouched() -> None:
    assert keep_top_k(LOGITS, None) is LOGITS and keep_top_p(LOGITS, None) is LOGITS
    assert keep_top_p(LOGITS, 1.0) is LOGITS
    assert penalise_repetition(LOGITS, MARKED, 1.0) is LOGITS
    assert torch.equal(penalise_repetition(LOGITS, torch.zeros_like(MARKED), 1.5), LOGITS)


def test_top_p_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8: p = 0.7 needs the first two (1/2 is not enough)."""
    kept = keep_top_p(torch.tensor([0.5, 0.25, 0.125, 0.125]).log(), 0.7)
    assert kept.isfinite().tolist() == [True, True, False, False]


def test_greedy_draws_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert choose(LOGITS[None], MARKED[None], 0.0, None, None, 1.0, [generator]).tolist() == [int(LOGITS.argmax())]
    assert torch.equal(generator.get_state(), before)


def test_hardly_any_temperature_is_none() -> None:
    assert choose(LOGITS[None], MARKED[None], 1e-300, None, None, 1.0, []).tolist() == [int(LOGITS.argmax())]


def test_draws_follow_the_distribution_and_the_seed() -> None:
    """Of 4,000 draws from probabilities 0.7, 0.2, 0.1 each share is within 4 standard deviations."""
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    generator = torch.Generator().manual_seed(5)
    seen = torch.zeros(1, 3, dtype=torch.bool)
    draws = [int(choose(logits[None], seen, 1.0, None, None, 1.0, [generator])) for _ in range(4000)]
    for token, share in enumerate((0.7, 0.2, 0.1)):
        assert abs(draws.count(token) / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    again = torch.Generator().manual_seed(5)
    assert draws[:50] == [int(choose(logits[None], seen, 1.0, None, None, 1.0, [again])) for _ in range(50)]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize(("k", "p"), [(None, None), (5, None), (None, 0.8), (7, 0.6)])
def test_rows_together_get_what_each_gets_alone(temperature: float, k: int | None, p: float | None) -> None:
    """The same tokens from the same generators, whatever the neighbours; four draws in a row."""
    logits_BV = torch.randn(6, 50, generator=torch.Generator().manual_seed(3)) * 2
    seen_BV = torch.rand(6, 50, generator=torch.Generator().manual_seed(4)) < 0.2
    together = [torch.Generator().manual_seed(seed) for seed in range(6)]
    apart = [torch.Generator().manual_seed(seed) for seed in range(6)]
    for _ in range(4):
        found = choose(logits_BV, seen_BV, temperature, k, p, 1.3, together)
        for row in range(6):
            one = slice(row, row + 1)
            assert choose(logits_BV[one], seen_BV[one], temperature, k, p, 1.3, [apart[row]]).tolist() == [
                int(found[row])
            ]
