"""The train stage: open shards and model, plan, hand over to the loop, or to the engine that owns its loop.

`train_on` is what every stage that trains does; what differs is in a `Material`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import RecipeError
from jielong.progress import say
from jielong.runs import StageContext
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards.reading import Shards
from jielong.trackers import check_trackers
from jielong.train.config import Config
from jielong.world import World, joined, own_device, this_world, told

if TYPE_CHECKING:
    import torch

    from jielong.model.adapters import Adapted
    from jielong.model.config import Config as ModelConfig
    from jielong.model.transformer import CausalLM
    from jielong.train.job import Generate, Plan, Sample, Validate

FORMAT = 3


@dataclass(frozen=True)
class Material:
    """What a stage trains, and on what."""

    initial: Path  # the model folder that it begins with
    shards: Path  # a folder of token shards
    tokenizer: Callable[
        [], TokenizerFolder
    ]  # with what config.json and generation_config.json of checkpoints are to say
    attention: str  # the kernel, as in [model]
    # makes the shards, on the first rank, in a folder that was begun; None: they are there
    prepare: Callable[[], None] | None = None
    noise: float | None = None  # NEFTune's alpha


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
    from jielong.model.bases import stops_of

    tokenizer, shards = open_folder(context.run.stage("tokenizer")), context.run.stage("tokenizer") / "shards"
    opened = Shards(shards, "train")
    assert tokenizer.end_id == opened.end_id, "the shards were written with another end-of-text token"
    # what the model sees before a document, whatever the tokenizer's folder names, is the bos that checkpoints tell
    initial = context.run.stage("model")
    tokenizer = dataclasses.replace(tokenizer, start_id=opened.start_id, stop_ids=frozenset(stops_of(initial)))
    built = context.run.manifest("model")
    assert built is not None, "the model stage runs first"
    material = Material(initial, shards, lambda: tokenizer, built["section"]["attention"])
    return train_on(config, context, material, validate, sample, generate)


def train_on(
    config: Config, context: StageContext, material: Material, validate: Validate, sample: Sample,
    generate: Generate | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train a model in context.out; return the counts for the manifest."""
    from jielong.model.hf import from_hf_config, read_config
    from jielong.runtime import choose_device
    from jielong.train import checkpoints
    from jielong.train.engines.opening import check_engine, open_engine
    from jielong.train.job import Job
    from jielong.train.loop import graceful_stop, train

    world = this_world()
    device = choose_device(config.device)  # before anything is moved: what cannot be done is refused here
    if world.size > 1 and device.type == "mps":
        raise RecipeError(f"train.device: mps is one device, got {world.size} processes; start one process")
    device = own_device(world, device)
    shape = from_hf_config(read_config(material.initial), str(material.initial / "config.json"))
    check_engine(config, shape, device)
    check_trackers(config.trackers)
    if config.adapter is not None:
        from jielong.train.adapting import check_adapter

        check_adapter(config.adapter, material.initial, device)
    if config.lisa is not None and world.size > 1:
        raise RecipeError(f"train.lisa: draws its blocks in one process, got {world.size}; start one, or remove lisa")
    planned = _planned(config, material, shape, context.seed, world) if material.prepare is None else None
    with graceful_stop() as stop, joined(world, device):
        newest = None
        if world.first:
            if planned is not None:
                planned[0].verify()
            context.begin()
            if material.prepare is not None:
                material.prepare()
            checkpoints.clean(context.out / "checkpoints")
            newest = checkpoints.choose(context.out / "checkpoints")
        name = told(world, newest.name if newest is not None else None)
        newest = context.out / "checkpoints" / name if name else None
        shards, arithmetic = planned or _planned(config, material, shape, context.seed, world)
        model, adapted = _open_model(config, material, newest, context.seed, device)
        model.model.noise, model.model.recompute = material.noise, config.recompute
        job = Job(config, arithmetic, model.config, context.out, shards, material.tokenizer(), context.seed, context.fingerprint,
                  validate, sample, generate, adapted)  # fmt: skip
        say(f"{context.out.name}: {arithmetic.describe()}")
        if config.engine == "hf":
            from jielong.train.engines.trainer import train_with_trainer

            return train_with_trainer(job, model, world, stop)
        engine = open_engine(model, job, world)
        kernel, why = engine.attention
        say(f"{context.out.name}: {engine.describe()}, attention {kernel} ({why})")
        try:
            return train(job, engine, stop=stop)
        finally:
            engine.close()


def _planned(config: Config, material: Material, shape: ModelConfig, seed: int, world: World) -> tuple[Shards, Plan]:
    """The training split, and the arithmetic of the run."""
    from jielong.train.job import plan
    from jielong.train.loader import rows_of_an_epoch

    shards, longest = Shards(material.shards, "train"), shape.max_position_embeddings
    rows = rows_of_an_epoch(config.packing, shards, config.in_phase(0).sequence_length or longest, seed)
    return shards, plan(config, longest, shards.available(), world.size, rows)


def _open_model(
    config: Config, material: Material, newest: Path | None, seed: int, device: torch.device
) -> tuple[CausalLM, Adapted | None]:
    """The model to train, as the newest checkpoint left it, and what its checkpoints say where an adapter is trained."""
    from jielong.model.hf import load_folder

    # config.json has no word for it: the kernel is the recipe's choice, not the checkpoint's
    if config.adapter is None:
        return load_folder(newest or material.initial, attention=material.attention), None
    from jielong.train.adapting import open_adapted

    return open_adapted(config, config.adapter, material.initial, material.attention, newest, seed, device)
