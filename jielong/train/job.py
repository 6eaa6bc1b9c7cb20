"""What a training is: the arithmetic of its steps, all that it needs, and where it stands.

`plan` derives the arithmetic once, and it is printed; warm-up, schedule and total are counted in optimizer steps, never in
micro-batches. What the loop can not import (validation and sampling are stages to its right) is in a `Job` as functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jielong.errors import RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM
from jielong.progress import human_count
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train import mixing
from jielong.train.config import Config, check_processes
from jielong.train.guard import Guard
from jielong.train.loader import Loader
from jielong.train.schedules import warmup_cosine

Validate = Callable[[CausalLM, AbstractContextManager[Any]], dict[str, float]]  # -> {"loss", "bits_per_byte"}
Sample = Callable[[CausalLM, int], list[dict[str, Any]]]  # (model, step) -> [{"prompt", "text"}, ...]


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run, derived once and printed."""

    sequence_length: int
    rows_per_step: int
    rows_per_micro_batch: int
    total_steps: int
    warmup_steps: int
    processes: int = 1

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.sequence_length

    @property
    def micro_batches(self) -> int:
        """How many of them a process takes in a step."""
        return self.rows_per_step // self.processes // self.rows_per_micro_batch

    def describe(self) -> str:
        each = f" in each of {self.processes} processes" if self.processes > 1 else ""
        return (
            f"{self.total_steps} steps of {self.rows_per_step} rows x {self.sequence_length} tokens, "
            f"{self.micro_batches} micro-batch(es) a step{each}, {self.warmup_steps} warm-up steps, "
            f"{human_count(self.total_steps * self.tokens_per_step)} tokens in all"
        )


def plan(config: Config, longest: int, available: dict[str, int], processes: int = 1, documents: int = 0) -> Plan:
    """Derive a run's arithmetic. `longest`: the model's max_position_embeddings; `available`: tokens of each source;
    `documents`: how many there are, which are the rows of an epoch of truncated packing.

    Warm-up and total are counted in optimizer steps. Raises RecipeError for a mix that the corpus cannot give, and for a step that
    cannot be divided among the processes.
    """
    check_processes(config, longest, processes)
    length = config.sequence_length or longest
    rows = config.tokens_per_step // length
    most = max(1, config.micro_batch_tokens // length)
    mine = rows // processes
    micro = max(n for n in range(1, min(mine, most) + 1) if mine % n == 0)
    budget = config.tokens
    if budget is None and config.mix is not None:
        budget = mixing.budget(config.mix, available)
    if budget is None and config.packing == "truncated" and config.mix is None:
        budget = math.ceil((config.epochs or 1.0) * documents) * length
    if budget is None:
        named = available if config.mix is None else mixing.shares(config.mix, available)
        budget = math.ceil((config.epochs or 1.0) * sum(available[name] for name in named))
    steps = math.ceil(budget / (rows * length))
    if config.mix is not None and steps * rows * length > mixing.most(config.mix, available):
        raise RecipeError(
            f"train.mix.max_epochs: too small for the budget, got {config.mix.max_epochs:g} passes, which are "
            f"{mixing.most(config.mix, available):,.0f} tokens of {steps * rows * length:,}; raise it, or lower train.tokens"
        )
    return Plan(length, rows, micro, steps, math.ceil(config.warmup_ratio * steps), processes)


@dataclass(frozen=True)
class Job:
    """All that `train` needs, apart from the engine."""

    config: Config
    plan: Plan
    model: ModelConfig
    folder: Path  # train/, where checkpoints, metrics and samples go
    shards: Shards
    tokenizer: TokenizerFolder
    seed: int
    fingerprint: str
    validate: Validate
    sample: Sample

    def learning_rate(self, step: int) -> float:
        """Of optimizer step 1 ... total_steps."""
        peak, run = self.config.learning_rate, self.plan
        floor = peak * self.config.min_learning_rate_ratio
        return warmup_cosine(step, run.total_steps, run.warmup_steps, peak, floor)


@dataclass
class Position:
    """Where a run stands."""

    step: int  # steps that are done
    loader: Loader
    guard: Guard
    fresh: bool = True  # it did not begin from a checkpoint
    seconds: float = 0.0
    loss: float | None = None  # of the last step that was taken
    validation: dict[str, float] = field(default_factory=lambda: {"bits_per_byte": math.nan})
    validated_step: int = -1
    started: float = field(default_factory=time.monotonic)  # when `seconds` was last brought up to date

    def tick(self) -> float:
        """Bring `seconds` up to date and return them."""
        now = time.monotonic()
        self.seconds, self.started = self.seconds + now - self.started, now
        return self.seconds
