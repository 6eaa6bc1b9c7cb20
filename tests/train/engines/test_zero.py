from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from jielong.errors import InputError, RecipeError
from jielong.metrics import read_jsonl
from jielong.model.config import Config as ModelConfig
from jielong.train.checkpoints import OPTIMIZER, TRAINER
from jielong.train.config import Config
from jielong.train.engines.interface import Engine, Snapshot, Stepped
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.engines.zero import DeepSpeedEngine, check_recipe, deepspeed_config
from jielong.train.loader import Batch
from jielong.train.loop import train
from jielong.train.precision import LossScale
from jielong.world import World, joined, this_world, wait
from tests.train.conftest import SHAPE
from tests.train.engines.jobs import losses, records, tiny_job
from tests.train.engines.processes import run_processes

CPU = torch.device("cpu")
EXPERTS = SHAPE.model_copy(
    update={"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "router_bias_update_rate": 0.01}
)
KINDS = [(0, False), (1, False), (2, True), (3, False)]
OTHERS = [pytest.param(1, True, marks=pytest.mark.slow), pytest.param(2, False, marks=pytest.mark.slow),
          pytest.param(3, True, marks=pytest.mark.slow)]  # fmt: skip
each_kind = pytest.mark.parametrize(("stage", "offload"), [*KINDS, *OTHERS])
ACCUMULATED = {"micro_batch_tokens": 16, "engine": "deepspeed"}  # a step is 4 micro-batches, of two processes 2 each
Open = Callable[..., Any]


@pytest.fixture
def open_engine(corpus: Path, tmp_path: Path) -> Iterator[Open]:
    """An engine of a stage (None: torch) around the same fresh model; closed at the end, the newest first."""
    opened: list[Engine] = []

    def make(stage: int | None = None, offload: bool = False, shape: ModelConfig = SHAPE, **settings: Any) -> Any:
        if stage is not None:
            settings |= {"engine": "deepspeed", "zero_stage": stage, "cpu_offload": offload}
        job, model = tiny_job(corpus, tmp_path, World(), shape, **settings)
        kind: Any = TorchEngine(model, job.config) if stage is None else None
        opened.append(kind or DeepSpeedEngine(model, job.config, World(), job.plan))
        return opened[-1]

    yield make
    for engine in reversed(opened):
        engine.close()


def batch(*seeds: int) -> Batch:
    """Two rows for each seed."""
    ids = torch.cat([torch.randint(200, (2, 17), generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    places = torch.arange(16).repeat(len(ids), 1)
    parts = (ids[:, :-1], ids[:, 1:], places, torch.zeros_like(places))
    return Batch(*(part.contiguous().numpy() for part in parts))


def step(
    engine: Any,
    seeds: list[int],
    take: Callable[[float], bool] = lambda norm: True,
    rate: float = 0.01,
    times: float = 1.0,
) -> tuple[float, Stepped]:
    """A step over micro-batches of two rows; the loss, and what became of it."""
    total = 0.0
    for seed in seeds:
        found = engine.forward(batch(seed), seed == seeds[-1])
        loss = (found.cross_entropy + found.auxiliary) / (32 * len(seeds))
        engine.backward(loss * times, seed == seeds[-1])
        total += loss.item()
    return total, engine.step(rate, take)


def copied(snapshot: Snapshot) -> dict[str, torch.Tensor]:
    """A snapshot's tensors, its own: the engine uses the memory again."""
    return {name: tensor.clone() for name, tensor in (snapshot.weights | snapshot.optimizer).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], **close: float) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(
            tensor, other[name], **(close or {"rtol": 0, "atol": 0}), msg=lambda found, name=name: f"{name}: {found}"
        )


# ------------------------------------------------------------------------------------------------ one process


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_run_is_that_of_the_torch_engine(corpus: Path, tmp_path: Path, stage: int) -> None:
    job, model = tiny_job(corpus, tmp_path / "torch", World())
    train(job, TorchEngine(model, job.config))
    job, model = tiny_job(
        corpus, tmp_path / "zero", World(), **(ACCUMULATED | {"micro_batch_tokens": 32}), zero_stage=stage
    )
    engine = DeepSpeedEngine(model, job.config, World(), job.plan)
    assert engine.describe() == f"float32 on cpu (deepspeed, ZeRO {stage})"
    train(job, engine)
    engine.close()
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "torch"), rel=1e-5)
    norms, expected = ([r["grad_norm"] for r in records(tmp_path / name)] for name in ("zero", "torch"))
    assert norms == pytest.approx(expected, rel=1e-4)
    assert losses(tmp_path / "zero")[-1] < losses(tmp_path / "zero")[0] - 1


PHASES = [
    {"tokens": 4 * 32, "sequence_length": 4, "tokens_per_step": 32},  # one micro-batch a step
    {"tokens": 4 * 64, "sequence_length": 8, "tokens_per_step_start": 32, "weight_decay": 0.5},  # one, then two
    {"tokens": 2 * 64, "optimizer_state": "fresh"},
]


@each_kind
def test_phases_are_those_of_the_torch_engine(corpus: Path, tmp_path: Path, stage: int, offload: bool) -> None:
    """Rows, steps and micro-batches of another size in each phase, another weight decay, and a state that begins anew."""
    settings: dict[str, Any] = {"tokens": None, "phases": PHASES, "micro_batch_tokens": 32}
    job, model = tiny_job(corpus, tmp_path / "torch", World(), **settings)
    train(job, TorchEngine(model, job.configs[0]))
    job, model = tiny_job(
        corpus, tmp_path / "zero", World(), engine="deepspeed", zero_stage=stage, cpu_offload=offload, **settings
    )
    engine = DeepSpeedEngine(model, job.configs[0], World(), job.plan)
    train(job, engine)
    engine.close()
    assert [stretch.micro_batches for stretch in job.plan.stretches] == [1, 2, 2]
    assert losses(tmp_path / "zero") == pytest.approx(losses(tmp_path / "torch"), rel=1e-5)
    events = [(row["step"], row["event"]) for row in read_jsonl(tmp_path / "zero" / "history.jsonl")]
    assert [event for _, event in events] == ["phase", "phase"]


@each_kind
def test_eight_micro_batches_are_one_large_batch(open_engine: Open, stage: int, offload: bool) -> None:
    """Regression: gradients divided by the accumulation steps, once or twice, and lost before the last one."""
    many = open_engine(stage, offload, tokens_per_step=8 * 32, micro_batch_tokens=32)
    one, expected = open_engine(), open_engine()
    for turn in range(2):
        seeds = list(range(8 * turn, 8 * turn + 8))
        _, stepped = step(many, seeds)
        one.backward(one.forward(batch(*seeds)).cross_entropy / 256)
        assert stepped.norm == pytest.approx(one.step(0.01).norm, rel=1e-5)
        step(expected, seeds)
    same(copied(many.snapshot()), copied(expected.snapshot()), rtol=1e-4, atol=2e-5)
    same(copied(many.snapshot()), copied(one.snapshot()), rtol=1e-3, atol=1e-4)  # AdamW makes much of small gradients


@each_kind
def test_a_step_that_is_refused_changes_nothing(open_engine: Open, stage: int, offload: bool) -> None:
    engine, plain = open_engine(stage, offload), open_engine()
    asked: list[float] = []

    def never(norm: float) -> bool:
        asked.append(norm)
        return False

    for turn in range(3):  # the first before there is any state
        before = copied(engine.snapshot())
        refused = step(engine, [100 + turn, 200 + turn], never)[1]
        assert refused == (asked[-1], False, False)
        assert len(asked) == turn + 1, "asked once a step, whatever the number of groups"
        assert asked[-1] == pytest.approx(step(plain, [100 + turn, 200 + turn], lambda norm: False)[1].norm, rel=1e-5)
        same(before, copied(engine.snapshot()))
        assert step(engine, [turn])[1].taken
        step(plain, [turn])
    same(copied(engine.snapshot()), copied(plain.snapshot()), rtol=1e-4, atol=2e-5)


@each_kind
def test_gradients_that_are_not_finite(open_engine: Open, stage: int, offload: bool) -> None:
    engine, plain = open_engine(stage, offload), open_engine()
    for one in (engine, plain):
        step(one, [1])
    before = copied(engine.snapshot())
    asked: list[float] = []
    _, stepped = step(
        engine, [2], lambda norm: bool(asked.append(norm)), times=float("inf") if offload else float("nan")
    )
    assert not stepped.taken and not stepped.overflow
    assert len(asked) == 1 and not torch.tensor(asked[0]).isfinite(), "the guard hears of it, and writes it down"
    same(before, copied(engine.snapshot()))
    for one in (engine, plain):
        assert step(one, [3])[1].taken
    same(copied(engine.snapshot()), copied(plain.snapshot()), rtol=1e-4, atol=2e-5)


@each_kind
def test_the_learning_rate_is_the_loops(open_engine: Open, stage: int, offload: bool) -> None:
    """Regression: DeepSpeed warm-up to a learning rate of 1. AdamW's first step moves a weight by its learning rate."""
    engine = open_engine(stage, offload, learning_rate=0.5, weight_decay=0.0, grad_clip=None)
    for turn, rate in enumerate((1e-5, 3e-4, 2e-5)):
        before = copied(engine.snapshot())
        step(engine, [turn], rate=rate)
        after = copied(engine.snapshot())
        moved = max(float((after[name] - before[name]).abs().max()) for name in after if name.startswith("model."))
        assert moved == pytest.approx(rate, rel=0.02) if turn == 0 else 0.1 * rate < moved < 1.6 * rate


@each_kind
def test_state_goes_from_engine_to_engine(open_engine: Open, stage: int, offload: bool) -> None:
    zero, plain = open_engine(stage, offload), open_engine()
    for turn in range(3):
        step(plain, [turn])
    zero.load(plain.snapshot())  # before it has any of its own
    same(copied(zero.snapshot()), copied(plain.snapshot()))
    found = [[step(engine, [turn])[0] for turn in range(3, 6)] for engine in (zero, plain)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    kept = copied(zero.snapshot())
    another = open_engine()
    another.load(zero.snapshot())
    found = [[step(engine, [turn])[0] for turn in range(6, 9)] for engine in (zero, another)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    plain.load(Snapshot({}, {name: value for name, value in kept.items() if "." in name}, {}, {}), weights=False)
    zero.load(plain.snapshot())  # back, over its own
    same(copied(zero.snapshot()), copied(plain.snapshot()))
    zero.load(Snapshot(zero.snapshot().weights, {}, {}, {}))  # of a run that had not made a step
    assert not zero.snapshot().optimizer


@pytest.mark.parametrize(("stage", "optimizer"), [(0, "muon"), (0, "lion"), (1, "lion"), (2, "lion"), (3, "lion")])
def test_other_optimizers(open_engine: Open, stage: int, optimizer: str) -> None:
    """Lion works on flat shares; Muon where nothing is divided. A phase changes the decay, and may forget the state."""
    settings = {"optimizer": optimizer, "learning_rate": 1e-3}
    zero, plain = open_engine(stage, **settings), open_engine(**settings)
    for carried in (True, False):
        found = [[step(engine, [turn], rate=1e-3)[0] for turn in range(3)] for engine in (zero, plain)]
        assert found[0] == pytest.approx(found[1], rel=1e-4)
        config = Config.model_validate(settings | {"weight_decay": 0.5})
        for engine in (zero, plain):
            engine.optimize(config, carried)
        assert bool(zero.snapshot().optimizer) == bool(plain.snapshot().optimizer) == carried
        if carried:
            assert zero.snapshot().optimizer.keys() == plain.snapshot().optimizer.keys()
    found = [[step(engine, [turn], rate=1e-3)[0] for turn in range(3)] for engine in (zero, plain)]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@each_kind
def test_experts(open_engine: Open, stage: int, offload: bool) -> None:
    zero, plain = open_engine(stage, offload, EXPERTS), open_engine(shape=EXPERTS)
    for turn in range(3):
        for engine in (zero, plain):
            use = engine.forward(batch(turn)).expert_use_LE
            step(engine, [turn])
            engine.balance(use)
    same(copied(zero.snapshot()), copied(plain.snapshot()), rtol=1e-3, atol=1e-5)
    bias = "model.layers.0.mlp.gate.e_score_correction_bias"
    assert float(copied(zero.snapshot())[bias].abs().sum()) > 0
    other = open_engine(stage, offload, EXPERTS)
    other.load(zero.snapshot())
    same(copied(other.snapshot()), copied(zero.snapshot()))


@pytest.mark.parametrize("stage", [0, 3])
def test_the_whole_model_to_look_at(open_engine: Open, stage: int) -> None:
    engine, plain = open_engine(stage), open_engine()
    for one in (engine, plain):
        step(one, [1])
    found = []
    for one in (engine, plain):
        with one.whole() as model, torch.no_grad(), one.autocast():
            parts = (torch.from_numpy(part) for part in (batch(9).inputs, batch(9).labels))
            found.append(float(model.loss_sum(*parts, None, None)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert step(engine, [2])[0] == pytest.approx(step(plain, [2])[0], rel=1e-5)


@pytest.mark.parametrize("stage", [0, 3])
def test_half_precision_is_ours(open_engine: Open, stage: int) -> None:
    """Weights and state stay float32; autocast reaches the model through DeepSpeed, which switches off what is around it."""
    zero, plain, exact = open_engine(stage, precision="bfloat16"), open_engine(precision="bfloat16"), open_engine()
    found = [[step(engine, [turn])[0] for turn in range(3)] for engine in (zero, plain, exact)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] != pytest.approx(found[2], rel=1e-5)
    assert {tensor.dtype for tensor in copied(zero.snapshot()).values()} == {torch.float32}


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_the_loss_scale_is_ours(open_engine: Open, stage: int) -> None:
    zero, plain = open_engine(stage), open_engine()
    zero._precision.scale = LossScale(True)
    zero._precision.scale.value = 2.0**129  # beyond float32
    asked: list[float] = []
    overflows = 0
    while not (stepped := step(zero, [1], lambda norm: asked.append(norm) or True)[1]).taken:
        assert stepped.overflow and not asked
        overflows += 1
    assert zero._precision.scale.value == 2.0 ** (129 - overflows) > 1
    assert overflows > 0
    assert step(plain, [1])[1].norm == pytest.approx(asked[0], rel=1e-4)
    same(copied(zero.snapshot()), copied(plain.snapshot()), rtol=1e-3, atol=1e-5)


def test_nothing_is_printed_and_nothing_left_behind(open_engine: Open, capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ), sys.excepthook, torch.get_float32_matmul_precision()
    engine = open_engine(3)
    step(engine, [1])
    engine.snapshot()
    engine.close()
    assert capfd.readouterr() == ("", "")
    assert (dict(os.environ), sys.excepthook, torch.get_float32_matmul_precision()) == before
    assert not dist.is_initialized()


def test_the_groups_size_must_be_the_worlds(open_engine: Open, corpus: Path, tmp_path: Path) -> None:
    open_engine(1)
    job, model = tiny_job(corpus, tmp_path, World(0, 2, 0), engine="deepspeed")
    with pytest.raises(InputError, match="belongs to a group of another size already, got 1 processes for 2"):
        DeepSpeedEngine(model, job.config, World(0, 2, 0), job.plan)


def test_the_json_is_the_recipes(corpus: Path, tmp_path: Path) -> None:
    world = World(1, 2, 1)
    job, _ = tiny_job(corpus, tmp_path, world, **ACCUMULATED, zero_stage=2, cpu_offload=True)
    found = deepspeed_config(job.config, job.plan, world, CPU)
    assert {key: value for key, value in found.items() if "batch" in key or "steps" in key} == {
        "train_batch_size": 4,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
    }
    assert found["zero_optimization"]["stage"] == 2
    assert found["zero_optimization"]["offload_optimizer"] == {"device": "cpu", "pin_memory": False}
    assert not {"optimizer", "scheduler", "fp16", "bf16", "torch_autocast"} & found.keys()
    assert found["gradient_clipping"] == 0.0
    plain = deepspeed_config(job.config.model_copy(update={"cpu_offload": False}), job.plan, world, CPU)
    assert "offload_optimizer" not in plain["zero_optimization"]


def test_what_cannot_be_done_is_refused(corpus: Path, tmp_path: Path) -> None:
    config = tiny_job(corpus, tmp_path, World(), engine="deepspeed")[0].config
    check_recipe(config, CPU)
    with pytest.raises(RecipeError, match=r"train\.compile: not with engine deepspeed, got true"):
        check_recipe(config.model_copy(update={"compile": True}), CPU)
    with pytest.raises(RecipeError, match=r"train\.device: not with engine deepspeed, got mps"):
        check_recipe(config, torch.device("mps"))
    with pytest.raises(RecipeError, match=r"train\.optimizer: Muon needs whole matrices"):
        check_recipe(config.model_copy(update={"optimizer": "muon"}), CPU)
    with pytest.raises(RecipeError, match=r"train\.cpu_offload: nothing to offload, got true with zero_stage 0"):
        check_recipe(config.model_copy(update={"cpu_offload": True, "zero_stage": 0}), CPU)


# ---------------------------------------------------------------------------------------------- two processes


def two_processes(corpus: str, folder: str, kinds: list[tuple[int, bool]]) -> list[dict[str, Any]]:
    """For each kind: a whole run, one that goes on from a checkpoint, and steps that are refused."""
    world, found = this_world(), []
    with joined(world, CPU):
        for stage, offload in kinds:
            settings = {
                **ACCUMULATED,
                "zero_stage": stage,
                "cpu_offload": offload,
                "save_every_steps": 16,
                "keep_checkpoints": 3,
            }
            for name in ("whole", "resumed"):
                job, model = tiny_job(Path(corpus), Path(folder) / f"{name}-{stage}-{offload}", world, **settings)
                engine = DeepSpeedEngine(model, job.config, world, job.plan)
                train(job, engine)
                wait(world)
                if name == "whole":
                    engine.close()
            before = copied(engine.snapshot())
            refused = step(engine, [world.rank], lambda norm: False)[1]
            poisoned = step(engine, [world.rank], times=float("nan") if world.rank else 1.0)[1]
            after = copied(engine.snapshot())
            found.append({"unchanged": all(torch.equal(before[name], after[name]) for name in before) and len(after),
                          "norm": refused.norm, "taken": refused.taken or poisoned.taken,
                          "words": engine.describe()})  # fmt: skip
            engine.close()
    return found


def run_in_two(corpus: Path, folder: Path, kinds: list[tuple[int, bool]]) -> None:
    """Compare runs of two processes with the torch engine's in one; checkpoints go both ways."""
    job, model = tiny_job(corpus, folder / "torch", World(), save_every_steps=16, keep_checkpoints=3)
    engine = TorchEngine(model, job.config)
    train(job, engine)
    expected = losses(folder / "torch")
    for stage, offload in kinds:
        shutil.copytree(folder / "torch", folder / f"resumed-{stage}-{offload}")
        shutil.rmtree(folder / f"resumed-{stage}-{offload}" / "checkpoints" / "step-00000020")
    results = run_processes(f"{__name__}:two_processes", 2, str(corpus), str(folder), kinds)
    for number, (stage, offload) in enumerate(kinds):
        first, second = (result[number] for result in results)
        assert f"2 processes (deepspeed, ZeRO {stage}" in first["words"]
        assert not first["taken"] and not second["taken"]
        assert first["norm"] == second["norm"] > 0
        assert first["unchanged"] > 0, "rank 0 has the snapshot"
        whole, resumed = (folder / f"{name}-{stage}-{offload}" for name in ("whole", "resumed"))
        assert losses(whole) == pytest.approx(expected, rel=1e-4)
        assert losses(resumed) == pytest.approx(expected, rel=1e-5)
        last = [path / "checkpoints" / "step-00000020" / TRAINER / OPTIMIZER for path in (whole, folder / "torch")]
        same(load_file(str(last[0])), load_file(str(last[1])), rtol=1e-2, atol=1e-5)
        shutil.rmtree(whole / "checkpoints" / "step-00000020")
        job, model = tiny_job(corpus, whole, World())
        train(job, TorchEngine(model, job.config))
        assert losses(whole) == pytest.approx(expected, rel=1e-5)


def test_two_processes_equal_one(corpus: Path, tmp_path: Path) -> None:
    run_in_two(corpus, tmp_path, [(0, False), (1, False), (2, False), (3, False)])


@pytest.mark.slow
def test_two_processes_equal_one_with_offload(corpus: Path, tmp_path: Path) -> None:
    run_in_two(corpus, tmp_path, [(1, True), (2, True), (3, True)])


def there_and_back(corpus: str, folder: str, kinds: list[tuple[int, bool]]) -> list[list[float]]:
    """A state of the torch engine, divided among processes and put together again; then a step of each."""
    world, found = this_world(), []
    job, model = tiny_job(Path(corpus), Path(folder), World())
    plain = TorchEngine(model, job.config)
    step(plain, [1])
    state = plain.snapshot()
    with joined(world, CPU):
        for stage, offload in kinds:
            settings: dict[str, Any] = {"engine": "deepspeed", "zero_stage": stage, "cpu_offload": offload}
            job, model = tiny_job(Path(corpus), Path(folder), world, tokens_per_step=96, tokens=960, **settings)
            engine = DeepSpeedEngine(model, job.config, world, job.plan)
            engine.load(state)
            back = engine.snapshot()
            if world.first:
                same(copied(back), copied(state))
            with engine.whole() as whole:
                assert (whole is not None) == world.first
                if whole is not None:
                    same(dict(whole.state_dict()), state.weights)
            loss, stepped = step(engine, [2], take=lambda norm: norm > 0)
            found.append([loss, stepped.norm / world.size])  # each gives the same rows: the sum of their gradients
            engine.close()
    loss, stepped = step(plain, [2])
    return [*found, [loss, stepped.norm]]


@pytest.mark.slow
def test_shares_that_do_not_come_out_even(corpus: Path, tmp_path: Path) -> None:
    kinds = [(1, False), (2, True), (3, False), (3, True)]
    for found in run_processes(f"{__name__}:there_and_back", 3, str(corpus), str(tmp_path), kinds):
        for each in found:
            assert each == pytest.approx(found[-1], rel=1e-4)
