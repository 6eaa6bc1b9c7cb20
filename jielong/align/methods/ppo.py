"""PPO: a policy with a value head on its own trunk, a reference, and rewards. Ours: TRL has none since 1.13.

A step of the run is a rollout, one answer to each prompt, and `passes` updates on it, the last of which the guard judges. Each token costs
beta times its log-ratio to the reference (a KL that is paid for, and reported), and the last one earns the answer's reward. The value of a
token is read from the last hidden state before it; the head is a layer of one output that begins at zero and lives in checkpoints' trainer/
folder: what is published is the policy alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.align.config import Config
from jielong.align.methods import ppo_arithmetic as arithmetic
from jielong.align.methods.answering import Answerer
from jielong.align.methods.interface import Figures, Row
from jielong.align.methods.references import Reference
from jielong.model.transformer import CausalLM, Losses
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loop import Steps

VALUE_CLIP = 0.2


@dataclass(frozen=True)
class Rollout:
    """Answers, with what was known of them before the first update. B answers, N tokens with their prompts, T of the answers."""

    ids_BN: Tensor  # prompt and answer, filled up on the right
    mask_BT: Tensor
    starts_B: Tensor  # where answers begin
    old_BT: Tensor  # log-probabilities
    values_BT: Tensor
    advantages_BT: Tensor
    returns_BT: Tensor

    def part(self, begin: int, end: int) -> Rollout:
        """Some of the answers."""
        return Rollout(*(getattr(self, name)[begin:end] for name in self.__dataclass_fields__))


class PPO:
    """See the module's text; a Method."""

    def __init__(self, config: Config, engine: TorchEngine, answerer: Answerer, base: Path) -> None:
        self.config, self.engine, self._answerer, self._figures = config, engine, answerer, Figures()
        self._reference = Reference(engine.model, None, base, engine.device) if config.pull else None

    # --------------------------------------------------------------------------------------------------- forward

    def _look(self, model: CausalLM, ids_BN: Tensor, starts_B: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values of the answers' tokens, each (B, T).

        The log-probabilities are those of the temperature that answers are drawn at.
        """
        with self.engine.autocast():
            hidden_BNC, _ = model.model(ids_BN[:, :-1])
            places_BT = (starts_B[:, None] - 1 + torch.arange(width, device=ids_BN.device)).clamp(
                max=ids_BN.shape[1] - 2
            )
            hidden_BTC = hidden_BNC.gather(1, places_BT[:, :, None].expand(-1, -1, hidden_BNC.shape[-1]))
            logits_BTV: Tensor = model.lm_head(hidden_BTC)
        log_BTV = (logits_BTV.float() / self.config.temperature).log_softmax(dim=-1)
        chosen_BT = log_BTV.gather(2, ids_BN.gather(1, places_BT + 1)[:, :, None])[:, :, 0]
        entropy_BT = -(log_BTV.exp() * log_BTV).sum(dim=-1)
        value: Any = getattr(model, "value", None)
        values_BT = value(hidden_BTC.float())[:, :, 0] if value is not None else torch.zeros_like(chosen_BT)
        return chosen_BT, entropy_BT.detach(), values_BT

    @torch.no_grad()
    def _rollout(self, rows: Sequence[Row], step: int) -> Rollout:
        """Answers to rows, and their advantages."""
        config, model, device = self.config, self.engine.model, self.engine.device
        model.eval()
        try:
            with self.engine.autocast():
                answers = self._answerer.ids(model, rows, step, config.temperature)
        finally:
            model.train()
        judged = self._answerer.judged(rows, answers)
        ids_BN, starts_B, mask_BT = laid([row["prompt_ids"] for row in rows], answers, device)
        width, found = mask_BT.shape[1], list[tuple[Tensor, ...]]()
        for at in range(0, len(rows), config.micro_batch_size):
            ids, starts = ids_BN[at : at + config.micro_batch_size], starts_B[at : at + config.micro_batch_size]
            old, _, values = self._look(model, ids, starts, width)
            other = old
            if self._reference is not None:
                with self._reference.switched() as base:
                    other = self._look(base, ids, starts, width)[0]
            found.append((old, values, other))
        old_BT, values_BT, other_BT = (torch.cat(tensors) for tensors in zip(*found, strict=True))
        ratio_BT = (old_BT - other_BT) * mask_BT
        rewards_B = torch.tensor(judged.rewards, dtype=torch.float32, device=device)
        rewards_BT = arithmetic.token_rewards(rewards_B, ratio_BT, mask_BT, config.pull)
        plain_BT = arithmetic.advantages(rewards_BT, values_BT, mask_BT, config.discount, config.gae_lambda)
        self._figures.add(judged.figures() | {"kl": float(ratio_BT.sum(dim=1).mean())}, 1.0)
        return Rollout(
            ids_BN,
            mask_BT,
            starts_B,
            old_BT,
            values_BT,
            arithmetic.whitened(plain_BT, mask_BT),
            (plain_BT + values_BT) * mask_BT,
        )

    # ----------------------------------------------------------------------------------------------------- steps

    def make(self, steps: Steps) -> None:
        """One rollout and its updates."""
        config, engine = self.config, self.engine
        read: Any = steps.begin()
        rows = [row for batch in read.batches for row in batch]
        step, rate = steps.at.step + 1, steps.job.learning_rate(steps.at.step + 1)
        rollout = self._rollout(rows, step)
        tokens = float(rollout.mask_BT.sum())
        for number in range(config.passes):
            last = number + 1 == config.passes
            for at in range(0, len(rows), config.micro_batch_size):
                loss, figures, count = self._loss(rollout.part(at, at + config.micro_batch_size), tokens)
                engine.backward(loss)
                if last:
                    steps.add(Losses(loss.detach() * read.labels, torch.zeros((), device=loss.device), None))
                    self._figures.add(figures, count / tokens)
            if not last:
                engine.step(rate * steps.at.guard.state.rate * steps.at.steering.rate, math.isfinite)
        steps.tell(**self._figures.take())
        steps.decide(rate)
        steps.finish()

    def _loss(self, part: Rollout, tokens: float) -> tuple[Tensor, dict[str, float], float]:
        """The loss of some answers, as a share of the mean over all tokens; figures, and over how many tokens they are means."""
        count = float(part.mask_BT.sum())
        new_BT, entropy_BT, values_BT = self._look(self.engine.model, part.ids_BN, part.starts_B, part.mask_BT.shape[1])
        policy, clipped = arithmetic.policy_loss(
            new_BT, part.old_BT, part.advantages_BT, part.mask_BT, self.config.clip
        )
        value = arithmetic.value_loss(values_BT, part.values_BT, part.returns_BT, part.mask_BT, VALUE_CLIP)
        figures = {
            "policy_loss": float(policy.detach()) / count, "value_loss": float(value.detach()) / count, "clipped": float(clipped) / count,
            "entropy": float((entropy_BT * part.mask_BT).sum()) / count,
        }  # fmt: skip
        return (policy + self.config.value_weight * value) / tokens, figures, count

    @torch.no_grad()
    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """The rewards of the likeliest answers to held-out prompts."""
        return self._answerer.measure(self.engine.model, rows)


def laid(prompts: list[list[int]], answers: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts with their answers as one tensor (B, N), filled up on the right with id 0; where answers begin (B,); their mask (B, T)."""
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids_BN = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask_BT = torch.zeros(len(prompts), max(map(len, answers)))
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids_BN[number, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        mask_BT[number, : len(answer)] = 1.0
    starts_B = torch.tensor([len(prompt) for prompt in prompts])
    return ids_BN.to(device), starts_B.to(device), mask_BT.to(device)
