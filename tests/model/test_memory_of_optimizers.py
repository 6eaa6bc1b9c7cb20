"""Predicted against measured bytes of optimizers, at few tokens, where they are most of what there is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jielong.model.config import Config
from jielong.model.cost import parameters
from jielong.model.memory_of_optimizers import _matrices, optimizer_memory
from jielong.model.transformer import CausalLM
from jielong.train.config import Config as TrainConfig
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.optimizers import opening
from jielong.train.optimizers.groups import block_matrices
from tests.model.test_memory import SPARSE, TOLERANCE, errors

SMALL: dict[str, Any] = {"vocab_size": 300, "hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
                         "num_key_value_heads": 2}  # fmt: skip
SHARED = SPARSE | {"tie_word_embeddings": False}


@pytest.mark.parametrize("changes", [{}, SHARED], ids=["dense", "experts"])
@pytest.mark.parametrize("train", [{"optimizer": "muon"}, {"optimizer": "lion"}, {"optimizer": "adamw8bit"},
                                   {"ema_decay": 0.9}, {"optimizer": "muon", "ema_decay": 0.9}], ids=str)  # fmt: skip
def test_predicted_peaks_are_the_measured_ones(
    changes: dict[str, Any], train: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "has_fast_bfloat16", lambda device: True)
    found, expected = errors(SMALL | changes, 1, 32, "float32", True, 1, "cpu", **train)
    assert all(abs(error) < TOLERANCE for name, error in found.items() if name != "beyond"), found
    config = Config.model_validate(SMALL | changes)
    engine = TorchEngine(
        CausalLM(config), TrainConfig.model_validate({"device": "cpu", "precision": "float32"} | train)
    )
    for parameter in engine.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.step(0.0)
    tensors = [v for state in engine.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    tensors += engine.average.weights.values() if engine.average is not None else []
    alive = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.ndim}
    assert sum(alive.values()) == pytest.approx(expected.optimizer, rel=0.01)


@pytest.mark.parametrize("changes", [{}, SHARED, {"num_experts": 4, "moe_intermediate_size": 24}])
def test_matrices_are_those_of_the_model(changes: dict[str, Any]) -> None:
    config = Config.model_validate(SMALL | changes)
    counted = sum(high * wide * count for (high, wide), count in _matrices(config).items())
    assert counted == sum(parameter.numel() for parameter, _ in block_matrices(CausalLM(config)).values())
    assert counted == sum(high * wide * count for (high, wide), count in _matrices(config, stacked=True).items())


def test_bytes_by_hand() -> None:
    config = Config.model_validate(SMALL)
    whole = parameters(config)
    assert optimizer_memory(config) == (8 * whole, 0)
    assert optimizer_memory(config, "lion", averaged=True) == (8 * whole, 4 * whole)
    assert 4 * whole < optimizer_memory(config, "muon").state < 8 * whole
    large = Config.model_validate(SMALL | {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 16})
    assert optimizer_memory(large, "adamw8bit").state / parameters(large) == pytest.approx(2.08, abs=0.05)
    # the largest matrix is a run: its update in float32 and a copy of it; here 5,504 x 2,048, more than two copies and two squares
    assert optimizer_memory(large, "muon").working == 6 * 2048 * 5504
