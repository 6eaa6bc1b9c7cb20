"""What a GGUF file says of a model's shape, and which models have no form in llama.cpp.

llama.cpp has an architecture for each class of Hugging Face's, and one for three of them:

    llama     Llama, Mistral, Mixtral        qwen2  Qwen2      qwen2moe  Qwen2-MoE
                                             qwen3  Qwen3      qwen3moe  Qwen3-MoE

Some things that the classes can have, its code of the architecture cannot (read in src/models of llama.cpp); a file with them
would not open, or would answer wrongly, so they are refused here: whether the scores of chosen experts are made to sum to 1
is fixed for each architecture, layers of a sparse model are all sparse, Qwen3 has no biases, llama3's frequencies are read for
the architecture llama alone, and dynamic positions are not known at all. Sliding windows are ignored by all five: as long as a text
is no longer than the window, the answers are the same, which `notes` says.

llama3's scaling is a tensor in GGUF, rope_freqs.weight: what each frequency is divided by.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jielong.errors import InputError, ModelError
from jielong.model.adapters import is_adapter
from jielong.model.config import Config
from jielong.model.heads import is_scored
from jielong.model.hf_config import OWN, from_hf_config, read_config
from jielong.model.positions import attention_factor, inverse_frequencies
from jielong.model.quantized.files import described

if TYPE_CHECKING:
    from gguf import GGUFWriter

ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
NORMALISES = {"llama": True, "qwen2moe": False, "qwen3moe": True}  # the scores of the experts that were chosen
BETAS = (32.0, 1.0)  # yarn's beta_fast and beta_slow where nothing else is said


@dataclass
class Described:
    """A model that can be exported."""

    config: Config
    architecture: str  # llama.cpp's
    notes: list[str] = field(default_factory=list)


def read_model(folder: Path) -> Described:
    """What a model folder's config.json says, once it is known that llama.cpp can have it.

    Raises InputError for a folder that is not a plain model, ModelError for a model that llama.cpp has no form for.
    """
    if is_adapter(folder):
        raise InputError(
            f"MODEL: is an adapter, got {folder}; a GGUF file holds a whole model; merge it first: jielong merge"
        )
    table = read_config(folder)
    if (quantized := described(table)) is not None:
        raise InputError(
            f"MODEL: is quantized already ({quantized.get('quant_method')}), got {folder}; GGUF has kinds of its own; export the "
            "full model"
        )
    if is_scored(table):
        raise InputError(
            f"MODEL: is a reward model, got {folder}; it has no output layer; export a model that writes text"
        )
    if table.get("model_type") == OWN[0]:
        raise ModelError(
            f"model_type: llama.cpp knows no {OWN[0]!r}, got {folder}; it is a class of our own; export a model of one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    config = from_hf_config(table, str(folder / "config.json"))
    found = Described(config, ARCHITECTURES[str(table["model_type"])])
    _refuse(found)
    windows = {config.window(layer) for layer in range(config.num_hidden_layers)} - {None}
    if windows:
        found.notes.append(
            f"sliding_window: llama.cpp attends to the whole text in a {table['model_type']}; up to {min(filter(None, windows))} "
            "tokens the answers are the same"
        )
    return found


def _refuse(found: Described) -> None:
    config, architecture = found.config, found.architecture
    scaling = config.rope_scaling
    kind = None if scaling is None else scaling.rope_type
    dense = [n for n in range(config.num_hidden_layers) if config.num_experts is not None and not config.is_sparse(n)]
    problems = {
        f"rope_scaling: unknown to llama.cpp, got {kind!r}; linear, yarn and llama3 are known": kind == "dynamic",
        f"rope_scaling: llama3 is read for the architecture llama alone, got {architecture!r}": kind == "llama3"
        and architecture != "llama",
        "rope_scaling.truncate: llama.cpp rounds yarn's borders, got false": scaling is not None
        and kind == "yarn"
        and scaling.truncate is False,
        f"attention_bias: llama.cpp's {architecture} has none, got {config.attention_bias}": bool(config.attention_bias)
        and architecture in ("qwen3", "qwen3moe"),
        f"norm_topk_prob: llama.cpp's {architecture} has it fixed, got {config.norm_topk_prob}": config.num_experts
        is not None
        and config.norm_topk_prob != NORMALISES.get(architecture),
        f"mlp_only_layers: all layers have experts in llama.cpp, got dense layers {dense}": bool(dense),
        f"head_dim: num_attention_heads x head_dim is hidden_size in llama.cpp's {architecture}, got "
        f"{config.num_attention_heads} x {config.size_of_head}": architecture == "qwen2moe"
        and config.num_attention_heads * config.size_of_head != config.hidden_size,
    }
    for problem, there in problems.items():
        if there:
            raise ModelError(f"{problem}; use the Hugging Face folder with transformers or vLLM instead")


def frequency_divisors(config: Config) -> Tensor | None:
    """llama3's rope_freqs.weight, (D / 2,) float32: plain frequencies divided by it are the stretched ones; else None."""
    if config.rope_scaling is None or config.rope_scaling.rope_type != "llama3":
        return None
    place = torch.device("cpu")
    plain = inverse_frequencies(config.model_copy(update={"rope_scaling": None}), 1, place)
    return plain / inverse_frequencies(config, 1, place)


def describe(writer: GGUFWriter, found: Described, name: str) -> None:
    """Write the general keys and the model's shape. name: general.name."""
    from gguf.constants import GGML_QUANT_VERSION

    config = found.config
    writer.add_type("model")
    writer.add_name(name)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocabulary)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads or config.num_attention_heads)
    writer.add_key_length(config.size_of_head)
    writer.add_value_length(config.size_of_head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    mixtral = found.architecture == "llama" and config.num_experts is not None
    writer.add_feed_forward_length(config.expert_size if mixtral else config.feed_forward_size)
    windows = [size for layer in range(config.num_hidden_layers) if (size := config.window(layer)) is not None]
    if windows:
        writer.add_sliding_window(min(windows))
    if config.num_experts is not None:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        if not mixtral:
            writer.add_expert_feed_forward_length(config.expert_size)
        if config.shared_expert_intermediate_size is not None:
            writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_rope_dimension_count(config.size_of_head)
    writer.add_rope_freq_base(config.rope_theta)
    _describe_scaling(writer, found)


def _describe_scaling(writer: Any, found: Described) -> None:
    from gguf import RopeScalingType

    config = found.config
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type not in ("linear", "yarn"):
        return
    factor = scaling.factor or 1.0
    writer.add_rope_scaling_type(RopeScalingType(scaling.rope_type))
    writer.add_rope_scaling_factor(factor)
    writer.add_rope_scaling_orig_ctx_len(config.original_length)
    if scaling.rope_type == "linear":
        return
    usual = 0.1 * math.log(factor) + 1.0  # llama.cpp multiplies by it in any case
    if not math.isclose(attention_factor(config), usual, rel_tol=1e-6):
        writer.add_rope_scaling_attn_factors(attention_factor(config) / usual)
    betas = tuple(
        given or usual_one for given, usual_one in zip((scaling.beta_fast, scaling.beta_slow), BETAS, strict=True)
    )
    if betas != BETAS:
        writer.add_rope_scaling_yarn_beta_fast(betas[0])
        writer.add_rope_scaling_yarn_beta_slow(betas[1])
        found.notes.append(
            f"rope_scaling: beta_fast {betas[0]:g} and beta_slow {betas[1]:g} are read by newer versions of llama.cpp; older ones "
            f"take {BETAS[0]:g} and {BETAS[1]:g}"
        )
