"""Running stages of a recipe from the command line: what `jielong run`, the stages' commands and those that take a recipe or a model share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jielong.console import RUNS, tell


def run_recipe(
    recipe: str, stages: list[str] | None, data: list[str] | None, settings: list[str] | None, runs_dir: Path, name: str,
    fresh: bool, json: bool, to: str | None = None, devices: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Run some stages of a recipe (None: all it names) and print the summary."""
    from jielong import show, workflow
    from jielong.launch import check_devices, train
    from jielong.recipe import load
    from jielong.runs import open_run
    from jielong.world import this_world

    loaded = load(recipe, settings, data, name)
    run = open_run(runs_dir, loaded.name)
    wanted = stages if stages is not None else list(loaded.sections)
    chain = workflow.needed(loaded, wanted[-1]) if stages is not None else wanted
    elsewhere: Callable[[str, int | None], None] | None = None
    trained = [stage for stage in workflow.TOGETHER if stage in chain]
    if devices > 1 and trained:
        if "train" in trained:
            check_recipe_processes(loaded, devices)
        check_devices(devices, getattr(loaded.sections[trained[0]], "device", "auto"))
        again = [*options_of(recipe, data, settings, runs_dir, name), *(["--fresh"] if fresh else [])]

        def in_processes(stage: str, lock: int | None) -> None:
            train([stage, *again], devices, lock)

        elsewhere = in_processes
    outcomes = workflow.run_stages(loaded, run, chain, tuple(wanted) if fresh else (), to, elsewhere)
    if not this_world().first:
        return {}
    if not json:
        tell(show.summary(run, outcomes, workflow.places(run), workflow.continuations(run) if stages is None else []))
    return {
        "run": str(run.root),
        "up_to_date": all(outcome.state == "up to date" for outcome in outcomes),
        "stages": {o.stage: {"state": o.state, "seconds": o.seconds, "counts": o.counts} for o in outcomes},
        "continuations": workflow.continuations(run) if stages is None else [],
        "places": workflow.places(run),
    }


def options_of(recipe: str, data: list[str] | None, settings: list[str] | None, runs_dir: Path, name: str) -> list[str]:
    """The arguments of a stage's command, as one would write them again."""
    more = [f"--data={one}" for one in data or []] + [f"--set={one}" for one in settings or []]
    more += [f"--runs-dir={runs_dir}"] if runs_dir != RUNS else []
    return [recipe, *more, *([f"--name={name}"] if name else [])]


def commands_for(name: str, options: list[str], nodes: int, devices: int, json: bool) -> dict[str, Any]:
    """What to run on several machines."""
    from jielong.launch import texts

    found = texts(name, options, nodes, devices)
    if not json:
        tell("\n\n".join(f"# {title}: {nodes} machines with {devices} devices each\n{text}"
                         if title != "slurm" else f"# {title}: a file for sbatch\n{text}"
                         for title, text in found.items()))  # fmt: skip
    return {"commands": found}


def check_recipe_processes(loaded: Any, processes: int) -> None:
    """Refuse a number of processes that a step cannot be divided among, before any is started."""
    from jielong.model.config import Config as ModelConfig
    from jielong.train.config import Config as TrainConfig
    from jielong.train.config import check_processes

    longest = loaded.section("model", ModelConfig).max_position_embeddings
    check_processes(loaded.section("train", TrainConfig), longest, processes)
