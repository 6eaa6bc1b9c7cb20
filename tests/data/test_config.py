"""The [data] table: defaults, bounds, and messages a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.data.config import Config
from jielong.data.steps import STANDARD
from jielong.errors import RecipeError
from jielong.recipe import parse


def with_rule(**rule: Any) -> dict[str, Any]:
    return {"steps": [{"step": "measure"}, {"step": "filter", "rules": [rule]}]}


def problems(**data: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        parse({"name": "x", "data": {"sources": [{"name": "新闻", "path": "a.txt"}], **data}}, Path())
    return str(caught.value)


def test_a_minimal_table_has_all_defaults() -> None:
    recipe = parse({"name": "x", "data": {"sources": [{"name": "新闻", "path": "a.txt"}]}}, Path())
    config = recipe.section("data", Config)
    assert config.sources[0].document == "auto" and config.sources[0].encoding == "auto"
    assert config.steps == STANDARD and config.processes is None and config.sources[0].weight == 1


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"sources": []}, ["data.sources"]),
        ({"step": []}, ["data.step", "did you mean steps?"]),
        ({"validation_fraction": 0.0}, ["data.validation_fraction", "above 0"]),
        ({"validation_fraction": 0.5}, ["data.validation_fraction", "below 0.5"]),
        ({"steps": [{"step": "near", "similarty": 0.8}]}, ["data.steps.0.near.similarty", "did you mean similarity?"]),
        ({"steps": [{"step": "nearly"}]}, ["data.steps.0", "nearly", "'near'"]),
        ({"steps": [{"name": "x"}]}, ["data.steps.0", "step"]),
        ({"steps": [{"step": "near", "similarity": 0.2}]}, ["data.steps.0.near.similarity", "at least 0.4"]),
        ({"steps": [{"step": "exact", "sources": ["乙"]}]}, ["steps.0", "unknown source, got 乙", "新闻"]),
        ({"steps": [{"step": "measure", "trusted": ["乙"]}]}, ["steps.0", "unknown source, got 乙"]),
        ({"steps": [{"step": "measure", "sources": ["新闻"]}]}, ["steps.0", "all sources"]),
        ({"steps": [{"step": "filter"}]}, ["steps.0", "before it is measured"]),
        (with_rule(column="han_rato", min=0.1), ["steps.1", "did you mean han_ratio?"]),
        (with_rule(column="han_ratio", min=0.5, max=0.1), ["min above max", "0.5 > 0.1"]),
        (with_rule(column="perplexity", max=100.0), ["steps.1", "trusted"]),
        (with_rule(column="lang", min=1.0), ["lang", "is_in"]),
        (with_rule(column="han_ratio", is_in=["zh"]), ["han_ratio", "min or max"]),
        (
            {
                "steps": [
                    {"step": "measure"},
                    {"step": "filter", "rules": [{"column": "text_len"}, {"column": "text_len"}]},
                ]
            },
            ["text_len", "two rules"],
        ),
        ({"steps": [{"step": "augment", "method": "shuffle"}, {"step": "exact"}]}, ["steps.0", "behind all of them"]),
        ({"steps": [{"step": "annotate"}, {"step": "exact"}]}, ["steps.0: annotate", "behind all of them but augment"]),
        (
            {"steps": [{"step": "exact"}, {"step": "augment", "method": "shuffle"}, {"step": "annotate"}]},
            ["steps.1: augment", "behind all of them"],
        ),
        ({"steps": [{"step": "exact"}] + [{"step": "annotate"}] * 2}, ["steps.2: annotate stands there twice"]),
        ({"steps": [{"step": "annotate", "words": False, "pos": False}]}, ["steps.0", "both columns are off"]),
        ({"steps": [{"step": "exact"}] * 33}, ["steps", "33", "at most 32"]),
        ({"sources": [{"name": "甲", "path": "a"}, {"name": "甲", "path": "b"}]}, ["same name", "甲"]),
        ({"sources": [{"name": "甲", "path": "a", "document": "page"}]}, ["document", "page"]),
        ({"chunk_megabytes": "many"}, ["data.chunk_megabytes", "whole number"]),
    ],
)
def test_a_wrong_table_says_what_to_change(table: dict[str, Any], words: list[str]) -> None:
    message = problems(**table)
    assert all(word in message for word in words), message


def test_what_changes_nothing_in_the_result_is_not_part_of_it(tmp_path: Path) -> None:
    def fields(place: Path, **options: Any) -> dict[str, Any]:
        source = {"name": "新闻", "path": "a.txt", **options.pop("source", {})}
        steps = [{"step": "flagged_words", "file": "words.txt"}]
        return Config.model_validate({"sources": [source], "steps": steps, **options}).placed(place).result_fields()

    first = fields(tmp_path)
    assert first == fields(tmp_path / "moved", processes=3, keep_work=False, source={"licence": "MIT", "weight": 2.0})
    assert first != fields(tmp_path, source={"encoding": "gb18030"}) and first != fields(tmp_path, chunk_megabytes=1)
