"""One training of the stage: examples, a model with what the method needs, the method, and the loop of train/ around it.

The loop, its files, checkpoints, the watch and going on after a kill are those of [train] (train/loop.py): a step reads `batch_size` examples,
the method makes its loss. Plan and metrics count examples, not tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.align.config import ONLINE, Config, Examples
from jielong.align.examples import SPLITS, ExampleLoader
from jielong.align.examples import Examples as Stored
from jielong.errors import RecipeError
from jielong.model.adapter_config import LINEAR
from jielong.progress import say
from jielong.recipe import parse_section
from jielong.runs import StageContext
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train.config import Config as TrainConfig
from jielong.train.config import Loop
from jielong.world import World

if TYPE_CHECKING:
    import torch

    from jielong.align.methods.interface import Method, Write
    from jielong.align.rewards import OpenedReward
    from jielong.model.adapters import Adapted
    from jielong.model.config import Config as ModelConfig
    from jielong.model.transformer import CausalLM
    from jielong.train.engines.pytorch import TorchEngine
    from jielong.train.job import Generate, Plan, Sample

QUANTIZED = ("int8", "nf4")


@dataclass(frozen=True)
class Material:
    """What is trained, on what, with whose help."""

    base: Path  # the model folder that it begins with
    data: Path  # examples, as preparing.py wrote them
    tokenizer: TokenizerFolder  # with what config.json and generation_config.json of checkpoints are to say
    stops: frozenset[int]  # that end an answer
    attention: str
    write: Write
    rewards: list[OpenedReward]
    sample: Sample
    generate: Generate | None


def train_method(
    config: Config, examples: Examples, method: str, context: StageContext, folder: Path, material: Material,
    stop: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """Train in `folder`, from its newest checkpoint if there is one; returns the counts. examples: the table that says how: the stage's
    own, or that of the reward model which comes first.
    """
    from jielong.align.methods.offline import Offline
    from jielong.runtime import choose_device
    from jielong.train import checkpoints
    from jielong.train.engines.pytorch import TorchEngine
    from jielong.train.job import Job
    from jielong.train.loop import train

    settings = as_training(examples, method)
    device = choose_device(settings.device)
    checkpoints.clean(folder / "checkpoints")
    newest = checkpoints.choose(folder / "checkpoints")
    stored = {split: Stored(material.data, split) for split in SPLITS}
    for split in stored.values():
        split.verify()
    model, adapted = open_model(settings, method, material, newest, context.seed, device)
    engine = TorchEngine(model, settings)
    opened = _open(config, examples, method, engine, material, folder, context.seed)
    held_out = [
        stored["validation"].row(n) for n in range(min(len(stored["validation"]), examples.validation_examples))
    ]

    if isinstance(opened, Offline):
        opened.see(stored["train"].row(number) for number in range(len(stored["train"])))

    def validate(current: CausalLM, autocast: Any) -> dict[str, float]:
        with autocast:
            return opened.measure(held_out)

    job = Job(settings, plan_of(examples, method, len(stored["train"])), model.config, folder, None, material.tokenizer, context.seed,
              context.fingerprint, validate, material.sample, material.generate, adapted,
              lambda state: ExampleLoader(stored["train"], context.seed, state), "examples")  # fmt: skip
    say(f"{folder.name}: {method} on {len(stored['train']):,} examples, {_described(job.plan)}, {engine.describe()}")
    try:
        return train(job, engine, opened.make, stop) | {"method": method}
    finally:
        engine.close()


def as_training(examples: Examples, method: str) -> TrainConfig:
    """The table as the loop knows it: a row is an example. Raises RecipeError for what no training can do."""
    given = {name: getattr(examples, name) for name in Loop.model_fields}
    if method == "reward":  # it writes nothing
        given |= {"sample_every_steps": None}
    if method in ONLINE:  # a loss around 0, no gradient where all answers are worth the same: there is no band to leave
        given |= {"guard": examples.guard.model_copy(update={"enabled": False})}
    size = {"tokens_per_step": examples.batch_size, "micro_batch_tokens": examples.batch_size, "tokens": 1}
    return parse_section("align", TrainConfig, given | size)


def plan_of(examples: Examples, method: str, count: int) -> Plan:
    """The arithmetic of a training on `count` examples."""
    from jielong.train.job import Plan
    from jielong.train.stretches import Level, Stretch

    size = examples.batch_size
    steps = examples.steps or math.ceil((examples.epochs or 1.0) * count / size)
    micro = size if method in ONLINE else min(size, examples.micro_batch_size)
    if method == "kto":  # an answer is compared with those to other prompts of its micro-batch
        micro = next((number for number in range(max(2, micro), size) if size % number != 1), size)
    warmup, decay = math.ceil(examples.warmup_ratio * steps), math.ceil(examples.decay_ratio * steps)
    stretch = Stretch(0, 1, size, micro, 1, steps, (Level(1, size, 0),), warmup, decay)
    return Plan((stretch,), warmup, decay)


def _described(plan: Plan) -> str:
    here = plan.stretches[0]
    return f"{plan.total_steps} steps of {here.rows_per_step}, {plan.warmup_steps} warm-up steps"


def open_model(
    settings: TrainConfig, method: str, material: Material, newest: Path | None, seed: int, device: torch.device
) -> tuple[CausalLM, Adapted | None]:
    """The model to train with the head that the method needs, as the newest checkpoint left it."""
    import torch

    from jielong.model.adapters import fill, read_tensors
    from jielong.model.heads import add_head
    from jielong.model.hf import load_folder
    from jielong.train import checkpoints

    adapted: Adapted | None = None
    if settings.adapter is None:
        model = load_folder(newest or material.base, material.attention)
    else:
        from jielong.train.adapting import open_adapted

        model, adapted = open_adapted(settings, settings.adapter, material.base, material.attention, None, seed, device)
    for module in model.modules():  # a policy is compared with itself, before and after an update
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if method == "reward" and not hasattr(model, "score"):
        add_head(model, "score", seed)
    if method == "ppo":
        add_head(model, "value")
    if newest is not None and settings.adapter is not None:
        fill(model, read_tensors(newest, settings.adapter), newest)
    with torch.no_grad():
        for name, tensor in checkpoints.read_heads(newest).items() if newest is not None else ():
            dict(model.named_parameters())[name].copy_(tensor)
    return model, adapted


def _open(
    config: Config, examples: Examples, method: str, engine: TorchEngine, material: Material, folder: Path, seed: int
) -> Method:
    """The method, around an engine."""
    # the reward model's own table says how its examples go through the model
    table = config.model_copy(
        update={name: getattr(examples, name) for name in type(examples).model_fields if hasattr(config, name)}
    )
    home, pad = (
        material.tokenizer.home,
        next(number for number in range(len(material.stops) + 1) if number not in material.stops),
    )
    if method not in ONLINE:
        from jielong.align.methods.offline import Offline

        return Offline(table, method, engine, home, pad, material.base, folder, seed)
    from jielong.align.methods.answering import Answerer

    answerer = Answerer(table, material.write, material.rewards, material.tokenizer, material.stops, seed)
    if method == "ppo":
        from jielong.align.methods.ppo import PPO

        return PPO(table, engine, answerer, material.base)
    from jielong.align.methods.online import Online

    return Online(table, engine, answerer, home, pad, material.stops, material.base, folder, seed)


def check_table(config: Config, examples: Examples, method: str, base: Path, shape: ModelConfig) -> None:
    """What can be refused of a training before anything is written: RecipeError, MissingExtraError, and ModelError for a base that is gone.

    examples: the table of the training: the stage's own, or that of the reward model.
    """
    from jielong.model.hf import reason_for_own_class
    from jielong.runtime import choose_device
    from jielong.train.engines.opening import check_engine

    table, device = "align" if examples is config else "align.reward", choose_device(examples.device)
    settings, adapter, longest = as_training(examples, method), examples.adapter, shape.max_position_embeddings
    check_engine(settings, shape, device)
    if method != "ppo" and (reason := reason_for_own_class(shape)) is not None:
        raise RecipeError(
            f"{table}: {method} is computed by TRL, which knows classes of transformers only, and {reason}; use ppo, or another model"
        )
    if method != "ppo" and examples.precision == "fp8":
        raise RecipeError(
            f"{table}.precision: fp8 is for layers of ours, which TRL does not use, got fp8 with {method}; use auto"
        )
    if examples.max_length is not None and examples.max_length > longest and shape.position == "rope":
        raise RecipeError(
            f"{table}.max_length: longer than the model's context, got {examples.max_length}; must be at most {longest}; lower it"
        )
    room = examples.max_length or longest
    if method in ONLINE and config.max_new_tokens >= room:
        raise RecipeError(
            f"align.max_new_tokens: no room for a prompt, got {config.max_new_tokens}; must be less than the context of {room}; lower it"
        )
    if adapter is None:
        return
    from jielong.train.adapting import check_adapter

    check_adapter(adapter, base, device)
    if (adapter.kind == "pissa" or adapter.whole) and method not in ("simpo", "orpo", "reward"):
        what = "kind pissa" if adapter.kind == "pissa" else f"whole {list(adapter.whole)}"
        raise RecipeError(
            f"{table}.adapter: switched off it is to be the base, which it is not with {what}; use kind lora without whole, or no adapter"
        )
    if adapter.base_weights in QUANTIZED and method != "ppo" and set(adapter.targets) != set(LINEAR):
        raise RecipeError(
            f"{table}.adapter.targets: with {adapter.base_weights} every linear layer of the blocks needs one here, got "
            f"{', '.join(adapter.targets)}; remove the key"
        )


def one_process(world: World) -> None:
    """Raises RecipeError where there are several."""
    if world.size > 1:
        raise RecipeError(f"align: trains in one process, got {world.size}; start one, on one device")
