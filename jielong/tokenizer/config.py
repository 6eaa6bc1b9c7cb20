"""The recipe's [tokenizer] table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from jielong.recipe import Section, absolute, harmless

END_OF_TEXT = "<|endoftext|>"
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")  # ChatML, reserved from the start so that tuning adds no rows
BYTE_TOKENS = 256
UINT16_IDS = 1 << 16
PATHS = ("path", "extend_words", "extend_with")


class Config(Section):
    """Documents -> tokenizer and token shards."""

    path: str | None = Field(
        None,
        description="a tokenizer to use: a folder, tokenizer.json, a sentencepiece .model or a tiktoken file, relative to the "
        "recipe's folder; none: train one",
    )
    pattern: str | None = Field(
        None, description="the first cut of a tiktoken file in `path` that is not a known one: a regular expression"
    )
    extend_words: str | None = Field(
        None, description="UTF-8 file with a word a line that is added to the tokenizer in `path`; old ids stay"
    )
    extend_with: str | None = Field(
        None, description="another tokenizer whose Chinese pieces are added to the one in `path`; old ids stay"
    )
    extend_count: int | None = Field(None, description="tokens that are added at most; none: all", ge=1)
    kind: Literal["bpe", "unigram", "bytepiece"] = Field(
        "bpe",
        description="how one is trained: bpe: merges of bytes; unigram: the most probable pieces, within words and clauses; "
        "bytepiece: the fewest tokens, within lines",
    )
    vocab_size: int = Field(6400, description="tokens in the vocabulary, when one is trained", le=200_000)
    min_frequency: int = Field(2, description="a pair or fragment seen less often is no token", ge=1)
    split_digits: bool = Field(True, description="cut numbers into single digits")
    split_letters: bool = Field(False, description="cut words of Latin letters into single letters")
    character_coverage: float = Field(
        0.9999,
        description="unigram, bytepiece: share of the text whose characters may stand in tokens; the others go as bytes",
        gt=0,
        le=1,
    )
    special_tokens: tuple[str, ...] = Field((), description="further special tokens", strict=False)
    reserved_tokens: int = Field(0, description="special tokens <|reserved_0|>, ... for later use", ge=0, le=10_000)
    user_words: tuple[str, ...] = Field((), description="words that are one token wherever they stand", strict=False)
    end_token: str | None = Field(
        None, description="the end-of-text token, where the folder in `path` does not say which it is"
    )
    max_train_bytes: int = Field(
        50_000_000,
        description="text the tokenizer is trained on, UTF-8 bytes, spread evenly over the corpus",
        ge=1000,
        le=2_000_000_000,
    )
    shard_tokens: int = Field(100_000_000, description="tokens in one shard file", ge=1)
    dtype: Literal["auto", "uint16", "uint32"] = Field(
        "auto", description="of the ids in shards; auto: uint16 where it holds every id of the vocabulary"
    )
    eos: bool = Field(True, description="the end-of-text token closes every document in the shards")
    bos: bool = Field(
        False,
        description="the tokenizer's beginning token opens every document in the shards; an input, never predicted",
    )
    processes: int | None = harmless(None, "worker processes that encode; none: one a core", ge=1)

    @property
    def specials(self) -> tuple[str, ...]:
        """All special tokens of a trained tokenizer, in the order of their ids."""
        reserved = (f"<|reserved_{number}|>" for number in range(self.reserved_tokens))
        return tuple(dict.fromkeys((END_OF_TEXT, *CHAT_TOKENS, *self.special_tokens, *reserved)))

    def placed(self, folder: Path) -> Config:
        """Paths made absolute."""
        given = {name: getattr(self, name) for name in PATHS}
        return self.model_copy(
            update={name: absolute(path, folder) for name, path in given.items() if path is not None}
        )

    def result_fields(self) -> dict[str, Any]:
        """Without the places of given files: their content is hashed."""
        values = super().result_fields()
        return values | {name: Path(values[name]).name for name in PATHS if values.get(name) is not None}

    @model_validator(mode="after")
    def _check(self) -> Config:
        least = BYTE_TOKENS + len(self.specials) + len(set(self.user_words))
        if "" in self.user_words or "" in self.special_tokens:
            raise ValueError("user_words, special_tokens: an empty one, got ''; take it out")
        if (self.extend_words or self.extend_with) and self.path is None:
            raise ValueError(
                "extend_words, extend_with: there is no tokenizer to extend, path is not given; give it, or take them out"
            )
        if short := [name for name in self.special_tokens if len(name) == 1]:
            raise ValueError(
                f"special_tokens: a single character, got {short[0]!r}; it would stand for a byte of ordinary text; give a longer name"
            )
        for name in ("user_words", "special_tokens", "reserved_tokens"):
            if getattr(self, name) and self.path is not None:
                raise ValueError(
                    f"{name}: speaks of a tokenizer that is trained, and path gives one; take one of them out (extend_words adds words)"
                )
        if self.extend_count is not None and not (self.extend_words or self.extend_with):
            raise ValueError(
                f"extend_count: nothing extends the tokenizer, got {self.extend_count}; give extend_words or extend_with"
            )
        for name in ("end_token", "pattern"):
            if getattr(self, name) is not None and self.path is None:
                raise ValueError(
                    f"{name}: speaks of a given tokenizer, and path is not given; give it, or take {name} out"
                )
        if self.extend_words and self.extend_with:
            raise ValueError(
                "extend_with: given together with extend_words; extend by one of them, then the result by the other"
            )
        if self.path is None and self.vocab_size < least:
            raise ValueError(
                f"vocab_size: too small, got {self.vocab_size}; must be at least {least} "
                f"({BYTE_TOKENS} bytes, {len(self.specials)} special tokens and {len(set(self.user_words))} user words); raise it"
            )
        if self.path is None and self.dtype == "uint16" and self.vocab_size > UINT16_IDS:
            raise ValueError(
                f"dtype: uint16 does not hold every id, got {self.vocab_size:,} of them; at most {UINT16_IDS:,}; set it to auto, "
                "or lower vocab_size"
            )
        return self


def check_together(sections: dict[str, Section]) -> list[str]:
    """There must be documents to cut."""
    return [] if "data" in sections else ["tokenizer: needs the stage data; add a [data] table"]
