"""Which checkpoints stay, and the thread that writes them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train import checkpoints, keeping
from jielong.train.config import Config
from jielong.train.engines.interface import Snapshot
from jielong.train.engines.pytorch import TorchEngine
from jielong.train.keeping import Keeper
from tests.train.conftest import RunTraining

STATE = {"fingerprint": "x", "loader": {}, "seconds": 0.0}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("together", [True, False])
def test_the_newest_stay(together: bool, run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path, save_every_steps=2, keep_checkpoints=3, async_checkpoints=together)
    kept = ["step-00000008", "step-00000010", "step-00000012"]
    assert names(tmp_path / "checkpoints") == kept  # and nothing hidden is left


def test_every_n_and_the_best_stay(model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    """Bits a byte 3.0, 2.0, 1.0, 1.5, 2.5 at steps 1 to 5: 3 is the best; 2 and 4 are multiples of 2; 5 is the newest."""
    engine = TorchEngine(model, Config(precision="float32"))
    config = Config(keep_checkpoints=1, keep_best=True, keep_every_steps=2)
    with Keeper(config, model.config, tokenizer, tmp_path) as keeper:
        for step, bits in enumerate([3.0, 2.0, 1.0, 1.5, 2.5], 1):
            state = STATE | {"validation": {"bits_per_byte": bits}, "validated_step": step}
            keeper.save(engine.snapshot, step, state, lambda: None)
        keeper.wait()
        assert keeper.best == 1.0
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000004", "step-00000005"]
    assert Keeper(config, model.config, tokenizer, tmp_path).best == 1.0


def test_a_validation_that_is_the_best_is_saved(run_training: RunTraining, tmp_path: Path) -> None:
    """The tests' validation says 1 bit a byte at every 4 steps: the first one, before step 1, stays the best."""
    run_training(tmp_path, keep_best=True, evaluate_every_steps=4, keep_checkpoints=1)
    assert names(tmp_path / "checkpoints") == ["step-00000000", "step-00000012"]


def test_training_goes_on_while_a_checkpoint_is_written(
    model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call returns before anything is on disk; what changes meanwhile is not in the checkpoint; leaving waits for it."""
    gate, real = threading.Event(), checkpoints.save

    def slow(*arguments: Any) -> Path:
        assert gate.wait(30)
        return real(*arguments)

    monkeypatch.setattr(keeping.checkpoints, "save", slow)
    engine = TorchEngine(model, Config(precision="float32"))
    before = model.model.norm.weight.detach().clone()
    with Keeper(Config(), model.config, tokenizer, tmp_path) as keeper:
        keeper.save(engine.snapshot, 1, STATE, lambda: None)
        assert checkpoints.newest(tmp_path) is None
        with torch.no_grad():
            model.model.norm.weight.add_(1)
        gate.set()
    found = checkpoints.read_snapshot(tmp_path / "step-00000001", {})
    assert torch.equal(found.weights["model.norm.weight"], before)


def test_a_full_disk_is_said_and_tried_again(
    model: CausalLM,
    tokenizer: TokenizerFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second cannot be written, the third is; the fourth cannot, and is the last: that is an error."""
    engine, real = TorchEngine(model, Config(precision="float32")), checkpoints.write_checksums

    def full(folder: Path) -> None:
        if folder.name in (".step-00000002.partial", ".step-00000004.partial"):
            raise OSError(28, "No space left on device")
        real(folder)

    monkeypatch.setattr(checkpoints, "write_checksums", full)
    with Keeper(Config(keep_checkpoints=5), model.config, tokenizer, tmp_path) as keeper:
        for step in (1, 2, 3, 4):
            keeper.save(engine.snapshot, step, STATE, lambda: None)
        with pytest.raises(OSError, match="No space left"):
            keeper.wait()
    assert names(tmp_path) == ["step-00000001", "step-00000003"]
    assert "warning: the last checkpoint was not written (disk: no space left" in capsys.readouterr().err


def test_another_error_of_the_thread_is_raised_by_the_next_call(
    model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(folder: Path) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(checkpoints, "write_checksums", broken)
    engine = TorchEngine(model, Config(precision="float32"))
    with pytest.raises(ValueError, match="a bug"), Keeper(Config(), model.config, tokenizer, tmp_path) as keeper:
        keeper.save(engine.snapshot, 1, STATE, lambda: None)
        keeper.save(engine.snapshot, 2, STATE, lambda: None)
    assert names(tmp_path) == []


def test_records_are_on_disk_first_and_other_ranks_write_nothing(
    model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path
) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    seen: list[Path | None] = []
    with Keeper(Config(async_checkpoints=False), model.config, tokenizer, tmp_path) as keeper:
        keeper.save(engine.snapshot, 1, STATE, lambda: seen.append(checkpoints.newest(tmp_path)))
        keeper.save(lambda: Snapshot({}, {}, {}, {}), 2, STATE, lambda: seen.append(None))
    assert seen == [None] and names(tmp_path) == ["step-00000001"]
