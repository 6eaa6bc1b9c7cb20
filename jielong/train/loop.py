"""The training loop: take rows, forward and backward, decide, step, then a few things once in a while.

Read from top to bottom: `train` is the loop, `make_step` a step of it, `Steps` what surrounds the passes of a step, whoever makes
them. Every rank runs this same loop; they read the same stream of rows, each
lays its own share (loader.py), and `world` adds up what they found.

The loss of a step is the sum over all its labels divided by their number, over all micro-batches and ranks: never a mean of
means. Whether the step is taken is decided before the optimizer steps (guard.py).
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from jielong.errors import CheckpointError, Stopped, TrainingError
from jielong.model.transformer import Losses
from jielong.progress import say
from jielong.train import checkpoints
from jielong.train.config import Config
from jielong.train.control.listener import Listener
from jielong.train.control.steering import Steering, made_by_hand
from jielong.train.control.telling import in_words
from jielong.train.engines.interface import Engine
from jielong.train.guard import Guard, dump
from jielong.train.job import Job, Position
from jielong.train.keeping import Keeper
from jielong.train.loader import LoaderState, Mixed, Step
from jielong.train.logbook import Logbook, trackers_of
from jielong.train.optimizers.sampling import working_blocks
from jielong.train.transitions import move_on, put_into
from jielong.world import add_up, largest, told


def train(
    job: Job, engine: Engine, make: Callable[[Steps], None] | None = None, stop: Callable[[], bool] | None = None
) -> dict[str, Any]:
    """Train to the end of the plan, from the newest checkpoint if there is one. Returns the counts for the manifest.

    make: makes one step or more, from where the run stands, by the methods of `Steps`; None: `make_step`. An engine whose library owns
    the loop gives its own. stop: what `graceful_stop` gave, where the caller has entered it.
    Raises Stopped after SIGTERM and SIGINT, when everything is saved.
    """
    run, world = job.plan, engine.world
    at = resume(job, engine)
    with (
        Logbook(
            job.folder,
            world.first,
            None if at.fresh else at.step,
            run.total_steps,
            run.tokens_after,
            trackers_of(job, world.first),
            job.unit,
        ) as log,
        Keeper(job.config, job.model, job.tokenizer, job.folder / "checkpoints", job.adapted) as keeper,
        nullcontext(stop) if stop is not None else graceful_stop() as stop,
        Listener(job, engine, at, log) as listener,
    ):
        if at.fresh:  # what comes once in a while is tried at once: it fails in the first minute or not at all
            first_look(job, engine, at, keeper, log, listener)
        elif at.step < run.total_steps:
            log.event(at.step, "resumed", f"going on from step {at.step} with {engine.describe()}")
        steps = Steps(job, engine, at, keeper, log, stop, listener)
        while at.step < run.total_steps:
            (make or make_step)(steps)
        keeper.wait()
        asked = add_up(world, torch.tensor([float(stop())]))  # all wait here until what rank 0 has written is there
        if asked.item() > 0:  # in the last step: what comes after training is not begun
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
        self, job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook, stop: Callable[[], bool],
        listener: Listener,
    ) -> None:  # fmt: skip
        self.job, self.engine, self.at = job, engine, at
        self._keeper, self._log, self._stop, self._listener = keeper, log, stop, listener
        self._saved_at = time.monotonic()
        self._used: torch.Tensor | None = None

    def begin(self) -> Step:
        """Read this rank's rows of the next step. The first of a phase enters it."""
        self._listener.replay()
        move_on(self.job, self.engine, self.at, self._log)
        here, world, step = self.job.plan.at(self.at.step + 1), self.engine.world, self.at.step + 1
        if (lisa := self.job.config.lisa) is not None:
            blocks = working_blocks(self.job.seed, step, lisa.interval, lisa.blocks, self.job.model.num_hidden_layers)
            self.engine.let_work(blocks)
        self._started, self._before = time.monotonic(), self.at.loader.state
        minutes = self.job.config.save_every_minutes
        due = world.first and minutes is not None and self._started - self._saved_at > 60 * minutes
        asked = [float(self._stop()), float(due), float(self._listener.waiting())]
        self._sums, self._used = torch.tensor([0.0, 0.0, *asked], device=self.engine.device), None
        self._told = dict[str, Any]()
        self.rows = self.at.loader.step(here.rows(step), here.rows_per_micro_batch, world.rank, world.size)
        self._waited = time.monotonic() - self._started
        return self.rows

    def add(self, losses: Losses) -> None:
        """A micro-batch went through."""
        self._sums[0] += losses.cross_entropy.detach() / self.rows.labels
        self._sums[1] += losses.auxiliary.detach() / self.rows.labels
        if losses.expert_use_LE is not None:
            self._used = losses.expert_use_LE if self._used is None else self._used + losses.expert_use_LE

    def tell(self, **figures: Any) -> None:
        """Figures for the step's record, before `decide`."""
        self._told |= figures

    def decide(self, learning_rate: float) -> None:
        """All gradients are there: take the step, or not. The decision is made before the step, and is the same on all ranks."""
        engine, at = self.engine, self.at
        loss, auxiliary, stopping, due, waiting = add_up(engine.world, self._sums).tolist()
        used = None if self._used is None else add_up(engine.world, self._used)
        learning_rate *= at.guard.state.rate * at.steering.rate
        self._objection: str | None = "the gradients overflowed float16"

        def take(norm: float) -> bool:
            self._objection = at.guard.objection(loss, norm)
            if engine.world.size == 1:
                return self._objection is None
            refused = torch.tensor([float(self._objection is not None)], device=engine.device)
            return not bool(largest(engine.world, refused))

        self._stepped = engine.step(learning_rate, take, math.isfinite(loss))
        self._stopping, self._due, self._waiting = bool(stopping), bool(due), bool(waiting)
        if self._stepped.taken:
            at.guard.accept(at.step + 1, loss, self._stepped.norm)
            at.loss = loss
            if used is not None:
                engine.balance(used)
        at.step += 1
        self._record = self._recorded(loss, auxiliary, used, learning_rate)

    def _recorded(
        self, loss: float, auxiliary: float, used: torch.Tensor | None, learning_rate: float
    ) -> dict[str, Any]:
        """What is written of the step."""
        config, run, at = self.job.config, self.job.plan, self.at
        rate = run.tokens_of(at.step) / (time.monotonic() - self._started)
        record: dict[str, Any] = {"step": at.step, self.job.unit: run.tokens_after(at.step), "loss": _number(loss),
                  "learning_rate": learning_rate, "grad_norm": _number(self._stepped.norm),
                  f"{self.job.unit}_per_second": round(rate, 1 if self.job.unit == "tokens" else 4), "seconds": round(at.tick(), 3),
                  "loader_seconds": round(self._waited, 6), **self._listener.measured(rate), **self._told}  # fmt: skip
        if config.phases:
            record["phase"] = at.phase
        if config.packing != "packed":
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
            self._listener.say("validating")
            validate(job, engine, at)
            record |= {f"validation_{key}": at.validation[key] for key in sorted(at.validation)}
        if config.sample_every_steps and (step % config.sample_every_steps == 0 or last):
            log.sample(step, self._listener.samples(step))
        log.record(record, step % config.log_every_steps == 0 or last or "validation_loss" in record)

        self._listener.made(record, self._before)
        if self._waiting:
            self._listener.hear()
        self._keep(self._due or save_by_step(config, at, keeper), last)
        while self._listener.paused:
            self._listener.rest(self._stop)
            self._keep(False)
        return False

    def _keep(self, wanted: bool, last: bool = False) -> None:
        """Save where something asks for it. Raises Stopped when the run was asked to stop, and has saved."""
        at, keeper, log, listener = self.at, self._keeper, self._log, self._listener
        stopping = self._stopping or listener.stopping
        wanted = (wanted or listener.save) and self._stepped.taken  # no state that is in doubt
        if last or stopping or wanted:
            listener.say("saving")
            save(self.job, self.engine, at, keeper, log)
            self._saved_at = time.monotonic()
            if listener.save:
                try:
                    (keeper.wait if last or stopping else keeper.settle)()  # at its end a run does not bear a full disk
                finally:
                    listener.saved(keeper.folder / checkpoints.name_of(at.step))
            listener.say("paused" if listener.paused else "running")
        elif keeper.done():
            keeper.settle()  # a disk that is full is said now, not at the next checkpoint
        if stopping:
            keeper.wait()
            log.event(at.step, "stopped", "asked to stop, saved")
            raise Stopped(f"train: stopped after step {at.step}, saved; the same command goes on from there")


# ---------------------------------------------------------------------------------------- where a run stands


def resume(job: Job, engine: Engine) -> Position:
    """Put the engine where the newest checkpoint was, and say where the run stands.

    The model's weights were loaded from that checkpoint by the caller.
    """
    folder = job.folder / "checkpoints"
    newest = checkpoints.newest(folder)
    state, trainer = None, dict[str, Any]()
    if newest is not None:
        trainer = checkpoints.read_state(newest)
        if trainer["fingerprint"] != job.fingerprint:
            raise CheckpointError(f"{newest}: belongs to another recipe; move the folder {job.folder} away")
        total = trainer.get("total_steps", job.plan.total_steps)
        if total != job.plan.total_steps:  # a batch ramp is rounded to rows that the processes can divide
            raise CheckpointError(
                f"{newest}: was written in a run of {total} steps, got a plan of {job.plan.total_steps}; the batch ramp differs with "
                "the number of processes; go on with the number that it was begun with"
            )
        put_into(job, engine, 0, job.plan.behind(trainer["step"]).phase)
        snapshot = checkpoints.read_snapshot(newest, trainer, weights=False)
        engine.load(snapshot, weights=bool(snapshot.weights))  # where the model that was loaded is an average of them
        state = LoaderState.from_json(trainer["loader"])
    else:
        torch.manual_seed(job.seed + engine.world.rank)
    here = job.plan.behind(trainer.get("step", 0))
    loader = job.open_rows(here.sequence_length, state)
    vocabulary = job.model.vocabulary if job.unit == "tokens" else None
    guard = Guard(job.config.guard, vocabulary, trainer.get("guard"))
    at = Position(trainer.get("step", 0), loader, guard, newest is None, phase=here.phase)
    if newest is not None:
        at.seconds, at.loss = trainer["seconds"], trainer.get("loss")
        at.validation = _measured(trainer.get("validation"))
        at.validated_step = trainer.get("validated_step", -1)
    at.steering = Steering(**(trainer.get("steering") or {}))
    rows = told(engine.world, made_by_hand(job.folder) if engine.world.first else None)
    if (
        newest is None
    ):  # begun anew, in the folder of another: commands are taken between steps, and a checkpoint is before those
        at.steering.number = max((row["number"] for row in rows), default=0)
    at.steering.take_up(rows)
    return at


def state_of(job: Job, at: Position) -> dict[str, Any]:
    """What a checkpoint says of the run, beside what the engine gives."""
    return {"loader": at.loader.state.to_json(), "fingerprint": job.fingerprint, "seconds": at.seconds,
            "loss": at.loss, "validation": at.validation, "validated_step": at.validated_step,
            "guard": at.guard.state.to_json(), "steering": at.steering.to_json(),
            "total_steps": job.plan.total_steps}  # fmt: skip


def save(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook) -> None:
    """Have a checkpoint written. All ranks call it."""
    at.tick()
    keeper.save(engine.snapshot, at.step, state_of(job, at), log.sync)


def save_by_step(config: Config, at: Position, keeper: Keeper) -> bool:
    """Whether the step's number, or its validation, asks for a checkpoint."""
    every = (config.save_every_steps, config.keep_every_steps)
    if any(steps and at.step % steps == 0 for steps in every):
        return True
    measured = at.validation.get("bits_per_byte", math.nan)
    if not (config.keep_best and at.validated_step == at.step and math.isfinite(measured)):
        return False
    return keeper.best is None or measured < keeper.best


def first_look(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook, listener: Listener) -> None:
    """Validation, samples and a checkpoint before the first step; going back needs one, too."""
    validate(job, engine, at)
    if log.writes:
        say(f"{job.folder.name}: {in_words(at.validation)} before the first step")
    if job.config.sample_every_steps:
        log.sample(0, listener.samples(0))
    save(job, engine, at, keeper, log)
    keeper.wait()


def validate(job: Job, engine: Engine, at: Position) -> None:
    """Measure on held-out text; rank 0 does, all learn of it."""
    with engine.whole() as model:
        found = None if model is None else job.validate(model, engine.autocast())
    at.validation, at.validated_step = _measured(told(engine.world, found)), at.step


def counts(job: Job, at: Position, device: str, precision: str) -> dict[str, Any]:
    """The counts of the manifest, when a run is done."""
    run, order = job.plan, at.loader.order
    mixed = {"mix": order.report(at.loader.state)} if isinstance(order, Mixed) else {}
    for name, row in mixed.get("mix", {}).items():
        say(f"train: {name}: {row['share']:.2%} of the tokens (wanted {row['wanted']:.2%}), {row['epochs']:.2f} passes")
    newest = checkpoints.require_newest(job.folder / "checkpoints")
    return mixed | {
        "steps": at.step,
        job.unit: run.tokens_after(at.step),
        "final_loss": at.loss,
        **{f"validation_{key}": value for key, value in sorted(at.validation.items())},
        "device": device,
        "precision": precision,
        "engine": job.config.engine,
        "processes": run.processes,
        "not_taken": at.guard.state.refused,
        "rolled_back": at.guard.state.returned,
        "learning_rate_factor": at.guard.state.rate,
        f"{job.unit}_per_second": run.tokens_after(at.step) / max(at.seconds, 1e-9),
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
        try:
            dump(path, heading, at.loader.texts(before, job.plan.at(at.step).rows(at.step), job.tokenizer))
        except OSError as error:
            say(f"train: warning: {path} was not written ({error})")
    return at.guard.hit()


def go_back(job: Job, engine: Engine, at: Position, keeper: Keeper, log: Logbook) -> None:
    """Back to a checkpoint, but not to its place in the data: what was read since is passed over.

    Raises TrainingError when this has been tried too often.
    """
    keeper.settle()
    folder, name = job.folder / "checkpoints", None
    if engine.world.first:
        name = _proven(folder, at.guard).name
    chosen = folder / told(engine.world, name)
    state, left = checkpoints.read_state(chosen), at.step
    here = job.plan.behind(state["step"])
    put_into(job, engine, at.phase, here.phase)
    at.phase, at.loader = here.phase, at.loader.at_length(here.sequence_length)
    engine.load(checkpoints.read_snapshot(chosen, state, adapted=job.adapted))
    before = at.guard.state.rate
    possible = at.guard.go_back(state["guard"], state["step"])
    rate = at.guard.state.rate
    log.event(left, "rolled back", f"back to {chosen.name}, the learning rate " + (
                  "unchanged" if rate == before else f"times {rate:.4g} from here on"),
              to_step=state["step"], rate=at.guard.state.rate)  # fmt: skip
    if not possible:
        raise TrainingError(
            f"train: went back {job.config.guard.max_rollbacks} times to {chosen.name} and the loss leaves its band again; "
            "train/history.jsonl and train/spikes say where; look at the text there, and raise train.guard.loss_deviations to go "
            "on, or begin anew with a lower train.learning_rate"
        )
    at.step, at.loss, at.validated_step = state["step"], state["loss"], state.get("validated_step", -1)
    at.validation = _measured(state["validation"])
    log.go_back(at.step)
    save(job, engine, at, keeper, log)  # the place in the data and the count outlive a kill


def _proven(folder: Path, guard: Guard) -> Path:
    """The checkpoint to go back to; newer ones, whose state is in doubt, are deleted, and damaged ones moved aside."""
    while True:
        found = {checkpoints.step_of(path): path for path in checkpoints.checkpoints(folder)}
        chosen = guard.target(list(found))
        try:
            checkpoints.read_state(found[chosen])
        except (CheckpointError, OSError) as error:
            if len(found) == 1:
                raise
            checkpoints.set_aside(found[chosen], error)
            continue
        for step, path in found.items():
            if step > chosen:
                checkpoints.delete(path)
        return found[chosen]


def _measured(found: dict[str, Any] | None) -> dict[str, float]:
    """Figures of a validation; JSON has no word for those that are not finite."""
    return {key: math.nan if value is None else value for key, value in (found or {}).items()}


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
