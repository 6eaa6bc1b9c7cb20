"""The training loop: take rows, forward and backward, step, then a few things once in a while.

Read from top to bottom: `plan` settles the arithmetic, `train` is the loop. What the loop can not import (validation and
sampling are stages to its right) is passed in as functions.

The loss of a step is the sum over all its labels divided by their number, over all micro-batches: never a mean of
means. It is checked before the optimizer steps.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from jielong.errors import CheckpointError, RecipeError, TrainingError
from jielong.metrics import JsonLines, keep_until
from jielong.model.transformer import CausalLM
from jielong.progress import Progress, human_count, say
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.train import checkpoints, mixing
from jielong.train.config import Config
from jielong.train.engine import TorchEngine
from jielong.train.loader import LoaderState, Mixed, PackedLoader
from jielong.train.schedules import warmup_cosine

Validate = Callable[[TorchEngine], dict[str, float]]  # -> {"loss": nats a token, "bits_per_byte": ...}
Sample = Callable[[CausalLM, int], list[dict[str, Any]]]  # (model, step) -> [{"prompt", "text"}, ...]


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a run, derived once and printed."""

    sequence_length: int
    rows_per_step: int
    rows_per_micro_batch: int
    total_steps: int
    warmup_steps: int

    @property
    def tokens_per_step(self) -> int:
        return self.rows_per_step * self.sequence_length

    def describe(self) -> str:
        return (
            f"{self.total_steps} steps of {self.rows_per_step} rows x {self.sequence_length} tokens, "
            f"{self.rows_per_step // self.rows_per_micro_batch} micro-batch(es) a step, {self.warmup_steps} warm-up steps, "
            f"{human_count(self.total_steps * self.tokens_per_step)} tokens in all"
        )


def plan(config: Config, longest: int, available: dict[str, int]) -> Plan:
    """Derive a run's arithmetic. `longest`: the model's max_position_embeddings; `available`: tokens of each source.

    Raises RecipeError for a mix that the corpus cannot give.
    """
    length = config.sequence_length or longest
    rows = config.tokens_per_step // length
    most = max(1, config.micro_batch_tokens // length)
    micro = max(n for n in range(1, min(rows, most) + 1) if rows % n == 0)
    budget = config.tokens
    if budget is None and config.mix is not None:
        budget = mixing.budget(config.mix, available)
    if budget is None:
        named = available if config.mix is None else mixing.shares(config.mix, available)
        budget = math.ceil((config.epochs or 1.0) * sum(available[name] for name in named))
    steps = math.ceil(budget / (rows * length))
    if config.mix is not None and steps * rows * length > mixing.most(config.mix, available):
        raise RecipeError(
            f"train.mix.max_epochs: too small for the budget, got {config.mix.max_epochs:g} passes, which are "
            f"{mixing.most(config.mix, available):,.0f} tokens of {steps * rows * length:,}; raise it, or lower train.tokens"
        )
    return Plan(length, rows, micro, steps, math.ceil(config.warmup_ratio * steps))


@dataclass(frozen=True)
class Job:
    """All that `train` needs, apart from the model."""

    config: Config
    plan: Plan
    folder: Path  # train/, where checkpoints, metrics and samples go
    shards: Shards
    tokenizer: TokenizerFolder
    seed: int
    fingerprint: str
    validate: Validate
    sample: Sample


def train(job: Job, engine: TorchEngine) -> dict[str, Any]:
    """Train to the end of the plan, from the newest checkpoint if there is one. Returns the counts for the manifest."""
    config, run = job.config, job.plan
    step, loader, before = _resume(job, engine)
    seconds = before.get("seconds", 0.0)
    floor = config.learning_rate * config.min_learning_rate_ratio
    last_loss = before.get("loss", math.nan)
    validated = before.get("validation", {"bits_per_byte": math.nan})
    saved_at, started, spent = time.monotonic(), time.monotonic(), seconds

    def save() -> Path:
        metrics.sync()
        samples.sync()
        state = {"loader": loader.state.to_json(), "fingerprint": job.fingerprint, "seconds": seconds,
                 "loss": last_loss, "validation": validated}  # fmt: skip
        return checkpoints.save(engine, job.tokenizer, job.folder / "checkpoints", step, state, config.keep_checkpoints)

    checkpoint = checkpoints.newest(job.folder / "checkpoints")
    with (
        JsonLines(job.folder / "metrics.jsonl") as metrics,
        JsonLines(job.folder / "samples.jsonl") as samples,
        Progress("train", run.total_steps * run.tokens_per_step, "tokens") as bar,
        _graceful_stop() as stop,
    ):
        bar.start_at(step * run.tokens_per_step)
        if step == 0:  # what comes once in a while is tried at once: it fails in the first minute or not at all
            before_training = job.validate(engine)
            say(f"train: {before_training['bits_per_byte']:.4f} bits/byte before the first step")
            for sample in job.sample(engine.model, 0) if config.sample_every_steps else []:
                samples.write({"step": 0, **sample})
        while step < run.total_steps:
            step_started = time.monotonic()
            step += 1

            # forward and backward, a micro-batch at a time
            loss, auxiliary, used = torch.zeros((), device=engine.device), torch.zeros((), device=engine.device), None
            for _ in range(run.rows_per_step // run.rows_per_micro_batch):
                losses = engine.forward(loader.next_batch(run.rows_per_micro_batch))
                engine.backward((losses.cross_entropy + losses.auxiliary) / run.tokens_per_step)
                loss += losses.cross_entropy.detach() / run.tokens_per_step
                auxiliary += losses.auxiliary.detach() / run.tokens_per_step
                if losses.expert_use_LE is not None:
                    used = losses.expert_use_LE if used is None else used + losses.expert_use_LE

            # the decision to step comes before the step
            learning_rate = warmup_cosine(step, run.total_steps, run.warmup_steps, config.learning_rate, floor)
            last_loss, norm = float(loss), engine.gradient_norm()
            _check_finite(step, last_loss, norm, learning_rate)
            engine.step(learning_rate)
            if used is not None:
                engine.balance(used)

            seconds = spent + time.monotonic() - started
            rate = run.tokens_per_step / (time.monotonic() - step_started)
            record = {"step": step, "tokens": step * run.tokens_per_step, "loss": last_loss,
                      "learning_rate": learning_rate, "grad_norm": norm, "tokens_per_second": round(rate, 1),
                      "seconds": round(seconds, 3)}  # fmt: skip
            last = step == run.total_steps
            if used is not None:
                record |= {"auxiliary_loss": float(auxiliary)} | _expert_record(
                    used, step % config.log_every_steps == 0 or last
                )

            if last or (config.evaluate_every_steps and step % config.evaluate_every_steps == 0):
                validated = job.validate(engine)
                record |= {"validation_loss": validated["loss"], "validation_bits_per_byte": validated["bits_per_byte"]}
            if config.sample_every_steps and (step % config.sample_every_steps == 0 or last):
                for sample in job.sample(engine.model, step):
                    samples.write({"step": step, **sample})
            metrics.write(record)
            bar.note(f"loss {last_loss:.3f}")
            bar.advance(run.tokens_per_step)
            if step % config.log_every_steps == 0 or last or "validation_loss" in record:
                _log(record, run)

            due = config.save_every_minutes and time.monotonic() - saved_at > 60 * config.save_every_minutes
            by_step = config.save_every_steps and step % config.save_every_steps == 0
            if due or by_step or last or stop():
                seconds = spent + time.monotonic() - started
                checkpoint, saved_at = save(), time.monotonic()
            if stop():
                raise KeyboardInterrupt(f"train: stopped after step {step}, saved; the same command goes on from there")
    assert checkpoint is not None
    mixed = {"mix": loader.order.report(loader.state)} if isinstance(loader.order, Mixed) else {}
    for name, row in mixed.get("mix", {}).items():
        say(f"train: {name}: {row['share']:.2%} of the tokens (wanted {row['wanted']:.2%}), {row['epochs']:.2f} passes")
    return mixed | {
        "steps": step,
        "tokens": step * run.tokens_per_step,
        "final_loss": last_loss,
        "validation_bits_per_byte": validated["bits_per_byte"],
        "device": str(engine.device),
        "precision": engine.precision,
        "tokens_per_second": step * run.tokens_per_step / max(seconds, 1e-9),
        "train_seconds": seconds,
        "checkpoint": f"checkpoints/{checkpoint.name}",
    }


def _resume(job: Job, engine: TorchEngine) -> tuple[int, PackedLoader, dict[str, Any]]:
    """Put the engine where the newest checkpoint was; returns step, loader and the checkpoint's state (empty: a new run).

    The model's weights were loaded from that checkpoint by the caller.
    """
    folder = job.folder / "checkpoints"
    checkpoints.clean(folder)
    newest = checkpoints.newest(folder)
    step, state, trainer = 0, None, {}
    if newest is not None:
        trainer = checkpoints.read_state(newest)
        if trainer["fingerprint"] != job.fingerprint:
            raise CheckpointError(f"{newest}: belongs to another recipe; move the folder {job.folder} away")
        engine.load(newest / "trainer")
        step, state = trainer["step"], LoaderState.from_json(trainer["loader"])
        say(f"train: going on from {newest.name}")
    else:
        torch.manual_seed(job.seed)
    for name in ("metrics.jsonl", "samples.jsonl"):
        keep_until(job.folder / name, step)
    whole = job.plan.total_steps * job.plan.tokens_per_step
    loader = PackedLoader(job.shards, job.plan.sequence_length, job.seed, state, job.config.mix, whole)
    return step, loader, trainer


def _check_finite(step: int, loss: float, norm: float, learning_rate: float) -> None:
    """Stop before the optimizer step when loss or gradient norm is not a number."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingError(
            f"train: step {step} is not finite, got loss {loss} and gradient norm {norm}; the weights before it are kept in "
            f"the last checkpoint; lower train.learning_rate (it was {learning_rate:.2g}) or set train.precision to float32"
        )


def _expert_record(used_LE: torch.Tensor, whole: bool) -> dict[str, Any]:
    """How even the experts' use was in a step: the largest share in any layer (1 / experts would be even), experts without
    a token in all layers together, and once in a while every count.
    """
    shares_LE = used_LE / used_LE.sum(dim=1, keepdim=True)
    found = {"expert_share_max": round(float(shares_LE.max()), 4), "experts_unused": int((used_LE == 0).sum())}
    return found | ({"expert_use": used_LE.tolist()} if whole else {})


def _log(record: dict[str, Any], run: Plan) -> None:
    """One line on the console."""
    line = (
        f"step {record['step']:>6}/{run.total_steps}  loss {record['loss']:.4f}  lr {record['learning_rate']:.2e}  "
        f"norm {record['grad_norm']:.2f}  {human_count(record['tokens_per_second'])} tokens/s"
    )
    if "expert_share_max" in record:
        line += f"  busiest expert {record['expert_share_max']:.0%}"
    if "validation_bits_per_byte" in record:
        line += f"  validation {record['validation_bits_per_byte']:.4f} bits/byte"
    say(line)


@contextmanager
def _graceful_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first SIGINT or SIGTERM into a request that the loop reads at the end of its step; a second one kills."""
    asked: list[int] = []
    previous: dict[int, Any] = {}

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.append(number)  # nothing is printed here: the loop may be in the middle of printing
        _restore(previous)

    try:
        for kind in (signal.SIGINT, signal.SIGTERM):
            previous[kind] = signal.signal(kind, on_signal)
    except ValueError:  # not the main thread (a notebook's worker, say): signals stay as they are
        previous.clear()
    try:
        yield lambda: bool(asked)
    finally:
        _restore(previous)


def _restore(handlers: dict[int, Any]) -> None:
    for kind, handler in handlers.items():
        signal.signal(kind, handler)
