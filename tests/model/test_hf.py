"""Model folders: ours open in Hugging Face with equal logits, theirs open in ours, damage is named."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from jielong.errors import CheckpointError, ModelError
from jielong.model.config import Config
from jielong.model.hf import from_hf_config, load_folder, read_config, save_folder, to_hf_config, write_checksums
from tests.model.test_transformer import LOGITS, QWEN, TINY, ids, make


@pytest.mark.parametrize(
    "config",
    [TINY, QWEN, TINY.model_copy(update={"attention_bias": True, "rope_theta": 500_000.0})],
    ids=["llama", "qwen3", "bias"],
)
def test_folder_opens_in_hugging_face_with_equal_logits(config: Config, tmp_path: Path) -> None:
    model = make(config)
    save_folder(model, tmp_path, end_id=0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert type(theirs).__name__ == to_hf_config(config, 0)["architectures"][0]
    with torch.no_grad():
        assert (theirs(ids()).logits - model(ids())).abs().max() < LOGITS
        again = load_folder(tmp_path).eval()
        assert torch.equal(again(ids()), model(ids()))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("shards", ["1GB", "40KB"], ids=["one-file", "many-files"])
def test_hugging_face_folder_opens_in_ours(kind: str, shards: str, tmp_path: Path) -> None:
    shape = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(LlamaConfig(**shape)) if kind == "llama" else Qwen3ForCausalLM(Qwen3Config(**shape))
    theirs.save_pretrained(tmp_path, max_shard_size=shards)
    assert (tmp_path / "model.safetensors").exists() == (shards == "1GB")
    with torch.no_grad():
        assert (load_folder(tmp_path).eval()(ids()) - theirs.eval()(ids()).logits).abs().max() < LOGITS


def test_config_survives_the_round_trip() -> None:
    for config in (TINY, QWEN):
        table = to_hf_config(config, 5)
        again = from_hf_config(table, "test")
        assert to_hf_config(again, 5) == table


def test_the_beginning_of_texts() -> None:
    assert to_hf_config(TINY, 5)["bos_token_id"] == to_hf_config(TINY, 5)["eos_token_id"] == 5
    table = to_hf_config(TINY, 5, 0)
    assert (table["bos_token_id"], table["eos_token_id"]) == (0, 5)


def test_one_class_every_old_rope_form() -> None:
    table = to_hf_config(TINY, 0)
    del table["rope_parameters"]
    assert from_hf_config(table | {"rope_theta": 7.0}, "test").rope_theta == 7.0
    assert from_hf_config(table | {"rope_scaling": None}, "test").rope_theta == TINY.rope_theta


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type not supported, got 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act not supported, got 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "rope_type not supported, got 'yarn'"),
        ({"num_key_value_heads": 3}, "must divide"),
    ],
)
def test_what_we_cannot_represent_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config(to_hf_config(TINY, 0) | change, "config.json")


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_folder(make(TINY), folder, 0)
    write_checksums(folder)
    load_folder(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged, its checksum differs"):
        load_folder(folder)
    weights.write_bytes(data[:100])
    (folder / "checksums.json").unlink()
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        load_folder(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        load_folder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="never opened"):
        load_folder(folder)
    (folder / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        load_folder(folder)
    with pytest.raises(ModelError, match="no such file"):
        read_config(tmp_path / "nowhere")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_folder(make(TINY), tmp_path, 0)
    path = tmp_path / "config.json"
    table = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps(table | {"num_hidden_layers": 3}))
    with pytest.raises(ModelError, match=r"weights do not fit config\.json \(missing model\.layers\.2"):
        load_folder(tmp_path)
    path.write_bytes(orjson.dumps(table | {"intermediate_size": 640}))
    with pytest.raises(ModelError, match=r"has shape .*, config\.json says"):
        load_folder(tmp_path)
