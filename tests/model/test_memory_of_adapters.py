"""Memory of adapters and recomputing: beside what a step takes, and the sums that a plan shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jielong.model.adapter_config import Adapter
from jielong.model.adapters import attach, trained
from jielong.model.config import Config
from jielong.model.devices import find_device
from jielong.model.hf import save_folder
from jielong.model.memory import Work, training_memory
from jielong.model.memory_of_adapters import adapter_parameters, lean_memory
from jielong.model.transformer import CausalLM, initialise
from jielong.recipe import load
from jielong.runtime import choose_device
from jielong.train.adapting import open_adapted
from jielong.train.config import Config as TrainConfig
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.loader import Batch
from jielong.train.peaks import measure_step
from jielong.train.planning import plan_run

SHAPE = Config(vocab_size=2048, hidden_size=256, num_hidden_layers=6, num_attention_heads=8, num_key_value_heads=4,
               max_position_embeddings=256)  # fmt: skip
ROWS, LENGTH = 4, 256


def batch() -> Batch:
    ids = np.random.default_rng(1).integers(1, 2048, (ROWS, LENGTH))
    places = np.tile(np.arange(LENGTH), (ROWS, 1))
    return Batch(ids, np.roll(ids, -1, axis=1), places, np.zeros_like(ids))


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_parameters_are_counted(kind: str) -> None:
    adapter = Adapter.model_validate({"kind": kind, "rank": 5})
    model = CausalLM(SHAPE)
    attach(model, adapter, 1)
    assert adapter_parameters(SHAPE, adapter) == sum(tensor.numel() for tensor in trained(model).values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("adapter", "recompute"), [({}, False), ({}, True), ({"base_weights": "nf4"}, False), (None, True)]
)
def test_it_is_near_what_is_measured(
    precision: str, adapter: dict[str, str] | None, recompute: bool, tmp_path: Path
) -> None:
    """Within a fifth: coarser than memory.py, and good enough to know what fits."""
    if adapter and adapter.get("base_weights") == "nf4":
        pytest.importorskip("bitsandbytes", reason="quantized bases need bitsandbytes")
    model = CausalLM(SHAPE)
    initialise(model, 1)
    save_folder(model, tmp_path, end_id=0)
    config = TrainConfig.model_validate(
        {"precision": precision, "device": "cpu", "adapter": adapter, "recompute": recompute}
    )
    if config.adapter is not None:
        model, _ = open_adapted(config, config.adapter, tmp_path, None, None, 1, choose_device("cpu"))
    measured = measure_step(TorchEngine(model, config), [batch()]).peak
    predicted = lean_memory(SHAPE, Work(ROWS, LENGTH, precision), "adamw", config.adapter, recompute).peak
    assert predicted == pytest.approx(measured, rel=0.2)


def test_less_is_less() -> None:
    """All weights, then LoRA, then 4 bits, then recomputing: each takes less than the one before."""
    work = Work(1, 2048, "bfloat16", "cuda")
    large = Config(vocab_size=32_000, hidden_size=2048, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=8,
                   max_position_embeddings=2048)  # fmt: skip
    found = [
        training_memory(large, work).peak,
        lean_memory(large, work, adapter=Adapter()).peak,
        lean_memory(large, work, adapter=Adapter(base_weights="nf4")).peak,
        lean_memory(large, work, adapter=Adapter(base_weights="nf4"), recompute=True).peak,
    ]
    assert found == sorted(found, reverse=True) and found[0] > 3 * found[3]


def test_the_plan_of_an_8b_llama_fits_a_card_of_24_gb() -> None:
    report = plan_run(load("llama-qlora").sections, find_device("rtx-4090"))
    assert report.parameters == pytest.approx(8.03e9, rel=0.001)
    assert report.fit.fits and report.fit.memory.weights < 8 * 10**9
    assert report.held == "nf4, frozen; embeddings in bfloat16"
    notes = " ".join(report.assumptions)
    assert "an adapter of 20,971,520 parameters is trained" in notes
