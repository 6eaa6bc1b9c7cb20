from __future__ import annotations

import pytest

from jielong.errors import RecipeError
from jielong.recipe import parse_section
from jielong.tokenizer.config import Config


def test_a_vocabulary_too_small_is_refused() -> None:
    with pytest.raises(RecipeError, match="vocab_size: too small, got 258; must be at least 259"):
        parse_section("tokenizer", Config, {"vocab_size": 258})
    assert parse_section("tokenizer", Config, {"vocab_size": 259}).vocab_size == 259
    with pytest.raises(RecipeError, match="at least 260"):
        parse_section("tokenizer", Config, {"vocab_size": 259, "special_tokens": ["<x>"]})


def test_a_given_tokenizer_has_its_own_size() -> None:
    assert parse_section("tokenizer", Config, {"path": "somewhere", "vocab_size": 1}).path == "somewhere"


def test_too_large_is_refused() -> None:
    with pytest.raises(RecipeError, match="at most 200000"):
        parse_section("tokenizer", Config, {"vocab_size": 200_001})


def test_uint16_and_a_vocabulary_that_it_does_not_hold() -> None:
    with pytest.raises(RecipeError, match="dtype: uint16 does not hold every id, got 65,537 of them; at most 65,536"):
        parse_section("tokenizer", Config, {"vocab_size": 65_537, "dtype": "uint16"})
    assert parse_section("tokenizer", Config, {"vocab_size": 65_536, "dtype": "uint16"}).dtype == "uint16"
    assert "processes" not in Config(processes=3).result_fields()
