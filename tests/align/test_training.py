"""The arithmetic of a training on examples, and which models can be trained."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.align.config import Config
from jielong.align.training import as_training, check_table, one_process, plan_of
from jielong.errors import RecipeError
from jielong.model.config import Config as ModelConfig
from jielong.world import World
from tests.align.test_config import ENDS, made

SHAPE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize(("settings", "steps"), [({"steps": 7}, 7), ({"epochs": 2}, 13), ({}, 7)])
def test_a_plan_counts_examples(settings: dict[str, Any], steps: int) -> None:
    config: Config = made(batch_size=16, micro_batch_size=4, warmup_ratio=0.25, **settings).settled()
    plan = plan_of(config, "dpo", 100)
    assert plan.total_steps == steps and plan.tokens_after(2) == 32 and plan.at(1).rows(1) == 16
    assert plan.at(1).rows_per_micro_batch == 4 and plan.warmup_steps == -(-steps // 4)


def test_prompts_of_a_rollout_come_together() -> None:
    config = made(method="ppo", rewards=[ENDS], batch_size=16, micro_batch_size=4, steps=1)
    assert plan_of(config, "ppo", 100).at(1).rows_per_micro_batch == 16


def test_the_loop_is_told_what_the_table_says() -> None:
    config = made(learning_rate=3e-4, optimizer="lion", keep_checkpoints=5, sample_every_steps=7)
    found = as_training(config, "dpo")
    assert (found.learning_rate, found.optimizer, found.keep_checkpoints, found.sample_every_steps) == (
        3e-4,
        "lion",
        5,
        7,
    )
    assert as_training(config, "reward").sample_every_steps is None


def test_a_model_that_no_class_of_transformers_has(tmp_path: Any) -> None:
    shape = ModelConfig.model_validate(SHAPE | {"position": "alibi"})
    with pytest.raises(RecipeError, match="align: dpo is computed by TRL"):
        checked(made(), tmp_path, shape)
    checked(made(method="ppo", rewards=[ENDS]), tmp_path, shape)


@pytest.mark.parametrize("adapter", [{"kind": "pissa"}, {"whole": ["norms"]}])
def test_an_adapter_that_cannot_be_switched_off(tmp_path: Any, adapter: dict[str, Any]) -> None:
    shape = ModelConfig.model_validate(SHAPE)
    with pytest.raises(RecipeError, match=r"align\.adapter: switched off it is to be the base"):
        checked(made(adapter=adapter), tmp_path, shape)
    checked(made(adapter=adapter, method="simpo"), tmp_path, shape)


@pytest.mark.parametrize(("settings", "words"), [
    ({"max_length": 4096}, "align.max_length: longer than the model's context, got 4096"),
    ({"method": "ppo", "rewards": [ENDS], "max_new_tokens": 2048}, "align.max_new_tokens: no room for a prompt, got 2048"),
    ({"adapter": {"base_weights": "nf4", "targets": ["q_proj"]}}, "align.adapter.targets: with nf4 every linear layer"),
    ({"precision": "fp8"}, "fp8"),
])  # fmt: skip
def test_what_is_refused_before_anything_is_written(tmp_path: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        checked(made(**settings), tmp_path, ModelConfig.model_validate(SHAPE | {"max_position_embeddings": 512}))
    assert words in str(caught.value)


@pytest.mark.parametrize(("size", "micro", "found"), [(8, 1, 2), (9, 2, 3), (8, 4, 4), (2, 1, 2)])
def test_kto_compares_within_a_micro_batch(size: int, micro: int, found: int) -> None:
    """None of one answer, the last one neither."""
    plan = plan_of(made(method="kto", batch_size=size, micro_batch_size=micro, steps=1), "kto", 100)
    assert plan.at(1).rows_per_micro_batch == found and size % found != 1


def checked(config: Config, base: Any, shape: ModelConfig) -> None:
    check_table(config, config, config.method, base, shape)


def test_one_process() -> None:
    one_process(World())
    with pytest.raises(RecipeError, match="align: trains in one process, got 2"):
        one_process(World(rank=0, size=2))
