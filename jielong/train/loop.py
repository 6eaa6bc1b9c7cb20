"""The training loop: take rows, forward and backward, decide, step, then a few things once in a while.

Read from top to bottom: `plan` settles the arithmetic, `train` is the loop. What the loop can not import (validation and
sampling are stages to its right) is passed in as functions. Every rank runs this same loop; they read the same stream of rows, each
lays its own share (loader.py), and `world` adds up what they found.

The loss of a step is the sum over all its labels divided by their number, over all micro-batches and ranks: never a mean of
means. Whether the step is taken is decided before the optimizer steps (guard.py).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from jielong.errors import CheckpointError, RecipeError, Stopped, TrainingError
from jielong.model.config import Config as ModelConfig
from jielong.model.transformer import CausalLM, Losses
from jielong.progress import human_count, say
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train import checkpoints, mixing
from jielong.train.config import Config
from jielong.train.engines.interface import Engine
from jielong.train.guard import Guard, dump
from jielong.train.keeping import Keeper
from jielong.train.loader import Loader, LoaderState, Mixed, Step, open_loader
from jielong.train.logbook import Logbook
from jielong.train.schedules import warmup_cosine
from jielong.world import add_up, largest, told

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
    length = config.sequence_length or longest
    rows = config.tokens_per_step // length
    if rows % processes:
        raise RecipeError(
            f"train.tokens_per_step: a step of {rows} rows cannot be divided among {processes} processes, got "
            f"{config.tokens_per_step}; for example {max(1, round(rows / processes)) * processes * length}"
        )
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
    loss: float | None = None  # the last one that was finite
    validation: dict[str, float] = field(default_factory=lambda: {"bits_per_byte": math.nan})
    validated_step: int = -1
    started: float = field(default_factory=time.monotonic)  # when `seconds` was last brought up to date

    def tick(self) -> float:
        """Bring `seconds` up to date and return them."""
        now = time.monotonic()
        self.seconds, self.started = self.seconds + now - self.started, now
        return self.seconds


def train(job: Job, engine: Engine, make: Callable[[Steps], None] | None = None) -> dict[str, Any]:
    """Train to the end of the plan, from the newest checkpoint if there is one. Returns the counts for the manifest.

    make: makes one step or more, from where the run stands, by the methods of `Steps`; None: `make_step`. An engine whose library owns
    the loop gives its own. Raises Stopped after SIGTERM and SIGINT, when everything is saved.
    """
    run, world = job.plan, engine.world
    at = resume(job, engine)
    with (
        Logbook(job.folder, world.first, at.step, run.total_steps, run.tokens_per_step) as log,
        Keeper(job.config, job.model, job.tokenizer, job.folder / "checkpoints") as keeper,
        graceful_stop() as stop,
    ):
        if at.fresh:  # what comes once in a while is tried at once: it fails in the first minute or not at all
            first_look(job, engine, at, keeper, log)
        elif at.step < run.total_steps:
            log.event(at.step, "resumed", f"going on from step {at.step} with {engine.describe()}")
        steps = Steps(job, engine, at, keeper, log, stop)
        while at.step < run.total_steps:
            (make or make_step)(steps)
        keeper.wait()
        if (
            add_up(world, torch.tensor([float(stop())])).item() > 0
        ):  # asked in the last step: what comes after is not begun
            raise Stopped("train: stopped after the last step, saved; the same command goes on from there")
    return counts(job, at, engine.device.type, engine.precision)


def make_step(steps: Steps) -> None:
    """Forward and backward, a micro-batch at a time; decide; then what comes once in a while."""
    rows = steps.begin()
    for number, batch in enumerate(rows.batches, 1):
        last = number == len(rows.batches)
        losses = steps.engine.forward(batch, last)
        steps.engine.backward((losses.cross_entropy + losses.auxiliary) / rows.labels, last)
        steps.add(losses)
    steps.decide(steps.job.learning_rate(steps.at.step + 1))
    steps.finish()


class Steps:
    """What surrounds the passes of a step, whoever makes them: `begin`, `add` for each micro-batch, `decide`, `finish`."""

    def __init__(
        self, job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook, stop: Callable[[], bool]
    ) -> None:
        self.job, self.engine, self.at = job, engine, at
        self._keeper, self._log, self._stop = keeper, log, stop
        self._saved_at = time.monotonic()
        self._used: torch.Tensor | None = None

    def begin(self) -> Step:
        """Read this rank's rows of the next step."""
        run, world = self.job.plan, self.engine.world
        self._started, self._before = time.monotonic(), self.at.loader.state
        self._sums, self._used = torch.zeros(4, device=self.engine.device), None
        self._sums[2] = float(self._stop())
        minutes = self.job.config.save_every_minutes
        self._sums[3] = float(world.first and minutes is not None and self._started - self._saved_at > 60 * minutes)
        self.rows = self.at.loader.step(run.rows_per_step, run.rows_per_micro_batch, world.rank, world.size)
        self._waited = time.monotonic() - self._started
        return self.rows

    def add(self, losses: Losses) -> None:
        """A micro-batch went through."""
        self._sums[0] += losses.cross_entropy.detach() / self.rows.labels
        self._sums[1] += losses.auxiliary.detach() / self.rows.labels
        if losses.expert_use_LE is not None:
            self._used = losses.expert_use_LE if self._used is None else self._used + losses.expert_use_LE

    def decide(self, learning_rate: float) -> None:
        """All gradients are there: take the step, or not. The decision is made before the step, and is the same on all ranks."""
        engine, at = self.engine, self.at
        loss, auxiliary, stopping, due = add_up(engine.world, self._sums).tolist()
        used = None if self._used is None else add_up(engine.world, self._used)
        learning_rate *= at.guard.state.rate
        self._objection: str | None = "the gradients overflowed float16"

        def take(norm: float) -> bool:
            self._objection = at.guard.objection(loss, norm)
            if engine.world.size == 1:
                return self._objection is None
            refused = torch.tensor([float(self._objection is not None)], device=engine.device)
            return not bool(largest(engine.world, refused))

        self._stepped, self._stopping, self._due = engine.step(learning_rate, take), bool(stopping), bool(due)
        if self._stepped.taken:
            at.guard.accept(loss, self._stepped.norm)
            if used is not None:
                engine.balance(used)
        at.step, at.loss = at.step + 1, _number(loss) or at.loss
        self._record = self._recorded(loss, auxiliary, used, learning_rate)

    def _recorded(
        self, loss: float, auxiliary: float, used: torch.Tensor | None, learning_rate: float
    ) -> dict[str, Any]:
        """What is written of the step."""
        config, run, at = self.job.config, self.job.plan, self.at
        rate = run.tokens_per_step / (time.monotonic() - self._started)
        record: dict[str, Any] = {"step": at.step, "tokens": at.step * run.tokens_per_step, "loss": _number(loss),
                  "learning_rate": learning_rate, "grad_norm": _number(self._stepped.norm),
                  "tokens_per_second": round(rate, 1), "seconds": round(at.tick(), 3),
                  "loader_seconds": round(self._waited, 6)}  # fmt: skip
        if config.packing == "truncated":
            record |= {"labels": self.rows.labels, "left_out": self.rows.left_out}
        if used is not None or config.z_loss:
            record["auxiliary_loss"] = _number(auxiliary)
        if used is not None:
            record |= _expert_record(used, at.step % config.log_every_steps == 0 or at.step == run.total_steps)
        return record

    def finish(self) -> bool:
        """What comes after a step; returns whether the run went back to a checkpoint.

        Raises Stopped when the run was asked to stop, and has saved.
        """
        job, engine, at, keeper, log, record = self.job, self.engine, self.at, self._keeper, self._log, self._record
        config, step, last = job.config, at.step, at.step == job.plan.total_steps
        if not self._stepped.taken:
            record["skipped"] = why = self._objection or "another rank refused"
            if _not_taken(job, at, log, self._stepped.overflow, why, self._before, record):
                log.record(record, True)
                go_back(job, engine, at, keeper, log)
                return True

        if last or (config.evaluate_every_steps and step % config.evaluate_every_steps == 0):
            validate(job, engine, at)
            record |= {f"validation_{key}": at.validation[key] for key in ("loss", "bits_per_byte")}
        if config.sample_every_steps and (step % config.sample_every_steps == 0 or last):
            log.sample(step, _samples(job, engine, step))
        log.record(record, step % config.log_every_steps == 0 or last or "validation_loss" in record)

        if self._due or last or self._stopping or save_by_step(config, at, keeper):
            save(job, engine, at, keeper, log)
            self._saved_at = time.monotonic()
        if self._stopping:
            keeper.wait()
            log.event(step, "stopped", f"asked to stop, saved after step {step}")
            raise Stopped(f"train: stopped after step {step}, saved; the same command goes on from there")
        return False


# ---------------------------------------------------------------------------------------- where a run stands


def resume(job: Job, engine: Engine) -> Position:
    """Put the engine where the newest checkpoint was, and say where the run stands.

    The model's weights were loaded from that checkpoint by the caller.
    """
    folder = job.folder / "checkpoints"
    newest = checkpoints.newest(folder)
    whole = job.plan.total_steps * job.plan.tokens_per_step
    state, trainer = None, dict[str, Any]()
    if newest is not None:
        trainer = checkpoints.read_state(newest)
        if trainer["fingerprint"] != job.fingerprint:
            raise CheckpointError(f"{newest}: belongs to another recipe; move the folder {job.folder} away")
        engine.load(checkpoints.read_snapshot(newest, trainer, weights=False), weights=False)
        state = LoaderState.from_json(trainer["loader"])
    else:
        torch.manual_seed(job.seed + engine.world.rank)
    loader = open_loader(
        job.config.packing, job.shards, job.plan.sequence_length, job.seed, state, job.config.mix, whole
    )
    guard = Guard(job.config.guard, job.model.vocabulary, trainer.get("guard"))
    at = Position(trainer.get("step", 0), loader, guard, newest is None)
    if newest is not None:
        at.seconds, at.loss = trainer["seconds"], trainer.get("loss")
        at.validation = _measured(trainer.get("validation"))
        at.validated_step = trainer.get("validated_step", -1)
    return at


def state_of(job: Job, at: Position) -> dict[str, Any]:
    """What a checkpoint says of the run, beside what the engine gives."""
    return {"loader": at.loader.state.to_json(), "fingerprint": job.fingerprint, "seconds": at.seconds,
            "loss": at.loss, "validation": at.validation, "validated_step": at.validated_step,
            "guard": at.guard.state.to_json()}  # fmt: skip


def save(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook) -> None:
    """Have a checkpoint written. All ranks call it."""
    at.tick()
    keeper.save(engine.snapshot, at.step, state_of(job, at), log.sync)


def save_by_step(config: Config, at: Position, keeper: Keeper) -> bool:
    """Whether the step's number, or its validation, asks for a checkpoint."""
    every = (config.save_every_steps, config.keep_every_steps)
    if any(steps and at.step % steps == 0 for steps in every):
        return True
    measured = at.validation["bits_per_byte"]
    return config.keep_best and at.validated_step == at.step and (keeper.best is None or measured < keeper.best)


def first_look(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook) -> None:
    """Validation, samples and a checkpoint before the first step; going back needs one, too."""
    validate(job, engine, at)
    if log.writes:
        say(f"train: {at.validation['bits_per_byte']:.4f} bits/byte before the first step")
    if job.config.sample_every_steps:
        log.sample(0, _samples(job, engine, 0))
    save(job, engine, at, keeper, log)
    keeper.wait()


def validate(job: Job, engine: Engine, at: Position) -> None:
    """Measure on held-out text; rank 0 does, all learn of it."""
    with engine.whole() as model:
        found = None if model is None else job.validate(model, engine.autocast())
    at.validation, at.validated_step = _measured(told(engine.world, found)), at.step


def _samples(job: Job, engine: Engine, step: int) -> list[dict[str, Any]]:
    with engine.whole() as model:
        return [] if model is None else job.sample(model, step)


def counts(job: Job, at: Position, device: str, precision: str) -> dict[str, Any]:
    """The counts of the manifest, when a run is done."""
    run, order = job.plan, at.loader.order
    mixed = {"mix": order.report(at.loader.state)} if isinstance(order, Mixed) else {}
    for name, row in mixed.get("mix", {}).items():
        say(f"train: {name}: {row['share']:.2%} of the tokens (wanted {row['wanted']:.2%}), {row['epochs']:.2f} passes")
    newest = checkpoints.require_newest(job.folder / "checkpoints")
    return mixed | {
        "steps": at.step,
        "tokens": at.step * run.tokens_per_step,
        "final_loss": at.loss,
        "validation_bits_per_byte": at.validation["bits_per_byte"],
        "device": device,
        "precision": precision,
        "processes": run.processes,
        "tokens_per_second": at.step * run.tokens_per_step / max(at.seconds, 1e-9),
        "train_seconds": at.seconds,
        "checkpoint": str(newest.relative_to(job.folder)),
    }


# ---------------------------------------------------------------------------------- what is out of the ordinary


def _not_taken(
    job: Job, at: Position, log: Logbook, overflow: bool, why: str, before: LoaderState, record: dict[str, Any]
) -> bool:
    """Write down a step that was not taken, and its text; returns whether the run must go back."""
    if overflow:
        log.event(at.step, "overflow", f"not taken, {why}; the loss scale is halved")
        return False
    path = job.folder / "spikes" / f"step-{at.step:08d}.jsonl"
    log.event(at.step, "skipped", f"not taken, {why}; its text is in {path.relative_to(job.folder)}",
              loss=record["loss"], grad_norm=record["grad_norm"])  # fmt: skip
    if log.writes:
        heading = {"step": at.step, "reason": why, "loss": record["loss"], "grad_norm": record["grad_norm"]}
        dump(path, heading, at.loader.spans(before, job.plan.rows_per_step), job.shards, job.tokenizer)
    return at.guard.hit(at.step)


def go_back(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook) -> None:
    """Back to the newest checkpoint, but not to its place in the data: what was read since is passed over.

    Raises TrainingError when this has been tried too often.
    """
    keeper.wait()
    folder = job.folder / "checkpoints"
    newest = folder / told(engine.world, str(checkpoints.require_newest(folder).name))
    state, left = checkpoints.read_state(newest), at.step
    engine.load(checkpoints.read_snapshot(newest, state))
    possible = at.guard.go_back(state["guard"], state["step"])
    log.event(left, "rolled back", f"back to {newest.name}, the learning rate times {at.guard.state.rate:.4g}",
              to_step=state["step"], rate=at.guard.state.rate)  # fmt: skip
    if not possible:
        raise TrainingError(
            f"train: went back {job.config.guard.max_rollbacks} times to {newest.name} and the loss leaves its band again; "
            f"train/history.jsonl and train/spikes say where; look at the text there, lower train.learning_rate, or raise "
            "train.guard.loss_deviations"
        )
    at.step, at.loss, at.validated_step = state["step"], state["loss"], state.get("validated_step", -1)
    at.validation = _measured(state["validation"])
    log.go_back(at.step)
    save(job, engine, at, keeper, log)  # the place in the data and the count outlive a kill


def _measured(found: dict[str, Any] | None) -> dict[str, float]:
    """Figures of a validation; JSON has no word for those that are not finite."""
    return {key: math.nan if value is None else value for key, value in (found or {"bits_per_byte": None}).items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _expert_record(used_LE: torch.Tensor, whole: bool) -> dict[str, Any]:
    """How even the experts' use was in a step: the largest share in any layer (1 / experts would be even), experts without
    a token in all layers together, and once in a while every count.
    """
    shares_LE = used_LE / used_LE.sum(dim=1, keepdim=True)
    found = {"expert_share_max": round(float(shares_LE.max()), 4), "experts_unused": int((used_LE == 0).sum())}
    return found | ({"expert_use": used_LE.tolist()} if whole else {})


@contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request that the loop reads in its next step; one after that kills.

    Within a second of the first it is the same request, come in two ways (from a queue, and from the process above).

    Stopped, raised from inside, is given the exit status: 0 after SIGTERM (what asked for it starts the run again), else 130.
    """
    asked: list[int] = []
    first: list[float] = []
    previous: dict[int, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        if not asked:
            asked.append(number)  # nothing is printed here: the loop may be in the middle of printing
            first.append(time.monotonic())
        elif time.monotonic() - first[0] > 1.0:
            _restore(previous)
            signal.raise_signal(number)

    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            previous[kind] = signal.signal(kind, on_signal)
    except ValueError:  # not the main thread (a notebook's worker, say): signals stay as they are
        previous.clear()
    try:
        yield lambda: bool(asked)
    except Stopped as stopped:
        stopped.exit_code = 130 if signal.SIGINT in asked else 0
        raise
    finally:
        _restore(previous)


def _restore(handlers: dict[int, Any]) -> None:
    for kind, handler in handlers.items():
        signal.signal(kind, handler)
