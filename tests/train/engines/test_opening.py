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
from tests.train.conftest import SHAPE
from tests.train.engines.jobs import tiny_job

CPU = torch.device("cpu")


@pytest.mark.parametrize(("engine", "package"), [("deepspeed", "deepspeed"), ("hf", "accelerate")])
def test_a_package_that_is_missing(engine: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"{package}: not installed.*pip install 'jielong\[{engine}\]'"):
        check_engine(Config.model_validate({"engine": engine}), SHAPE, CPU)
    check_engine(Config(), SHAPE, CPU)


def test_what_deepspeed_cannot_do_is_refused_at_once() -> None:
    with pytest.raises(RecipeError, match=r"train\.compile"):
        check_engine(Config(engine="deepspeed", compile=True), SHAPE, CPU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "tf32"}, r"train\.precision"),
        ({"precision": "fp8"}, r"train\.precision"),
        ({"engine": "hf", "parallel": "fsdp"}, r"train\.parallel"),
        ({"optimizer": "adamw8bit", "parallel": "fsdp"}, r"train\.optimizer"),
    ],
)
def test_what_would_be_refused_later_is_refused_before_anything_is_moved(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check_engine(Config.model_validate(settings), SHAPE, CPU)


def test_the_default_is_torch(corpus: Path, tmp_path: Path) -> None:
    job, model = tiny_job(corpus, tmp_path, World())
    assert isinstance(open_engine(model, job, World()), TorchEngine)
