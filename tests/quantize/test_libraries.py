"""Methods of kept libraries, where they are installed: better than rounding, and opened by transformers with equal logits."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from jielong.errors import MissingExtraError, ModelError
from jielong.model.hf import load_folder
from jielong.model.quantized.foreign import silently
from jielong.quantize import libraries
from jielong.quantize.config import with_options
from jielong.runs import Run
from tests.model.quantized.folders import SHAPE
from tests.quantize.test_making import made

needs_gptqmodel = pytest.mark.skipif(
    importlib.util.find_spec("gptqmodel") is None,
    reason="gptqmodel is not installed: make quant runs these in an environment that has it",
)
needs_torchao = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None, reason="the extra quant (torchao) is not installed"
)


def same_in_transformers(folder: Path, near: float) -> None:
    """transformers opens the folder with the library, and its logits are ours."""
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 33)[None]
    with silently(), torch.no_grad():
        theirs = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, device_map="cpu")
            .eval()(ids)
            .logits.float()
        )
        ours = load_folder(folder, quantized=True).eval()(ids)
    assert float((theirs - ours).norm() / ours.norm()) < near


@needs_gptqmodel
@pytest.mark.parametrize(("method", "near"), [("gptq", 1e-2), ("awq", 1e-2)])
def test_calibration_is_better_than_rounding(
    finished: Run, source: Path, tmp_path: Path, method: str, near: float
) -> None:
    """At the same bits and groups; `near`: their products are in half precision."""
    _, rounded = made(
        finished, source, tmp_path / "rtn", method="rtn", bits=4, group_size=64, symmetric=method == "gptq"
    )
    counts, calibrated = made(finished, source, tmp_path / "lib", method=method, group_size=64, calibration_length=32)
    assert counts["bits"] == 4 and counts["layers"] == 14
    assert calibrated < rounded
    same_in_transformers(tmp_path / "lib" / "out", near)


@needs_gptqmodel
def test_options_of_gptq(finished: Run, source: Path, tmp_path: Path) -> None:
    """Three bits, act order, a layer left out, and a mix."""
    counts, _ = made(finished, source, tmp_path / "a", method="gptq", bits=3, act_order=True, group_size=32,
                     leave_out=["*.layers.0.mlp.*"], calibration_length=32)  # fmt: skip
    assert (counts["bits"], counts["layers"], counts["left_out"]) == (3, 11, 3)
    counts, _ = made(
        finished, source, tmp_path / "b", method="gptq", average_bits=3.5, group_size=32, calibration_length=32
    )
    assert counts["bits"] <= 3.5 and "bits_of_layers" in counts


@needs_gptqmodel
@pytest.mark.parametrize("bits", [4, 8])
def test_rounding_is_opened_by_transformers(finished: Run, source: Path, tmp_path: Path, bits: int) -> None:
    made(finished, source, tmp_path, method="rtn", bits=bits, group_size=64)
    same_in_transformers(tmp_path / "out", 1e-2)


@pytest.mark.parametrize("method", ["llm-int8", "nf4"])
def test_bitsandbytes(finished: Run, source: Path, tmp_path: Path, method: str) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra bitsandbytes is not installed")
    counts, apart = made(finished, source, tmp_path, method=method)
    assert apart < 0.05 and counts["bytes"] < counts["bytes_before"]
    same_in_transformers(tmp_path / "out", 1e-4)


@needs_torchao
@pytest.mark.parametrize("method", ["torchao-int8", "torchao-8da4w"])
def test_torchao(finished: Run, source: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # DeepSpeed's ZeRO 3 leaves its own in the process, which torchao's tensors do not know
    monkeypatch.setattr(torch.nn.functional, "linear", torch._C._nn.linear)
    counts, apart = made(finished, source, tmp_path, method=method)
    assert apart < 0.05 and counts["bytes"] < counts["bytes_before"]
    same_in_transformers(tmp_path / "out", 1e-3)


def test_a_missing_library_and_models_of_our_own_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(libraries.PACKAGES, "gptq", ("no_such_package", "quant"))
    with pytest.raises(
        MissingExtraError, match=r"needed by method \"gptq\"; install it with: pip install 'jielong\[quant\]'"
    ):
        libraries.check(with_options({"method": "gptq"}), SHAPE)
    monkeypatch.setitem(libraries.PACKAGES, "gptq", ("torch", "quant"))
    with pytest.raises(
        ModelError, match="knows classes of transformers only, and no Hugging Face class has position = alibi"
    ):
        libraries.check(with_options({"method": "gptq"}), SHAPE.model_copy(update={"position": "alibi"}))


def fails(path: str) -> None:
    Path(path).write_text("begun")
    raise ValueError("no room in the matrix")


def dies(code: int) -> None:
    os._exit(code)


def test_a_library_that_fails_or_dies_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the library failed \(ValueError: no room in the matrix\)"):
        libraries.in_a_process(fails, str(tmp_path / "x"))
    assert (tmp_path / "x").read_text() == "begun"
    with pytest.raises(ModelError, match="it says no reason"):
        libraries.in_a_process(dies, 3)
