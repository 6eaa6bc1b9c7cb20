"""The train stage: open shards and model, plan, hand over to the loop, or to the engine that owns its loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import RecipeError
from jielong.progress import say
from jielong.runs import StageContext
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.trackers import check_trackers
from jielong.train.config import Config
from jielong.world import joined, own_device, this_world, told

if TYPE_CHECKING:
    from jielong.train.job import Generate, Sample, Validate

FORMAT = 3


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: none."""
    return []


def run(
    config: Config, context: StageContext, folder: Path, validate: Validate, sample: Sample,
    generate: Generate | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train in context.out (which keeps what an interrupted run left there); return the counts for the manifest.

    Every process of a run calls it; rank 0 writes, and does first what all need.
    """
    from jielong.model.hf import from_hf_config, load_folder, read_config
    from jielong.runtime import choose_device
    from jielong.train import checkpoints
    from jielong.train.engines.opening import check_engine, open_engine
    from jielong.train.job import Job, plan
    from jielong.train.loader import rows_of_an_epoch
    from jielong.train.loop import graceful_stop, train

    world = this_world()
    device = choose_device(config.device)  # before anything is moved: what cannot be done is refused here
    if world.size > 1 and device.type == "mps":
        raise RecipeError(f"train.device: mps is one device, got {world.size} processes; start one process")
    device = own_device(world, device)
    initial = context.run.stage("model")
    shape = from_hf_config(read_config(initial), str(initial / "config.json"))
    check_engine(config, shape, device)
    check_trackers(config.trackers)
    tokenizer = open_folder(context.run.stage("tokenizer"))
    shards = Shards(context.run.stage("tokenizer") / "shards", "train")
    assert tokenizer.end_id == shards.end_id, "the shards were written with another end-of-text token"
    # what the model sees before a document, whatever the tokenizer's folder names, is the bos that checkpoints tell
    tokenizer = dataclasses.replace(tokenizer, start_id=shards.start_id)
    built = context.run.manifest("model")
    assert built is not None, "the model stage runs first"
    longest = shape.max_position_embeddings
    rows = rows_of_an_epoch(config.packing, shards, config.in_phase(0).sequence_length or longest, context.seed)
    arithmetic = plan(config, longest, shards.available(), world.size, rows)
    with graceful_stop() as stop, joined(world, device):
        newest = None
        if world.first:
            shards.verify()
            context.begin()
            checkpoints.clean(context.out / "checkpoints")
            newest = checkpoints.choose(context.out / "checkpoints")
        name = told(world, newest.name if newest is not None else None)
        newest = context.out / "checkpoints" / name if name else None
        # config.json has no word for it: the kernel is the recipe's choice, not the checkpoint's
        model = load_folder(newest or initial, attention=built["section"]["attention"])
        job = Job(config, arithmetic, model.config, context.out, shards, tokenizer, context.seed, context.fingerprint,
                  validate, sample, generate)  # fmt: skip
        say(f"train: {arithmetic.describe()}")
        if config.engine == "hf":
            from jielong.train.engines.trainer import train_with_trainer

            return train_with_trainer(job, model, world, stop)
        engine = open_engine(model, job, world)
        kernel, why = engine.attention
        say(f"train: {engine.describe()}, attention {kernel} ({why})")
        try:
            return train(job, engine, stop=stop)
        finally:
            engine.close()
