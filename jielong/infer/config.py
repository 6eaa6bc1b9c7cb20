"""The recipe's [infer] table, which are also the options of `jielong generate`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from jielong.model.config import Config as ModelConfig
from jielong.recipe import Section, harmless, parse_section

LEAST_KEPT = 8  # tokens of a rolling cache: the first four, and as many behind them


class Config(Section):
    """How the model continues a prompt."""

    prompts: tuple[str, ...] = Field(
        ("特朗普", "美国", "中国", "英国", "人工智能是"), description="prompts to continue", strict=False
    )
    max_new_tokens: int = Field(100, description="a continuation ends after so many tokens at the latest", ge=1)
    temperature: float = Field(
        0.8, description="logits are divided by this; 0: always the most probable token (greedy)", ge=0
    )
    top_k: int | None = Field(None, description="draw from the k most probable tokens only; none: all", ge=1)
    top_p: float | None = Field(
        0.9,
        description="draw from the fewest tokens that hold this probability (arXiv:1904.09751); none: all",
        gt=0,
        le=1,
    )
    repetition_penalty: float = Field(
        1.1, description="logits of tokens already seen are weakened by this factor (arXiv:1909.05858); 1: off", gt=0
    )
    stop: tuple[str, ...] = Field(
        (), description="a continuation ends before any of these strings, which are not shown", strict=False
    )
    num_beams: int = Field(
        1, description="so many continuations are followed at once and the most probable is taken; needs temperature 0",
        ge=1,
    )  # fmt: skip
    length_penalty: float = Field(
        1.0,
        description="beams: the sum of log-probabilities is divided by length to this power; above 0: longer texts",
        ge=-10,
        le=10,
    )
    cache: Literal["kv", "rolling", "hidden"] = Field(
        "kv",
        description="what is kept of each token: keys and values (kv); those of the first four and the last tokens only, "
        "for a text without end (rolling); each layer's input (hidden, for alibi or no positions: smaller where heads are many or wide)",
    )
    cache_tokens: int | None = Field(
        None, description="tokens that a rolling cache keeps; none: the model's max_position_embeddings", ge=LEAST_KEPT
    )
    seed: int = Field(
        1,
        description="seed of the first prompt's draws, the next prompt takes the next; the same seed gives the same text",
        ge=0,
        le=2**62,
    )
    batch_size: int = harmless(8, "prompts that go through the model together", ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to generate")
    precision: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="type of weights and cache; auto: on cuda that of the checkpoint's file, elsewhere float32"
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        problems = []
        if self.num_beams > 1 and self.temperature > 0:
            problems.append(
                f"num_beams: beams draw nothing, got {self.num_beams} with temperature {self.temperature:g}; "
                "set temperature to 0 or num_beams to 1"
            )
        if self.num_beams > 1 and self.cache == "rolling":
            problems.append(
                f"num_beams: does not go with cache = rolling, got {self.num_beams}; use cache kv or num_beams 1"
            )
        if self.cache_tokens is not None and self.cache != "rolling":
            problems.append(
                f"cache_tokens: only for cache = rolling, got {self.cache_tokens} with cache {self.cache}; remove one of them"
            )
        if "" in self.stop:
            problems.append('stop: an empty string is in every text, got ""; remove it')
        if problems:
            raise ValueError("\ninfer.".join(problems))
        return self


def with_options(table: dict[str, Any], options: dict[str, Any]) -> Config:
    """An [infer] table with options in place of its values (None: not given), and with what follows from them.

    As options 0 means all for top_k, and 1 for top_p. Raises RecipeError listing every problem.
    """
    given = table | {key: value for key, value in options.items() if value is not None}
    if options.get("cache") not in (None, "rolling") and options.get("cache_tokens") is None:
        given["cache_tokens"] = None  # the table's own belongs to a rolling cache
    beams = options.get("num_beams")
    if isinstance(beams, int) and beams > 1 and options.get("temperature") is None:
        given["temperature"] = 0.0
    for key, everything in (("top_k", 0), ("top_p", 1)):
        if given.get(key) == everything:
            given[key] = None
    return parse_section("infer", Config, given)


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be a model to ask, and its cache must go with it."""
    infer, model = sections["infer"], sections.get("model")
    assert isinstance(infer, Config)
    problems = (
        []
        if {"train", "tune"} & sections.keys() or getattr(sections.get("align"), "method", "reward") != "reward"
        else ["infer: needs a stage that makes a model which writes, train, tune or align; add a [train] table"]
    )
    if isinstance(model, ModelConfig):
        problems += [f"infer.{problem}" for problem in against_model(infer, model)]
    return problems


def against_model(infer: Config, model: ModelConfig) -> list[str]:
    """What of the table does not go with a model: problems, each one sentence beginning with the field's name."""
    problems, longest = [], model.max_position_embeddings
    if infer.cache == "rolling" and (infer.cache_tokens or longest) > longest:
        problems.append(
            f"cache_tokens: too many, got {infer.cache_tokens}; must be at most the model's max_position_embeddings "
            f"{longest}; lower it"
        )
    if infer.cache == "rolling" and (infer.cache_tokens or longest) < LEAST_KEPT:
        problems.append(
            f"cache: a rolling one keeps at least {LEAST_KEPT} tokens, got a context of {longest}; use cache kv"
        )
    window = model.sliding_window
    if infer.cache == "rolling" and window is not None and window < (infer.cache_tokens or longest):
        problems.append(
            f"cache: the first tokens of a rolling one lie outside the model's sliding_window {window}, and would not be seen; "
            f"use cache kv, or cache_tokens of at most {window}"
        )
    if infer.cache == "hidden" and (reason := hidden_against(model)) is not None:
        problems.append(f"cache: hidden (EL-attention) does not go with this model, {reason}; use cache kv")
    return problems


def hidden_against(model: ModelConfig) -> str | None:
    """Why a model cannot use EL-attention; None: it can."""
    if model.position == "rope":
        return "its rotary positions turn the keys"
    if model.qk_norm:
        return "qk_norm changes the keys"
    return None
