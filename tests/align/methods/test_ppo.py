"""PPO on our model: log-probabilities, KL and values of the answers' tokens, and what they are read from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.align.methods.answering import Answerer
from jielong.align.methods.ppo import PPO, laid
from jielong.align.rewards import OpenedReward
from jielong.tokenizer.folder import TokenizerFolder
from tests.align.methods.conftest import Opened, config_of, log_probability
from tests.align.methods.test_online import ANSWERS, END, REWARD, WORTH, row

ROWS = [row(5, 9, 12), row(6, 8), row(6, 9), row(70, 71, 72, 73)]
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def made(opened: Opened, base: Path, tokenizer: TokenizerFolder, **settings: Any) -> Any:
    config = config_of("ppo", rewards=REWARD, max_new_tokens=3, **settings)
    engine, before = opened(config, head="value", moved=0.02)
    reward = OpenedReward("planted", 1.0, (), lambda prompts, texts, ended, columns: WORTH[: len(texts)])
    answerer = Answerer(
        config, lambda *given: [list(answer) for answer in ANSWERS], [reward], tokenizer, frozenset({END}), 1
    )
    return PPO(config, engine, answerer, base), engine, before


def test_prompts_with_their_answers_as_one_tensor() -> None:
    ids, starts, mask = laid([[1, 2], [3]], [[4], [5, 6]], torch.device("cpu"))
    assert ids.tolist() == [[1, 2, 4], [3, 5, 6]] and starts.tolist() == [2, 1] and mask.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("adapter", [None, LORA])
def test_a_rollout_is_that_by_hand(opened: Opened, base: Path, tokenizer: TokenizerFolder, adapter: Any) -> None:
    own, engine, before = made(opened, base, tokenizer, beta=0.2, temperature=1.0, adapter=adapter)
    found = own._rollout(ROWS, 1)
    figures = own._figures.take()
    model, distances = engine.model.eval(), []
    for number, answer in enumerate(ANSWERS):
        prompt = ROWS[number]["prompt_ids"]
        logs = [log_probability(model, prompt + answer[:place], [token]) for place, token in enumerate(answer)]
        other = [log_probability(before, prompt + answer[:place], [token]) for place, token in enumerate(answer)]
        assert found.old_BT[number, : len(answer)].tolist() == pytest.approx(logs, rel=1e-4, abs=1e-5)
        assert found.mask_BT[number].sum() == len(answer)
        distances.append(sum(logs) - sum(other))
        # the value head began at zero and was moved: what it says is read from the state before each token
        with torch.no_grad():
            hidden, _ = model.model(torch.tensor([prompt + answer]))
            values = model.value(hidden)[0, len(prompt) - 1 : -1, 0]
        assert torch.allclose(found.values_BT[number, : len(answer)], values, atol=1e-5)
    assert figures["kl"] == pytest.approx(sum(distances) / 4, rel=1e-3, abs=1e-5)
    assert figures["reward"] == pytest.approx(sum(WORTH) / 4)


def test_at_the_first_update_ratios_are_one_and_gradients_reach_policy_and_value(
    opened: Opened, base: Path, tokenizer: TokenizerFolder
) -> None:
    own, engine, _ = made(opened, base, tokenizer)
    rollout = own._rollout(ROWS, 1)
    tokens = float(rollout.mask_BT.sum())
    loss, figures, count = own._loss(rollout, tokens)
    assert count == tokens and figures["clipped"] == 0
    assert figures["policy_loss"] == pytest.approx(-float(rollout.advantages_BT.sum()) / tokens, abs=1e-4)
    loss.backward()
    assert engine.model.value.weight.grad.abs().sum() > 0
    assert engine.model.lm_head.weight.grad.abs().sum() > 0


def test_parts_add_up_to_the_whole(opened: Opened, base: Path, tokenizer: TokenizerFolder) -> None:
    own, *_ = made(opened, base, tokenizer)
    rollout = own._rollout(ROWS, 1)
    tokens = float(rollout.mask_BT.sum())
    parts = sum(float(own._loss(rollout.part(at, at + 2), tokens)[0].detach()) for at in (0, 2))
    assert parts == pytest.approx(float(own._loss(rollout, tokens)[0].detach()), rel=1e-5, abs=1e-7)
