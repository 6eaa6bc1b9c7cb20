"""Which engine a recipe gets, and what it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from jielong.errors import MissingExtraError, RecipeError
from jielong.train.config import Config
from jielong.train.engines.opening import check_engine, open_engine
from jielong.train.engines.pytorch import TorchEngine
from jielong.world import World
from tests.train.engines.jobs import tiny_job

CPU = torch.device("cpu")


@pytest.mark.parametrize(("engine", "package"), [("deepspeed", "deepspeed"), ("hf", "accelerate")])
def test_a_package_that_is_missing(engine: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"{package}: not installed.*pip install 'jielong\[{engine}\]'"):
        check_engine(Config.model_validate({"engine": engine}), CPU)
    check_engine(Config(), CPU)


def test_what_deepspeed_cannot_do_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match=r"train\.compile"):
        check_engine(Config(engine="deepspeed", compile=True), CPU)


def test_the_default_is_torch(corpus: Path, tmp_path: Path) -> None:
    job, model = tiny_job(corpus, tmp_path, World())
    assert isinstance(open_engine(model, job, World()), TorchEngine)
