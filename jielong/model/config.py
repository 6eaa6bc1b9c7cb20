"""The recipe's [model] table, which is also the configuration that the model is built from.

Field names are Hugging Face's, because `config.json` is what every tool downstream reads. The short names of the small
Chinese projects are accepted as well (`ALIASES`; the guide has the table). What no Hugging Face class has (ALiBi, sigmoid
scores, shifted attention, ...) has the name of the paper or of the library that is best known for it.

All problems of a table are reported at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationError, model_validator

from jielong.errors import RecipeError
from jielong.recipe import Section
from jielong.runs import model_folder

ALIASES = {
    "dim": "hidden_size",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_layer": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_head": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "max_seq_len": "max_position_embeddings",
    "block_size": "max_position_embeddings",
    "dropout": "attention_dropout",
    "flash_attn": "attention",  # true: auto, false: eager
    "tie_weights": "tie_word_embeddings",
    "num_local_experts": "num_experts",
    "n_routed_experts": "num_experts",
    "aux_loss_alpha": "router_aux_loss_coef",
}
BESIDE_BASE = (
    "attention", "attention_dropout", "shifted_attention", "rope_scaling", "max_position_embeddings", "vocab_size",
)  # fmt: skip
SCALED = ("linear", "ntk", "dynamic", "yarn", "llama3", "clex")
OF_EXPERTS = (
    "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size", "mlp_only_layers", "scoring_func",
    "norm_topk_prob", "router_aux_loss_coef", "router_aux_loss_per", "router_z_loss_coef", "router_bias_update_rate",
)  # fmt: skip


class RopeScaling(Section):
    """How rotary positions are stretched beyond the length that the model was trained at."""

    aliases: ClassVar[dict[str, str]] = {"type": "rope_type"}

    rope_type: Literal["linear", "ntk", "dynamic", "yarn", "llama3", "clex"] = Field(
        description="linear (PI), ntk, dynamic (NTK by length), yarn, llama3, clex (learned)"
    )
    factor: float | None = Field(None, description="how many times longer the context becomes; needed", ge=1)
    original_max_position_embeddings: int | None = Field(
        None, description="length that the model was trained at; none: max_position_embeddings / factor", ge=1
    )
    beta_fast: float = Field(32.0, description="yarn: dimensions that turn more often than this stay as they are", gt=0)
    beta_slow: float = Field(1.0, description="yarn: dimensions that turn less often than this are interpolated", gt=0)
    attention_factor: float | None = Field(
        None, description="yarn: factor on cos and sin; none: 0.1 ln(factor) + 1 (arXiv:2309.00071)", gt=0
    )
    mscale: float | None = Field(None, description="yarn: DeepSeek's factor in front of ln(factor)", ge=0)
    mscale_all_dim: float | None = Field(None, description="yarn: DeepSeek's factor in the denominator", ge=0)
    truncate: bool = Field(True, description="yarn: whole dimensions at the ends of the ramp")
    low_freq_factor: float = Field(1.0, description="llama3: longer waves than original / this are divided", gt=0)
    high_freq_factor: float = Field(4.0, description="llama3: shorter waves than original / this stay", gt=0)
    hidden_multiple: int = Field(1, description="clex: width of its network, in halves of a head", ge=1)

    @model_validator(mode="before")
    @classmethod
    def _old_name(cls, table: Any) -> Any:
        if isinstance(table, dict) and "type" in table and "rope_type" not in table:
            return {("rope_type" if key == "type" else key): value for key, value in table.items()}
        return table


class Config(Section):
    """Shape and numerics of the transformer."""

    aliases: ClassVar[dict[str, str]] = ALIASES

    base: str | None = Field(
        None,
        description="a model folder (Hugging Face's, or a run's folder: its newest checkpoint) to go on from: its weights, and its shape in place of the keys below; "
        "attention, attention_dropout, shifted_attention, rope_scaling, max_position_embeddings and vocab_size may be given beside it",
    )
    vocab_size: int | None = Field(None, description="rows of the embedding; none: as many as the tokenizer has", ge=1)
    hidden_size: int = Field(512, description="width of the residual stream", ge=1)
    num_hidden_layers: int = Field(8, description="blocks", ge=1)
    num_attention_heads: int = Field(16, description="query heads", ge=1)
    num_key_value_heads: int = Field(8, description="key and value heads, each shared by a group of query heads", ge=1)
    head_dim: int | None = Field(None, description="size of a head; none: hidden_size / num_attention_heads", ge=2)
    intermediate_size: int | None = Field(
        None, description="width of the feed-forward layer; none: 8/3 hidden_size rounded up to multiple_of", ge=1
    )
    multiple_of: int = Field(64, description="the computed intermediate_size is rounded up to a multiple of this", ge=1)
    rms_norm_eps: float = Field(1e-5, description="epsilon of RMSNorm", gt=0)
    max_position_embeddings: int = Field(512, description="longest context, tokens", ge=1)
    tie_word_embeddings: bool = Field(True, description="the output layer shares the embedding's weights")
    initializer_range: float = Field(0.02, description="standard deviation of the initial weights", gt=0)

    # attention
    attention: Literal["auto", "varlen", "flex", "tiles", "sdpa", "eager"] = Field(
        "auto",
        description="kernel: auto takes the fastest that the device has (varlen, flex, tiles, sdpa); eager: plain arithmetic, for study",
    )
    qk_norm: bool = Field(False, description="RMSNorm on each head's queries and keys (Qwen3)")
    attention_bias: bool | Literal["qkv"] = Field(
        False, description="biases on the q, k, v and o projections; qkv: on the first three (Qwen2)"
    )
    attention_dropout: float = Field(0.0, description="dropout on attention weights while training", ge=0, lt=1)
    sliding_window: int | None = Field(
        None, description="a token sees itself and so many less one before it; none: all before it", ge=1
    )
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = Field(
        None, description="which layers have the window; none: all of them", strict=False
    )
    shifted_attention: int | None = Field(
        None,
        description="while training, attention in groups of so many tokens, half of the heads shifted by half a group "
        "(S2-Attn, arXiv:2309.12307); full attention afterwards; none: off",
        ge=2,
    )
    attn_logit_softcapping: float | None = Field(
        None, description="attention scores go through cap x tanh(score / cap) (Gemma 2); none: off", gt=0
    )
    talking_heads: bool = Field(
        False, description="heads mix their scores before and after softmax (arXiv:2003.02436); plain arithmetic only"
    )

    # positions
    position: Literal["rope", "alibi", "none"] = Field(
        "rope", description="rotary, a bias that grows with distance (arXiv:2108.12409), or none at all"
    )
    rope_theta: float = Field(10_000.0, description="base of the rotary position frequencies", gt=0)
    rope_scaling: RopeScaling | None = Field(None, description="stretches rotary positions: rope_type, factor, ...")

    # experts
    num_experts: int | None = Field(None, description="feed-forward experts of a layer; none: one dense layer", ge=1)
    num_experts_per_tok: int = Field(2, description="experts that a token goes through", ge=1)
    moe_intermediate_size: int | None = Field(None, description="width of an expert; none: intermediate_size", ge=1)
    shared_expert_intermediate_size: int | None = Field(
        None, description="width of an expert that every token goes through, behind a gate of its own (Qwen2-MoE); none: off",
        ge=1,
    )  # fmt: skip
    mlp_only_layers: tuple[int, ...] = Field((), description="layers, from 0, that stay dense", strict=False)
    scoring_func: Literal["softmax", "sigmoid"] = Field("softmax", description="from the gate's logits to scores")
    norm_topk_prob: bool = Field(True, description="the scores of a token's experts are divided by their sum")
    router_aux_loss_coef: float = Field(
        0.01, description="weight of the load-balance loss, which is 1 when all experts are used alike", ge=0
    )
    router_aux_loss_per: Literal["batch", "sequence"] = Field(
        "batch", description="balance over a micro-batch, or in each row of it (DeepSeek's seq_aux)"
    )
    router_z_loss_coef: float = Field(
        0.001, description="weight of the squared logsumexp of the gate's logits (arXiv:2202.08906)", ge=0
    )
    router_bias_update_rate: float = Field(
        0.0,
        description="balancing without a loss: after a step each expert's bias moves by this towards the mean load "
        "(arXiv:2408.15664; 0.001 there); 0: no bias",
        ge=0,
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_aliases(cls, table: Any) -> Any:
        if not isinstance(table, dict):
            return table
        table, problems = dict(table), []
        for alias, name in ALIASES.items():
            if alias not in table:
                continue
            value = table.pop(alias)
            if name in table:
                problems.append(f"{alias}: the same as {name}, and both are given; remove one of them")
            elif alias == "flash_attn" and not isinstance(value, bool):
                problems.append(f"flash_attn: wrong type, got {value!r}; must be true or false; change it")
            elif alias == "flash_attn":
                table[name] = "auto" if value else "eager"
            else:
                table[name] = value
        if problems:  # with what the rest of the table has against itself
            try:
                cls.model_validate(table)
            except ValidationError as error:
                texts = (
                    str(item["ctx"]["error"]) if "ctx" in item and "error" in item["ctx"] else ""
                    for item in error.errors()
                )
                problems += [text for text in texts if text]
            raise ValueError("\nmodel.".join(problems))
        return table

    @model_validator(mode="after")
    def _check(self) -> Config:
        problems = [
            *_head_problems(self),
            *_position_problems(self),
            *_attention_problems(self),
            *_expert_problems(self),
        ]
        if problems:
            raise ValueError("\nmodel.".join(problems))
        return self

    def placed(self, folder: Path) -> Config:
        """With `base`: its path made absolute, and the shape that its config.json tells. Raises RecipeError, ModelError.

        A base that is not there leaves the table as it is.
        """
        if self.base is None:
            return self
        from jielong.model.hf_config import from_hf_config, read_config

        place = (folder / Path(self.base).expanduser()).resolve()
        found = model_folder(place)
        if found is None:  # told when the stage is made; until then the numbers of the table may be planned with
            return self.model_copy(update={"base": str(place)})
        place = found
        shape = from_hf_config(read_config(place), str(place / "config.json"))
        fields = [name for name in Config.model_fields if name not in ("base", "multiple_of")]
        given = {name: getattr(self, name) for name in fields if name in self.model_fields_set}
        own = {name: value for name, value in given.items() if name not in BESIDE_BASE}
        problems = [
            f"model.{name}: is the base's, got {value!r}; the base has {getattr(shape, name)!r}; remove it"
            for name, value in own.items()
            if value != getattr(shape, name)
        ]
        if problems:
            raise RecipeError("\n".join(problems))
        beside = {name: value for name, value in given.items() if name in BESIDE_BASE}
        table = shape.model_dump() | beside | {"base": str(place)}
        table["vocab_size"] = beside.get("vocab_size") or shape.vocab_size
        try:
            return Config.model_validate(table)
        except ValidationError as error:
            texts = [str(item["ctx"]["error"]) for item in error.errors() if "error" in item.get("ctx", {})]
            raise RecipeError("\n".join(f"model.{text}" for text in texts) or str(error)) from None

    @property
    def is_settled(self) -> bool:
        """Whether the shape is known: there is no base, or it is there (`placed` has read it)."""
        return self.base is None or (Path(self.base) / "config.json").is_file()

    def result_fields(self) -> dict[str, Any]:
        """Without the place of the base: its content is hashed."""
        values = super().result_fields()
        return values | ({"base": Path(self.base).name} if self.base is not None else {})

    @property
    def size_of_head(self) -> int:
        """head_dim, given or derived."""
        return self.head_dim if self.head_dim is not None else self.hidden_size // self.num_attention_heads

    @property
    def feed_forward_size(self) -> int:
        """intermediate_size, given or derived: 2/3 of 4 x hidden_size, rounded up to `multiple_of` (Llama's rule)."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        wanted = int(8 * self.hidden_size / 3)
        return -(-wanted // self.multiple_of) * self.multiple_of

    @property
    def expert_size(self) -> int:
        """moe_intermediate_size, given or derived."""
        return self.moe_intermediate_size if self.moe_intermediate_size is not None else self.feed_forward_size

    @property
    def vocabulary(self) -> int:
        """vocab_size, which must have been settled."""
        assert self.vocab_size is not None, "vocab_size is settled when the tokenizer is known"
        return self.vocab_size

    @property
    def original_length(self) -> int:
        """Tokens of the context before rope_scaling stretches it; without it max_position_embeddings."""
        scaling = self.rope_scaling
        if scaling is None:
            return self.max_position_embeddings
        if scaling.original_max_position_embeddings is not None:
            return scaling.original_max_position_embeddings
        return max(1, round(self.max_position_embeddings / (scaling.factor or 1.0)))

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer, from 0, has experts."""
        return self.num_experts is not None and layer not in self.mlp_only_layers

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, from 0; None: it sees everything before."""
        full = self.layer_types is not None and self.layer_types[layer] == "full_attention"
        return None if full else self.sliding_window

    def with_vocab(self, tokens: int) -> Config:
        """The same with vocab_size settled for a tokenizer of `tokens` ids."""
        return self if self.vocab_size is not None else self.model_copy(update={"vocab_size": tokens})


def _head_problems(config: Config) -> list[str]:
    problems = []
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    if config.head_dim is None and config.hidden_size % heads:
        problems.append(
            f"num_attention_heads: must divide hidden_size {config.hidden_size}, got {heads}; change one or set head_dim"
        )
    if heads % groups:
        problems.append(f"num_key_value_heads: must divide num_attention_heads {heads}, got {groups}; change one")
    if config.position == "rope" and config.size_of_head % 2:
        problems.append(f"head_dim: must be even for rotary positions, got {config.size_of_head}; change it")
    return problems


def _position_problems(config: Config) -> list[str]:
    scaling, longest = config.rope_scaling, config.max_position_embeddings
    if scaling is None:
        return []
    if config.position != "rope":
        return [f"rope_scaling: only for position = rope, got position {config.position}; remove one of them"]
    problems = []
    if scaling.factor is None:
        problems.append(f"rope_scaling.factor: missing for rope_type {scaling.rope_type}; give it, for example 4.0")
    original = scaling.original_max_position_embeddings
    if original is not None and original > longest:
        problems.append(
            f"rope_scaling.original_max_position_embeddings: too long, got {original}; must be at most "
            f"max_position_embeddings {longest}; change one of them"
        )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        problems.append(
            f"rope_scaling.high_freq_factor: must be above low_freq_factor {scaling.low_freq_factor:g}, got "
            f"{scaling.high_freq_factor:g}; raise it"
        )
    if scaling.rope_type == "yarn" and config.rope_theta <= 1:
        problems.append(f"rope_theta: too small for yarn, got {config.rope_theta:g}; must be above 1; raise it")
    if scaling.rope_type in ("ntk", "dynamic", "clex") and config.size_of_head <= 2:
        problems.append(f"head_dim: too small for {scaling.rope_type}, got {config.size_of_head}; must be at least 4")
    return problems


def _attention_problems(config: Config) -> list[str]:
    problems = []
    types, layers = config.layer_types, config.num_hidden_layers
    if types is not None and len(types) != layers:
        problems.append(f"layer_types: must name each of the {layers} layers, got {len(types)}; complete it")
    if types is not None and "sliding_attention" in types and config.sliding_window is None:
        problems.append("layer_types: names sliding_attention, but there is no sliding_window; give it")
    group = config.shifted_attention
    if group is not None and (group % 2 or config.num_attention_heads % 2):
        problems.append(
            f"shifted_attention: needs an even group and an even number of heads, got {group} and "
            f"{config.num_attention_heads}; change one of them"
        )
    if group is not None and (config.sliding_window or config.position == "alibi"):
        problems.append("shifted_attention: does not go with sliding_window or alibi; remove one of them")
    special = [
        name for name in ("talking_heads", "attn_logit_softcapping", "shifted_attention") if getattr(config, name)
    ]
    if len(special) > 1:
        problems.append(f"{special[0]}: does not go with {special[1]}; remove one of them")
    if config.talking_heads and config.attention not in ("auto", "eager"):
        problems.append(f"attention: talking_heads needs plain arithmetic, got {config.attention}; use auto or eager")
    if config.attn_logit_softcapping and config.attention in ("tiles", "sdpa", "varlen"):
        problems.append(f"attention: no soft cap in {config.attention}; use auto, flex or eager")
    if config.attention == "varlen" and (config.position == "alibi" or config.attention_dropout):
        problems.append("attention: varlen has neither alibi nor attention_dropout; use auto")
    if config.attention == "flex" and config.attention_dropout:
        problems.append("attention: flex has no attention_dropout; use auto")
    return problems


def _expert_problems(config: Config) -> list[str]:
    experts, active = config.num_experts, config.num_experts_per_tok
    if experts is None:
        given = [name for name in OF_EXPERTS if getattr(config, name) != Config.model_fields[name].default]
        return [f"{name}: given without num_experts; give that too, or remove it" for name in given]
    problems = []
    if active > experts:
        problems.append(
            f"num_experts_per_tok: more active experts than experts, got {active}; must be at most num_experts {experts}; "
            "lower it"
        )
    layers = config.num_hidden_layers
    if wrong := [layer for layer in config.mlp_only_layers if not 0 <= layer < layers]:
        problems.append(f"mlp_only_layers: no such layer, got {wrong[0]}; must be 0 to {layers - 1}; correct it")
    return problems


def check_together(sections: dict[str, Section]) -> list[str]:
    """A stated vocabulary must hold the tokenizer's, where the recipe states both."""
    from jielong.tokenizer.config import Config as TokenizerConfig

    model, tokenizer = sections["model"], sections.get("tokenizer")
    assert isinstance(model, Config)
    if tokenizer is None:
        return ["model: needs the stage tokenizer; add a [tokenizer] table"]
    if model.base is not None and isinstance(tokenizer, TokenizerConfig) and tokenizer.path is None:
        return [
            f"tokenizer.path: none given, and a model that goes on from {model.base} needs its own tokenizer, or one that extends it; "
            "set it to that folder"
        ]
    trained = tokenizer.vocab_size if isinstance(tokenizer, TokenizerConfig) and tokenizer.path is None else 0
    if model.vocab_size is not None and model.vocab_size < trained:
        return [
            f"model.vocab_size: too small, got {model.vocab_size}; must be at least tokenizer.vocab_size {trained}; "
            "raise it or leave it out"
        ]
    return []
