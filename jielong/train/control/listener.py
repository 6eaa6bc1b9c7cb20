"""The run's side of the control channel: rank 0 reads commands and answers, all ranks act alike.

How many commands wait rides in the sums that every step adds up anyway, so ranks talk about commands only when there are some: rank
0 takes them, checks them, writes what changes the run to the history (on disk before it takes effect), and tells the others. Each
acts behind the same step: between two steps, where weights, optimizer and the place in the data belong together.

A pause is a loop between two steps that answers commands. Every REST_SECONDS rank 0 says to the others that it is still there
(world.py: who waits longer than an hour gives up), and all say whether a signal has asked to stop.

Whatever fails here (a prompt, a disk) becomes the answer's one sentence; the run goes on. A generation draws from generators of its own,
and what it does to torch's is put back: a run that was watched and asked is bit for bit the one that was left alone.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch

from jielong.errors import InputError, JielongError, Stopped
from jielong.model.cost import flops_per_token
from jielong.progress import plain
from jielong.runs import now
from jielong.runtime import random_state, restore_random_state
from jielong.train.control import asking
from jielong.train.control.mailbox import POLL_SECONDS, Mailbox
from jielong.train.control.steering import EVENT, REFUSED
from jielong.train.control.telling import born, one_line, shown
from jielong.train.engines.interface import Engine
from jielong.train.gauges import memory_bytes, mfu, peak_of
from jielong.train.job import Job, Position
from jielong.train.loader import LoaderState
from jielong.train.logbook import Logbook
from jielong.world import add_up, told

REST_SECONDS = 5.0  # of a pause, between two signs of life
STATUS_SECONDS = 1.0  # between two writings of status.json
MEMORY = 0.95  # weight of the past in the speed that is shown, each step
STALE = "command: it was sent before this training began, when nobody was there to take it; send it again"
ENDED = "command: the training has ended; start it again to go on"


class Listener:
    """Hears and answers commands, and says where the run stands: a context manager around the steps of a run."""

    def __init__(self, job: Job, engine: Engine, at: Position, log: Logbook) -> None:
        self.job, self.engine, self.at, self.log = job, engine, at, log
        self.box = Mailbox(job.folder)
        self.paused = self.stopping = self.save = False
        self.peak = peak_of(engine.device, engine.precision) if engine.world.first else None
        self._born = born(os.getpid())
        self._owed: list[str] = []  # commands that are answered when a checkpoint is there
        self._state, self._record = "running", dict[str, Any]()
        self._rows: tuple[LoaderState, int] | None = None  # where the last step began to read, and how many rows
        self._started, self._clock, self._said = now(), time.monotonic(), 0.0
        self._flops: dict[int, float] = {}  # a token costs, by the length of its row
        self._memory, self._weighed = 0, -math.inf
        self._rate = Smooth()  # tokens a second
        self._pace = Smooth()  # seconds a token, with all that comes between steps
        self._seen = False

    def __enter__(self) -> Self:
        if self.engine.world.first:
            self._refuse_all(STALE)
            self.say("running")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self.engine.world.first:
            self._refuse_all(ENDED)
            stopped = kind is not None and issubclass(kind, Stopped)
            self.say("done" if kind is None else "stopped" if stopped else "failed")

    # ------------------------------------------------------------------------------------------------- every step

    def waiting(self) -> int:
        """How many commands wait, on rank 0; none elsewhere."""
        return len(self.box.waiting()) if self.engine.world.first else 0

    def replay(self) -> None:
        """Make again what an interrupted run did behind this step. All ranks call it before a step."""
        for row in self.at.steering.replay(self.at.step):
            self.log.event(self.at.step, "replayed", f"{row['command']} again, as before the interruption",
                           of=row["number"])  # fmt: skip

    def measured(self, tokens_per_second: float) -> dict[str, Any]:
        """What a step's record says of the device: share of its peak (where that is known), and bytes, a second old at most."""
        if time.monotonic() - self._weighed > STATUS_SECONDS:
            self._memory, self._weighed = memory_bytes(self.engine.device), time.monotonic()
        if self.job.unit != "tokens":  # examples of any length
            return {"memory": self._memory}
        length = self.job.plan.at(self.at.step).sequence_length
        if length not in self._flops:
            self._flops[length] = flops_per_token(self.job.model, length)
        share = mfu(tokens_per_second, self._flops[length], self.peak, self.engine.world.size)
        return {**({} if share is None else {"mfu": round(share, 6)}), "memory": self._memory}

    def made(self, record: dict[str, Any], before: LoaderState) -> None:
        """A step is made: `record` is what is written of it, `before` where its rows began."""
        step, plan = self.at.step, self.job.plan
        self._record, self._rows = record, (before, plan.at(step).rows(step))
        took, self._clock = time.monotonic() - self._clock, time.monotonic()
        if self._seen:  # not the first step of a process, which warms up
            self._rate.add(record[f"{self.job.unit}_per_second"])
            self._pace.add(took / plan.tokens_of(step))
        self._seen = True
        if time.monotonic() - self._said > STATUS_SECONDS:
            self.say("running")

    def hear(self) -> None:
        """Take the commands that wait, and act. All ranks call it when there are some."""
        for row in told(self.engine.world, self._taken() if self.engine.world.first else None):
            self._act(row)

    def rest(self, stop: Callable[[], bool]) -> None:
        """A while of a pause: until a command has come, a signal, or REST_SECONDS are over. All ranks call it."""
        world = self.engine.world
        if world.first:
            self.say("paused")
            until = time.monotonic() + REST_SECONDS
            while time.monotonic() < until and not self.box.waiting() and not stop():
                time.sleep(POLL_SECONDS)
        self.hear()
        self.stopping |= add_up(world, torch.tensor([float(stop())])).item() > 0
        self._clock = self.at.started = time.monotonic()  # a pause is no training time

    def saved(self, path: Path) -> None:
        """The checkpoint that a command has asked for is there, or was not written."""
        there, self.save = path.is_dir(), False
        if not self.engine.world.first:
            return
        text = f"saved as {path.name}" if there else "the checkpoint was not written; the run's console says why"
        for name in self._owed:
            self.box.answer(name, {"ok": there, "text": text, "step": self.at.step})
        self._owed = []

    # ----------------------------------------------------------------------------------------------------- status

    def say(self, state: str) -> None:
        """Write status.json."""
        if self.engine.world.first:
            self._state, self._said = state, time.monotonic()
            self.box.say(self.status())

    def status(self) -> dict[str, Any]:
        """Where the run stands; None: not known yet."""
        at, record, plan = self.at, self._record, self.job.plan
        left, rate, pace = plan.tokens - plan.tokens_after(at.step), self._rate.mean, self._pace.mean
        seconds = at.seconds + (0.0 if self.paused else time.monotonic() - at.started)
        bits, unit = at.validation.get("bits_per_byte", math.nan), self.job.unit
        share, last = record.get("mfu"), record.get(f"{unit}_per_second")
        if share is not None and rate is not None and last:  # beside the mean speed its share, not the last step's
            share = round(share * rate / last, 6)
        return {
            "pid": os.getpid(), "born": self._born, "host": platform.node(), "state": self._state, "time": time.time(),
            "started": self._started, "step": at.step, "total_steps": plan.total_steps, "phase": record.get("phase"), "loss": at.loss,
            "validation_bits_per_byte": bits if bits == bits else None, "learning_rate": record.get("learning_rate"),
            "grad_norm": record.get("grad_norm"), unit: record.get(unit),
            f"{unit}_per_second": None if rate is None else round(rate, 1), "mfu": share,
            "memory": record.get("memory"), "elapsed": round(seconds, 1),
            "eta": None if pace is None else round(left * pace, 1),
            "learning_rate_factor": at.steering.rate,
        }  # fmt: skip

    # ---------------------------------------------------------------------------------------------- taking commands

    def _refuse_all(self, why: str) -> None:
        for name in self.box.waiting():
            self.box.take(name)
            self._refuse(name, why)

    def _refuse(self, name: str, why: str) -> None:
        self.box.answer(name, {"ok": False, "text": why, "step": self.at.step})

    def _taken(self) -> list[dict[str, Any]]:
        """The commands that wait and are right, on rank 0; what changes the run is in the history, on disk."""
        rows = list[dict[str, Any]]()
        rate, number = self.at.steering.rate, self.at.steering.number
        for name in self.box.waiting():
            command, why = self.box.take(name)
            try:
                if command is None:
                    raise InputError(why)
                asking.check(command)
                row = {**command, "name": name, "step": self.at.step}
                if row["command"] in asking.INTERVENTIONS:
                    row |= self._resolved(command, rate)
                    number += 1
                    row["number"] = number
                    self._write(row)
                    rate = row.get("rate", rate)
            except (JielongError, OSError) as error:
                self._refuse(name, str(error))
                continue
            rows.append(row)
        return rows

    def _resolved(self, command: dict[str, Any], rate: float) -> dict[str, Any]:
        """What a command means here and now. Raises InputError. rate: the factor before it."""
        if command["command"] == "learning-rate":
            return {"rate": self._factor(command["value"], rate)}
        if command["command"] == "prompts":
            longest = self.job.model.max_position_embeddings
            for prompt in command["prompts"]:
                if (size := len(self.job.tokenizer.encode_prompt(prompt))) >= longest:
                    raise InputError(
                        f"prompts: too long, got {size} tokens for {prompt[:20]!r}; must be less than the model's context of "
                        f"{longest}; shorten it"
                    )
        return {}

    def _factor(self, said: Any, before: float) -> float:
        """What the schedule's rate is multiplied by from now on. Raises InputError. before: the factor until now."""
        is_factor, value = asking.factor_or_value(said)
        scheduled = self._scheduled()
        if not (is_factor or scheduled):
            raise InputError("learning-rate: the schedule's own is 0 in the next step; nothing times 0 is another rate")
        found = before * value if is_factor else value / scheduled
        if not (
            found > 0 and math.isfinite(found)
        ):  # factors of factors: it would be so for good, and JSON has no word for it
            raise InputError(
                f"learning-rate: out of bounds, got {found:g} times the schedule's; must be above 0 and finite; give a rate like 3e-4"
            )
        return found

    def _scheduled(self) -> float:
        """The next step's learning rate, but for what a person changed."""
        step = min(self.at.step + 1, self.job.plan.total_steps)
        return self.job.learning_rate(step) * self.at.guard.state.rate

    def _write(self, row: dict[str, Any]) -> None:
        """Put an intervention on disk. Raises OSError."""
        what = row["command"]
        if what == "learning-rate":
            what += f" times {row['rate']:.4g}: {self._scheduled() * row['rate']:.4g} in the next step"
        elif what == "prompts":
            what += ": " + plain(" ".join(" | ".join(row["prompts"]).split()))[:80]
        kept = {key: row[key] for key in ("command", "number", "value", "rate", "prompts") if key in row}
        try:
            self.log.event(row["step"], EVENT, f"{what}, by a person", **kept)
            self.log.sync()
        except OSError:  # a full disk takes it later, so it is taken back there
            self.log.event(
                row["step"], REFUSED, f"{row['command']}: not made, the disk did not take it", of=row["number"]
            )
            raise

    # ------------------------------------------------------------------------------------------------------- acting

    def _act(self, row: dict[str, Any]) -> None:
        """On all ranks."""
        name, first = row["command"], self.engine.world.first
        if name in asking.INTERVENTIONS:
            self.at.steering.change(row)
        answer: dict[str, Any] | None = {"text": f"{name}: done"}
        if name in ("save", "stop"):
            self.save, self.stopping, answer = True, self.stopping or name == "stop", None
            self._owed += [row["name"]]
        elif name in ("pause", "resume"):
            answer = {"text": f"{'paused' if name == 'pause' else 'going on'} after step {self.at.step}"}
            self._change_pause(name == "pause")
        elif name == "learning-rate":
            answer = {
                "text": f"the next step's learning rate is {self._scheduled() * row['rate']:.4g}",
                "rate": row["rate"],
            }
        elif name in ("generate", "prompts"):
            answer = self._written_by_model(row)
        elif name == "batch" and first:
            answer = self._batch(row.get("rows", asking.ROWS))
        elif name == "status" and first:
            status = self.status()
            answer = {"text": one_line(status), "status": status}
        if first and answer is not None:
            self.box.answer(row["name"], {"ok": True, "step": self.at.step, **answer})

    def _change_pause(self, paused: bool) -> None:
        if paused and not self.paused:
            self.at.tick()
        self.paused = paused
        self.say("paused" if paused else "running")

    def _written_by_model(self, row: dict[str, Any]) -> dict[str, Any]:
        """Continuations by the weights in memory; for other sample prompts they go to the samples, too."""
        if row["command"] == "prompts":
            rows = self.samples(self.at.step)
            self.log.sample(self.at.step, rows)
            return {"text": "\n".join(shown(one) for one in rows), "continuations": rows}
        settings = {key: row[key] for key in asking.SETTINGS if row.get(key) is not None}
        try:
            rows = self._generate([row["prompt"]], settings)
        except JielongError as error:
            return {"ok": False, "text": str(error).replace("infer.", "generate: ", 1)}
        return {"text": "\n".join(shown(one) for one in rows), "continuations": rows}

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Continuations of the sample prompts, on rank 0, nothing elsewhere. All ranks call it."""
        prompts = self.at.steering.prompts
        if prompts is None:
            with self.engine.whole() as model:
                return [] if model is None else self.job.sample(model, step)
        try:
            return self._generate(prompts, {"max_new_tokens": self.job.config.sample_tokens})
        except JielongError as error:  # a person's prompts end no run
            return [{"prompt": prompts[0], "text": f"({error})"}]

    def _generate(self, prompts: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
        """On rank 0, nothing elsewhere. Raises JielongError there."""
        failed: JielongError | None = None
        rows, device = list[dict[str, Any]](), self.engine.device
        with self.engine.whole() as model:
            if model is not None:
                before = random_state(device)
                try:
                    if self.job.generate is None:
                        raise InputError("generate: this training was started without it; use jielong train")
                    rows = self.job.generate(model, prompts, settings)
                except JielongError as error:
                    failed = error
                except Exception as error:  # a full GPU, say: what a person asks ends no run
                    failed = InputError(f"generate: failed ({type(error).__name__}: {str(error)[:200]})")
                finally:
                    restore_random_state(before, device)
        if failed is not None:
            raise failed
        return rows

    def _batch(self, rows: int) -> dict[str, Any]:
        """The first rows of the last step, document by document."""
        if self._rows is None:
            return {"ok": False, "text": "batch: no step was made since the run began; wait for one"}
        before, whole = self._rows
        parts = self.at.loader.texts(before, min(rows, whole), self.job.tokenizer)
        lines = [f"row {p['row']}, document {p['document']:,} of {p['source']}, tokens {p['begin']:,} to {p['end']:,}:\n{p['text']}"
                 for p in parts]  # fmt: skip
        more = f"\n({whole - rows:,} more rows)" if whole > rows else ""
        return {"text": "\n".join(lines) + more, "rows": parts}


class Smooth:
    """An exponential mean without a bias at its beginning; None before there is a value."""

    def __init__(self) -> None:
        self._total, self._weight = 0.0, 0.0

    def add(self, value: float) -> None:
        """Another value."""
        self._total, self._weight = MEMORY * self._total + value, MEMORY * self._weight + 1.0

    @property
    def mean(self) -> float | None:
        return self._total / self._weight if self._weight else None
