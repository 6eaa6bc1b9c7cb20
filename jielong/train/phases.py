"""Phases of a run: parts with a budget, row length, step size, optimizer, schedule and mix of their own.

Long rows cost most and teach least at the beginning, so a run may begin with short ones (sequence length warm-up, arXiv:2108.06084),
grow its steps (arXiv:1711.00489), change the optimizer, or read its best text at the end, when the learning rate falls (MiniCPM,
arXiv:2404.06395). All of it is one run: one order of documents, one count of steps, one line of checkpoints.

What a phase does not say is as in [train]; a batch ramp that [train] says is that of the first phase. The schedule of [train] runs over
all steps and passes through the phases, scaled by their own peaks; a phase that names a schedule has one of its own, warm-up and end
included. What phases mean is settled elsewhere: `Config.in_phase` (config.py), the arithmetic of steps (stretches.py, job.py), what
happens at a border (transitions.py).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jielong.recipe import Section
from jielong.train.mixing import Mix, MixPhase, check_positive

OptimizerName = Literal["adamw", "muon", "lion", "adamw8bit"]
ScheduleName = Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"]
BUDGETS = ("tokens", "epochs", "share")
SCHEDULE_WORDS = ("warmup_ratio", "decay_ratio", "min_learning_rate_ratio")  # of a schedule: nothing without one
REPLACED = (
    "sequence_length",
    "tokens_per_step",
    "optimizer",
    "learning_rate",
    "schedule",
    *SCHEDULE_WORDS,
    "weight_decay",
)


class Phase(Section):
    """A part of the run. What it does not say is as in [train]; what it says about the schedule makes one of its own."""

    tokens: int | None = Field(None, description="budget; all phases have tokens, or epochs, or share", ge=1)
    epochs: float | None = Field(None, description="budget in passes over the training text", gt=0)
    share: float | None = Field(None, description="of the run's budget, beside the shares of the other phases", gt=0)
    sequence_length: int | None = Field(None, description="tokens in a row", ge=2)
    tokens_per_step: int | None = Field(None, description="tokens in one optimizer step", ge=1)
    tokens_per_step_start: int | None = Field(None, description="batch ramp inside the phase", ge=1)
    optimizer: OptimizerName | None = Field(None, description="another optimizer from here on")
    optimizer_state: Literal["carried", "fresh"] = Field(
        "carried", description="what the optimizer remembers at the beginning: as much as it can use, or nothing"
    )
    learning_rate: float | None = Field(None, description="peak learning rate", gt=0)
    schedule: ScheduleName | None = Field(None, description="a schedule over this phase alone; none: the run's goes on")
    warmup_ratio: float | None = Field(None, description="with schedule: share of the phase's steps", ge=0, lt=1)
    decay_ratio: float | None = Field(None, description="with schedule wsd: share of the phase's steps", gt=0, le=1)
    min_learning_rate_ratio: float | None = Field(None, description="with schedule: where it ends", ge=0, le=1)
    weight_decay: float | None = Field(None, description="decoupled weight decay", ge=0)
    weights: dict[str, float] = Field({}, description="share of the phase's tokens for each source that is read")
    temperature: float | None = Field(None, description="instead: shares in proportion to tokens ** (1 / it)", gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule is None:
            for name in SCHEDULE_WORDS:
                if (value := getattr(self, name)) is not None:
                    raise ValueError(
                        f"{name}: needs a schedule of the phase's own, got {value:g} without one; give schedule, or remove it"
                    )
        if self.weights and self.temperature:
            raise ValueError("weights: a phase has either weights or a temperature, got both; give one")
        check_positive("weights", self.weights)
        return self

    def replaced(self) -> dict[str, Any]:
        """The fields of [train] that this phase says otherwise."""
        return {name: value for name in REPLACED if (value := getattr(self, name)) is not None}


def check_phases(phases: tuple[Phase, ...], budget: str | None, mixed: bool) -> None:
    """Raises ValueError for phases that do not go together. budget: the field of [train] that says one, if any does; mixed: whether
    [train] has a mix.
    """
    if not phases:
        return
    said = [[name for name in BUDGETS if getattr(phase, name) is not None] for phase in phases]
    for number, names in enumerate(said):
        if len(names) != 1:
            raise ValueError(
                f"phases.{number}: has one budget, tokens, epochs or share, got {' and '.join(names) or 'none'}; give one"
            )
        if names != said[0]:
            raise ValueError(
                f"phases.{number}: its budget is in other words than that of the first phase, got {names[0]} and {said[0][0]}; "
                "give all phases tokens, or all epochs, or all a share"
            )
    if budget is not None and said[0] != ["share"]:
        raise ValueError(
            f"{budget}: given together with the {said[0][0]} of the phases; a run has one budget; remove it, or give the phases a share"
        )
    reading = [bool(phase.weights or phase.temperature) for phase in phases]
    if any(reading) and mixed:
        raise ValueError("mix: given together with the weights of a phase; remove one of them")
    if any(reading) and not all(reading):
        raise ValueError(
            f"phases.{reading.index(False)}: says nothing about what is read, got neither weights nor temperature; all phases do or "
            "none does"
        )


def mix_of(phases: tuple[Phase, ...], sizes: list[float]) -> Mix | None:
    """The mix that the phases say, their sizes given in any unit; None: they say none."""
    if not any(phase.weights or phase.temperature for phase in phases):
        return None
    whole = sum(sizes)
    parts = tuple(
        MixPhase(share=size / whole, weights=phase.weights, temperature=phase.temperature)
        for phase, size in zip(phases, sizes, strict=True)
    )
    return Mix(phases=parts)
