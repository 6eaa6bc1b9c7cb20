from __future__ import annotations

import copy
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from jielong.errors import CheckpointError, RecipeError
from jielong.metrics import read_jsonl
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM, Losses
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.job import Job
from jielong.train.loader import Batch, PackedLoader
from jielong.train.loop import train
from jielong.world import World, joined, this_world
from tests.train.conftest import SHAPE
from tests.train.engines.jobs import THREE, losses, tiny_job
from tests.train.engines.processes import run_processes


def one_step(engine: TorchEngine) -> float:
    ids = torch.arange(32).reshape(2, 16) % 200
    batch = Batch(ids.numpy(), ids.numpy(), (ids % 16).numpy(), torch.zeros_like(ids).numpy())
    engine.backward(engine.forward(batch).cross_entropy / 32)
    return engine.step(0.01).norm


def gradients_at_the_step(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[torch.Tensor]]:
    """The norm that a step reports, and the gradients that the optimizer is given."""
    found: list[torch.Tensor] = []
    parameters = engine.model.parameters()
    monkeypatch.setattr(
        engine.optimizer, "step", lambda: found.extend(p.grad for p in parameters if p.grad is not None)
    )
    return engine.step(0.01).norm, found


@pytest.mark.parametrize("limit", [0.5, None])
def test_gradients_are_clipped_as_torch_does(
    limit: float | None, model: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(model, Config(grad_clip=limit, precision="float32"))
    ids = torch.arange(32).reshape(2, 16)
    engine.backward(engine.model.loss_sum(ids, ids, None, None))
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm, found = gradients_at_the_step(engine, monkeypatch)
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        parameter.grad = gradient
    expected = torch.nn.utils.clip_grad_norm_(model.parameters(), limit or float("inf"))
    assert norm == pytest.approx(float(expected), rel=1e-6) and norm > 0.5
    assert all(torch.allclose(a, p.grad) for a, p in zip(found, model.parameters(), strict=True) if p.grad is not None)


def test_a_step_that_is_not_taken_changes_nothing(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    one_step(engine)
    before = engine.snapshot()
    kept = [{name: t.clone() for name, t in part.items()} for part in (before.weights, before.optimizer)]
    ids = torch.arange(32).reshape(2, 16)
    engine.backward(engine.model.loss_sum(ids, ids, None, None))
    asked: list[float] = []
    stepped = engine.step(0.01, lambda norm: bool(asked.append(norm)))
    assert not stepped.taken and not stepped.overflow and asked == [stepped.norm]
    assert all(parameter.grad is None for parameter in model.parameters())
    after = engine.snapshot()
    for old, new in zip(kept, (after.weights, after.optimizer), strict=True):
        assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)


def test_a_snapshot_comes_back_bit_for_bit(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    one_step(engine)
    snapshot = copy.deepcopy(engine.snapshot())
    assert "exp_avg.model.norm.weight" in snapshot.optimizer and "cpu.0" in snapshot.random
    one_step(engine)
    expected = [p.detach().clone() for p in model.parameters()]
    other = CausalLM(model.config)
    again = TorchEngine(other, Config(precision="float32"))
    again.load(snapshot)
    one_step(again)
    assert all(torch.equal(a, b) for a, b in zip(expected, other.parameters(), strict=True))


def test_optimizer_state_of_another_model(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    one_step(engine)
    snapshot = engine.snapshot()
    del snapshot.optimizer["exp_avg.model.norm.weight"], snapshot.optimizer["exp_avg_sq.model.norm.weight"]
    del snapshot.optimizer["step.model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"no optimizer state for model\.norm\.weight"):
        engine.load(snapshot)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that this machine must not have")
def test_a_device_that_is_not_there(model: CausalLM) -> None:
    with pytest.raises(RecipeError, match=r"train\.device: not available on this machine, got 'cuda'; available: cpu"):
        TorchEngine(model, Config(device="cuda"))


@pytest.mark.gpu
def test_a_step_on_the_gpu(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(device="cuda"))
    assert engine.precision in ("bfloat16", "float32")
    assert one_step(engine) > 0


# ------------------------------------------------------------------------------------------- two processes


def two_ranks(corpus: str, folder: str) -> dict[str, Any]:
    """All that two processes are asked to show, in one start."""
    world, places = this_world(), Path(folder)
    found: dict[str, Any] = {}
    with joined(world, torch.device("cpu")):

        def go(name: str, stop_after: int = 0, **settings: Any) -> TorchEngine:
            job, model = tiny_job(Path(corpus), places / name, world, **settings)
            engine = TorchEngine(model, job.configs[0], world)
            if stop_after:
                break_off(job, engine, stop_after)
            else:
                train(job, engine)
            return engine

        for parallel in ("ddp", "fsdp"):
            found[parallel] = go(parallel, parallel=parallel).describe()
            go(f"{parallel}-accumulated", parallel=parallel, micro_batch_tokens=16, tokens_per_step=128)
            go(f"{parallel}-phases", parallel=parallel, **THREE)
        found["reductions"] = count_reductions(corpus, places / "counted", world)
        found["nan"] = nan_in_one_rank(corpus, places / "nan", world)
        # what one process began, two go on with, and the other way round (the test does that)
        go("one-then-two", parallel="fsdp")
        go("two-then-one", stop_after=10)
        found["experts"] = go("experts", shape=EXPERTS, parallel="fsdp").describe()
        tied = go("tied", shape=SHAPE.model_copy(update={"tie_word_embeddings": True}), parallel="fsdp")
        with tied.whole() as whole:
            found["whole"] = None if whole is None else loss_of(whole)
        found["half"] = go("half", precision="bfloat16", parallel="fsdp").describe()
    return found


def loss_of(model: CausalLM) -> float:
    return float(model.loss_sum(*(torch.arange(8)[None],) * 2, None, None).detach())


def break_off(job: Job, engine: TorchEngine, step: int) -> None:
    """Train up to the checkpoint of a step, and fail in the one after it."""
    forward, number = engine.forward, [0]

    def failing(batch: Batch, last: bool = True) -> Losses:
        number[0] += 1
        if number[0] > step * job.plan.at(1).micro_batches:
            raise RuntimeError("injected fault")
        return forward(batch, last)

    engine.forward = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="injected fault"):
        train(replace(job, config=job.config.model_copy(update={"save_every_steps": step})), engine)


def count_reductions(corpus: str, folder: Path, world: World) -> list[int]:
    """How many buckets of gradients DDP exchanged in each of two steps of four micro-batches."""
    job, model = tiny_job(Path(corpus), folder, world, tokens_per_step=128, micro_batch_tokens=16)
    engine, seen, counts = TorchEngine(model, job.config, world), [0], []

    def hook(state: object, bucket: Any) -> torch.futures.Future[torch.Tensor]:
        seen[0] += 1
        return default_hooks.allreduce_hook(None, bucket)

    hook.__annotations__ = {"bucket": torch.distributed.GradBucket}  # torch looks at them, and they are strings here
    engine._module.register_comm_hook(None, hook)  # type: ignore[operator]
    loader = PackedLoader(job.shards, 16, 1)
    for _ in range(2):
        rows = loader.step(8, 1, world.rank, world.size)
        assert len(rows.batches) == 4
        for number, batch in enumerate(rows.batches, 1):
            engine.backward(engine.forward(batch, number == 4).cross_entropy / rows.labels, number == 4)
        norm = [torch.zeros(1), torch.zeros(1)]
        total = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        torch.distributed.all_gather(norm, total.reshape(1))
        assert float(norm[0]) == float(norm[1])
        engine.step(0.01)
        counts.append(seen[0])
        seen[0] = 0
    return counts


def nan_in_one_rank(corpus: str, folder: Path, world: World) -> int:
    """Rank 1's fifth micro-batch is not a number: both skip that step and stay equal."""
    job, model = tiny_job(Path(corpus), folder, world)
    engine, number = TorchEngine(model, job.config, world), [0]
    forward = engine.forward

    def poisoned(batch: Batch, last: bool = True) -> Losses:
        number[0] += 1
        found = forward(batch, last)
        return found._replace(cross_entropy=found.cross_entropy * (math.nan if number[0] == 5 and world.rank else 1.0))

    engine.forward = poisoned  # type: ignore[method-assign]
    train(job, engine)
    sums = [torch.zeros(1), torch.zeros(1)]
    torch.distributed.all_gather(sums, sum(p.detach().double().sum() for p in model.parameters()).float().reshape(1))
    assert float(sums[0]) == float(sums[1])
    return number[0]


EXPERTS = SHAPE.model_copy(update={"num_experts": 4, "moe_intermediate_size": 8})


def alone(corpus: Path, folder: Path, **settings: Any) -> list[float]:
    job, model = tiny_job(corpus, folder, World(), **settings)
    train(job, TorchEngine(model, job.configs[0]))
    return losses(folder)


class Together(NamedTuple):
    """What two processes found, and where they wrote."""

    first: dict[str, Any]
    second: dict[str, Any]
    folder: Path
    corpus: Path

    def alone(self, **settings: Any) -> Any:
        """The losses of one process, to be met within 1e-4."""
        return [pytest.approx(loss, rel=1e-4) for loss in alone(self.corpus, mkdtemp(self.folder), **settings)]


def mkdtemp(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


@pytest.fixture(scope="module")
def together(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    job, model = tiny_job(corpus, folder / "one-then-two", World())
    break_off(job, TorchEngine(model, job.config), 10)
    first, second = run_processes(f"{__name__}:two_ranks", 2, str(corpus), str(folder))
    return Together(first, second, folder, corpus)


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(parallel: str, together: Together) -> None:
    assert together.first[parallel] == f"float32 on cpu, 2 processes ({parallel})"
    assert losses(together.folder / parallel) == together.alone()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_eight_micro_batches_of_one_equal_one_of_eight(parallel: str, together: Together) -> None:
    """8 rows a step: two processes with four micro-batches of one row each, one process with 1 x 8 and with 8 x 1."""
    expected = together.alone(micro_batch_tokens=128, tokens_per_step=128)
    assert losses(together.folder / f"{parallel}-accumulated") == expected
    assert alone(together.corpus, mkdtemp(together.folder), micro_batch_tokens=16, tokens_per_step=128) == expected


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_phases_in_two_processes_equal_one(parallel: str, together: Together) -> None:
    """Rows, steps, optimizer and its state change twice on the way."""
    found = losses(together.folder / f"{parallel}-phases")
    assert len(found) == 12 and found == together.alone(**THREE)


def test_ddp_gradients_are_synchronised_under_accumulation(together: Together) -> None:
    """A regression of the field: gradients that ranks never exchange. Here once a step, in its last micro-batch."""
    assert together.first["reductions"] == together.second["reductions"] == [1, 1]


def test_nan_in_one_rank_of_two(together: Together) -> None:
    folder = together.folder / "nan"
    assert losses(folder)[4] is None and together.first["nan"] == together.second["nan"] == 20
    assert [(row["step"], row["event"]) for row in read_jsonl(folder / "history.jsonl")] == [(5, "skipped")]
    assert (folder / "spikes" / "step-00000005.jsonl").is_file()


def test_two_go_on_with_what_one_began_and_one_with_what_two_began(together: Together) -> None:
    expected = together.alone()
    assert losses(together.folder / "one-then-two") == expected
    job, model = tiny_job(together.corpus, together.folder / "two-then-one", World())
    train(job, TorchEngine(model, job.config))
    assert losses(together.folder / "two-then-one") == expected


def test_experts_tied_embeddings_and_half_precision_in_shards(together: Together) -> None:
    # the balance loss is that of a micro-batch, so equal cuts are compared
    assert losses(together.folder / "experts") == together.alone(shape=EXPERTS, micro_batch_tokens=32)
    checkpoint = together.folder / "tied" / "checkpoints" / "step-00000020"
    assert together.first["whole"] == pytest.approx(loss_of(load_folder(checkpoint)), rel=1e-6)
    assert together.second["whole"] is None
    half = alone(together.corpus, mkdtemp(together.folder), precision="bfloat16")
    assert losses(together.folder / "half") == [pytest.approx(loss, rel=0.01) for loss in half]
