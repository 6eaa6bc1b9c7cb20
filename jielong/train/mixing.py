"""How much of each source a run reads: shares of the tokens, and the arithmetic behind them.

A corpus is seldom wanted as it lies there: the good small sources are read more than once, the large ones in part. A mix
says so in one of five ways (`train.mix`):

- `weights`: shares of the tokens, for example web = 5, books = 3, law = 2; they need not add up to 1;
- `tokens`: a budget for each source, and with them the budget of the run;
- `epochs`: how often each source is read, and with that the budget of the run;
- `temperature`: shares in proportion to tokens ** (1 / temperature), 1: as they lie there, larger: more even (the
  multilingual models' way, for example XLM-R, arXiv:1911.02116, whose alpha is 1 / temperature);
- `phases`: one after the other, each a share of the run with weights or a temperature of its own, for example the web first and
  the best text at the end, when the learning rate falls (MiniCPM, arXiv:2404.06395).

A source that is not named is not read; with a temperature, all are. `max_epochs` bounds how often a source is read: more
than about 4 passes teach little (Muennighoff et al., arXiv:2305.16264). What a source cannot give, the others give, by
their shares.

Nothing is copied for a mix: the loader draws the next document from the source that is furthest behind its share, counted
in tokens, so that the shares are right to within a document at every moment, not on average only. Up-sampling is reading a
source again in another order; down-sampling is not coming to its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from jielong.errors import RecipeError
from jielong.recipe import Section

KINDS = ("weights", "tokens", "epochs", "temperature", "phases")


class MixPhase(Section):
    """What is read of each source in a part of the run."""

    share: float = Field(description="of the run's tokens, beside the shares of the other phases", gt=0, le=1e9)
    weights: dict[str, float] = Field({}, description="share of the phase's tokens for each source that is read")
    temperature: float | None = Field(
        None, description="shares in proportion to tokens ** (1 / temperature) of all sources", gt=0
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.weights) == bool(self.temperature):
            raise ValueError(
                f"weights: a phase has either weights or a temperature, got {'both' if self.weights else 'none'}; give one"
            )
        check_positive("weights", self.weights)
        return self


class Mix(Section):
    """What is read of each source."""

    weights: dict[str, float] = Field({}, description="share of the tokens for each source that is read")
    tokens: dict[str, int] = Field({}, description="tokens for each source that is read")
    epochs: dict[str, float] = Field({}, description="passes over each source that is read")
    temperature: float | None = Field(
        None, description="shares in proportion to tokens ** (1 / temperature); 1: as they are, larger: more even", gt=0
    )
    max_epochs: float | None = Field(
        None, description="passes over a source at most; what it cannot give the others give; none: no bound", gt=0
    )
    phases: tuple[MixPhase, ...] = Field(
        (), description="parts of the run one after the other, each with weights of its own", strict=False
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(
                f"mix: one of {', '.join(KINDS)} says what is read, got {', '.join(given) or 'none'}; give exactly one"
            )
        check_positive(f"mix.{given[0]}", self.named())
        if self.max_epochs is not None and given[0] in ("tokens", "epochs"):
            raise ValueError(
                f"mix.max_epochs: given together with {given[0]}, which say it already; remove one of them"
            )
        if self.max_epochs is not None and self.phases:
            raise ValueError(
                "mix.max_epochs: given together with phases, where a source could not make room for another; remove it, and "
                "lower the weights of what is read too often"
            )
        return self

    def named(self) -> dict[str, float]:
        """What is said about each source by name; with a temperature no source is named."""
        of_phases = {name: weight for phase in self.phases for name, weight in phase.weights.items()}
        return {**self.weights, **self.tokens, **self.epochs, **of_phases}


def check_positive(field: str, named: dict[str, float]) -> None:
    """Raises ValueError for a weight, budget or number of passes that is not above 0."""
    for name, value in named.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{field}.{name}: must be above 0, got {value}; leave the source out instead")


def phase_shares(mix: Mix, available: dict[str, int]) -> list[tuple[float, dict[str, float]]]:
    """Of each phase, its share of the run and the share of its tokens that each source gives; one phase for the other kinds."""
    if not mix.phases:
        return [(1.0, shares(mix, available))]
    whole = math.fsum(phase.share for phase in mix.phases)
    return [
        (phase.share / whole, shares(Mix(weights=phase.weights, temperature=phase.temperature), available))
        for phase in mix.phases
    ]


def shares(mix: Mix, available: dict[str, int]) -> dict[str, float]:
    """The share of the run's tokens that each source gives; they add up to 1. Only sources that are read.

    available: tokens of each source that there are. Raises RecipeError for a source that has none.
    """
    empty = [name for name in mix.named() if not available.get(name)]
    if empty:
        there = ", ".join(name for name, tokens in available.items() if tokens) or "none"
        raise RecipeError(
            f"train.mix: a source without training text, got {', '.join(empty)}; there are {there}; correct it, or look at "
            "what the data stage kept of it"
        )
    wanted: dict[str, float] = {}
    if mix.phases:
        for part, given in phase_shares(mix, available):
            for name, share in given.items():
                wanted[name] = wanted.get(name, 0.0) + part * share
    elif mix.temperature is not None:
        wanted = {name: tokens ** (1 / mix.temperature) for name, tokens in available.items() if tokens}
    elif mix.epochs:
        wanted = {name: epochs * available[name] for name, epochs in mix.epochs.items()}
    else:
        wanted = {name: float(value) for name, value in mix.named().items()}
    whole = math.fsum(wanted.values())
    return {name: value / whole for name, value in wanted.items()}


def budget(mix: Mix, available: dict[str, int]) -> int | None:
    """The tokens of the whole run, when the mix says them; None: the run says them itself."""
    if mix.tokens:
        return sum(mix.tokens.values())
    if mix.epochs:
        return math.ceil(math.fsum(epochs * available[name] for name, epochs in mix.epochs.items()))
    return None


def most(mix: Mix, available: dict[str, int]) -> float:
    """The tokens that a mix can give within max_epochs; infinite without a bound."""
    if mix.max_epochs is None:
        return math.inf
    return mix.max_epochs * sum(available[name] for name in shares(mix, available))


def furthest_behind(taken: Sequence[float], wanted: list[float], open_: list[bool]) -> int:
    """The number of the source that is furthest behind its share: the least tokens for its share; the first of equals."""
    assert any(open_), "no source has anything left"
    return min(
        (number for number in range(len(taken)) if open_[number]), key=lambda number: taken[number] / wanted[number]
    )
