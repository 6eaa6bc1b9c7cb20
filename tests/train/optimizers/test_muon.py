"""Muon against torch.optim.Muon, its twin, and two processes against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loop import train
from jielong.train.optimizers import exchange, muon, opening, orthogonal
from jielong.train.optimizers.exchange import owners
from jielong.train.optimizers.muon import Muon, _nesterov
from jielong.world import World, joined, this_world
from tests.train.conftest import SHAPE
from tests.train.engines.jobs import losses, tiny_job
from tests.train.engines.processes import run_processes

SHAPES = [(8, 8), (8, 8), (12, 5), (5, 12), (12, 5)]
RATE = 0.03


def some(shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def steps(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], seeds: range) -> None:
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for group in optimizer.param_groups:
            group["lr"] = RATE
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("run", [1 << 22, 64, 1])
def test_it_is_torch_s_muon(run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, as torch's: a result may be off by a rounding or two, which is 1/128 of an update."""
    monkeypatch.setattr(orthogonal, "RUN", run)
    ours, theirs = some(), some()
    twin = torch.optim.Muon(theirs, lr=RATE, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    muon = Muon([(p, 1) for p in ours], 0.1, 0.9)
    steps(muon, ours, range(1))
    steps(twin, theirs, range(1))
    for one, other, first in zip(ours, theirs, some(), strict=True):
        update = (other - first).abs().max().item()
        assert update > 0.005 and (one - other).abs().max().item() <= update / 64
    steps(muon, ours, range(1, 6))
    steps(twin, theirs, range(1, 6))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)
        torch.testing.assert_close(muon.state[one]["momentum_buffer"], twin.state[other]["momentum_buffer"])


def test_a_stack_is_its_matrices() -> None:
    """(4, 6, 5) with two matrices in its last dimensions is eight of (3, 5)."""
    (stack,) = some([(4, 6, 5)])
    alone = [nn.Parameter(part.clone()) for part in stack.detach().reshape(8, 3, 5)]
    for seed in range(3):
        gradient = torch.randn(stack.shape, generator=torch.Generator().manual_seed(seed))
        stack.grad = gradient.clone()
        for parameter, part in zip(alone, gradient.reshape(8, 3, 5), strict=True):
            parameter.grad = part.clone()
        for parameters, count in (([stack], 2), (alone, 1)):
            muon = Muon([(p, count) for p in parameters], 0.1, 0.9, dtype=torch.float32)
            muon.param_groups[0]["lr"] = RATE
            muon.step()
    torch.testing.assert_close(stack.reshape(8, 3, 5), torch.stack(list(alone)))


def test_what_has_no_gradient_stays() -> None:
    parameters = some()
    muon = Muon([(p, 1) for p in parameters], 0.1, 0.9)
    muon.step()
    assert not muon.state and all(torch.equal(a, b) for a, b in zip(parameters, some(), strict=True))


@pytest.mark.gpu
def test_it_is_torch_s_muon_on_the_gpu() -> None:
    ours, theirs = ([nn.Parameter(p.detach().cuda()) for p in some()] for _ in range(2))
    twin = torch.optim.Muon(theirs, lr=RATE, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    muon = Muon([(p, 1) for p in ours], 0.1, 0.9)
    for seed in range(3):
        for group in (*muon.param_groups, *twin.param_groups):
            group["lr"] = RATE
        for parameters in (ours, theirs):
            generator = torch.Generator("cuda").manual_seed(seed)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator, device="cuda")
        muon.step()
        twin.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)


# ------------------------------------------------------------------------------------------- two processes

ODD = SHAPE.model_copy(update={"hidden_size": 17, "head_dim": 10, "intermediate_size": 37})  # rows: 17, 10, 37
EXPERTS = SHAPE.model_copy(update={"num_experts": 3, "moe_intermediate_size": 7})
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"shape": ODD},
    "fsdp": {"shape": ODD, "parallel": "fsdp"},
    "fsdp-experts": {"shape": EXPERTS, "parallel": "fsdp", "micro_batch_tokens": 32},
    "fsdp-bfloat16": {"shape": ODD, "parallel": "fsdp"},
    "lion": {"shape": ODD, "parallel": "fsdp", "optimizer": "lion", "learning_rate": 0.001},
}
MUON = {"optimizer": "muon", "learning_rate": 0.003, "tokens": 10 * 64, "ema_decay": 0.9}


def in_two_processes(corpus: str, folder: str) -> dict[str, Any]:
    """Each case's run; how many matrices each rank made orthogonal; whether all ranks have the same weights."""
    world, found = this_world(), dict[str, Any]()
    exchange.BUCKET = 2000  # several to a step
    made = [0]
    real = orthogonal.newton_schulz

    def counted(matrices: torch.Tensor) -> torch.Tensor:
        made[0] += len(matrices)
        return real(matrices)

    orthogonal.newton_schulz = muon.newton_schulz = counted
    with joined(world, torch.device("cpu")):
        for name, settings in CASES.items():
            job, model = tiny_job(Path(corpus), Path(folder) / name, world, **(MUON | settings))
            made[0], fast = 0, name.endswith("bfloat16")
            opening.has_fast_bfloat16 = lambda device, fast=fast: fast
            engine = TorchEngine(model, job.config, world)
            train(job, engine)
            with engine.whole() as whole:
                shown = (
                    None
                    if whole is None
                    else float(whole.model.layers[0].self_attn.q_proj.weight.detach().double().sum())
                )
            total = sum(p.detach().double().sum() for p in model.parameters())
            found[name] = {
                "made": made[0],
                "shown": shown,
                "sum": float(getattr(total, "full_tensor", lambda t=total: t)()),
            }
    return found


def test_two_processes_equal_one(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to 1e-4, no matrix made twice, ranks alike; with the average of the weights, which is sharded as they are."""
    one, two = run_processes(f"{__name__}:in_two_processes", 2, str(corpus), str(tmp_path))
    for name, settings in CASES.items():
        fast = name.endswith("bfloat16")
        monkeypatch.setattr(opening, "has_fast_bfloat16", lambda device, fast=fast: fast)
        alone = MUON | settings | {"parallel": "ddp"}
        job, model = tiny_job(corpus, tmp_path / f"{name}-alone", World(), **alone)
        engine = TorchEngine(model, job.config)
        train(job, engine)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / f"{name}-alone"), rel=1e-4), name
        assert one[name]["sum"] == two[name]["sum"]
        with engine.whole() as whole:
            assert whole is not None and whole is not model
            shown = float(whole.model.layers[0].self_attn.q_proj.weight.detach().double().sum())
        assert one[name]["shown"] == pytest.approx(shown, rel=1e-3, abs=1e-4) and two[name]["shown"] is None
        matrices = sum(
            p.shape[0] * (2 if "gate_up" in key else 1) if p.ndim == 3 else 1
            for key, p in model.named_parameters()
            if ".layers." in key and p.ndim >= 2 and "mlp.gate.weight" not in key
        )
        whole_work = one[name]["made"] + two[name]["made"]
        assert whole_work == (0 if name == "lion" else 10 * matrices), name
        if name != "lion":
            assert min(one[name]["made"], two[name]["made"]) > whole_work / 4


def test_owners_of_one_rank_is_that_rank() -> None:
    assert owners([(2, 3)] * 4, 1) == [0] * 4
    assert list(_nesterov([], 0.9)) == []
