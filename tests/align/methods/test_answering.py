"""Answers of a model and what they are worth: seeds, ends, columns, several rewards."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from jielong.align.methods.answering import Answerer
from jielong.align.rewards import OpenedReward
from jielong.tokenizer.folder import TokenizerFolder
from tests.align.methods.conftest import config_of

END = 0  # the tokenizer's end of text


def row(question: str, **columns: Any) -> dict[str, Any]:
    messages = orjson.dumps([{"role": "user", "content": question}]).decode()
    return {"prompt_ids": [1, 2], "messages": messages, "columns": orjson.dumps(columns).decode()}


def test_rewards_are_weighted_and_told_apart(tokenizer: TokenizerFolder) -> None:
    seen = list[Any]()

    def first(prompts: Any, texts: Any, ended: Any, columns: Any) -> list[float]:
        seen.append((prompts, texts, ended, columns))
        return [1.0, 2.0]

    rewards = [OpenedReward("one", 2.0, (), first), OpenedReward("two", 0.5, (), lambda *given: [4.0, 0.0])]
    config = config_of("grpo", rewards=[{"built_in": "length"}])
    answerer = Answerer(config, lambda *given: [], rewards, tokenizer, frozenset({END}), 1)
    words = tokenizer.encode(["天气"])[0]
    found = answerer.judged([row("一", answer="3"), row("二", kind="x")], [[*words, END], words])
    assert found.rewards == [4.0, 4.0] and found.by_name == {"one": [1.0, 2.0], "two": [4.0, 0.0]}
    assert found.texts == ["天气", "天气"] and found.ended == [True, False]
    assert found.figures() == {
        "reward": 4.0,
        "answer_tokens": len(words) + 0.5,
        "unended": 0.5,
        "reward_one": 1.5,
        "reward_two": 2.0,
    }
    [(prompts, _, ended, columns)] = seen
    assert prompts[0] == [{"role": "user", "content": "一"}] and ended == [True, False]
    assert columns == {"answer": ["3", None], "kind": [None, "x"]}


def test_seeds_are_those_of_run_step_and_place(tokenizer: TokenizerFolder) -> None:
    seen = list[list[int]]()

    def write(model: Any, prompts: Any, seeds: list[int], *more: Any) -> list[list[int]]:
        seen.append(seeds)
        return [[END] for _ in prompts]

    config, model = config_of("grpo", rewards=[{"built_in": "length"}]), None
    for seed, step in ((1, 1), (1, 1), (1, 2), (2, 1)):
        answerer = Answerer(config, write, [], tokenizer, frozenset({END}), seed)
        answerer.ids(model, [row("一"), row("一")], step, 1.0)  # type: ignore[arg-type]
    assert seen[0] == seen[1] and len({tuple(seeds) for seeds in seen}) == 3 and seen[0][0] != seen[0][1]
    assert all(0 <= seed < 2**63 for seeds in seen for seed in seeds)


def test_an_answer_that_is_nothing_but_its_end(tokenizer: TokenizerFolder) -> None:
    config = config_of("grpo", rewards=[{"built_in": "length"}])
    answerer = Answerer(
        config, lambda *given: [], [OpenedReward("one", 1.0, (), lambda *given: [1.0])], tokenizer, frozenset({END}), 1
    )
    found = answerer.judged([row("一")], [[END]])
    assert found.texts == [""] and found.rewards == pytest.approx([1.0])
