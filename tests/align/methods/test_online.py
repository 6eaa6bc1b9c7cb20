"""GRPO and RLOO: TRL's advantages and losses on answers that we planted, by hand; and a policy that learns what is rewarded."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.align.methods.answering import Answerer
from jielong.align.methods.online import Online, sliced
from jielong.align.rewards import OpenedReward
from jielong.errors import TrainingError
from jielong.tokenizer.folder import TokenizerFolder
from tests.align.methods.conftest import Opened, config_of, log_probability

LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}
REWARD = [{"built_in": "length"}]
END = 7
ANSWERS = [[20, 21, END], [30, END], [40, END], [50, 51, 52]]  # the last one did not end; two for each prompt
WORTH = [1.0, 0.0, 0.25, 0.75]


def row(*ids: int) -> dict[str, Any]:
    messages = orjson.dumps([{"role": "user", "content": "问"}]).decode()
    return {"prompt_ids": list(ids), "messages": messages, "columns": "{}"}


ROWS = [row(5, 9, 12), row(6, 8)]


def made(opened: Opened, base: Path, tokenizer: TokenizerFolder, folder: Path, method: str, **settings: Any) -> Any:
    config = config_of(method, rewards=REWARD, answers=2, max_new_tokens=3, **settings)
    engine, before = opened(config, moved=0.02)
    reward = OpenedReward("planted", 1.0, (), lambda prompts, texts, ended, columns: WORTH[: len(texts)])
    answerer = Answerer(
        config, lambda *given: [list(answer) for answer in ANSWERS], [reward], tokenizer, frozenset({END}), 1
    )
    return Online(config, engine, answerer, tokenizer.home, 0, frozenset({END}), base, folder, 1), engine, before


def ratios(policy: Any, before: Any) -> list[list[float]]:
    """Log-ratio of each token of ANSWERS to the reference."""
    found = []
    for number, answer in enumerate(ANSWERS):
        prompt = ROWS[number // 2]["prompt_ids"]
        logs = [
            [log_probability(model, prompt + answer[:place], [token]) for place, token in enumerate(answer)]
            for model in (policy, before)
        ]
        found.append([one - other for one, other in zip(*logs, strict=True)])
    return found


@pytest.mark.parametrize("adapter", [None, LORA])
def test_grpo_is_that_by_hand(
    opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path, adapter: Any
) -> None:
    own, engine, before = made(opened, base, tokenizer, tmp_path, "grpo", beta=0.3, adapter=adapter)
    rollout = own._rollout(ROWS, 1)
    advantages = []
    for group in (WORTH[:2], WORTH[2:]):
        mean, deviation = statistics.mean(group), statistics.stdev(group)
        advantages += [(value - mean) / (deviation + 1e-4) for value in group]
    assert rollout["advantages"].tolist() == pytest.approx(advantages, rel=1e-4)
    tokens = sum(map(len, ANSWERS))
    far = ratios(engine.model.eval(), before)
    kl = sum(math.exp(-x) + x - 1 for answer in far for x in answer)  # the reference's log-probability less ours is -x
    expected = (-sum(a * len(answer) for a, answer in zip(advantages, ANSWERS, strict=True)) + 0.3 * kl) / tokens
    parts = [{name: sliced(value, at, at + 2, 4) for name, value in rollout.items()} for at in (0, 2)]
    losses = [own.loss(part) for part in parts]
    assert float(sum(losses).detach()) == pytest.approx(expected, rel=1e-3, abs=1e-5)
    sum(losses).backward()
    touched = [
        name for name, one in engine.model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0
    ]
    assert touched and all((".lora_" in name) == (adapter is not None) for name in touched)


def test_rloo_is_that_by_hand(opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    own, engine, before = made(opened, base, tokenizer, tmp_path, "rloo", beta=0.3)
    rollout = own._rollout(ROWS, 1)
    far = [sum(answer) for answer in ratios(engine.model.eval(), before)]
    worth = [value - 0.3 * kl for value, kl in zip(WORTH, far, strict=True)]
    advantages = [
        worth[0] - worth[1],
        worth[1] - worth[0],
        worth[2] - worth[3],
        worth[3] - worth[2],
    ]  # the other one is the baseline
    assert rollout["advantages"].tolist() == pytest.approx(advantages, rel=1e-3, abs=1e-4)
    loss = own.loss(rollout)
    assert float(loss.detach()) == pytest.approx(-sum(advantages) / 4, rel=1e-3, abs=1e-5)


def test_what_an_answer_that_does_not_end_is_worth(
    opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    own, *_ = made(opened, base, tokenizer, tmp_path, "grpo", no_end_reward=-1.0)
    own._rollout(ROWS, 1)
    assert own._answers.rewards == [1.0, 0.0, 0.25, -1.0] and own._answers.figures()["unended"] == 0.25


def test_a_rewards_error_is_one_sentence(
    opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    own, *_ = made(opened, base, tokenizer, tmp_path, "grpo")

    def fails(*given: Any) -> list[float]:
        raise TrainingError("align.rewards: planted: it raised; correct it")

    own._answerer._rewards = [OpenedReward("planted", 1.0, (), fails)]
    with pytest.raises(TrainingError, match=r"^align\.rewards: planted"):
        own._rollout(ROWS, 1)
