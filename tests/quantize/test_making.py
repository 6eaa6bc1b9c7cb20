"""Every method of ours on a trained model: what it costs, what is refused, and that nothing is half written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jielong.errors import InputError, ModelError
from jielong.infer.models import open_model
from jielong.model.hf import load_folder
from jielong.quantize.config import with_options
from jielong.quantize.making import Material, check, make
from jielong.quantize.running import tokenizer_of
from jielong.quantize.sensitivity import divergence
from jielong.quantize.text import Text, divided
from jielong.runs import Run
from jielong.tokenizer.shards.reading import Shards


def material(finished: Run, source: Path, work: Path) -> tuple[Material, Text]:
    shards = Shards(finished.stage("tokenizer") / "shards", "validation")
    calibration, measured = divided(shards, 10**9)
    training = Shards(finished.stage("tokenizer") / "shards", "train")
    return Material(source, tokenizer_of(source), calibration, training, work, 1), measured


def apart(source: Path, out: Path, text: Text) -> float:
    """KL of a quantized model from the full one."""
    ids = torch.from_numpy(text.rows(32, 512).astype(np.int64))
    with torch.no_grad():
        whole, other = (
            torch.log_softmax(load_folder(place, quantized=True).eval()(ids), dim=-1) for place in (source, out)
        )
    return divergence(whole, other)


def made(finished: Run, source: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], float]:
    given, text = material(finished, source, folder / "work")
    counts = make(with_options(options), given, folder / "out")
    return counts, apart(source, folder / "out", text)


def test_fewer_bits_cost_more(finished: Run, source: Path, tmp_path: Path) -> None:
    found = {}
    for bits in (2, 3, 4, 8):
        counts, found[bits] = made(finished, source, tmp_path / str(bits), method="rtn", bits=bits, group_size=32)
        assert counts["bits"] == bits and counts["layers"] == 14
    assert found[2] > found[3] > found[4] > found[8] >= 0
    assert found[8] < 1e-3
    sizes = [(tmp_path / str(bits) / "out" / "model.safetensors").stat().st_size for bits in (2, 3, 4, 8)]
    assert sizes == sorted(sizes)


def test_int8_and_int4_are_rounding_with_usual_settings(finished: Run, source: Path, tmp_path: Path) -> None:
    eight, _ = made(finished, source, tmp_path / "a", method="int8")
    four, _ = made(finished, source, tmp_path / "b", method="int4")
    assert (eight["bits"], eight["group_size"]) == (8, -1)
    assert (four["bits"], four["group_size"]) == (4, 64)


def test_zeros_of_their_own_are_read_back(finished: Run, source: Path, tmp_path: Path) -> None:
    _, one = made(finished, source, tmp_path / "a", method="rtn", bits=3, group_size=32, symmetric=True)
    _, other = made(finished, source, tmp_path / "b", method="rtn", bits=3, group_size=32, symmetric=False)
    assert 0 < other < 2 * one


def test_mixed_precision_is_better_than_the_same_for_all(finished: Run, source: Path, tmp_path: Path) -> None:
    _, same = made(finished, source, tmp_path / "a", method="rtn", bits=3, group_size=32)
    counts, mixed = made(finished, source, tmp_path / "b", method="rtn", average_bits=3.0, group_size=32)
    assert counts["bits"] <= 3 and len(set(counts["bits_of_layers"].values())) > 1
    assert mixed < same


def test_layers_that_are_left_out_are_whole(finished: Run, source: Path, tmp_path: Path) -> None:
    counts, _ = made(finished, source, tmp_path, method="int4", leave_out=["*.layers.0.*"])
    assert (counts["layers"], counts["left_out"]) == (7, 7)
    model, full = load_folder(tmp_path / "out", quantized=True), load_folder(source)
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.get_parameter(name), full.get_parameter(name))
    given, _ = material(finished, source, tmp_path / "work")
    with pytest.raises(InputError, match=r"leaves no layer to quantize, got \*; a layer's name is like model.layers.0"):
        make(with_options({"method": "int4", "leave_out": ["*"]}), given, tmp_path / "none")
    assert not (tmp_path / "none").exists() and not list(tmp_path.glob(".none*"))


@pytest.mark.parametrize("method", ["onebit", "bitnet"])
def test_distilled_is_better_than_rounded(finished: Run, source: Path, tmp_path: Path, method: str) -> None:
    _, rounded = made(finished, source, tmp_path / "a", method=method, distilled=False)
    distill = {"tokens": 12_288, "tokens_per_step": 512, "micro_batch_tokens": 512, "precision": "float32", "device": "cpu",
               "evaluate_every_steps": 12, "save_every_minutes": None}  # fmt: skip
    counts, distilled = made(finished, source, tmp_path / "b", method=method, distill=distill)
    assert counts["steps"] == 24 and counts["distilled"]
    assert distilled < 0.7 * rounded


def test_a_quantized_folder_writes_in_a_fresh_process(finished: Run, source: Path, tmp_path: Path) -> None:
    made(finished, source, tmp_path, method="int4")
    command = [sys.executable, "-m", "jielong", "generate", str(tmp_path / "out"), "--prompt", "新华社", "--temperature", "0",
               "--max-new-tokens", "8", "--json"]  # fmt: skip
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert '"ok":true' in there.stdout.replace(" ", "")
    model, tokenizer, _ = open_model(str(tmp_path / "out"), tmp_path)
    assert tokenizer.size == load_folder(source).config.vocabulary
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_is_refused_leaves_nothing(finished: Run, source: Path, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path / "alone")
    for options, said in (
        ({"method": "rtn", "group_size": 48}, "quantize.group_size: does not divide the rows of every matrix, got 48"),
        ({"method": "onebit"}, "quantize.calibration: method onebit looks at text"),
        ({"method": "rtn", "average_bits": 3.0}, "quantize.calibration: average_bits looks at text"),
    ):
        with pytest.raises(InputError, match=said):
            check(with_options(options), tmp_path / "alone", calibrated=False)
    made(finished, source, tmp_path / "small", method="int8")
    given, _ = material(finished, tmp_path / "small" / "out", tmp_path / "work")
    with pytest.raises(ModelError, match=r"is quantized already \(gptq\)"):
        make(with_options({"method": "int8"}), given, tmp_path / "again")
    assert not (tmp_path / "again").exists()
