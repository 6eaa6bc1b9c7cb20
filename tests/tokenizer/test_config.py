from __future__ import annotations

from pathlib import Path

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


def test_the_counts_of_a_vocabulary_too_small_are_named() -> None:
    table = {"vocab_size": 265, "special_tokens": ["<x>"], "reserved_tokens": 4, "user_words": ["新词", "旧词", "新词"]}
    message = r"vocab_size: too small, got 265; must be at least 266 \(256 bytes, 8 special tokens and 2 user words\); raise it"
    with pytest.raises(RecipeError, match=message):
        parse_section("tokenizer", Config, table)
    assert parse_section("tokenizer", Config, table | {"vocab_size": 266}).specials[-1] == "<|reserved_3|>"


@pytest.mark.parametrize("name", ["special_tokens", "user_words"])
def test_an_empty_word_is_refused(name: str) -> None:
    with pytest.raises(RecipeError, match="an empty one, got ''; take it out"):
        parse_section("tokenizer", Config, {name: ["新词", ""]})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"path": "x", "extend_words": "a.txt", "extend_with": "b"}, "extend_with: given together with extend_words"),
        ({"extend_words": "a.txt"}, "there is no tokenizer to extend, path is not given"),
        ({"extend_with": "b"}, "there is no tokenizer to extend, path is not given"),
        ({"end_token": "</s>"}, "end_token: speaks of a given tokenizer, and path is not given"),
        ({"pattern": "a+"}, "pattern: speaks of a given tokenizer, and path is not given"),
        ({"kind": "wordpiece"}, "kind"),
        ({"special_tokens": ["#"]}, "special_tokens: a single character, got '#'"),
        ({"path": "x", "user_words": ["词"]}, "user_words: speaks of a tokenizer that is trained"),
        ({"path": "x", "reserved_tokens": 3}, "reserved_tokens: speaks of a tokenizer that is trained"),
        ({"path": "x", "extend_count": 3}, "extend_count: nothing extends the tokenizer, got 3"),
        ({"max_train_bytes": 10**10}, "max_train_bytes"),
        ({"character_coverage": 0.0}, "character_coverage"),
        ({"reserved_tokens": 10_001}, "at most 10000"),
    ],
)
def test_what_does_not_fit_is_one_sentence(table: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message) as error:
        parse_section("tokenizer", Config, table)
    assert "\n" not in str(error.value)


def test_places_of_files_are_no_part_of_the_result(tmp_path: Path) -> None:
    """What they hold is: it is hashed as the stage's input."""
    given = {"path": "tok", "extend_words": "words.txt", "processes": 3}
    near, far = (parse_section("tokenizer", Config, given).placed(folder) for folder in (tmp_path, tmp_path / "a"))
    assert near.path == str(tmp_path / "tok") and near.extend_words == str(tmp_path / "words.txt")
    assert near.result_fields() == far.result_fields() and "processes" not in near.result_fields()


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
