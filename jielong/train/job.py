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
from functools import cached_property
from pathlib import Path
from typing import Any

from jielong.errors import RecipeError
from jielong.model.adapters import Adapted
from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM
from jielong.progress import human_count
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train import mixing
from jielong.train.config import Config, check_processes
from jielong.train.control.steering import Steering
from jielong.train.guard import Guard
from jielong.train.loader import Loader, LoaderState, open_loader
from jielong.train.mixing import Mix
from jielong.train.phases import mix_of
from jielong.train.schedules import learning_rate
from jielong.train.stretches import Stretch, levels

Validate = Callable[[CausalLM, AbstractContextManager[Any]], dict[str, float]]  # -> {"loss", "bits_per_byte", ...}
OpenLoader = Callable[
    [LoaderState | None], Any
]  # from a state on (None: from the beginning), what has a Loader's methods
Sample = Callable[[CausalLM, int], list[dict[str, Any]]]  # (model, step) -> [{"prompt", "text"}, ...]
Generate = Callable[[CausalLM, list[str], dict[str, Any]], list[dict[str, Any]]]  # (model, prompts, settings)


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run, derived once and printed: a stretch for each phase, one without phases."""

    stretches: tuple[Stretch, ...]
    warmup_steps: int  # of the run's schedule
    decay_steps: int
    processes: int = 1

    @property
    def total_steps(self) -> int:
        return self.stretches[-1].last_step

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.tokens_after(self.total_steps)

    def at(self, step: int) -> Stretch:
        """The stretch of step 1 ... total_steps."""
        return next(stretch for stretch in self.stretches if step <= stretch.last_step)

    def behind(self, step: int) -> Stretch:
        """The stretch that a run is in when so many steps are done: that of the last one, or the first stretch."""
        return self.at(max(1, step))

    def tokens_after(self, step: int) -> int:
        """Tokens that were read when so many steps are done."""
        return self.at(step).tokens_after(step) if step else 0

    def tokens_of(self, step: int) -> int:
        """Tokens of step 1 ... total_steps."""
        return self.tokens_after(step) - self.tokens_after(step - 1)

    def describe(self) -> str:
        """For a person: a line, or with phases one for each and one above them."""
        end = f"{self.warmup_steps} warm-up steps, {human_count(self.tokens)} tokens in all"
        if len(self.stretches) == 1:
            return f"{self.stretches[0].describe()}, {end}"
        lines = [f"{self.total_steps} steps in {len(self.stretches)} phases, {end}"]
        lines += [
            f"  phase {one.phase + 1}, from step {one.first_step}: {one.describe()}, {human_count(one.tokens)} tokens"
            for one in self.stretches
        ]
        return "\n".join(lines)


def plan(config: Config, longest: int, available: dict[str, int], processes: int = 1, rows: int = 0) -> Plan:
    """Derive a run's arithmetic. `longest`: the model's max_position_embeddings; `available`: tokens of each source;
    `rows`: of an epoch, where they are not full (`rows_of_an_epoch`); 0: as if they were.

    Warm-up and total are counted in optimizer steps; each phase's budget is rounded up to whole steps. Raises RecipeError for a mix
    that the corpus cannot give, and for a step that cannot be divided among the processes.
    """
    check_processes(config, longest, processes)
    stretches, step, tokens = list[Stretch](), 1, 0
    for number, budget in enumerate(_budgets(config, longest, available, rows)):
        stretches.append(_stretch(config.in_phase(number), number, budget, longest, processes, step, tokens))
        step, tokens = step + stretches[-1].steps, tokens + stretches[-1].tokens
    if config.mix is not None and tokens > mixing.most(config.mix, available):
        raise RecipeError(
            f"train.mix.max_epochs: too small for the budget, got {config.mix.max_epochs:g} passes, which are "
            f"{mixing.most(config.mix, available):,.0f} tokens of {tokens:,}; raise it, or lower train.tokens"
        )
    total = step - 1
    return Plan(
        tuple(stretches), math.ceil(config.warmup_ratio * total), math.ceil(config.decay_ratio * total), processes
    )


def _budgets(config: Config, longest: int, available: dict[str, int], rows: int) -> list[int]:
    """Tokens of each phase; of the run, without phases."""
    if config.phases and config.phases[0].tokens is not None:
        return [phase.tokens or 0 for phase in config.phases]

    def passes(number: float) -> int:
        if config.packing != "packed" and mix is None and rows:  # of one length, in all phases
            return math.ceil(number * rows) * (config.in_phase(0).sequence_length or longest)
        named = available if mix is None else mixing.shares(mix, available)
        return math.ceil(number * sum(available[name] for name in named))

    mix = config.mix or mix_of(config.phases, [phase.epochs or phase.share or 0 for phase in config.phases])
    if config.phases and config.phases[0].epochs is not None:
        return [passes(phase.epochs or 0) for phase in config.phases]
    budget = config.tokens
    if budget is None and config.mix is not None:
        budget = mixing.budget(config.mix, available)
    if budget is None:
        budget = passes(config.epochs or 1.0)
    if not config.phases:
        return [budget]
    parts = math.fsum(phase.share or 0 for phase in config.phases)
    return [max(1, round(budget * (phase.share or 0) / parts)) for phase in config.phases]


def _stretch(
    config: Config, number: int, budget: int, longest: int, processes: int, first_step: int, before: int
) -> Stretch:
    """The steps of a phase. config: what holds in it."""
    length = config.sequence_length or longest
    rows = config.tokens_per_step // length
    most = max(1, config.micro_batch_tokens // length)
    mine = rows // processes
    micro = max(n for n in range(1, min(mine, most) + 1) if mine % n == 0)
    start = None if config.tokens_per_step_start is None else config.tokens_per_step_start // length
    grain = processes * (micro if start and start % (processes * micro) == 0 else 1)
    ramp = math.ceil(config.ramp_ratio * budget)
    found, steps = levels(budget, length, rows, first_step, before, start, ramp, grain)
    warmup, decay = math.ceil(config.warmup_ratio * steps), math.ceil(config.decay_ratio * steps)
    return Stretch(number, length, rows, micro, first_step, steps, found, warmup, decay, processes)


@dataclass(frozen=True)
class Job:
    """All that `train` needs, apart from the engine."""

    config: Config
    plan: Plan
    model: ModelConfig
    folder: Path  # train/, where checkpoints, metrics and samples go
    shards: Shards | None
    tokenizer: TokenizerFolder
    seed: int
    fingerprint: str
    validate: Validate
    sample: Sample
    generate: Generate | None = None  # any prompts; raises a JielongError for settings that are out of bounds
    adapted: Adapted | None = None  # where an adapter is trained
    rows: OpenLoader | None = None  # what gives the rows of a step; None: a loader of the shards
    unit: str = "tokens"  # what the plan counts

    @cached_property
    def configs(self) -> tuple[Config, ...]:
        """What holds in each phase; the run's config alone, without phases."""
        return tuple(config for _, config in self.config.parts())

    @cached_property
    def mix(self) -> Mix | None:
        """What is read, said by the run or by its phases."""
        return self.config.mix or mix_of(self.config.phases, [stretch.tokens for stretch in self.plan.stretches])

    def open_rows(self, sequence_length: int, state: LoaderState | None) -> Loader:
        """What gives the rows of each step, from a state on; None: from the beginning."""
        if self.rows is not None:
            found: Loader = self.rows(state)
            return found
        assert self.shards is not None
        return open_loader(
            self.config.packing, self.shards, sequence_length, self.seed, state, self.mix, self.plan.tokens
        )

    def learning_rate(self, step: int) -> float:
        """Of optimizer step 1 ... total_steps: by the schedule of its phase, or by the run's."""
        run, here = self.plan, self.plan.at(step)
        config = self.configs[here.phase]
        peak, floor = config.learning_rate, config.learning_rate * config.min_learning_rate_ratio
        if self.config.phases and self.config.phases[here.phase].schedule is not None:
            own = step - here.first_step + 1
            return learning_rate(config.schedule, own, here.steps, here.warmup_steps, here.decay_steps, peak, floor)
        return learning_rate(config.schedule, step, run.total_steps, run.warmup_steps, run.decay_steps, peak, floor)


@dataclass
class Position:
    """Where a run stands."""

    step: int  # steps that are done
    loader: Loader
    guard: Guard
    fresh: bool = True  # it did not begin from a checkpoint
    seconds: float = 0.0
    loss: float | None = None  # of the last step that was taken
    validation: dict[str, float] = field(default_factory=dict)
    validated_step: int = -1
    phase: int = 0  # whose optimizer and rows the engine and the loader have
    steering: Steering = field(default_factory=Steering)  # what a person changed
    started: float = field(default_factory=time.monotonic)  # when `seconds` was last brought up to date

    def tick(self) -> float:
        """Bring `seconds` up to date and return them."""
        now = time.monotonic()
        self.seconds, self.started = self.seconds + now - self.started, now
        return self.seconds
