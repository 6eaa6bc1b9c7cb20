"""What the stage needs of a method, and how figures of micro-batches become those of a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from jielong.model.transformer import CausalLM
from jielong.train.loop import Steps

Row = dict[str, Any]  # an example, as preparing.py stores it


class Write(Protocol):
    """Answers by the model as it is now, drawn at a temperature: what a stage to the right does for this one."""

    def __call__(
        self,
        model: CausalLM,
        prompts: list[list[int]],
        seeds: list[int],
        temperature: float,
        length: int,
        stops: frozenset[int],
    ) -> list[list[int]]:
        """New tokens behind each prompt, at most `length`; the one of `stops` that ended an answer is its last.

        temperature 0: the likeliest ones.
        """
        ...


class Method(Protocol):
    """A way to learn from examples."""

    def make(self, steps: Steps) -> None:
        """One step of the run: rows, forward and backward, decide, and what comes once in a while."""
        ...

    def measure(self, rows: Sequence[Row]) -> dict[str, float]:
        """Figures of held-out examples, by the weights as they are. Draws no random numbers of the run's."""
        ...


class Figures:
    """Means of figures over examples, from means over parts of them. What is not finite is left out."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, found: dict[str, float], weight: float) -> None:
        """Means over a part, and how many examples it has."""
        for name, value in found.items():
            if value is not None and math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value * weight
                self._weights[name] = self._weights.get(name, 0.0) + weight

    def take(self) -> dict[str, float]:
        """The means, rounded for a record; begins anew."""
        found = {
            name: round(total / self._weights[name], 6) for name, total in self._sums.items() if self._weights[name]
        }
        self._sums, self._weights = {}, {}
        return found


def parts(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Rows in micro-batches of at most `size`."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]
