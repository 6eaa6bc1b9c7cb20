"""Models beside the full one: figures by hand, and the full model against itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jielong.evaluate.models_compared import agreement, bytes_of, compare, distance
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM
from jielong.quantize.config import with_options
from jielong.quantize.running import quantize
from jielong.runs import Run
from jielong.tokenizer.shards.reading import Shards
from tests.model.quantized.folders import SHAPE
from tests.quantize.conftest import finished, source

__all__ = ["finished", "source"]  # fixtures


def test_agreement_counts_tokens_before_the_first_difference() -> None:
    assert agreement([[1, 2, 3, 4]], [[1, 2, 9, 4]]) == 0.5
    assert agreement([[1, 2], [5, 6]], [[1, 2], [6, 6]]) == 0.5
    assert agreement([[1, 2]], [[1, 2, 3, 4]]) == 0.5  # one ended
    assert agreement([], []) is None


def test_memory_counts_shared_weights_once() -> None:
    model = CausalLM(SHAPE)
    assert bytes_of(model) == 4 * sum(parameter.numel() for parameter in model.parameters())
    untied = CausalLM(SHAPE.model_copy(update={"tie_word_embeddings": False}))
    assert bytes_of(untied) == bytes_of(model) + 4 * 64 * 64


def test_distance_by_hand(source: Path) -> None:
    full, other = load_folder(source).eval(), load_folder(source).eval()
    other.model.norm.weight.data.mul_(0.5)
    rows = np.random.default_rng(1).integers(0, 300, (6, 20))
    ids = torch.from_numpy(rows)
    with torch.no_grad():
        p, q = (torch.log_softmax(model(ids), dim=-1) for model in (full, other))
    apart, same = distance(full, other, rows)
    assert apart == pytest.approx(float((p.exp() * (p - q)).sum() / rows.size), rel=1e-4)
    assert same == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).float().mean()))


def test_a_small_model_beside_the_full_one(finished: Run, source: Path, tmp_path: Path) -> None:
    quantize(
        with_options({"method": "rtn", "bits": 2, "group_size": 32}), source, tmp_path / "two", tmp_path / "work", 1
    )
    shards = Shards(finished.stage("tokenizer") / "shards", "validation")
    rows = np.stack([shards.targets(number)[:24].astype(np.int64) for number in range(4)])
    found = compare({"full": source, "two": tmp_path / "two"}, shards, range(shards.documents), rows, 10**6, "cpu")
    full, two = found["models"]
    assert (full["divergence"], full["same_first"], full["greedy_agreement"], full["method"]) == (0.0, 1.0, 1.0, None)
    assert two["method"] == "gptq" and two["divergence"] > 0 and two["bits_per_byte"] != full["bits_per_byte"]
    assert two["bytes_on_disk"] < full["bytes_on_disk"] and two["bytes_in_memory"] < full["bytes_in_memory"]
    assert all(row["tokens_per_second"] > 0 and len(row["samples"]) == 3 for row in found["models"])
    assert found["text"]["documents"] == shards.documents
