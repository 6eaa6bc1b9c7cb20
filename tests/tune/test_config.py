"""The [tune] table: its defaults, what it refuses and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.errors import RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.recipe import Section, parse_section
from jielong.train.config import Config as TrainConfig
from jielong.tune.config import Config, check_together

SOURCES: dict[str, Any] = {"sources": [{"name": "a", "path": "x.jsonl"}]}


def made(**more: Any) -> Config:
    return parse_section("tune", Config, SOURCES | more)


def test_defaults_that_differ_from_training() -> None:
    config, train = made(), TrainConfig()
    changed = {
        name: getattr(config, name)
        for name in TrainConfig.model_fields
        if getattr(config, name) != getattr(train, name)
    }
    assert changed.pop("sample_prompts"), "questions, where training has none of its own"
    assert changed == {"packing": "whole", "learning_rate": 3e-5, "warmup_ratio": 0.03, "weight_decay": 0.0}
    assert set(TrainConfig.model_fields) < set(Config.model_fields) and config.schedule == "cosine"


def test_three_passes_where_no_budget_is_given() -> None:
    assert made().epochs is None and made().settled().epochs == 3.0
    assert made(epochs=1.0).settled().epochs == 1.0
    assert made(tokens=50).settled().epochs is None
    assert made(phases=[{"tokens": 5}]).settled().epochs is None
    assert made(phases=[{"share": 1.0}]).settled().epochs == 3.0
    assert [place for place, _ in made().parts()] == ["tune"]
    assert [place for place, _ in made(phases=[{"share": 1.0}] * 2).parts()] == ["tune.phases.0", "tune.phases.1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"packing": "packed"}, r"^tune\.packing: conversations are never divided, got packed; must be whole; remove"),
        ({"packing": "truncated"}, r"^tune\.packing: conversations are never divided, got truncated"),
        ({"mix": {"weights": {"a": 1.0}}}, r"^tune\.mix: conversations have no mix"),
        ({"phases": [{"share": 1.0, "weights": {"a": 1}}]}, r"^tune\.phases\.0\.weights: conversations have no mix"),
        ({"phases": [{"share": 1.0, "temperature": 2}]}, r"^tune\.phases\.0\.temperature: conversations have no mix"),
        ({"epochs": 1, "tokens": 1}, r"^tune\.epochs: given together with tokens"),
        ({"validation_share": 0}, r"^tune\.validation_share: nothing is held out, got 0"),
        ({"validation_share": 0.5}, r"^tune\.validation_share: out of bounds"),
        ({"sources": [{"name": "a", "path": "x", "validation": True}]}, r"^tune\.sources: all of them are held out"),
        (
            {"sources": [{"name": "a", "path": "x"}, {"name": "a", "path": "y"}]},
            "two sources have the same name, got a",
        ),
        ({"sources": []}, r"tune\.sources: too short"),
        ({"sources": [{"name": "a", "path": "x", "pair": ["问"]}]}, r"tune\.sources\.0\.pair\.1: missing"),
        ({"sources": [{"name": "a", "path": "x", "max_document": 1}]}, "did you mean max_documents"),
        ({"learned": "all"}, r"tune\.learned: not one of the choices, got \"all\"; must be 'answers' or 'last'"),
        ({"neftune_alpha": 0}, r"tune\.neftune_alpha: out of bounds, got 0; must be above 0"),
        ({"lerned": "last"}, "did you mean learned"),
    ],
)
def test_what_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made(**table)


def test_a_source_that_is_held_out_makes_a_share_of_none_possible() -> None:
    sources = [{"name": "a", "path": "x"}, {"name": "b", "path": "y", "validation": True}]
    assert made(sources=sources, validation_share=0.0).sources[1].validation


def test_paths_start_at_the_recipe_and_are_not_part_of_the_result() -> None:
    config = made(
        sources=[
            {"name": "a", "path": "里/x.jsonl", "pair": ["问", "答"]},
            {"name": "b", "path": "/y/*.csv"},
            {"name": "c", "path": "hf:o/n"},
        ],
        template="my/chat.jinja",
    ).placed(Path("/配方"))
    assert [source.path for source in config.sources] == ["/配方/里/x.jsonl", "/y/*.csv", "hf:o/n"]
    assert config.template == "/配方/my/chat.jinja" and config.sources[0].pair == ("问", "答")
    values = config.result_fields()
    assert [row["path"] for row in values["sources"]] == ["x.jsonl", "*.csv", "hf:o/n"]
    assert values["template"] == "chat.jinja" and "save_every_minutes" not in values and "learned" in values


def test_rows_must_fit_the_model() -> None:
    model = ModelConfig()
    sections: dict[str, Section] = {"model": model, "train": TrainConfig()}
    long = made(sequence_length=2 * model.max_position_embeddings)
    assert any(text.startswith("tune.sequence_length: too long") for text in check_together(sections | {"tune": long}))
    assert check_together(sections | {"tune": made()}) == []
    assert check_together({"model": model, "tune": made()}) == [
        "tune: needs a model to begin with; give tune.base, or add a [train] table"
    ]
    assert check_together({"tune": made(base="/a/folder")}) == []
