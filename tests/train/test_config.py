from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import RecipeError
from jielong.recipe import parse, parse_section
from jielong.train.config import Config

WHOLE = {"data": {"sources": [{"name": "a", "path": "x"}]}, "tokenizer": {}, "model": {}}


def test_one_budget() -> None:
    with pytest.raises(RecipeError, match="epochs: given together with tokens"):
        parse_section("train", Config, {"epochs": 1.0, "tokens": 5})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"sequence_length": 1024}, "too long, got 1024; must be at most model.max_position_embeddings 512"),
        ({"tokens_per_step": 1000}, "must be a multiple of the sequence length 512, got 1000; for example 1024"),
        ({"learning_rate": "1e-3"}, "must be a number"),
        ({"learning_rat": 1.0}, "did you mean learning_rate"),
        ({"precision": "fp16"}, "must be 'auto', 'bfloat16', 'float16', 'float32', 'tf32' or 'fp8'"),
    ],
)
def test_what_does_not_fit(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse(WHOLE | {"train": table}, Path())


def test_the_stages_before_must_be_there() -> None:
    with pytest.raises(RecipeError, match=r"train: needs the stage model; add a \[model\] table"):
        parse({"train": {}}, Path())


def test_harmless_keys_are_not_part_of_the_result() -> None:
    keys = Config().result_fields().keys()
    assert "learning_rate" in keys
    assert not keys & {"save_every_minutes", "log_every_steps", "keep_checkpoints", "evaluate_every_steps"}
