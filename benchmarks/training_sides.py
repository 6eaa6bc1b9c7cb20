"""What the benchmarks of training have in common: text made ready, a clock, one judge for all sides, our side, pictures.

Used by quality.py (with quality_peers.py), tokens.py and curriculum.py; it measures nothing by itself.

The clock. In it: reading rows, forward and backward passes, the optimizer, the record of each step, and what the first step costs
(torch.compile). Not in it: making shards and model, loading, validation, checkpoints, samples. It is stopped at every validation,
and after the last step before anything is saved; on a GPU it waits for the device whenever it starts or stops.

The judge. Every side is judged by one function on the same held-out documents: its weights are copied into a float32 model of ours,
and `jielong.evaluate.bits.measure` gives bits per byte of UTF-8, each document by itself, cut into rows of the judge's length. So
neither the arithmetic that a side trains in nor its way of validating has a part in the result. A second figure, *rows*, takes
the same text end to end with earlier documents in view, as a side sees it that trains without a document mask.

Our side is `jielong.train.loop.train` itself, around the engine that a recipe would open: it validates at the steps that it is told
to, and writes a checkpoint before the first step and after the last one, as it always does, outside the clock.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from jielong.charts import COLOURS, PAPER, STYLE, Series, Words, line_chart, standalone
from jielong.evaluate.bits import measure
from jielong.model.hf import load_folder
from jielong.progress import human_count
from jielong.recipe import Recipe, parse_overrides
from jielong.runs import Run, open_run, write_json, write_text
from jielong.runtime import choose_device
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Config
from jielong.train.engines.opening import open_engine
from jielong.train.job import Job, plan
from jielong.train.loader import PackedLoader
from jielong.train.loop import Steps, make_step, train
from jielong.workflow import run_stages
from jielong.world import World

JUDGE_TOKENS = 8192  # that go through the judge's model at once
EARLY = 0.04  # of a picture's width, where losses fall so fast that the rest would be flat
QUIET = ["evaluate_every_steps=none", "sample_every_steps=none", "save_every_minutes=none", "log_every_steps=1000000"]

# what --model means: overrides of the recipe tiny (shape), and of its [train] table (a step)
MODELS: dict[str, tuple[list[str], list[str]]] = {
    "tiny": ([], ["tokens_per_step=1024", "micro_batch_tokens=1024"]),
    "25m": (
        ["tokenizer.vocab_size=6400", "model.hidden_size=512", "model.num_hidden_layers=8", "model.num_attention_heads=8",
         "model.num_key_value_heads=4", "model.initializer_range=0.02"],
        ["tokens_per_step=8192", "micro_batch_tokens=8192"],
    ),
}  # fmt: skip


class TooLongError(Exception):
    """A run went over its limit of seconds and was given up."""


class Clock:
    """Seconds of training: runs from `go` to `halt`."""

    def __init__(self, limit: float | None = None) -> None:
        self.limit, self._sum = limit, 0.0
        self._since: float | None = None

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._since is not None

    @property
    def seconds(self) -> float:
        """So far."""
        return self._sum + (0.0 if self._since is None else _now() - self._since)

    def go(self) -> None:
        """Run on; nothing happens to a clock that runs."""
        self._since = _now() if self._since is None else self._since

    def halt(self) -> None:
        """Stand still; nothing happens to a clock that stands."""
        self._sum, self._since = self.seconds, None

    def check(self) -> None:
        """Raises TooLongError beyond the limit."""
        if self.limit is not None and self.seconds > self.limit:
            raise TooLongError


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class Mark(NamedTuple):
    """A step: `kind` is what its speed depends on, row length and phase."""

    kind: tuple[int, int]
    tokens: int
    seconds: float


@dataclass
class Trained:
    """What is known of a training: `curve` has a row for each validation, `step` 0 first."""

    clock: Clock
    curve: list[dict[str, Any]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)  # at the end, where somebody keeps them

    @property
    def tokens(self) -> int:
        return sum(mark.tokens for mark in self.marks)

    @property
    def lengths(self) -> list[int]:
        """The row lengths that were trained at, in order; one again and again is named once."""
        return [length for length, _ in groupby(mark.kind[0] for mark in self.marks)]


def seconds_for(marks: list[Mark]) -> tuple[float, float]:
    """From the steps of a short run: (seconds once, seconds a token) of a longer one of the same proportions.

    Each kind's speed is the median without its first step, and what that one took longer comes once.
    """
    once = per_token = 0.0
    whole = sum(mark.tokens for mark in marks)
    for kind in dict.fromkeys(mark.kind for mark in marks):
        first, *rest = [mark for mark in marks if mark.kind == kind]
        speed = statistics.median(mark.seconds / mark.tokens for mark in rest or [first])
        once += max(0.0, first.seconds - speed * first.tokens)
        per_token += speed * (first.tokens + sum(mark.tokens for mark in rest)) / whole
    return once, per_token


# ------------------------------------------------------------------------------------------------------ material


def prepare(recipe: Recipe, folder: Path, name: str) -> Run:
    """Documents, tokenizer with shards, and the initial model of a recipe, made in `folder`/`name`."""
    run = open_run(folder, name)
    run_stages(recipe, run, ["data", "tokenizer", "model"])
    return run


def settings(*texts: Iterable[str]) -> Config:
    """The [train] table that "key=value" texts make over the defaults; a later one replaces an earlier one of its key."""
    return parse_overrides("train", Config, [f"train.{text}" for group in texts for text in group])


def length_of(run: Run) -> int:
    """The longest context of the run's model."""
    return int(load_folder(run.stage("model")).config.max_position_embeddings)


class Judge:
    """See the module's text. length: of the rows that documents are cut into; the model's context at most."""

    def __init__(self, run: Run, length: int, documents: int | None = None, device: str = "auto") -> None:
        """documents: how many of the held-out ones, the first in stored order, are looked at while training; None: all."""
        self.shards = Shards(run.stage("tokenizer") / "shards", "validation")
        self.model = load_folder(run.stage("model")).to(choose_device(device)).requires_grad_(False).eval()
        self.length, self.documents = length, documents

    def look(self, weights: Mapping[str, torch.Tensor], whole: bool = False) -> dict[str, float]:
        """Loss (nats a token) and bits per byte of some weights, under a state_dict's names; whole: on all documents."""
        self.model.load_state_dict(weights)
        numbers = None if whole or self.documents is None else range(min(self.documents, self.shards.documents))
        found = measure(self.model, self.shards, self.length, self._rows, documents=numbers)
        return {key: found[key] for key in ("loss", "bits_per_byte", "tokens", "bytes", "documents")}

    def weights(self) -> dict[str, torch.Tensor]:
        """A copy of the weights that were looked at last: after a training, those of its end."""
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @property
    def _rows(self) -> int:
        return max(1, JUDGE_TOKENS // self.length)

    @torch.no_grad()
    def rows(self) -> float:
        """Bits per byte of the weights looked at last, of the held-out text end to end, without a document mask."""
        loader = PackedLoader(self.shards, self.length, seed=0)
        device, nats, left = next(self.model.parameters()).device, 0.0, self.shards.target_tokens
        while left > 0:  # one epoch: each token once
            batch = loader.next_batch(self._rows)
            labels = torch.from_numpy(batch.labels).reshape(-1)
            labels[left:] = -100  # behind the end of the epoch the next one begins
            left -= len(labels)
            labels = labels.view(batch.labels.shape).to(device)
            nats += float(self.model.loss_sum(torch.from_numpy(batch.inputs).to(device), labels, None, None))
        return nats / math.log(2) / sum(self.shards.document_bytes(n) for n in range(self.shards.documents))


# ------------------------------------------------------------------------------------------------------ our side


def train_ours(
    run: Run, config: Config, judge: Judge | None, points: int = 1, seed: int = 1, limit: float | None = None
) -> Trained:
    """Train the run's initial model as the recipe's [train] table `config` says.

    judge: None validates nothing. points: validations, evenly over the steps. limit: seconds on the clock; raises TooLongError beyond it,
    with the `Trained` so far as its argument.
    """
    shards = Shards(run.stage("tokenizer") / "shards", "train")
    built = run.manifest("model")
    assert built is not None
    model = load_folder(run.stage("model"), attention=built["section"]["attention"])
    arithmetic = plan(config, model.config.max_position_embeddings, shards.available())
    every = max(1, arithmetic.total_steps // points) if judge is not None else None
    config = config.model_copy(update={"evaluate_every_steps": every, "sample_every_steps": None})
    found = Trained(Clock(limit))
    step, looked = 0, dict[int, dict[str, Any]]()

    def validate(current: Any, autocast: Any) -> dict[str, float]:
        running = found.clock.runs
        found.clock.halt()
        if judge is None:
            return {"loss": math.nan, "bits_per_byte": math.nan}
        seen = judge.look(current.state_dict())
        looked[step] = {key: seen[key] for key in ("loss", "bits_per_byte")} | {"seconds": found.clock.seconds}
        if running and step < arithmetic.total_steps:  # behind the last one comes the checkpoint
            found.clock.go()
        return {key: seen[key] for key in ("loss", "bits_per_byte")}

    def make(steps: Steps) -> None:
        nonlocal step
        found.clock.go()
        step, before = steps.at.step + 1, found.clock.seconds
        make_step(steps)
        found.clock.halt()
        kind = (int(steps.rows.batches[0].inputs.shape[1]), arithmetic.at(step).phase)
        found.marks.append(Mark(kind, arithmetic.tokens_of(step), found.clock.seconds - before))
        found.clock.check()

    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()):
        job = Job(config, arithmetic, model.config, Path(out), shards, open_folder(run.stage("tokenizer")), seed,
                  "benchmark", validate, lambda model, step: [])  # fmt: skip
        engine = open_engine(model, job, World())
        try:
            train(job, engine, make)
        except TooLongError as error:
            raise TooLongError(found) from error
        finally:
            engine.close()
            tokens = {at: arithmetic.tokens_after(at) for at in looked}
            found.curve = [{"step": at, "tokens": tokens[at], **row} for at, row in sorted(looked.items())]
    return found


# --------------------------------------------------------------------------------------------- pictures and results


def picture(
    key: str,
    title: Words,
    curves: Mapping[str, list[dict[str, Any]]],
    x: str,
    y: str = "bits_per_byte",
    size: tuple[int, int] = (760, 360),
) -> str:
    """A chart of validation over `x` ("seconds" or "tokens"), a line for each name; what lies before EARLY is left out."""
    labels = {"seconds": Words("seconds of training", "训练秒数"), "tokens": Words("tokens seen", "已训练词元")}
    farthest = max(row[x] for rows in curves.values() for row in rows)
    series = [
        Series(
            Words(name, name),
            [(row[x], row[y]) for row in rows if row[x] >= EARLY * farthest] or [(rows[-1][x], rows[-1][y])],
            "marks",
            number % len(COLOURS),
        )
        for number, (name, rows) in enumerate(curves.items())
    ]
    told = "; ".join(f"{name} {rows[-1][y]:.4f}" for name, rows in curves.items())
    ends, axis = Words(f"at the end: {told}", f"末值：{told}"), "{:g}".format if x == "seconds" else human_count
    return once(line_chart(series, key, title, ends, labels[x], size, x_format=axis))


def once(chart: str) -> str:
    """A chart in which a label that is the same in both languages stands once."""
    twice = (
        r'<tspan class="t" lang="en">([^<]*)</tspan><tspan class="sep"> · </tspan><tspan class="t" lang="zh">\1</tspan>'
    )
    return re.sub(twice, r"<tspan>\1</tspan>", chart)


def write_picture(path: Path, *charts: str) -> None:
    """One chart, or several below each other, as a file that any page can show, light or dark."""
    if len(charts) == 1:
        write_text(path, standalone(charts[0]))
        return
    sizes = [tuple(map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', chart)[0])) for chart in charts]
    width, height = max(w for w, _ in sizes) + 32, sum(h for _, h in sizes) + 24 * len(sizes)
    parts, at = list[str](), 12
    for chart, (w, h) in zip(charts, sizes, strict=True):
        parts.append(chart.replace("<svg ", f'<svg x="16" y="{at}" width="{w}" height="{h}" ', 1))
        at += h + 24
    head = f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">'
    paper = f'<rect class="paper" width="{width}" height="{height}" fill="{PAPER}"/>'
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<style>{STYLE}</style>{paper}{"".join(parts)}</svg>\n'
    write_text(path, text)


def write_result(path: Path, what: str, options: Any, rows: list[dict[str, Any]], **more: Any) -> None:
    """The JSON of a benchmark: date, versions, machine, options, rows."""
    given = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(options).items()
        if key not in ("out", "work", "pictures", "request", "result")  # places of one machine
    }
    packages = ("torch", "transformers", "tokenizers", "numpy")
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    write_json(path, {"date": time.strftime("%Y-%m-%d"), "what": what, "options": given,
                      "versions": {name: version(name) for name in packages}, "machine": machine, "rows": rows, **more})  # fmt: skip


def lines_of(table: list[list[str]]) -> Iterator[str]:
    """Rows of cells as lines, the first column to the left, the others to the right."""
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    for row in table:
        yield "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
