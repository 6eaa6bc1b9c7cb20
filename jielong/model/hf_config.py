"""config.json: which Hugging Face class a model declares, and the mapping of its fields in both directions.

What the config says decides the class. Each class of `CLASSES` fixes some things (Qwen2 has biases on q, k and v and no
others; Mixtral always normalises its scores; Llama has no window), so the first one that has everything which the model has
and nothing else is taken. What none of them has is saved under a model_type of our own, `jielong`, with our fields as they
are; `reason_for_own_class` says why in one sentence. All of this was read in the classes' code (transformers 5.23) and is
tested on their logits, at the trained length and at four times it.

Rope is written twice, because its readers differ: `rope_parameters`, which holds the base as well (transformers 5), and
`rope_theta` with, where positions are stretched, `rope_scaling` (transformers 4, vLLM, llama.cpp; `rope_type` was `type` in
older versions). transformers 5 takes `rope_scaling` when both are there; they never differ here. Two schemes are written
as something else:

    ntk       plain rope with the larger base that it amounts to: the scheme's name is lost, its logits are not
    dynamic   its trained length is Hugging Face's max_position_embeddings; our longer context stands beside it as
              `context_length`, which other tools do not read

What only training knows (`TRAINING_ONLY`) stands in a table `jielong` that other tools keep and ignore. The attention kernel
is not written: it is chosen where the model runs. `router_aux_loss_coef` is written as it is, but Hugging Face's loss is 1 x
num_experts_per_tok for a perfect balance where ours is 1, so the same number weighs that much more there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import ValidationError

from jielong.errors import ModelError
from jielong.model.config import Config
from jielong.model.positions import ntk_theta

OWN = ("jielong", "JielongForCausalLM")
TRAINING_ONLY = ("shifted_attention", "router_aux_loss_per", "router_z_loss_coef")
PRIVATE = "jielong"  # the table in config.json that holds them
STRETCHED = {  # rope_type -> the keys of its table beside rope_type and rope_theta; * may be absent or null
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "*beta_fast", "*beta_slow", "*attention_factor", "*mscale", "*mscale_all_dim", "*truncate"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
WITH_ORIGINAL = ("yarn", "llama3")  # their tables say original_max_position_embeddings


@dataclass(frozen=True)
class HFClass:
    """What a class of transformers has, whatever its config says, and what its config may choose."""

    model_type: str
    architecture: str
    biases: tuple[bool | Literal["qkv"], ...]  # values of attention_bias
    windows: tuple[str, ...]  # "none", "all" layers, "some" layers
    qk_norm: bool = False
    sparse: bool = False
    shared: bool = False  # always an expert for every token
    dense_layers: bool = False  # some layers of a sparse model may be dense
    normalises: bool = False  # norm_topk_prob is always true
    whole_heads: bool = False  # its config demands that num_attention_heads divides hidden_size
    theta: float = 10_000.0  # rope_theta where config.json has none


EVERY_WINDOW = ("none", "all", "some")
CLASSES = (
    HFClass("llama", "LlamaForCausalLM", (False, True), ("none",), whole_heads=True),
    HFClass("mistral", "MistralForCausalLM", (False,), ("none", "all")),
    HFClass("qwen2", "Qwen2ForCausalLM", ("qkv",), EVERY_WINDOW),
    HFClass("qwen3", "Qwen3ForCausalLM", (False, True), EVERY_WINDOW, qk_norm=True),
    HFClass("mixtral", "MixtralForCausalLM", (False,), ("none", "all"), sparse=True, normalises=True, theta=1e6),
    HFClass(
        "qwen2_moe", "Qwen2MoeForCausalLM", (False, "qkv"), EVERY_WINDOW, sparse=True, shared=True, dense_layers=True
    ),
    HFClass(
        "qwen3_moe", "Qwen3MoeForCausalLM", (False, True), ("none", "all"), qk_norm=True, sparse=True, dense_layers=True
    ),
)
SUPPORTED = (*(one.model_type for one in CLASSES), OWN[0])


# ------------------------------------------------------------------------------------------------- which class


def class_of(config: Config) -> tuple[str, str]:
    """(model_type, architecture) that a model's config.json declares."""
    if _in_no_class(config):
        return OWN
    return next(((one.model_type, one.architecture) for one in CLASSES if not _against(one, config)), OWN)


def reason_for_own_class(config: Config) -> str | None:
    """Why no Hugging Face class can open the model, one sentence without a full stop; None: one can."""
    if class_of(config) != OWN:
        return None
    if foreign := _in_no_class(config):
        return f"no Hugging Face class has {' and '.join(foreign)}"
    sparse = config.num_experts is not None
    tried = [f"{one.model_type} {_against(one, config)[0]}" for one in CLASSES if one.sparse == sparse]
    return f"no Hugging Face class has this combination: {'; '.join(tried)}"


def _in_no_class(config: Config) -> list[str]:
    """Settings that no class knows, as a recipe writes them."""
    scaling = config.rope_scaling
    settings = {
        f"position = {config.position}": config.position != "rope",
        "rope_scaling.rope_type = clex": scaling is not None and scaling.rope_type == "clex",
        "talking_heads": config.talking_heads,
        "attn_logit_softcapping": config.attn_logit_softcapping is not None,
        "scoring_func = sigmoid": config.num_experts is not None and config.scoring_func == "sigmoid",
        "router_bias_update_rate": config.num_experts is not None and config.router_bias_update_rate > 0,
    }
    return [setting for setting, given in settings.items() if given]


def _against(one: HFClass, config: Config) -> list[str]:
    """What speaks against a class, each worded to stand behind its name."""
    bias, sparse = config.attention_bias, config.num_experts is not None
    shared = config.shared_expert_intermediate_size is not None
    window = _window(config)
    reasons = {
        "always has experts": one.sparse and not sparse,
        "has no experts": sparse and not one.sparse,
        "always has qk_norm": one.qk_norm and not config.qk_norm,
        "has no qk_norm": config.qk_norm and not one.qk_norm,
        "always has a shared expert": sparse and one.shared and not shared,
        "has no shared expert": sparse and shared and not one.shared,
        "has no norm_topk_prob = false": sparse and one.normalises and not config.norm_topk_prob,
        "has no mlp_only_layers": sparse and bool(config.mlp_only_layers) and not one.dense_layers,
        f"has no attention_bias = {str(bias).lower()}": bias not in one.biases,
        "has no sliding_window": window != "none" and one.windows == ("none",),
        "has one sliding_window for all layers": window == "some" and one.windows == ("none", "all"),
        "needs hidden_size to be a multiple of num_attention_heads": one.whole_heads
        and config.hidden_size % config.num_attention_heads != 0,
    }
    return [reason for reason, applies in reasons.items() if applies]


def _window(config: Config) -> str:
    """Which layers have a sliding window: none, all or some."""
    with_window = sum(config.window(layer) is not None for layer in range(config.num_hidden_layers))
    return {0: "none", config.num_hidden_layers: "all"}.get(with_window, "some")


# ----------------------------------------------------------------------------------------------------- writing


def to_hf_config(config: Config, end_id: int, start_id: int | None = None, own: bool = False) -> dict[str, Any]:
    """The config.json of a model. start_id: the input before every document in training (`Shards.start_id`), which is its
    bos; None: the end-of-text. own: of a class of our own, though transformers may have one.
    """
    model_type, architecture = OWN if own else class_of(config)
    head = {"architectures": [architecture], "model_type": model_type}
    tail = {
        "bos_token_id": end_id if start_id is None else start_id,
        "eos_token_id": end_id,
        "pad_token_id": None,
        "use_cache": True,
        "dtype": "float32",
    }
    if model_type == OWN[0]:
        return {**head, **config.model_dump(mode="json", exclude={"attention", "base"}), "hidden_act": "silu", **tail}
    private = {name: getattr(config, name) for name in TRAINING_ONLY if getattr(config, name) != _default(name)}
    return {
        **head,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.expert_size if model_type == "mixtral" else config.feed_forward_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.size_of_head,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        **_rope_to(config),
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_dropout": config.attention_dropout,
        "initializer_range": config.initializer_range,
        **_particular_to(config, model_type),
        **({PRIVATE: private} if private else {}),
        **tail,
    }


def _default(name: str) -> Any:
    return Config.model_fields[name].default


def _rope_to(config: Config) -> dict[str, Any]:
    theta, scaling = ntk_theta(config), config.rope_scaling
    plain = {"rope_theta": theta, "max_position_embeddings": config.max_position_embeddings}
    if scaling is None or scaling.rope_type == "ntk":
        return {**plain, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    names = [name.lstrip("*") for name in STRETCHED[scaling.rope_type]]
    table = {name: value for name in names if (value := getattr(scaling, name)) is not None}
    if scaling.rope_type in WITH_ORIGINAL:
        table["original_max_position_embeddings"] = config.original_length
    if scaling.rope_type == "dynamic":
        plain |= {
            "max_position_embeddings": config.original_length,
            "context_length": config.max_position_embeddings,
        }
    kind = scaling.rope_type
    return {
        **plain,
        "rope_scaling": {"rope_type": kind, "type": kind, **table},
        "rope_parameters": {"rope_type": kind, "rope_theta": theta, **table},
    }


def _particular_to(config: Config, model_type: str) -> dict[str, Any]:
    """The fields that only some classes have."""
    kinds = ["sliding_attention" if config.window(i) else "full_attention" for i in range(config.num_hidden_layers)]
    window = config.sliding_window if "sliding_attention" in kinds else None
    table: dict[str, Any] = {}
    if model_type in ("llama", "qwen3", "qwen3_moe"):
        table["attention_bias"] = config.attention_bias
    if model_type == "llama":
        table["mlp_bias"] = False
    if model_type in ("mistral", "mixtral"):
        table["sliding_window"] = window
    if model_type.startswith("qwen"):
        table["use_sliding_window"] = window is not None
        if window is not None:  # max_window_layers: for readers that do not know layer_types
            table |= {"sliding_window": window, "max_window_layers": kinds.index("sliding_attention")}
            if model_type != "qwen3_moe":
                table["layer_types"] = kinds
    if config.num_experts is None:
        return table
    table |= {
        "num_local_experts" if model_type == "mixtral" else "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "router_aux_loss_coef": config.router_aux_loss_coef,
        "output_router_logits": False,
    }
    if model_type != "mixtral":
        table |= {
            "moe_intermediate_size": config.expert_size,
            "norm_topk_prob": config.norm_topk_prob,
            "decoder_sparse_step": 1,
            "mlp_only_layers": sorted(set(config.mlp_only_layers)),
        }
    if model_type == "qwen2_moe":
        table["shared_expert_intermediate_size"] = config.shared_expert_intermediate_size
        table["qkv_bias"] = config.attention_bias == "qkv"
    return table


# ----------------------------------------------------------------------------------------------------- reading


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


def from_hf_config(table: dict[str, Any], source: str) -> Config:
    """The Config of a Hugging Face config.json.

    Raises ModelError that names every field which we can not represent, one a line.
    """
    kind = table.get("model_type")
    if kind not in SUPPORTED:
        raise ModelError(f"{source}: model_type not supported, got {kind!r}; must be one of {', '.join(SUPPORTED)}")
    problems: list[str] = []
    if kind == OWN[0]:
        values = {name: table[name] for name in Config.model_fields if name in table}
    else:
        one = next(one for one in CLASSES if one.model_type == kind)
        problems = _refused(table)
        values = _shape_from(table, one, problems)
        values |= _rope_from(table, one, problems)
        values |= _window_from(table, one, values.get("num_hidden_layers"), problems)
        if one.sparse:
            values |= _experts_from(table, one, values.get("num_hidden_layers"), problems)
        private = table.get(PRIVATE)
        values |= {name: private[name] for name in TRAINING_ONLY if isinstance(private, dict) and name in private}
    if not problems:
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            problems = [problem for item in error.errors() for problem in _sentences(item)]
    raise ModelError("\n".join(f"{source}: {problem}" for problem in problems))


def _sentences(item: Any) -> list[str]:
    """One of pydantic's errors as sentences of ours; those of Config's own checks are already."""
    if item["type"] == "value_error":
        return str(item["ctx"]["error"]).split("\nmodel.")
    return [f"{'.'.join(map(str, item['loc']))}: {item['msg']}, got {item['input']!r}; correct the file"]


def _refused(table: dict[str, Any]) -> list[str]:
    """Fields whose value no model of ours has."""
    allowed: dict[str, Callable[[Any], bool]] = {
        "hidden_act": lambda value: value in ("silu", "swish", None),
        "mlp_bias": lambda value: not value,
    }
    problems = [
        f"{field} not supported, got {table[field]!r}; use a model without it"
        for field, fine in allowed.items()
        if field in table and not fine(table[field])
    ]
    if quantized := table.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        problems.append(
            f"quantized ({method}), which is to be used, not trained; take the full model that it was made of"
        )
    return problems


def _number(table: dict[str, Any], name: str, problems: list[str], default: Any = None) -> Any:
    """A number of the table; its absence is a problem where there is no default."""
    value = table.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        problems.append(f"{name} missing or not a number, got {value!r}; complete the file")
        return None
    return value


def _shape_from(table: dict[str, Any], one: HFClass, problems: list[str]) -> dict[str, Any]:
    needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "rms_norm_eps")  # fmt: skip
    values = {name: _number(table, name, problems) for name in needed}
    for name in ("attention_dropout", "initializer_range", "head_dim"):
        if table.get(name) is not None:
            values[name] = _number(table, name, problems)
    if one.model_type == "qwen3":
        values.setdefault("head_dim", 128)  # the class's default
    values["num_key_value_heads"] = _number(table, "num_key_value_heads", problems, values["num_attention_heads"] or 1)
    values["tie_word_embeddings"] = bool(table.get("tie_word_embeddings", False))
    values["qk_norm"] = one.qk_norm
    values["attention_bias"] = {
        "qwen2": "qkv",
        "qwen2_moe": "qkv" if table.get("qkv_bias", True) else False,
        "mistral": False,
        "mixtral": False,
    }.get(one.model_type, bool(table.get("attention_bias", False)))
    return values


def _rope_from(table: dict[str, Any], one: HFClass, problems: list[str]) -> dict[str, Any]:
    """rope_theta, rope_scaling and max_position_embeddings, from the old or the new form."""
    field = "rope_scaling" if table.get("rope_scaling") else "rope_parameters"
    rope, longest = table.get(field) or {}, _number(table, "max_position_embeddings", problems)
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        problems.append(f"{field}: must be one flat table for all layers, got {rope!r}; use a model with one")
        return {}
    beside = table.get("rope_parameters")
    thetas = [rope.get("rope_theta"), table.get("rope_theta"), isinstance(beside, dict) and beside.get("rope_theta")]
    theta = next((value for value in thetas if value), one.theta)
    values = {"rope_theta": theta, "max_position_embeddings": longest}
    if (part := rope.get("partial_rotary_factor", table.get("partial_rotary_factor"))) not in (None, 1):
        problems.append(f"partial_rotary_factor not supported, got {part!r}; must be 1; use a model without it")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return values
    if not isinstance(kind, str) or kind not in STRETCHED:
        known = ", ".join(("default", *STRETCHED))
        problems.append(f"{field}.rope_type not supported, got {kind!r}; must be one of {known}; use such a model")
        return values
    original = table.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or longest
    if kind == "yarn" and "factor" in rope and rope["factor"] is None and longest and original:
        rope = rope | {"factor": longest / original}  # the class's rule for a factor that is null
    found: list[str] = []
    scaling = {"rope_type": kind}
    for name in STRETCHED[kind]:
        if not name.startswith("*"):
            scaling[name] = _number(rope, name, found)
        elif rope.get(name[1:]) is not None:
            scaling[name[1:]] = rope[name[1:]]
    problems.extend(f"{field}.{problem}" for problem in found)
    if found or longest is None:
        return values
    if kind in WITH_ORIGINAL:
        scaling["original_max_position_embeddings"] = original
    if kind == "dynamic":
        scaling["original_max_position_embeddings"] = longest
        values["max_position_embeddings"] = _number(
            table, "context_length", problems, round(longest * scaling["factor"])
        )
    return {**values, "rope_scaling": scaling}


def _window_from(table: dict[str, Any], one: HFClass, layers: Any, problems: list[str]) -> dict[str, Any]:
    """sliding_window and layer_types. Mistral's window is on unless it is null, Qwen's off unless it is asked for."""
    if one.windows == ("none",) or not isinstance(layers, int):
        return {}
    if one.model_type in ("mistral", "mixtral"):
        return {"sliding_window": table.get("sliding_window", 4096 if one.model_type == "mistral" else None)}
    if not table.get("use_sliding_window"):
        return {}
    window, first = table.get("sliding_window", 4096), _number(table, "max_window_layers", problems, 28)
    if one.model_type == "qwen3_moe":  # the class reads neither layer_types nor max_window_layers
        return {"sliding_window": window}
    kinds = table.get("layer_types")
    if kinds is None:
        slides = [i >= first if one.model_type != "qwen2_moe" else i % 2 == 0 and i < first for i in range(layers)]
        kinds = ["sliding_attention" if one_slides else "full_attention" for one_slides in slides]
    if not isinstance(kinds, list) or not all(isinstance(one_kind, str) for one_kind in kinds):
        problems.append(f"layer_types: must be a list of names, got {kinds!r}; correct the file")
        return {}
    if "sliding_attention" not in kinds:
        return {}
    return {"sliding_window": window, "layer_types": kinds if set(kinds) != {"sliding_attention"} else None}


def _experts_from(table: dict[str, Any], one: HFClass, layers: Any, problems: list[str]) -> dict[str, Any]:
    """The sparse layers' fields. Qwen's layers are sparse where (layer + 1) is a multiple of decoder_sparse_step."""
    counted = "num_local_experts" if table.get("num_local_experts") is not None else "num_experts"
    values: dict[str, Any] = {
        "num_experts": _number(table, counted, problems),
        "num_experts_per_tok": _number(table, "num_experts_per_tok", problems),
        "router_aux_loss_coef": _number(table, "router_aux_loss_coef", problems, 0.001),
        "norm_topk_prob": one.normalises or bool(table.get("norm_topk_prob", False)),
    }
    if one.model_type == "mixtral":
        return values
    values["moe_intermediate_size"] = _number(table, "moe_intermediate_size", problems)
    if one.shared:
        values["shared_expert_intermediate_size"] = _number(table, "shared_expert_intermediate_size", problems)
    step, dense = _number(table, "decoder_sparse_step", problems, 1), table.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not isinstance(step, int) or step < 1:
        problems.append(
            f"decoder_sparse_step, mlp_only_layers: must be a number from 1 and a list, got {step!r} and {dense!r}; "
            "correct the file"
        )
    elif isinstance(layers, int):
        values["mlp_only_layers"] = [layer for layer in range(layers) if layer in dense or (layer + 1) % step]
    return values
