"""The [align] table: what goes together, in one sentence where it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jielong.align.config import BETAS, KINDS, Config, Reward, check_together
from jielong.errors import RecipeError
from jielong.recipe import load, parse, parse_section

SOURCES = [{"name": "a", "path": "a.jsonl"}]
ENDS = {"built_in": "ends"}


def made(**settings: Any) -> Config:
    return parse_section("align", Config, {"method": "dpo", "sources": SOURCES, **settings})


@pytest.mark.parametrize(("settings", "words"), [
    ({"method": "grpo"}, "rewards: none given, and grpo learns from them"),
    ({"rewards": [ENDS]}, "rewards: dpo learns from examples, got 1 rewards"),
    ({"method": "ppo", "rewards": [ENDS, ENDS]}, "rewards: two have the same name, got ends"),
    ({"method": "ppo", "rewards": [{"model": "reward"}]}, "reward: no such table"),
    ({"method": "ppo", "rewards": [ENDS], "reward": {"sources": SOURCES}}, "reward: trained for nobody"),
    ({"method": "ppo", "rewards": [{}]}, "function, model, built_in: one of them says what a reward is, got none"),
    ({"method": "ppo", "rewards": [{"built_in": "ends", "model": "x"}]}, "got model, built_in"),
    ({"method": "ppo", "rewards": [{"function": "rewards.py"}]}, "function: no name in it"),
    ({"method": "ppo", "rewards": [{"built_in": "matches", "pattern": "("}]}, "pattern: no regular expression"),
    ({"method": "ppo", "rewards": [{"built_in": "length", "min_characters": 300}]}, "min_characters: above max_characters, got 300"),
    ({"epochs": 1, "steps": 3}, "epochs: given together with steps"),
    ({"validation_share": 0}, "validation_share: nothing is held out, got 0"),
    ({"sources": [*SOURCES, *SOURCES]}, "sources: two sources have the same name, got a"),
    ({"sources": [SOURCES[0] | {"validation": True}]}, "sources: all of them are held out"),
    ({"adapter": {}, "optimizer": "muon"}, "optimizer: Muon is for whole weights"),
    ({"metod": "dpo"}, "metod"),
])  # fmt: skip
def test_what_does_not_go_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        made(**settings)
    assert words in str(caught.value)


def test_each_method_has_its_kind_of_examples_and_its_beta() -> None:
    for method, kind in KINDS.items():
        rewards = {"rewards": [ENDS]} if kind == "prompts" else {}
        config = made(method=method, **rewards)
        assert config.kind == kind and config.pull == BETAS.get(method, 0.0)
    assert made(beta=0.7).pull == 0.7 and made(method="grpo", rewards=[ENDS], beta=0).pull == 0


def test_a_budget_where_none_is_named() -> None:
    assert made().settled().epochs == 1.0 and made(steps=5).settled().epochs is None


def test_paths_begin_at_the_recipes_folder_and_do_not_count_for_the_result(tmp_path: Path) -> None:
    config = made(
        method="ppo",
        rewards=[{"function": "f.py:g"}, {"model": "m"}, {"function": "package.module:h"}],
        judge="j.py:k",
        base="b",
    )
    placed = config.placed(tmp_path)
    assert placed.rewards[0].function == f"{tmp_path}/f.py:g" and placed.rewards[2].function == "package.module:h"
    assert placed.rewards[1].model == str(tmp_path / "m") and placed.judge == f"{tmp_path}/j.py:k"
    assert placed.base == str(tmp_path / "b") and placed.sources[0].path == str(tmp_path / "a.jsonl")
    assert config.result_fields() == placed.result_fields() == config.placed(tmp_path / "other").result_fields()


def test_names_of_rewards() -> None:
    assert [Reward.model_validate(given).label for given in
            ({"function": "f.py:polite"}, {"built_in": "length"}, {"model": "/x/m"}, {"built_in": "ends", "name": "full stop"})
            ] == ["polite", "length", "model m", "full stop"]  # fmt: skip


def test_there_must_be_a_model() -> None:
    assert check_together({"align": made(base="x")}) == []
    assert check_together({"align": made()}) == [
        "align: needs a model to begin with; give align.base, or add a [tune] table"
    ]


def test_data_of_a_recipe_that_only_aligns_are_preferences(tmp_path: Path) -> None:
    [source] = load("dpo-zh", data=[str(tmp_path / "mine.jsonl")]).section("align", Config).sources
    assert source.name == "mine" and source.path == str(tmp_path / "mine.jsonl")


def test_an_unknown_method_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(RecipeError, match="dpo"):
        parse({"name": "x", "align": {"method": "dqo", "sources": SOURCES, "base": "b"}}, Path.cwd())
