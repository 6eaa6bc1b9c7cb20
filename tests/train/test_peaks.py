from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from jielong.model.config import Config as ModelConfig
from jielong.model.cost import parameters
from jielong.model.transformer import CausalLM
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch
from jielong.train.peaks import Peaks, measure_step

MIB = 1 << 20


def some(rows: int, length: int) -> Batch:
    ids = np.zeros((rows, length), dtype=np.int64)
    return Batch(ids, ids, ids, ids)


class Known:
    """In place of an engine: one weight of 4 MiB, and phases that take what they are told to."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.model = torch.nn.Linear(1024, 1024, bias=False)
        self.optimizer = SimpleNamespace(state={})
        self.average = None
        self.kept: list[torch.Tensor] = []

    def forward(self, batch: Batch) -> Any:
        self.kept.append(torch.ones(3 * MIB, dtype=torch.uint8))
        torch.ones(5 * MIB, dtype=torch.uint8)  # gone at once
        return SimpleNamespace(cross_entropy=torch.zeros(()), auxiliary=torch.zeros(()))

    def backward(self, loss: torch.Tensor) -> None:
        torch.ones(7 * MIB, dtype=torch.uint8)

    def gradient_norm(self) -> float:
        return 0.0

    def step(self, learning_rate: float) -> None:
        self.kept.clear()


def near(found: int, wanted: int) -> bool:
    """Up to a few scalars, each in a piece of 64 bytes."""
    return wanted <= found < wanted + 1024


def test_every_byte_is_counted_in_its_phase() -> None:
    """One micro-batch: 4 + 3 + 5 at most in forward, 4 + 3 + 7 in backward, 4 + 3 when the step begins."""
    found = measure_step(Known(), [some(1, 8)])  # type: ignore[arg-type]  # a stand-in
    assert found.before == 4 * MIB
    assert near(found.forward, 12 * MIB)
    assert near(found.backward, 14 * MIB)
    assert near(found.step, 7 * MIB)
    assert found.peak == found.backward


def test_what_a_micro_batch_leaves_is_there_in_the_next() -> None:
    """With two: what the first kept, 3, comes on top."""
    found = measure_step(Known(), [some(1, 8)] * 2)  # type: ignore[arg-type]
    assert near(found.forward, 15 * MIB)
    assert near(found.backward, 17 * MIB)
    assert near(found.step, 10 * MIB)


def test_the_optimizer_s_state_is_there_before_and_gradients_are_not() -> None:
    config = ModelConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    model = CausalLM(config)
    engine = TorchEngine(model, Config(device="cpu", precision="float32"))
    found = measure_step(engine, [some(2, 16)])
    steps = 4 * len(list(model.parameters()))
    assert found.before == 12 * parameters(config) + steps
    assert found.step >= 16 * parameters(config) + steps
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_threads_of_ours_let_go_of_is_gone() -> None:
    """After the step, weights, optimizer state and what the losses still hold, whatever the number of threads."""
    config = ModelConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            engine = TorchEngine(CausalLM(config), Config(device="cpu", precision="float32"))
            found.append(measure_step(engine, [some(4, 128)]))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_the_peak_is_the_highest_phase() -> None:
    assert Peaks(1, 5, 3, 4).peak == 5
    assert Peaks(1, 2, 3, 4).peak == 4
