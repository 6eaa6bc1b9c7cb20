"""The train stage: open shards and model, plan, hand over to the loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.progress import say
from jielong.runs import StageContext
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.train.config import Config

if TYPE_CHECKING:
    from jielong.train.loop import Sample, Validate

FORMAT = 2


def inputs(config: Config, folder: Path) -> list[tuple[str, Path]]:
    """Files outside the run that determine the result: none."""
    return []


def run(config: Config, context: StageContext, folder: Path, validate: Validate, sample: Sample) -> dict[str, Any]:
    """Train in context.out (which keeps what an interrupted run left there); return the counts for the manifest."""
    from jielong.model.hf import load_folder
    from jielong.runtime import choose_device
    from jielong.train import checkpoints
    from jielong.train.engine import TorchEngine
    from jielong.train.loop import Job, plan, train

    tokenizer = open_folder(context.run.stage("tokenizer"))
    shards = Shards(context.run.stage("tokenizer") / "shards", "train")
    shards.verify()
    assert tokenizer.end_id == shards.end_id, "the shards were written with another end-of-text token"
    # what the model sees before a document, whatever the tokenizer's folder names, is the bos that checkpoints tell
    tokenizer = dataclasses.replace(tokenizer, start_id=shards.start_id)
    choose_device(config.device)  # before anything is moved: a device that is not there is refused here
    context.begin()
    newest = checkpoints.newest(context.out / "checkpoints")
    built = context.run.manifest("model")
    assert built is not None, "the model stage runs first"
    # config.json has no word for it: the kernel is the recipe's choice, not the checkpoint's
    model = load_folder(newest or context.run.stage("model"), attention=built["section"]["attention"])
    arithmetic = plan(config, model.config.max_position_embeddings, shards.available())
    engine = TorchEngine(model, config)
    kernel, why = engine.attention
    say(f"train: {arithmetic.describe()}, {engine.precision} on {engine.device}, attention {kernel} ({why})")
    job = Job(config, arithmetic, context.out, shards, tokenizer, context.seed, context.fingerprint, validate, sample)
    return train(job, engine)
