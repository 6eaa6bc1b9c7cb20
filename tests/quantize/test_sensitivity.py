"""Mixed precision: bits go where they help, and the average is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from jielong.model.hf import load_folder
from jielong.quantize.sensitivity import CHOICES, allot, divergence, measure_hurts


def test_bits_go_where_they_help() -> None:
    hurts = {"a": {2: 1.0, 3: 0.5, 4: 0.2, 8: 0.0}, "b": {2: 0.1, 3: 0.05, 4: 0.02, 8: 0.0}}
    sizes = {"a": 100, "b": 100}
    assert allot(hurts, sizes, 2.0) == {"a": 2, "b": 2}
    assert allot(hurts, sizes, 3.0) == {"a": 4, "b": 2}
    assert allot(hurts, sizes, 8.0) == {"a": 8, "b": 8}


def test_the_average_counts_weights() -> None:
    hurts = {"large": {2: 1.0, 3: 0.4, 4: 0.2, 8: 0.0}, "small": {2: 0.5, 3: 0.3, 4: 0.2, 8: 0.0}}
    sizes = {"large": 1000, "small": 10}
    for average in (2.01, 2.5, 3.0, 4.0):
        found = allot(hurts, sizes, average)
        assert sum(found[name] * size for name, size in sizes.items()) <= average * sum(sizes.values())
    assert allot(hurts, sizes, 2.02) == {"large": 2, "small": 4}


def test_a_matrix_hurts_more_with_fewer_bits_and_is_put_back(source: Path) -> None:
    model = load_folder(source).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    rows = np.random.default_rng(1).integers(0, 300, (2, 32))
    found = measure_hurts(model, layers, rows, None, True)
    for name in layers:
        assert [found[name][bits] for bits in CHOICES] == sorted(found[name].values(), reverse=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_divergence_by_hand() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.25, 0.75]]), torch.tensor([[0.25, 0.75], [0.25, 0.75]])
    expected = (0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert abs(divergence(p.log(), q.log()) - expected) < 1e-6
