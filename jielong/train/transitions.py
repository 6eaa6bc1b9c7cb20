"""From one phase of a run to the next: what changes at a border, on all ranks at the same time.

A checkpoint of step s belongs to the phase of step s. The border itself lies before the first step of the next phase: the loop
asks `move_on` before every step, so a run that goes on from a checkpoint at the border crosses it as the unbroken run did. In order:

    optimizer   `Engine.optimize`, where the phases' optimizers differ or the state is wanted fresh; otherwise it is not touched
    rows        a loader of the new length reads on in the same order, at the same token (Loader.at_length)
    guard       its band begins anew: other rows, another mix, another optimizer have other losses

Validation, samples, checkpoints and random generators do not notice. Going back behind a border, and going on from a checkpoint, put the
engine into the phase of that checkpoint before its state is loaded (`put_into`).
"""

from __future__ import annotations

from jielong.train.config import Config
from jielong.train.engines.interface import Engine
from jielong.train.job import Job, Position
from jielong.train.logbook import Logbook

STEPPING = (
    "optimizer",
    "weight_decay",
)  # what an optimizer is made of and a phase can say; rates are given to each step


def steps_alike(one: Config, other: Config) -> bool:
    """Whether the same optimizer serves both."""
    return all(getattr(one, name) == getattr(other, name) for name in STEPPING)


def put_into(job: Job, engine: Engine, current: int, wanted: int) -> None:
    """Give the engine the optimizer of a phase, empty: state is loaded next. current: the phase whose optimizer it has now."""
    if not steps_alike(job.configs[current], job.configs[wanted]):
        engine.optimize(job.configs[wanted], carried=False)


def move_on(job: Job, engine: Engine, at: Position, log: Logbook) -> None:
    """Enter the phase of the next step, where that is another one."""
    here = job.plan.at(at.step + 1)
    if here.phase == at.phase:
        return
    before, now = job.configs[at.phase], job.configs[here.phase]
    carried = job.config.phases[here.phase].optimizer_state == "carried"
    if not (carried and steps_alike(before, now)):
        engine.optimize(now, carried)
    at.loader = at.loader.at_length(here.sequence_length)
    at.guard.begin_anew()
    at.phase = here.phase
    state = "its state carried on" if carried else "its state fresh"
    schedule = job.config.phases[here.phase].schedule or f"the run's {now.schedule}"
    log.event(
        at.step, "phase",
        f"phase {here.phase + 1} of {len(job.plan.stretches)} begins with step {at.step + 1:,}: {here.describe()}, {now.optimizer} with {state}, "
        f"learning rate {now.learning_rate:g} ({schedule})",
        phase=here.phase,
    )  # fmt: skip
