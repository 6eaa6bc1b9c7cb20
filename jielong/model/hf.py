"""A model's life as a Hugging Face folder: `config.json`, `model.safetensors`, tokenizer files.

What the config says decides the class a folder declares: Llama, or Qwen3 with `qk_norm`. Parameter names are the same on
both sides, so conversion is a mapping of the config and nothing else. Rope's base is written both ways, `rope_theta` (read by
transformers 4 and most other tools) and `rope_parameters` (transformers 5).

A folder written here holds `checksums.json`; when it is there, it is checked before anything is loaded. Weights are
safetensors only: a pickle (`pytorch_model.bin`) is refused, never opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jielong.errors import CheckpointError, ModelError
from jielong.model.config import Config
from jielong.model.transformer import CausalLM
from jielong.runs import hash_file, write_json

CHECKSUMS = "checksums.json"
SUPPORTED = ("llama", "qwen3", "mistral")
IGNORED_KEYS = ("rotary_emb.inv_freq", "masked_bias")  # buffers that old checkpoints carry


# ------------------------------------------------------------------------------------------------------- config


def to_hf_config(config: Config, end_id: int, start_id: int | None = None) -> dict[str, Any]:
    """The config.json of a model. start_id: the input before every document in training (`Shards.start_id`), which is its
    bos; None: the end-of-text.
    """
    qwen = config.qk_norm
    return {
        "architectures": ["Qwen3ForCausalLM" if qwen else "LlamaForCausalLM"],
        "model_type": "qwen3" if qwen else "llama",
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.feed_forward_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.size_of_head,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": config.attention_bias,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        "bos_token_id": end_id if start_id is None else start_id,
        "eos_token_id": end_id,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": "float32",
        **({"use_sliding_window": False} if qwen else {"mlp_bias": False}),
    }


def from_hf_config(table: dict[str, Any], source: str) -> Config:
    """The Config of a Hugging Face config.json. Raises ModelError naming the field that we can not represent."""
    kind = table.get("model_type")
    if kind not in SUPPORTED:
        raise ModelError(f"{source}: model_type not supported, got {kind!r}; must be one of {', '.join(SUPPORTED)}")
    rope = table.get("rope_parameters") or table.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelError(f"{source}: rope_scaling must be a table, got {rope!r}; correct the file")
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    refused = {
        "hidden_act": table.get("hidden_act", "silu") != "silu",
        "rope_type": rope_type != "default",
        "mlp_bias": bool(table.get("mlp_bias")),
        # Mistral's window is on unless it is null; Qwen's is off unless it is asked for
        "sliding_window": bool(table.get("sliding_window", 4096))
        if kind == "mistral"
        else table.get("use_sliding_window"),
    }
    for field, bad in refused.items():
        if bad:
            got = rope_type if field == "rope_type" else table.get(field)
            raise ModelError(f"{source}: {field} not supported, got {got!r}; use a model without it")
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "rms_norm_eps", "max_position_embeddings", "attention_dropout", "initializer_range", "head_dim")  # fmt: skip
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "rms_norm_eps", "max_position_embeddings")  # fmt: skip
    if absent := [name for name in needed if not isinstance(table.get(name), (int, float))]:
        raise ModelError(
            f"{source}: {absent[0]} missing or not a number, got {table.get(absent[0])!r}; complete the file"
        )
    values = {name: table[name] for name in names if table.get(name) is not None}
    values["num_key_value_heads"] = table.get("num_key_value_heads") or table.get("num_attention_heads")
    values["rope_theta"] = float(rope.get("rope_theta") or table.get("rope_theta") or 10_000.0)
    values["tie_word_embeddings"] = bool(table.get("tie_word_embeddings", False))
    values["attention_bias"] = bool(table.get("attention_bias", False))
    values["qk_norm"] = kind == "qwen3"
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}; correct the file") from None


# ------------------------------------------------------------------------------------------------------- saving


def save_folder(model: CausalLM, folder: Path, end_id: int, start_id: int | None = None) -> None:
    """Write config.json, generation_config.json and model.safetensors into a folder (not atomic: publish the folder)."""
    folder.mkdir(parents=True, exist_ok=True)
    table = to_hf_config(model.config, end_id, start_id)
    write_json(folder / "config.json", table)
    write_json(folder / "generation_config.json", {k: table[k] for k in ("bos_token_id", "eos_token_id")})
    state = {name: value.detach().to("cpu").contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})


def write_checksums(folder: Path) -> None:
    """Write checksums.json over every file of a model folder; the last thing written before the folder is published."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {str(path.relative_to(folder)): hash_file(path) for path in files})


def verify_checksums(folder: Path) -> None:
    """Check a folder against its checksums.json, if it has one. Raises CheckpointError naming the file."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        sums: dict[str, str] = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        raise CheckpointError(f"{path}: not valid JSON; the checkpoint is damaged; use another one") from None
    if not isinstance(sums, dict):
        raise CheckpointError(f"{path}: not a list of checksums; the checkpoint is damaged; use another one")
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing from the checkpoint; use another checkpoint or delete {folder}")
        if hash_file(file) != expected:
            raise CheckpointError(
                f"{file}: damaged, its checksum differs from {CHECKSUMS}; delete the folder {folder} to go on "
                "without it"
            )


# ------------------------------------------------------------------------------------------------------ loading


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a model folder. Raises ModelError when it is missing or damaged."""
    path = folder / name
    try:
        table = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give a Hugging Face model folder") from None
    except orjson.JSONDecodeError as error:
        raise ModelError(f"{path}: not valid JSON ({error}); get the file again") from None
    if not isinstance(table, dict):
        raise ModelError(f"{path}: not a JSON object; get the file again")
    return table


def load_folder(folder: Path, attention: str | None = None) -> CausalLM:
    """Open a Llama-class Hugging Face folder as our model, float32, on the CPU.

    Raises CheckpointError for a damaged file and ModelError for what can not be represented.
    """
    verify_checksums(folder)
    config = from_hf_config(read_config(folder), str(folder / "config.json"))
    if attention is not None:
        config = config.model_copy(update={"attention": attention})
    with torch.device("meta"):
        model = CausalLM(config)
    state = _read_weights(folder)
    state = {name: value.float() for name, value in state.items() if not name.endswith(IGNORED_KEYS)}
    if config.tie_word_embeddings and "model.embed_tokens.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        named = [f"missing {name}" for name in missing[:3]] + [f"unknown {name}" for name in extra[:3]]
        raise ModelError(f"{folder}: weights do not fit config.json ({', '.join(named)}); use a Llama-class folder")
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise ModelError(
                f"{folder}: {name} has shape {tuple(state[name].shape)}, config.json says {shape}; get the folder again"
            )
    model.load_state_dict(state, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        weight_map = read_config(folder, index.name).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise ModelError(f"{index}: holds no weight_map of file names; get the file again")
        files = sorted({folder / name for name in weight_map.values()})
    elif any(folder.glob("*.bin")):
        raise ModelError(f"{folder}: weights are pickles (*.bin), which are never opened; convert them to safetensors")
    else:
        raise ModelError(f"{folder}: holds no model.safetensors; give a Hugging Face model folder")
    state: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    state[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file}: cannot be read as safetensors ({error}); get the file again") from None
    return state
