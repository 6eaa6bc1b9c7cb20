"""Run the stages that a recipe names, in order, skipping what is up to date. The top floor: it knows every stage.

`UPSTREAM` says which stages each one reads. A stage's fingerprint covers its own recipe table, the seed, its input files
and the fingerprints of those stages, so a change anywhere to the left makes everything that depends on it stale, and
nothing else. What a stage can not import (training needs validation and samples, which lie to its right) is passed in
from here.

Training may take several processes. With `--devices` this process makes what comes before, starts them (launch.py), waits,
and makes what comes behind. Each of them, and each that torchrun, deepspeed or Slurm starts, runs this module too. Rank 0 does as a
single process does, but makes nothing before training: all of it must be up to date, as one sentence says. So nobody waits for
hours in a group that has a timeout, and no two processes make the same folder. The other ranks find their fingerprint in the
manifests, call the stage's `run`, and write nothing.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import orjson

from jielong import STAGES, launch, storage, uploads
from jielong.errors import InputError, ModelError, RunError
from jielong.hooks import aligning_hooks, quantizing_hooks, training_hooks, tuning_hooks
from jielong.metrics import read_jsonl
from jielong.progress import human_seconds, say
from jielong.recipe import Recipe, to_toml
from jielong.runs import (
    MANIFEST,
    PARTIAL,
    Run,
    StageContext,
    describe_files,
    environment,
    hash_json,
    list_outputs,
    now,
    publish,
    recover,
    write_json,
    write_text,
)
from jielong.world import this_world

UPSTREAM: dict[str, tuple[str, ...]] = {
    "data": (),
    "tokenizer": ("data",),
    "model": ("tokenizer",),
    "train": ("tokenizer", "model"),
    "tune": ("train",),
    "align": ("train",),
    "quantize": ("train",),
    "infer": ("train",),
    "evaluate": ("tokenizer", "train"),
}
TOGETHER = ("train", "tune")  # stages that several processes make
LIVE = (*TOGETHER, "align")  # stages that write into their own folder over hours and resume there
GOING_ON = ("tune", "align")  # stages that make another model of one that is there
STAGE_ORDER = tuple(STAGES)
BEFORE = (
    "not up to date, and several processes cannot make it; run this first, once, on one machine: jielong model RECIPE, "
    "with the same options"
)
WRITTEN_SECONDS = 60.0  # from the end of a training to its manifest, at most
STARTED = "started.json"  # in a live folder: the fingerprint it was begun with


def upstream(recipe: Recipe, stage: str) -> tuple[str, ...]:
    """The stages that a stage of this recipe reads: `UPSTREAM`, but for what [tune] and [align] change. They may go on from a base of their
    own, and what comes behind them reads what they made.
    """
    if stage in GOING_ON and getattr(recipe.sections.get(stage), "base", None) is not None:
        return ()
    before = [
        name for name in GOING_ON if name in recipe.sections and STAGE_ORDER.index(name) < STAGE_ORDER.index(stage)
    ]
    if getattr(recipe.sections.get("align"), "method", None) == "reward":  # it says what text is worth, and writes none
        before = [name for name in before if name != "align"]
    if not before or stage not in ("align", "quantize", "infer", "evaluate"):
        return UPSTREAM[stage]
    own = tuple(name for name in UPSTREAM[stage] if name in recipe.sections) if stage == "evaluate" else ()
    answers = ("tune",) if stage == "evaluate" and before[-1] == "align" and "tune" in before else ()
    return (*own, *answers, before[-1])


@dataclass(frozen=True)
class Outcome:
    """What happened to one stage."""

    stage: str
    state: str  # "done" or "up to date"
    seconds: float
    counts: dict[str, Any]
    folder: Path


def _keep_recipe(recipe: Recipe, run: Run) -> None:
    """Write the resolved recipe into the run folder: once its stages have begun to be made, not when it is refused."""
    write_text(run.root / "recipe.toml", to_toml(recipe))


def stage_module(stage: str) -> ModuleType:
    """A stage's front door: `jielong/<stage>/stage.py` with `FORMAT`, `inputs` and `run`."""
    return importlib.import_module(f"jielong.{stage}.stage")


def needed(recipe: Recipe, last: str) -> list[str]:
    """The stages that must be up to date for `last`, itself included, in order. Raises RunError for a missing table."""
    wanted = {last}
    for stage in reversed(list(STAGES)):
        if stage in wanted:
            wanted |= set(upstream(recipe, stage) if stage in recipe.sections else UPSTREAM[stage])
    missing = [stage for stage in STAGES if stage in wanted and stage not in recipe.sections]
    if missing:
        raise RunError(f"{last}: the recipe has no [{missing[0]}] table; add it, with its defaults if you like")
    return [stage for stage in STAGES if stage in wanted]


def run_stages(
    recipe: Recipe, run: Run, stages: list[str], fresh: tuple[str, ...] = (), publish: str | None = None,
    elsewhere: Callable[[str, int | None], None] | None = None,
) -> list[Outcome]:  # fmt: skip
    """Bring the given stages up to date, in order; those in `fresh` are made again whatever their manifest says.

    publish: a URL to which the folder of the last stage is brought in the end. What is there already is not sent again, so
    the same call finishes an upload that was broken off.
    elsewhere: has a stage that trains made in processes of its own, which inherit the file descriptor of the lock.

    In a process that is not the first of several there are no outcomes.
    """
    if not this_world().first:
        for stage in TOGETHER:
            if stage in stages:
                _take_part(recipe, run, stage, stage in fresh)
        return []
    if publish is not None:
        if not storage.is_url(publish):
            raise InputError(
                f"--to: not a URL, got {publish!r}; give s3://bucket/folder, or file:///folder for this machine"
            )
        storage.reach(publish)  # a driver that is missing is said before anything is made
    with run.lock() as lock:
        fingerprints: dict[str, str] = {}
        outcomes = []
        train = (lambda stage: elsewhere(stage, lock)) if elsewhere is not None else None
        for stage in stages:
            outcomes.append(_bring_up_to_date(recipe, run, stage, fingerprints, stage in fresh, train))
        _keep_recipe(recipe, run)
        if any(outcome.state == "done" for outcome in outcomes) or not (run.root / "report.html").is_file():
            from jielong.report import write_report

            write_report(run)
        if publish is not None:
            sent = uploads.upload_folder(run.stage(stages[-1]), publish)
            say(f"{stages[-1]}: {len(sent)} files sent to {storage.shown(publish)}")
    return outcomes


def fingerprint_of(
    recipe: Recipe, run: Run, stage: str, fingerprints: dict[str, str]
) -> tuple[str, list[dict[str, Any]]]:
    """The fingerprint that the recipe asks of a stage, and the description of its input files."""
    module, section = stage_module(stage), recipe.sections[stage]
    manifest = run.manifest(stage)
    try:
        files = describe_files(
            module.inputs(section, recipe.folder), manifest.get("inputs") if manifest else None, stage
        )
    except (InputError, ModelError) as error:
        if manifest is None or manifest.get("section") != section.result_fields():
            raise
        say(f"{stage}: {error}; what was made from it is used")
        files = manifest["inputs"]
    value = {
        "stage": stage,
        "format": module.FORMAT,
        "section": section.result_fields(),
        "seed": recipe.seed,
        "inputs": [[row["label"], row["xxh3_128"]] for row in files],
        "upstream": {name: fingerprints[name] for name in upstream(recipe, stage)},
    }
    return hash_json(value), files


def stage_state(recipe: Recipe, run: Run, stage: str, fingerprints: dict[str, str]) -> str:
    """'up to date', 'stale', 'not finished' or 'not started'; adds the stage's fingerprint to `fingerprints`."""
    fingerprints[stage], _ = fingerprint_of(recipe, run, stage, fingerprints)
    return _state(run, stage, fingerprints[stage])


def _state(run: Run, stage: str, fingerprint: str) -> str:
    manifest = run.manifest(stage)
    if manifest is None:
        begun = any(
            place.exists() for place in (run.stage(stage), run.stage(stage).with_suffix(PARTIAL), run.work(stage))
        )
        return "not finished" if begun else "not started"
    current = manifest.get("fingerprint") == fingerprint and not run.missing_outputs(stage)
    return "up to date" if current else "stale"


def _bring_up_to_date(
    recipe: Recipe, run: Run, stage: str, fingerprints: dict[str, str], fresh: bool, train: Callable[[str], None] | None
) -> Outcome:
    recover(run.stage(stage))
    fingerprint, files = fingerprint_of(recipe, run, stage, fingerprints)
    fingerprints[stage] = fingerprint
    state = _state(run, stage, fingerprint)
    manifest = run.manifest(stage)
    if state == "up to date" and not fresh:
        assert manifest is not None
        if files != manifest.get(
            "inputs"
        ):  # touched, with the same content: note the new times, not to read them again
            write_json(run.stage(stage) / MANIFEST, manifest | {"inputs": files})
        if not launch.launched():  # who started us has said so
            say(f"{stage}: up to date")
        return Outcome(stage, state, 0.0, manifest["counts"], run.stage(stage))
    if this_world().size > 1 and STAGE_ORDER.index(stage) < STAGE_ORDER.index("train"):
        raise RunError(f"{stage}: {BEFORE}")
    if stage in TOGETHER and train is not None:
        return _train_elsewhere(run, stage, train)
    if manifest is not None and state == "stale":
        say(f"{stage}: making it again ({_difference(recipe, run, stage, manifest)})")
    else:
        say(f"{stage}: {STAGES[stage]}")
    for name in upstream(recipe, stage):
        run.verify_outputs(name)
    started, clock = now(), time.monotonic()
    live = stage in LIVE
    out = run.stage(stage) if live else run.stage(stage).with_suffix(PARTIAL)
    if fresh:
        shutil.rmtree(run.work(stage), ignore_errors=True)
    if not live:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
    before = {name: fingerprints[name] for name in upstream(recipe, stage)}
    begin = functools.partial(_begin_live, recipe, run, stage, fingerprint, fresh) if live else lambda: None
    context = StageContext(run, out, recipe.seed, fingerprint, before, begin, files)
    try:
        counts = _call(recipe, context, stage)
        seconds = time.monotonic() - clock
        write_json(
            out / MANIFEST,
            {
                "stage": stage,
                "fingerprint": fingerprint,
                "section": recipe.sections[stage].result_fields(),
                "seed": recipe.seed,
                "inputs": files,
                "upstream": before,
                "counts": counts,
                "outputs": _final_outputs(out, counts) if live else list_outputs(out),
                "environment": environment(),
                "started": started,
                "wall_seconds": round(seconds, 3),
            },
        )
        if not live:
            _keep_recipe(recipe, run)
            publish(out, run.stage(stage))
            if (clean_up := getattr(stage_module(stage), "clean_up", None)) is not None:
                clean_up(context)
    except BaseException:
        if not live:
            shutil.rmtree(out, ignore_errors=True)
        raise
    say(f"{stage}: done in {human_seconds(seconds)}")
    return Outcome(stage, "done", seconds, counts, run.stage(stage))


def _train_elsewhere(run: Run, stage: str, train: Callable[[str], None]) -> Outcome:
    """A stage that trains, made by processes of its own, its first rank's manifest included."""
    clock = time.monotonic()
    train(stage)
    manifest = run.manifest(stage)
    if manifest is None:
        raise RunError(f"{stage}: the processes ended and left no manifest; run the same command again")
    return Outcome(stage, "done", time.monotonic() - clock, manifest["counts"], run.stage(stage))


def _take_part(recipe: Recipe, run: Run, stage: str, fresh: bool) -> None:
    """Train with the others, as a rank that writes nothing; what the first rank will find up to date is not begun.

    Whether the stages before are up to date is the first rank's to say: where they are not it ends, and with it this process.
    """
    before: dict[str, str] = {}
    for name in upstream(recipe, stage):
        manifest, until = run.manifest(name), time.monotonic() + WRITTEN_SECONDS
        while manifest is None and name in LIVE and time.monotonic() < until:
            time.sleep(0.2)  # a stage that all have just trained: the first rank writes what it was
            manifest = run.manifest(name)
        if manifest is None:
            raise RunError(f"{name}: {BEFORE}")
        before[name] = manifest["fingerprint"]
    fingerprint, files = fingerprint_of(recipe, run, stage, before)
    if _state(run, stage, fingerprint) == "up to date" and not fresh:
        return
    context = StageContext(run, run.stage(stage), recipe.seed, fingerprint, before, _not_ours, files)
    stage_module(stage).run(recipe.sections[stage], context, recipe.folder, validate=_not_ours, sample=_not_ours,
                            generate=_not_ours)  # fmt: skip


def _not_ours(*given: Any) -> Any:
    raise AssertionError("only the first rank begins a folder, validates and samples")


def _begin_live(recipe: Recipe, run: Run, stage: str, fingerprint: str, fresh: bool) -> None:
    """Go on in a live folder that was begun with this fingerprint; move any other one aside, never delete it.

    The stage calls this when it has checked all that can be refused: a mistyped setting moves nothing.
    """
    folder = run.stage(stage)
    started = folder / STARTED
    if folder.exists():
        begun = None
        with contextlib.suppress(OSError, ValueError, AttributeError):  # missing or damaged: not ours to go on with
            begun = orjson.loads(started.read_bytes()).get("fingerprint")
        if begun != fingerprint or fresh:
            say(f"{stage}: what was there is kept in {run.set_aside(stage)}; delete it when you like")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_json(started, {"fingerprint": fingerprint})
    _keep_recipe(recipe, run)


def _final_outputs(folder: Path, counts: dict[str, Any]) -> list[dict[str, Any]]:
    """Outputs of a live stage without what may be deleted, older checkpoints and answers to who watched it; checkpoints carry
    their own checksums.
    """
    rows = list_outputs(folder, checksums=False)
    return [
        row
        for row in rows
        if not row["path"].startswith(("checkpoints/", "control/", "reward/checkpoints/", "reward/control/"))
        or row["path"].startswith(counts["checkpoint"])
    ]


def _difference(recipe: Recipe, run: Run, stage: str, manifest: dict[str, Any]) -> str:
    """Why a stage is stale, in a few words."""
    new, old = recipe.sections[stage].result_fields(), manifest.get("section", {})
    changed = [key for key in new if new[key] != old.get(key)]
    if changed:
        return f"changed: {', '.join(changed)}"
    if lost := run.missing_outputs(stage):
        return f"files are missing or of another size: {', '.join(lost[:3])}"
    if manifest.get("seed") != recipe.seed:
        return "changed: seed"
    return "its inputs changed"


# ------------------------------------------------------------------------------------------- wiring of the stages


def _call(recipe: Recipe, context: StageContext, stage: str) -> dict[str, Any]:
    """Call a stage's `run`, with the functions that it takes from stages to its right."""
    module, section = stage_module(stage), recipe.sections[stage]
    makers = {"train": training_hooks, "tune": tuning_hooks, "align": aligning_hooks, "quantize": quantizing_hooks}
    hooks = makers[stage](recipe, context.run) if stage in makers else {}
    counts: dict[str, Any] = module.run(section, context, recipe.folder, **hooks)
    return counts


# --------------------------------------------------------------------------------------------------- looking back


def continuations(run: Run) -> list[dict[str, Any]]:
    """What the infer stage wrote: rows with prompt and text."""
    return read_jsonl(run.stage("infer") / "samples.jsonl")


def places(run: Run) -> dict[str, str]:
    """What lies where in a run folder, for the summary at its end; only what is there."""
    checkpoint = None
    for stage in LIVE:
        if (run.stage(stage) / "checkpoints").is_dir():  # otherwise there is no need to load torch
            from jielong.train.checkpoints import newest

            checkpoint = newest(run.stage(stage) / "checkpoints") or checkpoint
    found = {
        "report": run.root / "report.html",
        "data report": run.stage("data") / "report.html",
        "documents": run.stage("data") / "documents",
        "rejects": run.stage("data") / "rejects",
        "tokenizer": run.stage("tokenizer"),
        "token shards": run.stage("tokenizer") / "shards",
        "model": checkpoint if checkpoint is not None else run.stage("model"),
        "metrics": run.stage("train") / "metrics.jsonl",
        "conversations": run.stage("tune") / "data" / "report.html",
        "preferences": run.stage("align") / "data" / "report.html",
        "quantized model": run.stage("quantize") / "model",
        "comparison": run.stage("quantize") / "compare" / "compare.html",
        "continuations": run.stage("infer") / "samples.jsonl",
        "evaluation": run.stage("evaluate") / "results.json",
    }
    return {name: str(path) for name, path in found.items() if path.exists()}
