"""The optimizer of a recipe, its state in a checkpoint, and what passes to the next."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import CheckpointError
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train import checkpoints
from jielong.train.config import Config
from jielong.train.engines.interface import Snapshot
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch
from jielong.train.optimizers import groups
from jielong.train.optimizers.opening import Composed, adamw, kinds_of
from tests.train.conftest import SHAPE

KINDS = ["adamw", "muon", "lion", "adamw8bit"]
EXPERTS = SHAPE.model_copy(update={"num_experts": 2, "moe_intermediate_size": 8, "router_bias_update_rate": 0.01})
each = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def eight_bits_for_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LEAST_EIGHT_BIT", 1)


def opened(kind: str, shape: Any = SHAPE, seed: int = 1, **settings: Any) -> TorchEngine:
    model = CausalLM(shape if shape.vocab_size else shape.with_vocab(300))
    initialise(model, seed)
    settings = {"optimizer": kind, "precision": "float32", "device": "cpu"} | settings
    return TorchEngine(model, Config.model_validate(settings))


def step(engine: TorchEngine, seeds: range) -> None:
    for seed in seeds:
        ids = torch.randint(200, (2, 17), generator=torch.Generator().manual_seed(seed))
        places = torch.arange(16).repeat(2, 1)
        parts = (ids[:, :-1], ids[:, 1:], places, torch.zeros_like(places))
        losses = engine.forward(Batch(*(part.contiguous().numpy() for part in parts)))
        engine.backward((losses.cross_entropy + losses.auxiliary) / 32)
        engine.step(0.01)


def all_of(engine: TorchEngine) -> dict[str, torch.Tensor]:
    found = engine.snapshot()
    parts = {"weights": found.weights, "optimizer": found.optimizer, "averaged": found.averaged}
    return {f"{kind}.{name}": t.clone() for kind, part in parts.items() for name, t in part.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@each
@pytest.mark.parametrize("way", ["memory", "file"])
def test_it_goes_on_bit_for_bit(kind: str, way: str, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    """3 steps, a snapshot, another engine, 3 more: six unbroken ones, the average of the weights too."""
    shape = EXPERTS.with_vocab(tokenizer.size)
    unbroken, broken = (opened(kind, shape, ema_decay=0.9) for _ in range(2))
    step(unbroken, range(6))
    step(broken, range(3))
    snapshot: Snapshot = copy.deepcopy(broken.snapshot())
    again = opened(kind, shape, seed=2, ema_decay=0.9)
    if way == "file":
        state = {"fingerprint": "x", "loader": {}, "seconds": 0.0}
        folder = checkpoints.save(snapshot, shape, tokenizer, tmp_path, 3, state)
        read = checkpoints.read_snapshot(folder, checkpoints.read_state(folder))
        weights = load_folder(folder).state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in broken.average.state(weights))  # type: ignore[union-attr]
        same(dict(read.optimizer), dict(snapshot.optimizer))
        snapshot = checkpoints.read_snapshot(folder, {}, weights=False)
        assert snapshot.weights, "the average is not what training goes on with"
    again.load(snapshot, weights=bool(snapshot.weights))
    same(all_of(again), all_of(broken))
    step(again, range(3, 6))
    same(all_of(again), all_of(unbroken))


@each
def test_it_learns(kind: str) -> None:
    engine, seeds = opened(kind), range(1)
    ids = torch.randint(200, (2, 17), generator=torch.Generator().manual_seed(0))
    before = engine.model.loss_sum(ids[:, :-1], ids[:, 1:], None, None).item()
    for _ in range(6):
        step(engine, seeds)
    assert engine.model.loss_sum(ids[:, :-1], ids[:, 1:], None, None).item() < 0.9 * before


@each
def test_all_parameters_are_there_once_and_have_a_rate(kind: str) -> None:
    engine = opened(kind, EXPERTS, muon_rate=3.0)
    groups_of = engine.optimizer.param_groups
    parameters = [id(p) for group in groups_of for p in group["params"]]
    assert sorted(parameters) == sorted(id(p) for p in engine.model.parameters())
    step(engine, range(1))
    assert {group["lr"] for group in groups_of} == ({0.01, 0.03} if kind == "muon" else {0.01})
    assert kinds_of(engine.optimizer).keys() == set(engine.model.parameters())
    for parameter, kinds in kinds_of(engine.optimizer).items():
        assert engine.optimizer.state[parameter].keys() == kinds


def test_eight_bits_are_for_matrices_and_not_for_the_embedding() -> None:
    engine = opened("adamw8bit")
    step(engine, range(1))
    names = engine.snapshot().optimizer
    assert "state1.model.layers.0.mlp.up_proj.weight" in names
    assert {"exp_avg.model.embed_tokens.weight", "exp_avg.model.norm.weight"} <= names.keys()
    assert isinstance(engine.optimizer, Composed)


def test_a_toy_without_large_matrices_is_adamw_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "LEAST_EIGHT_BIT", 1 << 30)
    assert isinstance(opened("adamw8bit").optimizer, torch.optim.AdamW)


def test_state_of_another_optimizer_is_refused() -> None:
    one, other = opened("lion"), opened("adamw")
    step(one, range(1))
    with pytest.raises(
        CheckpointError, match=r"another optimizer's, got exp_avg; it must be exp_avg, exp_avg_sq, step"
    ):
        other.load(one.snapshot())


MATRIX, VECTOR = "model.layers.0.mlp.up_proj.weight", "model.norm.weight"
ADAMW = {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(
    ("first", "second", "of_matrix", "of_vector"),
    [
        ("adamw", "adamw", ADAMW, ADAMW),
        ("adamw", "muon", {"momentum_buffer"}, ADAMW),
        ("lion", "muon", {"momentum_buffer"}, {"fresh"}),
        ("muon", "adamw", {"fresh"}, ADAMW),
        ("muon", "lion", {"exp_avg"}, {"exp_avg"}),
        ("adamw", "lion", {"exp_avg"}, {"exp_avg"}),
        ("lion", "adamw", None, None),
        ("adamw", "adamw8bit", {"fresh"}, ADAMW),
        ("adamw8bit", "muon", {"fresh"}, ADAMW),
    ],
)
def test_what_is_carried(
    first: str, second: str, of_matrix: set[str] | None, of_vector: set[str] | None, tmp_path: Path
) -> None:
    """Kinds after the change, first moments the same numbers; the new one goes on from a snapshot made before its first step."""
    engine = opened(first, ema_decay=0.9)
    step(engine, range(2))
    before = copy.deepcopy(engine.snapshot())
    engine.optimize(Config.model_validate({"optimizer": second, "precision": "float32", "ema_decay": 0.9}), True)
    after = copy.deepcopy(engine.snapshot())
    for name, kinds in ((MATRIX, of_matrix), (VECTOR, of_vector)):
        found = {key.partition(".")[0] for key in after.optimizer if key.partition(".")[2] == name}
        assert found == (kinds or set())
        for kind in ("exp_avg", "momentum_buffer"):
            if f"{kind}.{name}" in after.optimizer:
                source = next(key for key in before.optimizer if key in (f"exp_avg.{name}", f"momentum_buffer.{name}"))
                assert torch.equal(after.optimizer[f"{kind}.{name}"], before.optimizer[source])
    assert all(torch.equal(after.averaged[name], tensor) for name, tensor in before.averaged.items())
    again = opened(second, seed=2, ema_decay=0.9)
    again.load(after)
    for one in (engine, again):
        step(one, range(2, 4))
    same(all_of(again), all_of(engine))


def test_fresh_is_an_optimizer_that_knows_nothing() -> None:
    engine = opened("adamw")
    step(engine, range(2))
    engine.optimize(Config(optimizer="adamw", weight_decay=0.3, precision="float32"), False)
    assert not engine.snapshot().optimizer
    assert [group["weight_decay"] for group in engine.optimizer.param_groups] == [0.3, 0.0]
    step(engine, range(1))
    assert engine.snapshot().optimizer[f"step.{VECTOR}"] == 1


def test_fused_adamw_equals_the_formula() -> None:
    """The slow twin: AdamW as written in arXiv:1711.05101, algorithm 2, three steps by hand."""
    config = Config(learning_rate=0.01, weight_decay=0.1, beta1=0.9, beta2=0.95)
    model = CausalLM(SHAPE.with_vocab(20))
    initialise(model, 1)
    weight = model.model.layers[0].self_attn.o_proj.weight
    optimizer = adamw(model, config, torch.device("cpu"))
    expected, m, v = weight.detach().clone().double(), torch.zeros(16, 16).double(), torch.zeros(16, 16).double()
    for turn in range(1, 4):
        gradient = torch.full((16, 16), 0.3 * turn)
        gradient[0] = -0.1
        weight.grad = gradient.clone()
        optimizer.step()
        g = gradient.double()
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        update = (m / (1 - 0.9**turn)) / ((v / (1 - 0.95**turn)).sqrt() + 1e-8)
        expected = expected - 0.01 * 0.1 * expected - 0.01 * update
    assert (weight.double() - expected).abs().max() < 1e-6
