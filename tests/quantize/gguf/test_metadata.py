"""The keys of a GGUF file, and the models that llama.cpp has no form for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import InputError, ModelError
from jielong.model.hf import save_folder
from jielong.model.positions import attention_factor
from jielong.quantize.gguf.metadata import ARCHITECTURES, describe, frequency_divisors, read_model
from tests.model.test_hf import make
from tests.model.test_hf_config import CONFIGS, OWN_CONFIGS, SCALINGS, config_of
from tests.quantize.gguf.folders import change

gguf = pytest.importorskip("gguf", reason="the quant extra")


def saved(path: Path, fields: dict[str, Any]) -> Path:
    save_folder(make(config_of(fields)), path, 0)
    return path


def keys(path: Path) -> dict[str, Any]:
    """What `describe` writes of a folder."""
    found = read_model(path)
    writer = gguf.GGUFWriter(None, found.architecture)
    describe(writer, found, "name")
    return {key: value.value for key, value in writer.kv_data[0].items()}


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3-moe-plain", "qwen2-moe-plain"]
)
def test_the_shape(name: str, tmp_path: Path) -> None:
    kind, fields = CONFIGS[name.removesuffix("-plain")]
    folder = saved(tmp_path, {**fields, "mlp_only_layers": ()} if "moe" in name else fields)
    table, arch = keys(folder), ARCHITECTURES[kind]
    assert table["general.architecture"] == arch and table["general.name"] == "name"
    expected = {
        "vocab_size": 97,
        "context_length": 128,
        "embedding_length": 32,
        "block_count": 4,
        "feed_forward_length": 24 if name == "mixtral" else 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": fields.get("head_dim", 8),
        "attention.value_length": fields.get("head_dim", 8),
        "rope.dimension_count": fields.get("head_dim", 8),
        "rope.freq_base": 10_000.0,
    }
    if name == "mistral":
        expected["attention.sliding_window"] = 8
    if "num_experts" in fields:
        expected |= {"expert_count": 4, "expert_used_count": 2}
    if "moe" in name:
        expected["expert_feed_forward_length"] = 24
    if name == "qwen2-moe-plain":
        expected["expert_shared_feed_forward_length"] = 40
    found = {key.removeprefix(f"{arch}."): value for key, value in table.items() if key.startswith(f"{arch}.")}
    assert found.pop("attention.layer_norm_rms_epsilon") == config_of(fields).rms_norm_eps and found == expected
    notes = read_model(folder).notes
    assert [note.partition(":")[0] for note in notes] == (["sliding_window"] if name == "mistral" else [])


@pytest.mark.parametrize("name", ["linear", "yarn", "yarn-factors", "yarn-attention", "ntk"])
def test_scaled_positions(name: str, tmp_path: Path) -> None:
    folder = saved(tmp_path, {"rope_scaling": SCALINGS[name]})
    found, table = read_model(folder), keys(folder)
    if name == "ntk":
        assert table["llama.rope.freq_base"] > 10_000 and "llama.rope.scaling.type" not in table
        return
    assert table["llama.rope.scaling.type"] == name[:4].replace("line", "linear")
    assert (table["llama.rope.scaling.factor"], table["llama.rope.scaling.original_context_length"]) == (4.0, 32)
    # llama.cpp's temperature is 0.1 ln(factor) + 1, times this
    times = table.get("llama.rope.scaling.attn_factor", 1.0) * (1.0 if name == "linear" else 0.1 * math.log(4.0) + 1.0)
    assert times == pytest.approx(attention_factor(found.config))
    assert table.get("llama.rope.scaling.yarn_beta_fast") == (16.0 if name == "yarn-factors" else None)


def test_llama3_divides_frequencies(tmp_path: Path) -> None:
    """The fastest pair is kept, the slowest divided by the factor, as Llama 3.1's file has it."""
    fields = {"rope_scaling": SCALINGS["llama3"], "hidden_size": 128}
    divisors = frequency_divisors(read_model(saved(tmp_path, fields)).config)
    assert divisors is not None and divisors.shape == (16,) and divisors.dtype == torch.float32
    assert divisors[0] == 1 and divisors[-1] == pytest.approx(4.0) and (divisors.diff() >= -1e-6).all()
    assert frequency_divisors(config_of({})) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": SCALINGS["dynamic"]}, "rope_scaling: unknown to llama.cpp, got 'dynamic'"),
        ({"rope_scaling": SCALINGS["yarn-original"]}, "rope_scaling.truncate: .*, got false"),
        ({"rope_scaling": SCALINGS["llama3"], "qk_norm": True}, "llama3 is read for the architecture llama alone, got 'qwen3'"),
        ({"qk_norm": True, "attention_bias": True}, "attention_bias: llama.cpp's qwen3 has none, got True"),
        ({**CONFIGS["qwen3-moe"][1]}, r"mlp_only_layers: .* got dense layers \[1\]"),
        ({**CONFIGS["qwen3-moe-window"][1], "attention_bias": False}, "norm_topk_prob: llama.cpp's qwen3moe .* got False"),
        (OWN_CONFIGS["alibi"][0], "model_type: llama.cpp knows no 'jielong'"),
    ],
)  # fmt: skip
def test_what_llama_cpp_has_no_form_for(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        read_model(saved(tmp_path, fields))


def test_folders_that_are_no_plain_model(tmp_path: Path) -> None:
    folder = saved(tmp_path, {})
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    with pytest.raises(InputError, match=r"MODEL: is quantized already \(gptq\), got .*; export the full model"):
        read_model(folder)
    change(folder / "config.json", quantization_config=None, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(InputError, match="MODEL: is a reward model"):
        read_model(folder)
    change(folder / "config.json", architectures=["GPT2LMHeadModel"], model_type="gpt2")
    with pytest.raises(ModelError, match="model_type not supported, got 'gpt2'"):
        read_model(folder)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"MODEL: is an adapter, got .*; merge it first: jielong merge"):
        read_model(folder)
