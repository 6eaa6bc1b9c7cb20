"""The recipe's [train.adapter] and [tune.adapter] tables: small matrices that are trained in place of a model's weights.

Field names are peft's where peft has them, with the papers' short names as aliases.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from jielong.recipe import Section

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEAR: tuple[Target, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Whole = Literal["embeddings", "norms"]
Held = Literal["auto", "float32", "int8", "nf4"]


class Adapter(Section):
    """LoRA and its kin (arXiv:2106.09685): each linear layer W gets a product B A of low rank beside it, which alone is trained."""

    aliases: ClassVar[dict[str, str]] = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout",
                                         "target_modules": "targets"}  # fmt: skip

    kind: Literal["lora", "rslora", "dora", "pissa"] = Field(
        "lora",
        description="lora; rslora: scaled by alpha / sqrt(rank) (arXiv:2312.03732); dora: direction and length apart "
        "(arXiv:2402.09353); pissa: begins with the largest singular vectors of the weights (arXiv:2404.02948)",
    )
    rank: int = Field(8, description="of the product: rows of A, columns of B", ge=1, le=4096)
    alpha: float = Field(16.0, description="the product is scaled by alpha / rank", gt=0)
    dropout: float = Field(0.05, description="dropout on the input of A while training", ge=0, lt=1)
    targets: tuple[Target, ...] = Field(
        LINEAR, description="linear layers of the blocks that get one; experts have none", strict=False
    )
    whole: tuple[Whole, ...] = Field(
        (),
        description="what is trained as a whole beside them: embeddings (and the output layer), norms; LongLoRA trains both "
        "(arXiv:2309.12307), and new tokens need the first",
        strict=False,
    )
    b_rate: float = Field(
        1.0, description="learning rate of B, times that of A; LoRA+ (arXiv:2402.12354) advises 16", gt=0, le=1000
    )
    base_weights: Held = Field(
        "auto",
        description="how the frozen weights are held: auto: in the type of matrix products; int8 (LLM.int8, arXiv:2208.07339) "
        "and nf4 (QLoRA, arXiv:2305.14314; double quantization) by bitsandbytes",
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_aliases(cls, table: object) -> object:
        if not isinstance(table, dict):
            return table
        twice = [alias for alias, name in cls.aliases.items() if alias in table and name in table]
        if twice:
            raise ValueError(f"{twice[0]}: the same as {cls.aliases[twice[0]]}, and both are given; remove one of them")
        return {cls.aliases.get(key, key): value for key, value in table.items()}

    @model_validator(mode="after")
    def _check(self) -> Adapter:
        if not self.targets:
            raise ValueError("targets: none given, got []; name some of " + ", ".join(LINEAR))
        if len(set(self.targets)) < len(self.targets):
            raise ValueError(f"targets: one is named twice, got {list(self.targets)}; name each once")
        if self.kind == "pissa" and self.rank > 2048:
            raise ValueError(f"rank: saved twice as large with pissa, got {self.rank}; at most 2048; lower it")
        if self.kind == "pissa" and self.base_weights in ("int8", "nf4"):
            raise ValueError(
                f"kind: pissa takes the weights apart, which are quantized, got pissa with base_weights {self.base_weights}; "
                "use base_weights auto, or kind lora"
            )
        return self

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return float(self.alpha / (self.rank**0.5 if self.kind == "rslora" else self.rank))
