"""Runs of several phases: exact resume around their borders, going back over one, what is kept. In several processes they
are in engines/test_pytorch.py.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.metrics import read_jsonl
from jielong.model.transformer import Losses
from jielong.train.checkpoints import newest, read_snapshot, read_state
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch, open_loader
from jielong.train.loop import train
from jielong.train.transitions import steps_alike
from tests.train.conftest import RunTraining, make_job, make_model
from tests.train.engines.jobs import PHASES, THREE, losses, records


def same_end(one: Path, other: Path) -> None:
    """Fail unless two runs have the same losses and the same last checkpoint, bit for bit."""
    assert losses(one) == losses(other)
    first, second = (newest(folder / "checkpoints") for folder in (one, other))
    assert first is not None and second is not None and first.name == second.name
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    ends = [read_state(path) for path in (first, second)]
    assert ends[0]["loader"] == ends[1]["loader"] and ends[0]["guard"] == ends[1]["guard"]


def test_what_changes_at_a_border(
    run_training: RunTraining, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths, sizes, rates and optimizers are those of the phases, and the rows are one stream."""
    seen, optimized = list[Batch](), list[tuple[str, bool]]()
    forward, optimize = TorchEngine.forward, TorchEngine.optimize

    def watched(self: TorchEngine, batch: Batch, last: bool = True) -> Losses:
        seen.append(batch)
        return forward(self, batch, last)

    def noted(self: TorchEngine, config: Config, carried: bool) -> None:
        optimized.append((config.optimizer, carried))
        optimize(self, config, carried)

    monkeypatch.setattr(TorchEngine, "forward", watched)
    monkeypatch.setattr(TorchEngine, "optimize", noted)
    counts = run_training(tmp_path, **THREE)
    found = records(tmp_path)
    assert [row["tokens"] for row in found] == [32, 64, 96, 128, *(128 + 64 * n for n in range(1, 9))]
    assert [row["phase"] for row in found] == [0] * 4 + [1] * 4 + [2] * 4 and counts["tokens"] == 640
    assert [row["learning_rate"] for row in found][8:11] == pytest.approx([0.005, 0.01, 0.01])
    assert optimized == [("muon", True), ("adamw", False)]
    events = [(row["step"], row["event"], row["phase"]) for row in read_jsonl(tmp_path / "history.jsonl")]
    assert events == [(4, "phase", 1), (8, "phase", 2)]
    assert [batch.labels.shape for batch in seen] == [(8, 4)] * 4 + [(4, 8)] * 8 + [(2, 16)] * 8
    job = make_job(corpus, tmp_path / "other", **THREE)
    stream = open_loader("packed", job.shards, 4, 1).next_batch(160).labels.ravel().tolist()
    assert [token for batch in seen for token in batch.labels.ravel().tolist()] == stream
    last = newest(tmp_path / "checkpoints")
    assert last is not None and len(read_state(last)["guard"]["losses"]) == 4  # the band is the last phase's
    finite = [row["loss"] for row in found]
    assert all(math.isfinite(loss) for loss in finite) and finite[-1] < finite[0] - 0.3


@pytest.mark.parametrize("fail_at", [3, 4, 5, 7, 8, 9, 10])
def test_resume_around_a_border_is_bit_exact(run_training: RunTraining, tmp_path: Path, fail_at: int) -> None:
    """Broken off in a step before, at and behind a border, with checkpoints of every step and of every other one."""
    micro = {"micro_batch_tokens": 64}  # one micro-batch a step, so its number is that of the step
    run_training(tmp_path / "unbroken", **THREE | micro)
    for every in (1, 2):
        folder = tmp_path / f"broken-{every}"
        with pytest.raises(RuntimeError, match="injected fault"):
            run_training(folder, fail_at=fail_at, save_every_steps=every, **THREE | micro)
        torch.manual_seed(99)
        run_training(folder, save_every_steps=every, **THREE | micro)
        same_end(folder, tmp_path / "unbroken")


@pytest.mark.parametrize(("state", "counted"), [("carried", 8.0), ("fresh", 5.0)])
def test_what_the_optimizer_remembers(run_training: RunTraining, tmp_path: Path, state: str, counted: float) -> None:
    """The same optimizer in both phases, of 3 and 5 steps: its count of steps goes on, or begins anew."""
    phases = [{"tokens": 3 * 64}, {"tokens": 5 * 64, "optimizer_state": state}]
    run_training(tmp_path, tokens=None, phases=phases)
    last = newest(tmp_path / "checkpoints")
    assert last is not None
    assert float(read_snapshot(last, read_state(last)).optimizer["step.model.norm.weight"]) == counted


def test_random_numbers_go_on_over_a_border(run_training: RunTraining, tmp_path: Path) -> None:
    """A phase change that changes nothing is not noticed, not even with dropout: the losses are those of a run without phases."""
    from tests.train.conftest import SHAPE

    shape = SHAPE.model_copy(update={"attention_dropout": 0.3})
    run_training(tmp_path / "one", shape=shape, tokens=8 * 64)
    phases = [{"tokens": 3 * 64}, {"tokens": 5 * 64}]
    run_training(tmp_path / "two", shape=shape, tokens=None, phases=phases)
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    rates = [[row["learning_rate"] for row in records(tmp_path / name)] for name in ("one", "two")]
    assert rates[0] == rates[1]


@contextmanager
def poisoned(*numbers: int) -> Iterator[None]:
    """The loss of these micro-batches, counted from 1, is not a number."""
    seen = [0]
    with pytest.MonkeyPatch.context() as monkeypatch:
        forward = TorchEngine.forward

        def other(self: TorchEngine, batch: Batch, last: bool = True) -> Losses:
            seen[0] += 1
            found = forward(self, batch, last)
            return found._replace(cross_entropy=found.cross_entropy * (math.nan if seen[0] in numbers else 1))

        monkeypatch.setattr(TorchEngine, "forward", other)
        yield


def test_going_back_over_a_border(run_training: RunTraining, tmp_path: Path) -> None:
    """Three refused steps at the beginning of phase 2 lead back to step 3 of phase 1, in its rows and with its optimizer, and the
    border is crossed once more. Killed behind that, the run ends in the same place.
    """
    settings = THREE | {"micro_batch_tokens": 64, "save_every_steps": 3, "guard": {"hits": 3}}
    with poisoned(5, 6, 7):
        counts = run_training(tmp_path / "unbroken", **settings)
    history = [(row["step"], row["event"]) for row in read_jsonl(tmp_path / "unbroken" / "history.jsonl")]
    assert history == [(4, "phase"), (5, "skipped"), (6, "skipped"), (7, "skipped"), (7, "rolled back"), (4, "phase"),
                       (8, "phase")]  # fmt: skip
    found = records(tmp_path / "unbroken")
    assert [row["step"] for row in found] == list(range(1, 13)) and counts["tokens"] == 640
    assert [row["phase"] for row in found] == [0] * 4 + [1] * 4 + [2] * 4
    for fail_at in (9, 10):  # the fourth step once more, and the first behind the border
        folder = tmp_path / f"broken-{fail_at}"
        with poisoned(5, 6, 7), pytest.raises(RuntimeError, match="injected fault"):
            run_training(folder, fail_at=fail_at, **settings)
        run_training(folder, **settings)
        same_end(folder, tmp_path / "unbroken")


def test_the_average_goes_on_over_borders_and_back(run_training: RunTraining, tmp_path: Path) -> None:
    """Going back over a border, and a kill before it is crossed again: the average and the weights are those of the unbroken run."""
    settings = THREE | {"micro_batch_tokens": 64, "save_every_steps": 3, "ema_decay": 0.9}
    with poisoned(5, 6, 7):
        run_training(tmp_path / "unbroken", **settings)
    with poisoned(5, 6, 7), pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=9, **settings)
    run_training(tmp_path / "broken", **settings)
    same_end(tmp_path / "broken", tmp_path / "unbroken")
    one, other = (newest(tmp_path / name / "checkpoints") for name in ("broken", "unbroken"))
    assert one is not None and other is not None
    own = [(path / "trainer" / "weights.safetensors").read_bytes() for path in (one, other)]
    assert own[0] == own[1]


def test_a_batch_ramp_resumes_exactly(run_training: RunTraining, tmp_path: Path) -> None:
    """1 to 4 rows over half of the tokens; the last micro-batch of a step is smaller where it must be."""
    settings: dict[str, Any] = {
        "tokens": 12 * 64,
        "tokens_per_step_start": 16,
        "ramp_ratio": 0.5,
        "micro_batch_tokens": 32,
    }
    for packing in ("packed", "truncated"):
        one, other = tmp_path / packing, tmp_path / f"{packing}-broken"
        run_training(one, packing=packing, **settings)
        tokens = [row["tokens"] for row in records(one)]
        sizes = [after - before for before, after in zip([0, *tokens], tokens, strict=False)]
        assert sizes[0] == 16 and sizes[-1] == 64 and sizes == sorted(sizes) and 12 * 64 <= tokens[-1] < 13 * 64
        with pytest.raises(RuntimeError, match="injected fault"):
            run_training(other, packing=packing, fail_at=7, save_every_steps=2, **settings)
        run_training(other, packing=packing, **settings)
        same_end(one, other)


def test_what_an_optimizer_is_made_of() -> None:
    plain = Config()
    assert steps_alike(plain, plain.model_copy(update={"learning_rate": 1.0, "sequence_length": 8}))
    assert not steps_alike(plain, plain.model_copy(update={"optimizer": "lion"}))
    assert not steps_alike(plain, plain.model_copy(update={"weight_decay": 0.0}))


# -------------------------------------------------------------------------------------------------- killed


def train_in(corpus: str, folder: str) -> None:
    """In a process of its own, to be killed."""
    phases = [PHASES[0] | {"tokens": 30 * 32}, PHASES[1] | {"tokens": 30 * 64}, PHASES[2] | {"tokens": 30 * 64}]
    job = make_job(Path(corpus), Path(folder), **THREE | {"phases": phases}, save_every_steps=3)
    train(job, TorchEngine(make_model(job), job.configs[0]))


@pytest.mark.slow
def test_killed_in_every_phase(corpus: Path, tmp_path: Path) -> None:
    """SIGKILL at once when a checkpoint at or behind a border is there: the end is that of the unbroken run."""
    train_in(str(corpus), str(tmp_path / "unbroken"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for wanted in (15, 30, 33, 60, 63):
        process = context.Process(target=train_in, args=(str(corpus), str(tmp_path / "broken")))
        process.start()
        while process.is_alive() and not reached(tmp_path / "broken", wanted):
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    train_in(str(corpus), str(tmp_path / "broken"))
    same_end(tmp_path / "broken", tmp_path / "unbroken")


def reached(folder: Path, step: int) -> bool:
    path = newest(folder / "checkpoints")
    return path is not None and int(path.name.removeprefix("step-")) >= step
