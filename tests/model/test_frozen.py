"""Frozen weights in less memory: what is held how, and that a pass forward and backward goes through them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jielong.errors import MissingExtraError
from jielong.model.adapters import attach, trained
from jielong.model.config import Config
from jielong.model.frozen import Frozen
from jielong.model.hf import load_folder, save_folder
from jielong.model.transformer import CausalLM
from tests.model.test_adapters import adapter_of, logits, train_some
from tests.model.test_hf import ids, make

CPU = torch.device("cpu")
SHAPE = Config(vocab_size=97, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
               max_position_embeddings=64)  # fmt: skip  # NF4's blocks are runs of 64


def base_folder(folder: Path) -> Path:
    save_folder(make(SHAPE), folder, end_id=0)
    return folder


@torch.no_grad()
def loss(model: CausalLM, tokens: torch.Tensor) -> float:
    return float(model.loss_sum(tokens[:, :-1], tokens[:, 1:].contiguous(), None, None))


def test_half(tmp_path: Path) -> None:
    model = load_folder(base_folder(tmp_path / "base"), frozen=Frozen("half", torch.bfloat16, CPU))
    for name, one in model.named_parameters():
        assert one.dtype == (torch.float32 if one.ndim < 2 else torch.bfloat16), name
        assert not one.requires_grad


@pytest.mark.parametrize(("held", "error"), [("nf4", 0.4), ("int8", 0.1)])
def test_quantized_layers_compute_and_pass_gradients_on(held: str, error: float, tmp_path: Path) -> None:
    """Close to the plain model (relative error of logits, random weights), and an adapter on top learns."""
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    base = base_folder(tmp_path / "base")
    plain, model = load_folder(base).eval(), load_folder(base, frozen=Frozen(held, torch.float32, CPU)).eval()
    with torch.no_grad():
        difference = (logits(model) - logits(plain)).norm() / logits(plain).norm()
    assert 0 < difference < error
    attach(model, adapter_of(), 1)
    assert len(trained(model)) == 2 * 7 * model.config.num_hidden_layers
    tokens = ids(24, 2)
    before = loss(model, tokens)
    train_some(model, 8)
    assert loss(model, tokens) < before


def test_looking_at_a_quantized_model_does_not_change_it(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    model = load_folder(base_folder(tmp_path / "base"), frozen=Frozen("nf4", torch.bfloat16, CPU))
    state = {name: one.detach().clone() for name, one in model.named_parameters()}
    model.train()
    first = model(ids(8, 1)).detach()
    model.eval()
    with torch.no_grad():
        model(ids(8, 1))
    model.train()
    assert torch.equal(model(ids(8, 1)).detach(), first)
    assert all(torch.equal(one, state[name]) for name, one in model.named_parameters())


def test_quantized_weights_take_less_memory(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    base = base_folder(tmp_path / "base")

    def size(held: str) -> int:
        model = load_folder(base, frozen=Frozen(held, torch.bfloat16, CPU))
        return sum(p.numel() * p.element_size() for n, p in model.named_parameters() if "proj" in n)

    assert size("nf4") * 4 == size("half") == size("int8") * 2


def test_nf4_is_near_each_weight(tmp_path: Path) -> None:
    """A normal weight in one of 16 places is off by a tenth of its size (arXiv:2305.14314 chose them so)."""
    bnb = pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    base = base_folder(tmp_path / "base")
    plain, model = load_folder(base), load_folder(base, frozen=Frozen("nf4", torch.float32, CPU))
    for name, given in plain.named_parameters():
        if "_proj" in name:
            weight = model.get_parameter(name)
            found = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
            assert (found - given).norm() < 0.12 * given.norm(), name


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"bitsandbytes: not installed.*jielong\[tune\]"):
        Frozen("nf4", torch.bfloat16, CPU)
