"""Prompts together give what each gives alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.errors import InputError
from jielong.infer.batch import continue_prompts, generate_batch
from jielong.infer.config import Config
from jielong.infer.generate import continue_prompt, stream_tokens
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import open_folder
from tests.infer.twins import POSITIONS, make

PROMPTS = [[5], [1, 2, 9, 4], [30, 8, 8, 17, 21, 2], [7, 7], [11, 3, 30, 2], [39], [0, 12, 5]]
SEEDS = [3, 1, 4, 1, 5, 9, 2]
GREEDY = Config(temperature=0.0, top_p=None, max_new_tokens=9)
SAMPLED = Config(temperature=1.2, top_k=20, top_p=0.95, max_new_tokens=9)
STOPS = frozenset(range(0, 40, 4))


def alone(model: CausalLM, config: Config, stop_ids: frozenset[int]) -> list[list[int]]:
    return [list(stream_tokens(model, ids, config, stop_ids, seed)) for ids, seed in zip(PROMPTS, SEEDS, strict=True)]


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    "fields",
    [
        *POSITIONS.values(),
        {"num_experts": 4, "moe_intermediate_size": 8},
        {"sliding_window": 3},
        {"qk_norm": True, "attention_bias": "qkv"},
        {"position": "alibi", "num_key_value_heads": 4},  # the hidden cache
        {"talking_heads": True},
    ],
    ids=str,
)
def test_tokens_equal_those_of_single_prompts(fields: dict[str, Any], config: Config) -> None:
    model = make(**fields)
    expected = alone(model, config, STOPS)
    assert len({len(row) for row in expected}) > 1  # rows end at different places
    for size in (1, 3, 16):
        found = generate_batch(model, PROMPTS, config.model_copy(update={"batch_size": size}), STOPS, SEEDS)
        assert found == expected


def test_rows_end_with_the_context() -> None:
    """A context of 10: each row has as much room as it has alone."""
    model = make(max_position_embeddings=10)
    found = generate_batch(model, [*PROMPTS, list(range(10))], GREEDY, frozenset(), [*SEEDS, 8])
    assert [len(row) for row in found] == [9, 6, 4, 8, 6, 9, 7, 0]
    assert found[:-1] == alone(model, GREEDY, frozenset())


def test_a_row_ends_when_it_is_told_to() -> None:
    model, told = make(), list[tuple[int, int]]()

    def watch(number: int, token: int) -> bool:
        told.append((number, token))
        return number == 2

    found = generate_batch(model, PROMPTS, GREEDY, frozenset(), SEEDS, watch)
    expected = alone(model, GREEDY, frozenset())
    expected[2] = expected[2][:1]
    assert found == expected
    for number, row in enumerate(found):
        assert [token for n, token in told if n == number][: len(row)] == row


@pytest.mark.parametrize("update", [{"cache": "rolling", "cache_tokens": 8}, {"num_beams": 3}])
def test_what_goes_one_after_the_other(update: dict[str, Any]) -> None:
    model, config = make(), GREEDY.model_copy(update=update | {"max_new_tokens": 20})
    assert generate_batch(model, PROMPTS, config, STOPS, SEEDS) == alone(model, config, STOPS)


def test_no_prompt() -> None:
    assert generate_batch(make(), [], GREEDY, STOPS, []) == []


@pytest.mark.parametrize("stop", [(), ("中", "很"), ("国人民",)])
def test_texts_equal_those_of_single_prompts(model_folder: Path, stop: tuple[str, ...]) -> None:
    model, tokenizer = load_folder(model_folder).train(), open_folder(model_folder)
    config = Config(temperature=1.0, max_new_tokens=20, seed=5, stop=stop)
    prompts = ["中国", "", "美国和英国的人工智能", "x", "今天天气"]
    state = torch.get_rng_state()
    found = continue_prompts(model, tokenizer, prompts, config)
    assert found == [continue_prompt(model, tokenizer, text, config, 5 + n) for n, text in enumerate(prompts)]
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert not any(string in row.text for string in stop for row in found)
    assert {row.stopped for row in found} <= {"stop", "length", "context", "end_of_text"}


def test_a_prompt_that_fills_the_context(model_folder: Path) -> None:
    with pytest.raises(InputError, match="prompt: too long"):
        continue_prompts(load_folder(model_folder), open_folder(model_folder), ["中国", "龘" * 40], GREEDY)
