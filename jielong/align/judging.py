"""Two models' answers to the same prompts, compared: who wins how often, and how sure that is.

A judge is one of two kinds. One says of a single answer what it is worth (a reward, a reward model); the answer that is worth more
wins. The other compares two answers, and such judges are known to favour a place (arXiv:2306.05685), so it is asked twice, with the
answers in both orders: a model wins where both orders say so, and a verdict that changes with the order is a tie. The share of such
verdicts is the judge's position bias.

The win rate is wins and half of the ties, of all prompts. Its interval is Wilson's score interval (1927), with half a tie as half
a success. It stays between 0 and 1 and has a width where all verdicts are alike, which an interval of a mean plus or minus its error
and a bootstrap have not (ten wins of ten give 100 % to 100 % there); it needs no draws, so the same verdicts give the same numbers. A
score of 0, 1/2 or 1 varies at most as much as one of 0 or 1 with the same mean, so with ties the interval is a little too wide, never too
narrow. It speaks of the choice of prompts, and not of what another seed or another judge would say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jielong.align.rewards import (
    Columns,
    Messages,
    OpenedReward,
    Worth,
    asked,
    combined,
    open_function,
    worth_by,
)
from jielong.errors import InputError

Z = 1.959963984540054  # of the normal distribution, two-sided 95 %
Winner = Literal["a", "b", "tie"]
# conversations, first answers, second answers, fields of the records -> above 0 where the first is better, below 0 where the second is
Preference = Callable[[list[Messages], list[str], list[str], Columns], list[float]]


@dataclass(frozen=True)
class Judge:
    """What compares answers: `prefers` two, or `worth` says of each what it is worth. label: for people."""

    label: str
    prefers: Preference | None = None
    worth: Worth | None = None


@dataclass(frozen=True)
class Verdicts:
    """What a judge said, prompt by prompt. margins: above 0 where A is better; changed: by the order, None where there was none;
    worths: of A's answers and of B's, None where answers were only compared.
    """

    winners: tuple[Winner, ...]
    margins: tuple[float, ...]
    changed: tuple[bool, ...] | None = None
    worths: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    @property
    def wins(self) -> dict[Winner, int]:
        """How often A won, B won, and neither."""
        return {"a": self.winners.count("a"), "b": self.winners.count("b"), "tie": self.winners.count("tie")}

    @property
    def win_rate(self) -> float:
        """Of A: wins and half of the ties, as a share of all."""
        return (self.winners.count("a") + self.winners.count("tie") / 2) / len(self.winners)

    @property
    def interval(self) -> tuple[float, float]:
        """Of the win rate, 95 %."""
        return wilson(self.win_rate * len(self.winners), len(self.winners))

    @property
    def position_bias(self) -> float | None:
        """The share of the verdicts that changed with the order; None: nothing was asked in two orders."""
        return None if self.changed is None else sum(self.changed) / len(self.winners)

    @property
    def mean_worth(self) -> dict[str, float] | None:
        """What A's answers are worth on average, and B's; None: they were only compared."""
        if self.worths is None:
            return None
        return {name: math.fsum(found) / len(found) for name, found in zip("ab", self.worths, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Counts and shares, and `verdicts`, a row a prompt."""
        low, high = self.interval
        flags: Sequence[bool | None] = self.changed or [None] * len(self.winners)
        return {
            "prompts": len(self.winners),
            "wins": self.wins,
            "win_rate": self.win_rate,
            "interval": {"low": low, "high": high},
            "mean_worth": self.mean_worth,
            "changed": None if self.changed is None else sum(self.changed),
            "position_bias": self.position_bias,
            "verdicts": [
                {"winner": winner, "margin": margin, "changed": flag}
                for winner, margin, flag in zip(self.winners, self.margins, flags, strict=True)
            ],
        }


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 %: the shares p with |successes / count - p| <= Z sqrt(p (1 - p) / count)."""
    assert 0 <= successes <= count and count > 0
    share, extra = successes / count, Z * Z / count
    middle = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / count + extra / (4 * count)) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


def compare(
    judge: Judge,
    prompts: list[Messages],
    answers_a: list[str],
    answers_b: list[str],
    columns: Columns,
    ended_a: list[bool] | None = None,
    ended_b: list[bool] | None = None,
) -> Verdicts:
    """The verdicts of a judge on two models' answers to the same prompts, at least one.

    columns: other fields of the prompts' records; ended_a, ended_b: whether the models ended their answers, None: all of them. Two
    equal answers are worth the same, whatever rounding says. Raises TrainingError for a judge that fails.
    """
    assert prompts and len(prompts) == len(answers_a) == len(answers_b)
    if judge.prefers is not None:
        there = judge.prefers(prompts, answers_a, answers_b, columns)
        back = judge.prefers(prompts, answers_b, answers_a, columns)
        changed = tuple(_sign(one) != -_sign(other) for one, other in zip(there, back, strict=True))
        margins = tuple(
            0.0 if differs else (one - other) / 2 for one, other, differs in zip(there, back, changed, strict=True)
        )
        return Verdicts(tuple(map(_winner, margins)), margins, changed)
    assert judge.worth is not None
    ends_a, ends_b = (ends or [True] * len(prompts) for ends in (ended_a, ended_b))
    worth_a = judge.worth(prompts, answers_a, ends_a, columns)
    worth_b = judge.worth(prompts, answers_b, ends_b, columns)
    margins = tuple(
        0.0 if answers_a[n] == answers_b[n] and ends_a[n] == ends_b[n] else worth_a[n] - worth_b[n]
        for n in range(len(prompts))
    )
    return Verdicts(tuple(map(_winner, margins)), margins, worths=(tuple(worth_a), tuple(worth_b)))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _winner(margin: float) -> Winner:
    return "a" if margin > 0 else "b" if margin < 0 else "tie"


def judge_by(
    by: str | None, rewards: Sequence[OpenedReward], device: str = "auto", field: str = "align.judge"
) -> Judge | None:
    """The judge that the user names, else the sum of the rewards; None: there is neither.

    by: FILE.py:NAME or module:NAME, or the folder of a reward model. field: how messages name it. Raises InputError for one that
    is not there or cannot be loaded, ModelError for a folder that holds no reward model.
    """
    if by is not None:
        return _model(by, device, field) if Path(by).is_dir() else _function(by, field)
    if not rewards:
        return None

    def worth(prompts: list[Messages], completions: list[str], ended: list[bool], columns: Columns) -> list[float]:
        return combined(rewards, prompts, completions, ended, columns)[0]

    return Judge(" + ".join(one.label for one in rewards), worth=worth)


def _model(folder: str, device: str, field: str) -> Judge:
    from jielong.align.scoring import open_scorer

    return Judge(
        f"reward model {Path(folder).name}", worth=worth_by(open_scorer(Path(folder), device), f"{field} ({folder})")
    )


def _function(by: str, field: str) -> Judge:
    """A function that takes arguments named `first` and `second` compares two answers, any other is a reward (see rewards.py).

    NAME(prompts, first, second, **columns) is called by keywords, of which it is given those that it names (`messages`, too). It
    returns numbers, above 0 where the first is better, below 0 where the second is, 0 where neither is.
    """
    if ":" not in by:
        raise InputError(
            f"{field}: neither a function nor a folder, got {by!r}; give FILE.py:NAME, for example judge.py:better, or the "
            "folder of a reward model"
        )
    function, label = open_function(by, field, (("first", "second"), ("completions",))), by.rpartition(":")[2]
    if not {"first", "second"} <= function.names:
        return Judge(label, worth=function.worth)

    def prefers(prompts: list[Messages], first: list[str], second: list[str], columns: Columns) -> list[float]:
        offered = {"prompts": [asked(prompt) for prompt in prompts], "messages": prompts}
        return function({**columns, **offered, "first": first, "second": second}, first)

    return Judge(label, prefers=prefers)
