"""Answers that a model writes to learn from, and what they are worth: the same for GRPO, RLOO and PPO, and for what is measured of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import xxhash

from jielong.align.config import Config
from jielong.align.methods.interface import Row, Write
from jielong.align.rewards import OpenedReward, combined
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder


@dataclass(frozen=True)
class Answers:
    """Answers to prompts, one each."""

    ids: list[list[int]]  # with the token that ended them, where one did
    texts: list[str]
    ended: list[bool]
    rewards: list[float]  # weighted and added up
    by_name: dict[str, list[float]]  # as each reward gave them

    def figures(self) -> dict[str, float]:
        """Means over the answers."""
        count = len(self.ids)
        found = {
            "reward": sum(self.rewards) / count,
            "answer_tokens": sum(map(len, self.ids)) / count,
            "unended": self.ended.count(False) / count,
        }
        if len(self.by_name) > 1:
            found |= {f"reward_{name}": sum(values) / count for name, values in self.by_name.items()}
        return found


class Answerer:
    """Lets a model answer prompts, and has the answers judged."""

    def __init__(
        self,
        config: Config,
        write: Write,
        rewards: list[OpenedReward],
        tokenizer: TokenizerFolder,
        stops: frozenset[int],
        seed: int,
    ) -> None:
        self.config, self._write, self._rewards = config, write, rewards
        self._tokenizer, self._stops, self._seed = tokenizer, stops, seed

    def ids(self, model: CausalLM, rows: Sequence[Row], step: int, temperature: float) -> list[list[int]]:
        """An answer to each row, drawn by the run's seed, the step, and the row's place: the same whenever it is asked."""
        seeds = [xxhash.xxh3_64_intdigest(f"{self._seed} {step} {place}".encode()) >> 1 for place in range(len(rows))]
        prompts = [row["prompt_ids"] for row in rows]
        return self._write(model, prompts, seeds, temperature, self.config.max_new_tokens, self._stops)

    def measure(self, model: CausalLM, rows: Sequence[Row]) -> dict[str, float]:
        """Figures of the likeliest answers to held-out prompts."""
        return self.judged(rows, self.ids(model, rows, 0, 0.0)).figures()

    def judged(self, rows: Sequence[Row], ids: list[list[int]]) -> Answers:
        """What answers are worth. Raises TrainingError where a reward cannot say it."""
        texts = [self._tokenizer.decode(answer) for answer in ids]
        ended = [bool(answer) and answer[-1] in self._stops for answer in ids]
        columns = [orjson.loads(row["columns"]) for row in rows]
        names = dict.fromkeys(name for found in columns for name in found)
        by_column: dict[str, list[Any]] = {name: [found.get(name) for found in columns] for name in names}
        conversations = [orjson.loads(row["messages"]) for row in rows]
        total, by_name = combined(self._rewards, conversations, texts, ended, by_column)
        if self.config.no_end_reward is not None:
            total = [value if done else self.config.no_end_reward for value, done in zip(total, ended, strict=True)]
        return Answers(ids, texts, ended, total, by_name)
