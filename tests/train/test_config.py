from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import RecipeError
from jielong.recipe import load, parse, parse_section, to_toml
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
        ({"epochs": 1, "tokens": 1}, r"^train\.epochs: given together with tokens"),
        ({"optimizer": "muon", "engine": "deepspeed"}, r"train\.optimizer: Muon needs whole matrices"),
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


def test_a_config_in_a_phase() -> None:
    """The phase's values in place, whatever it does not say as in the table; the run's ramp is that of the first phase."""
    phases = [{"tokens": 10, "sequence_length": 8, "weights": {"a": 1}},
              {"tokens": 20, "optimizer": "muon", "schedule": "wsd", "weights": {"a": 1}}]  # fmt: skip
    config = Config.model_validate({"phases": phases, "tokens_per_step_start": 64, "beta1": 0.5, "z_loss": 0.1})
    first, second = config.in_phase(0), config.in_phase(1)
    assert (first.sequence_length, first.optimizer, first.tokens, first.tokens_per_step_start) == (8, "adamw", 10, 64)
    assert (second.sequence_length, second.optimizer, second.tokens, second.tokens_per_step_start) == (
        None,
        "muon",
        20,
        None,
    )
    assert first.schedule == "cosine" and second.schedule == "wsd" and second.beta1 == 0.5 and second.z_loss == 0.1
    assert first.phases == () and second.mix is not None and second.mix.weights == {"a": 1}
    assert [place for place, _ in config.parts()] == ["train.phases.0", "train.phases.1"]
    plain = Config()
    assert plain.in_phase(0) is plain and plain.parts() == [("train", plain)]
    with pytest.raises(AssertionError):
        plain.in_phase(1)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"sequence_length": 1024}, r"train\.phases\.1\.sequence_length: too long, got 1024; must be at most"),
        (
            {"tokens_per_step": 1000},
            r"train\.phases\.1\.tokens_per_step: must be a multiple .* 512, got 1000; for example 1024",
        ),
        ({"sequence_length": 300}, r"train\.phases\.1\.tokens_per_step: must be a multiple of the sequence length 300"),
        (
            {"tokens_per_step_start": 100},
            r"train\.phases\.1\.tokens_per_step_start: must be a multiple .* 512, got 100",
        ),
        (
            {"tokens_per_step_start": 32_768},
            r"tokens_per_step_start: above tokens_per_step, got 32768; must be at most 16384",
        ),
        ({"weights": {"b": 1}}, r"train\.phases\.1\.weights: unknown source, got b; the sources are a; correct it"),
    ],
)
def test_phases_that_do_not_fit(phase: dict[str, object], message: str) -> None:
    first = {"weights": {"a": 1}} if "weights" in phase else {}
    with pytest.raises(RecipeError, match=message) as raised:
        parse(WHOLE | {"train": {"phases": [{"share": 1.0} | first, {"share": 1.0} | phase]}}, Path())
    assert len(str(raised.value).splitlines()) == 1


def test_a_recipe_with_phases_is_written_and_read_again(tmp_path: Path) -> None:
    phases = [{"share": 1.0, "weights": {"a": 2.0}}, {"share": 0.5, "temperature": 2.0, "optimizer_state": "fresh"}]
    recipe = parse(WHOLE | {"train": {"phases": phases}}, tmp_path)
    (tmp_path / "recipe.toml").write_text(to_toml(recipe), encoding="utf-8")
    assert load(str(tmp_path / "recipe.toml")).sections["train"] == recipe.sections["train"]
