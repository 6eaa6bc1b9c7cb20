"""Which engine a recipe asks for. Each is imported only when it is wanted."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from jielong.errors import MissingExtraError
from jielong.model.config import Config as ModelConfig
from jielong.runtime import choose_precision
from jielong.train.config import Config
from jielong.train.optimizers.checks import check_optimizer
from jielong.world import World

if TYPE_CHECKING:
    import torch

    from jielong.model.transformer import CausalLM
    from jielong.train.engines.interface import Engine
    from jielong.train.job import Job

PACKAGES = {"deepspeed": "deepspeed", "hf": "accelerate"}  # what an engine needs beside the base installation


def check_engine(config: Config, model: ModelConfig, device: torch.device) -> None:
    """Raises MissingExtraError for an engine whose package is not installed, RecipeError for what it cannot do."""
    package = PACKAGES.get(config.engine)
    if package is not None and importlib.util.find_spec(package) is None:
        raise MissingExtraError(package, config.engine, f'by train.engine = "{config.engine}"')
    choose_precision(config.precision, device)
    check_optimizer(config)
    if config.engine == "hf":
        from jielong.train.engines.trainer import refuse

        refuse(config, model)
    if config.engine == "deepspeed":
        from jielong.train.engines.zero import check_recipe

        check_recipe(config, device)


def open_engine(model: CausalLM, job: Job, world: World) -> Engine:
    """The engine of a recipe, around a model whose weights are in place. All ranks call it."""
    if job.config.engine == "deepspeed":
        from jielong.train.engines.zero import DeepSpeedEngine

        return DeepSpeedEngine(model, job.configs[0], world, job.plan)
    from jielong.train.engines.pytorch import TorchEngine

    return TorchEngine(model, job.configs[0], world)  # of the first phase; the loop changes it
