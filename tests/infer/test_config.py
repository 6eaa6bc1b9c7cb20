from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import RecipeError
from jielong.infer.config import Config, against_model
from jielong.model.config import Config as ModelConfig
from jielong.recipe import parse, parse_section


def test_the_five_prompts_are_the_default() -> None:
    assert Config().prompts == ("特朗普", "美国", "中国", "英国", "人工智能是")


@pytest.mark.parametrize("table", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": 0}, {"seed": -1}])
def test_bounds(table: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="out of bounds"):
        parse_section("infer", Config, table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"num_beams": 4}, "num_beams: beams draw nothing, got 4 with temperature 0.8; set temperature to 0 or"),
        (
            {"num_beams": 4, "temperature": 0.0, "cache": "rolling"},
            "num_beams: does not go with cache = rolling, got 4; use",
        ),
        ({"cache_tokens": 99}, "cache_tokens: only for cache = rolling, got 99 with cache kv; remove one of them"),
        ({"cache": "rolling", "cache_tokens": 7}, "infer.cache_tokens: out of bounds"),
        ({"stop": ["。", ""]}, "stop: an empty string is in every text"),
        ({"batch_size": 0}, "infer.batch_size: out of bounds"),
    ],
)
def test_what_excludes_what(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_section("infer", Config, table)


def test_all_problems_at_once() -> None:
    with pytest.raises(RecipeError) as found:
        parse_section("infer", Config, {"num_beams": 2, "cache_tokens": 20, "stop": [""]})
    lines = str(found.value).splitlines()
    assert len(lines) == 3 and all(line.startswith("infer") for line in lines)


def test_what_goes() -> None:
    parse_section("infer", Config, {"num_beams": 4, "temperature": 0.0, "stop": ["。", "\n\n"]})
    parse_section("infer", Config, {"cache": "rolling", "cache_tokens": 8, "max_new_tokens": 100_000})


def test_how_many_go_together_does_not_change_the_result() -> None:
    assert Config(batch_size=1).result_fields() == Config(batch_size=16).result_fields()


@pytest.mark.parametrize(
    ("infer", "model", "message"),
    [
        (
            {"cache": "hidden"},
            {},
            r"infer.cache: hidden \(EL-attention\) does not go with this model, its rotary positions",
        ),
        (
            {"cache": "rolling", "cache_tokens": 99},
            {"max_position_embeddings": 64},
            "infer.cache_tokens: too many, got 99",
        ),
        ({"cache": "rolling"}, {"sliding_window": 64}, "infer.cache: the first tokens of a rolling one lie outside"),
    ],
)
def test_the_cache_goes_with_the_model(infer: dict[str, object], model: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse({"infer": infer, "model": model}, Path())
    assert against_model(Config(cache="hidden"), ModelConfig(position="alibi")) == []
    assert against_model(Config(cache="rolling", cache_tokens=64), ModelConfig(sliding_window=64)) == []


def test_it_needs_a_trained_model() -> None:
    with pytest.raises(RecipeError, match="infer: needs a stage that makes a model which writes"):
        parse({"infer": {}}, Path())
