from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jielong.errors import CheckpointError, RecipeError
from jielong.model.transformer import CausalLM
from jielong.train.config import Config
from jielong.train.engine import OPTIMIZER, TorchEngine
from jielong.train.loader import Batch


def one_step(engine: TorchEngine) -> float:
    ids = torch.arange(32).reshape(2, 16) % 200
    batch = Batch(ids.numpy(), ids.numpy(), (ids % 16).numpy(), torch.zeros_like(ids).numpy())
    engine.backward(engine.forward(batch).cross_entropy / 32)
    norm = engine.gradient_norm()
    engine.step(0.01)
    return norm


def test_gradients_are_clipped_to_the_norm(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(grad_clip=0.5, precision="float32"))
    ids = torch.arange(32).reshape(2, 16)
    engine.backward(engine.model.loss_sum(ids, ids, None, None))
    before = engine.gradient_norm()
    after = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    assert before > 0.5
    assert float(after) == pytest.approx(0.5, rel=1e-4)


def test_no_clipping_when_it_is_off(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(grad_clip=None, precision="float32"))
    ids = torch.arange(32).reshape(2, 16)
    engine.backward(engine.model.loss_sum(ids, ids, None, None))
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    engine.gradient_norm()
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, model.parameters(), strict=True) if p.grad is not None)


def test_optimizer_state_comes_back_bit_for_bit(model: CausalLM, tmp_path: Path) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    one_step(engine)
    engine.save(tmp_path)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    one_step(engine)
    expected = [p.detach().clone() for p in model.parameters()]
    model.load_state_dict(weights)
    again = TorchEngine(model, Config(precision="float32"))
    again.load(tmp_path)
    one_step(again)
    assert all(torch.equal(a, b) for a, b in zip(expected, model.parameters(), strict=True))
    assert "exp_avg.model.norm.weight" in load_file(str(tmp_path / OPTIMIZER))


def test_optimizer_state_that_cannot_be_read(model: CausalLM, tmp_path: Path) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    with pytest.raises(CheckpointError, match="optimizer state cannot be read"):
        engine.load(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that this machine must not have")
def test_a_device_that_is_not_there(model: CausalLM) -> None:
    with pytest.raises(RecipeError, match=r"train\.device: not available on this machine, got 'cuda'; available: cpu"):
        TorchEngine(model, Config(device="cuda"))


@pytest.mark.gpu
def test_a_step_on_the_gpu(model: CausalLM) -> None:
    engine = TorchEngine(model, Config(device="cuda"))
    assert engine.precision in ("bfloat16", "float32")
    assert one_step(engine) > 0
