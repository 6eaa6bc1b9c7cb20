"""Phases of a run: parts with a budget, row length, step size, optimizer, schedule and mix of their own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from jielong.recipe import Section

OptimizerName = Literal["adamw", "muon", "lion", "adamw8bit"]
ScheduleName = Literal["cosine", "linear", "wsd", "inverse_sqrt", "constant"]


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
    schedule: ScheduleName | None = Field(
        None, description="a schedule over this phase alone; none: the run's goes on"
    )
    warmup_ratio: float | None = Field(None, description="with schedule: share of the phase's steps", ge=0, lt=1)
    decay_ratio: float | None = Field(None, description="with schedule wsd: share of the phase's steps", gt=0, le=1)
    min_learning_rate_ratio: float | None = Field(None, description="with schedule: where it ends", ge=0, le=1)
    weight_decay: float | None = Field(None, description="decoupled weight decay", ge=0)
    weights: dict[str, float] = Field({}, description="share of the phase's tokens for each source that is read")
    temperature: float | None = Field(None, description="instead: shares in proportion to tokens ** (1 / it)", gt=0)
