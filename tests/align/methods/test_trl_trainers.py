"""TRL is quiet, sends nothing, and its figures have our names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jielong.align.methods.offline import Offline
from jielong.align.methods.trl_trainers import open_tokenizer, silently, taken
from jielong.tokenizer.folder import TokenizerFolder
from tests.align.methods.conftest import OTHER, PAIR, Opened, config_of


def test_the_environment_is_as_it_was() -> None:
    before = dict(os.environ)
    with silently():
        assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert dict(os.environ) == before


def test_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    import trl.trainer.base_trainer as trainers

    sent = list[object]()
    monkeypatch.setattr(trainers, "send_telemetry", lambda *given, **more: sent.append(given))
    monkeypatch.delenv("CI", raising=False)
    config = config_of("dpo")
    Offline(config, "dpo", opened(config)[0], tokenizer.home, 0, base, tmp_path, 1)
    assert sent == []


def test_figures_are_taken_once_and_under_our_names(
    opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    config = config_of("dpo")
    own = Offline(config, "dpo", opened(config, moved=0.02)[0], tokenizer.home, 0, base, tmp_path, 1)
    own._loss([PAIR, OTHER])
    found = taken(own.trainer)
    assert {"accuracy", "margin", "chosen_reward", "rejected_reward", "entropy"} <= found.keys()
    assert found["margin"] == pytest.approx(found["chosen_reward"] - found["rejected_reward"], abs=1e-5)
    assert taken(own.trainer) == {}


def test_the_padding_token_is_the_one_that_is_given(base: Path) -> None:
    assert open_tokenizer(base, 5).pad_token_id == 5


def test_several_gpus_are_no_reason_to_refuse(
    opened: Opened, base: Path, tokenizer: TokenizerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda given: given.__dict__.get("_n_gpu", 2) or 2))
    config = config_of("dpo")
    own = Offline(config, "dpo", opened(config)[0], tokenizer.home, 0, base, tmp_path, 1)
    assert own.trainer.args.n_gpu == 1
