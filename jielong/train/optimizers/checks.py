"""What goes with which engine, optimizers first: asked when a recipe is read (train/config.py), so without torch."""

from __future__ import annotations

import importlib.util

from jielong.errors import MissingExtraError, RecipeError
from jielong.train.config import Config


def check_optimizer(config: Config) -> None:
    """Whether the optimizers of a recipe, all phases' too, are there and go with its engine.

    Raises MissingExtraError for bitsandbytes, RecipeError for what does not go together.
    """
    if "adamw8bit" in _names(config) and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "bitsandbytes", 'by train.optimizer = "adamw8bit"')
    check_engine_of(config)


def check_engine_of(config: Config) -> None:
    """Whether the optimizers and the rest of the table go with the engine, on whatever machine. Raises RecipeError."""
    if config.engine == "hf":
        _check_hf(config)
    if config.engine == "deepspeed" and config.compile:
        raise RecipeError(
            "train.compile: not with engine deepspeed, got true; its hooks are not compiled; set it to false, or engine to torch"
        )
    for name in _names(config):
        if name == "adamw8bit":
            where = "engine deepspeed" if config.engine == "deepspeed" else "parallel fsdp"
            if config.engine == "deepspeed" or config.parallel == "fsdp":
                raise RecipeError(
                    f"train.optimizer: its blocks of 8-bit state are cut from whole parameters, got 'adamw8bit' with {where}; "
                    "use engine torch with parallel ddp, or another optimizer"
                )
        if config.engine != "deepspeed":
            continue
        if name == "muon" and config.zero_stage:
            raise RecipeError(
                "train.optimizer: Muon needs whole matrices, and ZeRO has flat shares of them, got 'muon' with zero_stage "
                f"{config.zero_stage}; use zero_stage 0, engine torch with parallel fsdp, or another optimizer"
            )
        if name != config.optimizer:
            raise RecipeError(
                f"train.phases: engine deepspeed keeps its optimizer, got {name!r} after {config.optimizer!r}; use engine torch, or "
                "one optimizer"
            )
    if config.ema_decay is not None and config.engine == "deepspeed":
        raise RecipeError(
            f"train.ema_decay: not with engine deepspeed, got {config.ema_decay:g}; remove it, or use engine torch"
        )


def _check_hf(config: Config) -> None:
    if config.precision == "fp8":
        raise RecipeError("train.precision: not with engine hf, got 'fp8'; use auto, or engine torch")
    if config.parallel == "fsdp":
        raise RecipeError(
            "train.parallel: engine hf keeps all weights on each device, got 'fsdp'; use ddp, or engine torch"
        )
    for place, part in config.parts():
        if part.tokens_per_step_start is not None:
            raise RecipeError(
                f"{place}.tokens_per_step_start: engine hf has no batch ramp, got {part.tokens_per_step_start}; remove it, say "
                "steps of other sizes in phases, or use engine torch"
            )


def _names(config: Config) -> list[str]:
    """The optimizers of a recipe, each once."""
    return list(dict.fromkeys([config.optimizer, *(phase.optimizer for phase in config.phases if phase.optimizer)]))
