"""What does not go together is refused before anything is opened."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from jielong.errors import MissingExtraError, RecipeError
from jielong.train.config import Config
from jielong.train.optimizers.checks import check_optimizer


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"optimizer": "adamw8bit", "parallel": "fsdp"},
            r"train\.optimizer: .*got 'adamw8bit' with parallel fsdp; use",
        ),
        ({"optimizer": "adamw8bit", "engine": "deepspeed"}, r"train\.optimizer: .*'adamw8bit' with engine deepspeed"),
        ({"optimizer": "muon", "engine": "deepspeed"}, r"train\.optimizer: Muon needs .*'muon' with zero_stage 2; use"),
        ({"ema_decay": 0.9, "engine": "deepspeed"}, r"train\.ema_decay: not with engine deepspeed, got 0\.9; remove"),
        (
            {"engine": "deepspeed", "phases": [{"share": 1.0}, {"share": 1.0, "optimizer": "lion"}]},
            r"train\.phases: engine deepspeed keeps its optimizer, got 'lion' after 'adamw'; use",
        ),
        (
            {"parallel": "fsdp", "phases": [{"share": 1.0, "optimizer": "adamw8bit"}]},
            r"train\.optimizer: .*got 'adamw8bit' with parallel fsdp",
        ),
        ({"engine": "deepspeed", "compile": True}, r"train\.compile: not with engine deepspeed"),
        ({"engine": "hf", "precision": "fp8"}, r"train\.precision: not with engine hf, got 'fp8'"),
        (
            {"engine": "hf", "parallel": "fsdp"},
            r"train\.parallel: engine hf keeps all weights on each device, got 'fsdp'",
        ),
        (
            {"engine": "hf", "tokens_per_step_start": 512},
            r"train\.tokens_per_step_start: engine hf has no batch ramp, got 512",
        ),
        (
            {"engine": "hf", "phases": [{"share": 1}, {"share": 1, "tokens_per_step_start": 512}]},
            r"train\.phases\.1\.tokens_per_step_start: engine hf has no batch ramp",
        ),
    ],
)
def test_what_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        check_optimizer(Config.model_validate(settings))


def test_what_goes_together() -> None:
    for settings in (
        {"engine": "deepspeed", "optimizer": "lion"},
        {"engine": "deepspeed", "optimizer": "muon", "zero_stage": 0},
        {"parallel": "fsdp", "optimizer": "muon", "ema_decay": 0.9},
        {"phases": [{"share": 1.0}, {"share": 1.0, "optimizer": "muon"}]},
    ):
        check_optimizer(Config.model_validate(settings))


def test_bitsandbytes_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"bitsandbytes: not installed.*pip install 'jielong\[bitsandbytes\]'"):
        check_optimizer(Config(optimizer="adamw8bit"))
    check_optimizer(Config(optimizer="muon"))
