"""What phases may say, and what not."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.errors import RecipeError
from jielong.recipe import parse_section
from jielong.train.config import Config
from jielong.train.phases import Phase, mix_of

TWO = [{"tokens": 100}, {"tokens": 200}]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"phases": [{"tokens": 1, "epochs": 1.0}]}, r"train\.phases\.0: has one budget, .* got tokens and epochs; give one"),
        ({"phases": [{"tokens": 1}, {}]}, r"phases\.1: has one budget, tokens, epochs or share, got none; give one"),
        ({"phases": [{"tokens": 1}, {"share": 1.0}]}, r"phases\.1: its budget is in other words .* got share and tokens"),
        ({"phases": TWO, "tokens": 5}, "train.tokens: given together with the tokens of the phases; a run has one budget"),
        ({"phases": TWO, "epochs": 5.0}, "train.epochs: given together with the tokens of the phases"),
        ({"phases": [{"epochs": 1.0}], "mix": {"tokens": {"a": 5}}}, "train.mix: given together with the epochs of the phases"),
        ({"phases": [TWO[0] | {"weights": {"a": 1}}], "mix": {"temperature": 2}}, "mix: given together with the weights of a"),
        ({"phases": [TWO[0], TWO[1] | {"temperature": 2.0}]}, r"phases\.0: says nothing about what is read"),
        ({"phases": [TWO[0] | {"warmup_ratio": 0.1}]}, r"train\.phases\.0\.warmup_ratio: needs a schedule .* got 0\.1 without"),
        ({"phases": [TWO[0] | {"decay_ratio": 0.1}]}, "decay_ratio: needs a schedule"),
        ({"phases": [TWO[0] | {"min_learning_rate_ratio": 0.0}]}, "min_learning_rate_ratio: needs a schedule"),
        ({"phases": [TWO[0] | {"weights": {"a": 1}, "temperature": 1.0}]}, "either weights or a temperature, got both"),
        ({"phases": [TWO[0] | {"weights": {"a": 0}}]}, r"weights\.a: must be above 0, got 0"),
        ({"phases": [TWO[0] | {"sequence_length": 128}], "micro_batch_tokens": 64}, "less than one row, got 64; must be at least"),
        ({"phases": [TWO[0] | {"sequence_length": 8}, TWO[1]], "packing": "truncated"}, "rows of different lengths, got packing"),
        ({"phases": [TWO[0] | {"optimiser": "muon"}]}, r"train\.phases\.0\.optimiser: unknown key; did you mean optimizer\?"),
    ],
)  # fmt: skip
def test_what_phases_cannot_say(table: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_section("train", Config, table)


def test_shares_stand_beside_the_run_s_budget() -> None:
    shares = [{"share": 1.0}, {"share": 2.0}]
    for budget in ({}, {"tokens": 100}, {"epochs": 2.0}, {"mix": {"tokens": {"a": 5}}}):
        assert len(Config.model_validate({"phases": shares} | budget).phases) == 2
    Config.model_validate({"phases": TWO, "packing": "truncated", "sequence_length": 8})


def test_what_a_phase_says_is_what_is_replaced() -> None:
    assert Phase(tokens=5).replaced() == {}
    said = {"tokens_per_step": 64, "optimizer": "muon", "schedule": "wsd", "warmup_ratio": 0.0, "weight_decay": 0.0}
    assert Phase.model_validate({"tokens": 5, "optimizer_state": "fresh"} | said).replaced() == said


def test_the_mix_of_phases() -> None:
    phases = (Phase(tokens=100, weights={"a": 1.0}), Phase(tokens=300, temperature=2.0))
    found = mix_of(phases, [100.0, 300.0])
    assert found is not None and [phase.share for phase in found.phases] == [0.25, 0.75]
    assert found.phases[0].weights == {"a": 1.0} and found.phases[1].temperature == 2.0
    assert mix_of((Phase(tokens=100),), [100.0]) is None and mix_of((), []) is None
