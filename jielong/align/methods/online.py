"""GRPO and RLOO: several answers to each prompt by the model itself, compared with one another. Advantages and losses are TRL's.

A step of the run is a rollout: `answers` answers to each prompt of the step, by our own decoder, then `passes` updates on them, the last of
which is the one that the guard judges. A run that was killed goes on at the same prompts.

The reference is the adapter switched off, or a second copy of the base; with beta 0 there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jielong.align.config import Config
from jielong.align.methods.answering import Answerer, Answers
from jielong.align.methods.interface import Figures, Row
from jielong.align.methods.references import Reference
from jielong.align.methods.trl_trainers import (
    arguments,
    on_one_device,
    open_tokenizer,
    silently,
    taken,
    tamed,
    unwarned,
)
from jielong.model.faces import face
from jielong.model.transformer import Losses
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loop import Steps


class Online:
    """See the module's text; a Method."""

    def __init__(
        self, config: Config, engine: TorchEngine, answerer: Answerer, tokenizer: Path, pad_id: int, stops: frozenset[int], base: Path,
        folder: Path, seed: int,
    ) -> None:  # fmt: skip
        self.engine, self.config, self._answerer, self._figures = engine, config, answerer, Figures()
        self.theirs = face(engine.model)
        self._rows: list[Row] = []  # of the rollout that is made
        self._answers: Answers | None = None
        self._step = 0
        with silently():
            self.trainer = self._open(tokenizer, pad_id, folder, seed)
        self.trainer.eos_token_ids = sorted(stops)
        if config.recompute:
            self.theirs.gradient_checkpointing_enable({"use_reentrant": False})
        if config.pull:
            from trl.trainer.utils import add_fused_lm_head

            reference = Reference(engine.model, self.theirs, base, engine.device)
            if reference.theirs is not self.theirs:
                add_fused_lm_head(reference.theirs, temperature=config.temperature)
            self.trainer.beta, self.trainer.ref_model = config.pull, reference

    def _open(self, tokenizer: Path, pad_id: int, folder: Path, seed: int) -> Any:
        import datasets

        config, method = self.config, self.config.method
        given = arguments(folder, self.engine.device, config.micro_batch_size, seed) | {
            "num_generations": config.answers, "generation_batch_size": config.answers, "max_completion_length": config.max_new_tokens,
            "temperature": config.temperature, "beta": 0.0, "num_iterations": config.passes, "epsilon": config.clip,
            "per_device_train_batch_size": config.answers, "router_aux_loss_coef": 0.0,
        }  # fmt: skip
        rows = datasets.Dataset.from_list([{"prompt": "问"}] * config.answers)
        more: dict[str, Any] = {
            "model": self.theirs, "processing_class": open_tokenizer(tokenizer, pad_id), "train_dataset": rows,
            "reward_funcs": [self._worth],
        }  # fmt: skip
        if method == "grpo":
            from trl import GRPOConfig, GRPOTrainer

            kind: Any = tamed(GRPOTrainer)
            settings: Any = on_one_device(GRPOConfig(**given))
        else:
            from trl import RLOOConfig, RLOOTrainer

            kind, settings = tamed(RLOOTrainer), on_one_device(RLOOConfig(**given))
        kind._tokenize_prompts = lambda trainer, prompts: ([row["prompt_ids"] for row in self._rows], None, {})
        kind._generate_single_turn = lambda trainer, *given, **more: self._written(method == "grpo")
        trainer = kind(args=settings, **more)
        trainer.args.per_device_train_batch_size = config.micro_batch_size  # rows of a forward pass without gradients
        return trainer

    def _written(self, pair: bool) -> Any:
        """The answers to the rows of this rollout, where TRL would generate."""
        model = self.engine.model
        training = model.training
        model.eval()
        try:
            with self.engine.autocast():
                ids = self._answerer.ids(model, self._rows, self._step, self.config.temperature)
        finally:
            model.train(training)
        self._answers = self._answerer.judged(self._rows, ids)
        return (ids, None) if pair else ids

    def _worth(self, prompts: list[Any], completions: list[Any], **more: Any) -> list[float]:
        """TRL's reward function: what the rewards gave."""
        assert self._answers is not None
        return self._answers.rewards

    # ----------------------------------------------------------------------------------------------------- steps

    def _rollout(self, rows: Sequence[Row], step: int) -> dict[str, Any]:
        """Answers to each row, and what TRL makes of them."""
        self._rows, self._step = [row for row in rows for _ in range(self.config.answers)], step
        with self.engine.autocast(), unwarned():
            found: dict[str, Any] = self.trainer._generate_and_score_completions([{"prompt": "问"} for _ in self._rows])
        return found

    def make(self, steps: Steps) -> None:
        """One rollout and its updates."""
        config, engine = self.config, self.engine
        read: Any = steps.begin()
        rows = [row for batch in read.batches for row in batch]
        step, rate = steps.at.step + 1, steps.job.learning_rate(steps.at.step + 1)
        rollout = self._rollout(rows, step)
        assert self._answers is not None
        self._figures.add(self._answers.figures(), 1.0)
        self._figures.add(taken(self.trainer), 1.0)
        count = len(self._rows)
        for number in range(config.passes):
            last = number + 1 == config.passes
            for at in range(0, count, config.micro_batch_size):
                part = {name: sliced(value, at, at + config.micro_batch_size, count) for name, value in rollout.items()}
                size = min(config.micro_batch_size, count - at)
                loss = self.loss(part)
                # grpo's parts are shares of one sum over tokens, rloo's are means over answers
                share = loss if config.method == "grpo" else loss * (size / count)
                engine.backward(share)
                if last:
                    steps.add(Losses(share.detach() * read.labels, torch.zeros((), device=loss.device), None))
                    self._figures.add(taken(self.trainer), size / count)
                else:
                    taken(self.trainer)
            if not last:
                engine.step(rate * steps.at.guard.state.rate * steps.at.steering.rate, math.isfinite)
        steps.tell(**self._figures.take())
        steps.decide(rate)
        steps.finish()

    def loss(self, part: dict[str, Any]) -> Tensor:
        """TRL's loss of some answers of a rollout."""
        self.trainer.current_gradient_accumulation_steps = 1
        with self.engine.autocast(), unwarned():
            found: Tensor = self.trainer.compute_loss(self.theirs, part)
        return found

    @torch.no_grad()
    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """The rewards of the likeliest answers to held-out prompts."""
        return self._answerer.measure(self.engine.model, rows)


def sliced(value: Any, begin: int, end: int, count: int) -> Any:
    """Rows of a tensor that has one for each answer; anything else as it is."""
    return value[begin:end] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
