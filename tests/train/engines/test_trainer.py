"""transformers.Trainer against our own loop: the same losses, records and checkpoints, whatever happens on the way."""

from __future__ import annotations

import gc
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import RecipeError, Stopped
from jielong.metrics import read_jsonl
from jielong.model import cross_entropy
from jielong.model.config import Config as ModelConfig
from jielong.model.faces import face
from jielong.model.transformer import CausalLM, Losses, initialise
from jielong.train import loop, precision
from jielong.train.checkpoints import checkpoints, newest
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.engines.trainer import Turn, refuse, train_with_trainer
from jielong.train.optimizers import opening
from jielong.world import World, joined, this_world
from tests.train.conftest import SHAPE
from tests.train.engines.jobs import losses, records, tiny_job
from tests.train.engines.processes import run_processes

Run = Callable[..., dict[str, Any]]
CLOSE = 1e-5  # relative; the bound of the engines is 1e-4
TWELVE = {"tokens": 12 * 64}
SPARSE = {"num_experts": 4, "moe_intermediate_size": 8}


@pytest.fixture(autouse=True, scope="module")
def little_garbage() -> Iterator[None]:
    """accelerate collects garbage whenever a Trainer begins: half a second, unless it need not look at all of transformers."""
    from transformers import Trainer

    assert Trainer  # a long import
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def run(corpus: Path) -> Run:
    """Train in a folder with an engine and some settings, from its newest checkpoint if there is one."""

    def go(folder: Path, engine: str = "hf", shape: ModelConfig = SHAPE, **settings: Any) -> dict[str, Any]:
        job, model = tiny_job(corpus, folder, World(), shape, engine=engine, **settings)
        if engine == "hf":
            return train_with_trainer(job, model, World())
        return loop.train(job, TorchEngine(model, job.configs[0]))

    return go


def poison(monkeypatch: pytest.MonkeyPatch, *steps: int, rank: int = 0) -> None:
    """The loss of a rank's micro-batches is not a number in these steps, the first time that they are made."""
    real, seen = Turn._losses, set[int]()

    def poisoned(self: Turn, outputs: Any, labels: torch.Tensor) -> Losses:
        found, step = real(self, outputs, labels), self.steps.at.step + 1
        if step not in steps or step in seen or self.engine.world.rank != rank:
            return found
        seen.add(step)
        return found._replace(cross_entropy=found.cross_entropy * math.nan)

    monkeypatch.setattr(Turn, "_losses", poisoned)


def ask_to_stop(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM arrives when a step is done."""
    real = loop.Steps.finish

    def finish(self: loop.Steps) -> bool:
        if self.at.step == step:
            signal.raise_signal(signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(loop.Steps, "finish", finish)


# ------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, {}),
        ({"document_mask": False, "grad_clip": None, "warmup_ratio": 0.3}, {"attention": "eager", "head_dim": 12}),
        ({"micro_batch_tokens": 16, "z_loss": 1e-3}, {"tie_word_embeddings": not SHAPE.tie_word_embeddings}),
        ({"micro_batch_tokens": 32, "packing": "truncated"}, SPARSE | {"qk_norm": True}),
        ({"optimizer": "muon", "learning_rate": 0.003, "ema_decay": 0.9}, {}),
    ],
    ids=["packed", "plain", "accumulated", "truncated experts", "muon, averaged"],
)
def test_twenty_steps_equal_ours(
    run: Run, tmp_path: Path, settings: dict[str, Any], shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure of every record agrees: losses, norms, rates, experts' use, labels; and the checkpoints hold the same names."""
    monkeypatch.setattr(
        opening, "has_fast_bfloat16", lambda device: False
    )  # Muon's rounding would be larger than the bound
    model = SHAPE.model_copy(update=shape)
    counts = [run(tmp_path / engine, engine, model, **settings) for engine in ("torch", "hf")]
    theirs, ours = (records(tmp_path / engine) for engine in ("hf", "torch"))
    assert len(theirs) == 20 and ours[-1]["loss"] < ours[0]["loss"] - 0.5
    for one, other in zip(theirs, ours, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"tokens_per_second", "seconds", "loader_seconds", "memory", "mfu"}:
            if key == "expert_use":
                assert [sum(row) for row in one[key]] == [64 * 2] * 2 == [sum(row) for row in other[key]]
            else:
                assert one[key] == pytest.approx(other[key], rel=CLOSE), key
    assert counts[0].keys() == counts[1].keys() and counts[1]["processes"] == 1
    files = [{str(p.relative_to(tmp_path / e)) for p in (tmp_path / e).rglob("*")} for e in ("hf", "torch")]
    assert files[0] == files[1]


def test_phases_equal_ours(run: Run, tmp_path: Path) -> None:
    """A Trainer for each phase: other rows, other numbers of micro-batches, another optimizer; one broken off at a border goes on."""
    settings: dict[str, Any] = {"tokens": None, "micro_batch_tokens": 32, "phases": [
        {"tokens": 3 * 32, "sequence_length": 8, "tokens_per_step": 32},
        {"tokens": 4 * 64, "optimizer": "muon", "schedule": "wsd", "learning_rate": 0.02},
        {"tokens": 2 * 64, "sequence_length": 4, "optimizer_state": "fresh"},
    ]}  # fmt: skip
    for engine in ("torch", "hf"):
        run(tmp_path / engine, engine, **settings, save_every_steps=3, keep_checkpoints=9)
    theirs, ours = (records(tmp_path / engine) for engine in ("hf", "torch"))
    assert len(theirs) == 9 and [row["phase"] for row in theirs] == [0] * 3 + [1] * 4 + [2] * 2
    # Muon's updates, and Adam's first ones, are of one size however small a gradient is, so its rounding is seen in the norms
    for key, close in (("loss", 1e-4), ("grad_norm", 2e-3), ("learning_rate", 1e-12), ("tokens", 0)):
        assert [row[key] for row in theirs] == pytest.approx([row[key] for row in ours], rel=close), key
    for checkpoint in checkpoints(tmp_path / "hf" / "checkpoints"):
        if checkpoint.name > "step-00000003":
            checkpoint.rename(tmp_path / checkpoint.name)
    before = losses(tmp_path / "hf")
    run(tmp_path / "hf", "hf", **settings)
    assert losses(tmp_path / "hf") == before


def test_documents_are_isolated_in_every_row(corpus: Path, tmp_path: Path) -> None:
    """Other tokens before the restart of positions change nothing behind it, in any of several rows; before it they do."""
    _, model = tiny_job(corpus, tmp_path, World())
    ids = torch.arange(48).reshape(3, 16) % 200
    positions = torch.stack([torch.cat([torch.arange(n), torch.arange(16 - n)]) for n in (5, 9, 1)])
    first = torch.arange(16) < torch.tensor([[5], [9], [1]])
    for attention in ("auto", "eager"):
        model.config = model.config.model_copy(update={"attention": attention})
        theirs = face(model).eval()
        with torch.no_grad():
            one, other = (theirs(x, position_ids=positions, use_cache=False).logits for x in (ids, ids + first))
            mixed = theirs(ids + first, use_cache=False).logits
        assert torch.equal(one[~first], other[~first]) and not torch.equal(one[first], other[first])
        assert not torch.allclose(mixed[~first], one[~first])


def test_two_faces_of_one_model(corpus: Path, tmp_path: Path) -> None:
    """The parameters are the same objects, tied or not, and the logits those of our model."""
    for tied in (True, False):
        shape = SHAPE.model_copy(update={"tie_word_embeddings": tied, "vocab_size": 300})
        model = CausalLM(shape)
        initialise(model, 1)
        theirs = face(model)
        assert {id(p) for p in theirs.parameters()} == {id(p) for p in model.parameters()}
        ids = torch.arange(32).reshape(2, 16)
        torch.testing.assert_close(theirs(ids, use_cache=False).logits, model(ids))


def test_float16_scales_as_ours(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss scale that overflows at first: the same steps are left out, and the checkpoint holds the same scale."""
    monkeypatch.setattr(precision, "FIRST_SCALE", 2.0**22)
    monkeypatch.setattr(
        cross_entropy, "LOGITS", {}
    )  # in pieces, the output layer of ours bears a larger scale than theirs
    for engine in ("torch", "hf"):
        run(tmp_path / engine, engine, precision="float16", **TWELVE)
    assert losses(tmp_path / "hf") == pytest.approx(losses(tmp_path / "torch"), rel=0.01)
    events = [
        [(e["step"], e["event"]) for e in read_jsonl(tmp_path / engine / "history.jsonl")] for engine in ("hf", "torch")
    ]
    assert events[0] == events[1] and events[0][0] == (1, "overflow") and len(events[0]) < 12


def test_nothing_is_printed_and_the_environment_stays(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")  # whoever started us with accelerate's launcher
    monkeypatch.setenv("LOCAL_RANK", "0")
    before = dict(os.environ)
    run(tmp_path, tokens=2 * 64, log_every_steps=1)
    said = capfd.readouterr()
    assert said.out == "" and "step      2/2  loss" in said.err
    assert dict(os.environ) == before


# ------------------------------------------------------------------------------------------------ stopped, resumed


@pytest.mark.parametrize(("first", "second"), [("hf", "torch"), ("torch", "hf")])
def test_either_goes_on_from_the_other(run: Run, corpus: Path, tmp_path: Path, first: str, second: str) -> None:
    """The second has six steps more to make than the first had: the same plan, saved at the sixth."""
    run(tmp_path / "unbroken", second, **TWELVE)
    run(tmp_path / "broken", first, save_every_steps=6, keep_checkpoints=9, **TWELVE)
    for checkpoint in checkpoints(tmp_path / "broken" / "checkpoints"):
        if checkpoint.name > "step-00000006":
            checkpoint.rename(tmp_path / checkpoint.name)
    run(tmp_path / "broken", second, **TWELVE)
    assert losses(tmp_path / "broken") == pytest.approx(losses(tmp_path / "unbroken"), rel=CLOSE)
    assert [e["event"] for e in read_jsonl(tmp_path / "broken" / "history.jsonl")] == ["resumed"]


def test_a_stop_signal_saves_and_resumes_bit_for_bit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, which draws random numbers in every step. The signal comes when step 4 is done; step 5 sees it."""
    shape = SHAPE.model_copy(update={"attention_dropout": 0.3})
    run(tmp_path / "unbroken", shape=shape, **TWELVE)
    with monkeypatch.context() as patched:
        ask_to_stop(patched, 4)
        with pytest.raises(Stopped, match="stopped after step 5, saved") as stopped:
            run(tmp_path / "broken", shape=shape, **TWELVE)
    assert stopped.value.exit_code == 0
    torch.manual_seed(999)
    run(tmp_path / "broken", shape=shape, **TWELVE)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    one, two = (newest(tmp_path / name / "checkpoints") for name in ("unbroken", "broken"))
    assert one is not None and two is not None and one.name == "step-00000012"
    for name in ("model.safetensors", "trainer/optimizer.safetensors", "trainer/random.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    before = losses(tmp_path / "broken")
    assert run(tmp_path / "broken", shape=shape, **TWELVE)["steps"] == 12  # done: nothing more
    assert losses(tmp_path / "broken") == before


# ------------------------------------------------------------------------------------------ what is not taken


def test_a_step_that_is_not_finite_is_not_taken(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it stop the schedule; the loss of the step after is that of the weights before."""
    run(tmp_path / "whole", tokens=5 * 64, learning_rate=1e-9, min_learning_rate_ratio=1.0)
    poison(monkeypatch, 4)
    run(tmp_path / "poisoned", tokens=5 * 64, learning_rate=1e-9, min_learning_rate_ratio=1.0)
    found, expected = records(tmp_path / "poisoned"), records(tmp_path / "whole")
    assert [r.get("skipped") for r in found] == [None, None, None, "loss is nan", None]
    assert found[3]["loss"] is None and found[4]["loss"] == pytest.approx(expected[4]["loss"], rel=1e-6)
    assert [r["learning_rate"] for r in found] == [r["learning_rate"] for r in expected]
    assert (tmp_path / "poisoned" / "spikes" / "step-00000004.jsonl").stat().st_size > 0


def test_repeated_hits_go_back_and_another_trainer_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, 5, 6, 7)  # the state of step 3 is known to be good: step 4 was taken from it
    counts = run(tmp_path, save_every_steps=3, **TWELVE)
    assert [e["event"] for e in read_jsonl(tmp_path / "history.jsonl")] == ["skipped"] * 3 + ["rolled back"]
    assert [r["step"] for r in read_jsonl(tmp_path / "discarded.jsonl")] == [4, 5, 6, 7]
    found = records(tmp_path)
    assert [r["step"] for r in found] == list(range(1, 13)) and counts["steps"] == 12
    assert all(r["loss"] is not None for r in found) and found[-1]["loss"] < found[2]["loss"] - 0.2


@pytest.mark.parametrize(
    ("settings", "shape", "said"),
    [
        ({}, {"position": "alibi"}, r"train\.engine: hf trains classes of transformers only, and .*alibi; use torch"),
        ({}, {"shifted_attention": 8}, r"hf has no shifted attention, got model\.shifted_attention = 8; use torch"),
        ({"engine": "hf", "precision": "fp8"}, {}, r"train\.precision: not with engine hf, got 'fp8'"),
    ],
)
def test_what_is_refused(settings: dict[str, Any], shape: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        refuse(Config.model_validate(settings), SHAPE.model_copy(update=shape))


# ---------------------------------------------------------------------------------------------- two processes


def in_two_processes(corpus: str, folder: str) -> list[float]:
    """Each of three runs, and afterwards a sum over all weights, which are to be the same on both ranks."""
    world, sums = this_world(), []
    with joined(world, torch.device("cpu")), pytest.MonkeyPatch.context() as monkeypatch:
        for name, settings in (
            ("accumulated", {"micro_batch_tokens": 16}),
            ("truncated", {"micro_batch_tokens": 32, "packing": "truncated"}),
            ("poisoned", {"save_every_steps": 3, "micro_batch_tokens": 16} | TWELVE),
        ):
            if name == "poisoned":
                poison(monkeypatch, 4, 5, 6, rank=1)
            job, model = tiny_job(Path(corpus), Path(folder) / name, world, engine="hf", **settings)
            assert train_with_trainer(job, model, world)["processes"] == 2
            sums.append(float(sum(p.detach().double().sum() for p in model.parameters())))
    return sums


@pytest.mark.slow  # two interpreters that import transformers: half a minute on two busy cores
def test_two_processes_equal_one(run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulated, truncated (another number of labels on each rank), and through a NaN on one rank that leads back to a checkpoint."""
    one, two = run_processes(f"{__name__}:in_two_processes", 2, str(corpus), str(tmp_path))
    assert one == two
    run(tmp_path / "one", "torch")
    run(tmp_path / "one truncated", "torch", packing="truncated")
    poison(monkeypatch, 4, 5, 6)
    run(tmp_path / "one poisoned", save_every_steps=3, **TWELVE)
    assert losses(tmp_path / "accumulated") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert losses(tmp_path / "truncated") == pytest.approx(losses(tmp_path / "one truncated"), rel=1e-4)
    assert losses(tmp_path / "poisoned") == pytest.approx(losses(tmp_path / "one poisoned"), rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler still calls it itself
def test_compiled_equals_eager(run: Run, tmp_path: Path) -> None:
    run(tmp_path / "compiled", tokens=3 * 64, compile=True)
    run(tmp_path / "eager", tokens=3 * 64)
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-4)


@pytest.mark.gpu
def test_on_a_gpu(run: Run, tmp_path: Path) -> None:
    for engine in ("torch", "hf"):
        run(tmp_path / engine, engine, device="cuda")
    assert losses(tmp_path / "hf") == pytest.approx(losses(tmp_path / "torch"), rel=1e-4)
