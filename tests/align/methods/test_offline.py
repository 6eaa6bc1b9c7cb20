"""TRL's losses on our model, against arithmetic by hand on answers of two and three tokens; gradients reach our parameters."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.align.methods.offline import Offline
from jielong.model.heads import score
from jielong.model.transformer import CausalLM
from tests.align.methods.conftest import OTHER, PAIR, Opened, config_of, log_probability

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
ROWS = [PAIR, OTHER]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logs(model: CausalLM, row: dict[str, Any]) -> tuple[float, float]:
    """Log-probabilities of the chosen and of the rejected answer."""
    return (
        log_probability(model, row["prompt_ids"], row["chosen_ids"]),
        log_probability(model, row["prompt_ids"], row["rejected_ids"]),
    )


def by_hand(method: str, policy: CausalLM, base: CausalLM) -> float:
    """The loss of ROWS, from log-probabilities by our own model."""
    losses = []
    for row in ROWS:
        (chosen, rejected), (base_chosen, base_rejected) = logs(policy, row), logs(base, row)
        one, other = len(row["chosen_ids"]), len(row["rejected_ids"])
        margin = (chosen - base_chosen) - (rejected - base_rejected)
        if method == "dpo":
            losses.append(-math.log(sigmoid(0.1 * margin)))
        elif method == "ipo":  # by token, as its authors compute it
            mean = (chosen - base_chosen) / one - (rejected - base_rejected) / other
            losses.append((mean - 1 / (2 * 0.1)) ** 2)
        elif method == "robust":
            right, wrong = -math.log(sigmoid(0.1 * margin)), -math.log(sigmoid(-0.1 * margin))
            losses.append((0.9 * right - 0.1 * wrong) / (1 - 2 * 0.1))
        elif method == "simpo":
            losses.append(-math.log(sigmoid(2.0 * (chosen / one - rejected / other) - 0.5 * 2.0)))
        else:
            odds = [mean - math.log1p(-math.exp(mean)) for mean in (chosen / one, rejected / other)]
            losses.append(-0.1 * math.log(sigmoid(odds[0] - odds[1])))
    if method == "orpo":  # beside the likelihood of the chosen answers with their prompts
        return sum(losses) / 2 + likelihood(policy)
    return sum(losses) / 2


def likelihood(policy: CausalLM) -> float:
    """Minus the mean log-probability of a token of the prompts with their chosen answers, the first ones aside."""
    whole = [row["prompt_ids"] + row["chosen_ids"] for row in ROWS]
    return -sum(log_probability(policy, ids[:1], ids[1:]) for ids in whole) / sum(len(ids) - 1 for ids in whole)


@pytest.mark.parametrize("adapter", [None, LORA])
@pytest.mark.parametrize("method", ["dpo", "ipo", "robust", "simpo", "orpo"])
def test_the_loss_of_pairs_is_that_by_hand(
    opened: Opened, base: Path, tokenizer: Any, tmp_path: Path, method: str, adapter: Any
) -> None:
    config = config_of(method, adapter=adapter)
    engine, before = opened(config, moved=0.02)
    own = Offline(config, method, engine, tokenizer.home, 0, base, tmp_path, 1)
    expected = by_hand(method, engine.model.eval(), before)
    loss = own._loss(ROWS)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    touched = [
        name for name, one in engine.model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0
    ]
    assert touched and all((".lora_" in name) == (adapter is not None) for name in touched)


def test_at_its_base_a_policy_has_no_margin(opened: Opened, base: Path, tokenizer: Any, tmp_path: Path) -> None:
    config = config_of("dpo", adapter=LORA)
    engine, _ = opened(config)
    found = Offline(config, "dpo", engine, tokenizer.home, 0, base, tmp_path, 1).measure(ROWS)
    assert found["loss"] == pytest.approx(math.log(2), abs=1e-5) and found["margin"] == pytest.approx(0, abs=1e-5)


def test_kto_weighs_good_and_bad_by_how_far_the_policy_has_gone(
    opened: Opened, base: Path, tokenizer: Any, tmp_path: Path
) -> None:
    config = config_of("kto", desirable_weight=1.5)
    engine, before = opened(config, moved=0.02)
    own = Offline(config, "kto", engine, tokenizer.home, 0, base, tmp_path, 1)
    good = {"prompt_ids": PAIR["prompt_ids"], "completion_ids": PAIR["chosen_ids"], "label": True}
    bad = {"prompt_ids": OTHER["prompt_ids"], "completion_ids": OTHER["rejected_ids"], "label": False}
    policy = engine.model.eval()

    def ratio(row: Any, answer: Any) -> float:
        return log_probability(policy, row["prompt_ids"], answer) - log_probability(before, row["prompt_ids"], answer)

    far = max(0.0, (ratio(good, bad["completion_ids"]) + ratio(bad, good["completion_ids"])) / 2)
    first = 1.5 * (1 - sigmoid(0.1 * (ratio(good, good["completion_ids"]) - far)))
    second = 1 - sigmoid(0.1 * (far - ratio(bad, bad["completion_ids"])))
    assert float(own._loss([good, bad]).detach()) == pytest.approx((first + second) / 2, rel=1e-4)


@pytest.mark.parametrize("margin", [None, 0.7])
def test_a_reward_models_loss_is_that_by_hand(
    opened: Opened, base: Path, tokenizer: Any, tmp_path: Path, margin: float | None
) -> None:
    config = config_of("reward", center=0.01)
    engine, _ = opened(config, head="score")
    rows = [row | {"margin": margin} for row in ROWS]
    own = Offline(config, "reward", engine, tokenizer.home, 0, base, tmp_path, 1)
    own.see([*ROWS, *rows])  # where one has a margin, the others have 0
    found = []
    for row in rows:
        scores = [
            float(
                score(
                    engine.model,
                    torch.tensor([row["prompt_ids"] + row[side]]),
                    torch.tensor([len(row["prompt_ids"] + row[side])]),
                ).detach()
            )
            for side in ("chosen_ids", "rejected_ids")
        ]
        found.append((-math.log(sigmoid(scores[0] - scores[1] - (margin or 0))), (sum(scores)) ** 2))
    expected = sum(loss for loss, _ in found) / 2 + 0.01 * sum(square for _, square in found) / 2
    loss = own._loss(rows)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
    loss.backward()  # type: ignore[no-untyped-call]
    head: Any = engine.model.score
    assert head.weight.grad is not None and engine.model.model.embed_tokens.weight.grad is not None


def test_padding_changes_nothing(opened: Opened, base: Path, tokenizer: Any, tmp_path: Path) -> None:
    """Pairs together are filled up to one length; alone they are not."""
    config = config_of("dpo")
    engine, _ = opened(config, moved=0.02)
    own = Offline(config, "dpo", engine, tokenizer.home, 0, base, tmp_path, 1)
    long = {"prompt_ids": list(range(20, 50)), "chosen_ids": list(range(50, 80)), "rejected_ids": [7], "margin": None}
    together = float(own._loss([PAIR, long]).detach())
    assert together == pytest.approx(float((own._loss([PAIR]) + own._loss([long])).detach()) / 2, rel=1e-5)
