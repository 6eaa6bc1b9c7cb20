"""Checkpoints: whole Hugging Face folders, rotated, never half visible."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jielong.errors import CheckpointError
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train import checkpoints
from jielong.train.config import Config
from jielong.train.engines.pytorch import TorchEngine
from tests.train.conftest import RunTraining


def test_opens_in_hugging_face_with_equal_logits(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    folder = checkpoints.newest(tmp_path / "checkpoints")
    assert folder is not None
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("中国人民今天", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert (theirs(ids).logits - load_folder(folder).eval()(ids)).abs().max() < 1e-4
    assert theirs.config.eos_token_id == tokenizer.eos_token_id == 0
    text = tokenizer.decode(theirs.generate(ids, max_new_tokens=4, do_sample=False)[0], skip_special_tokens=True)
    assert text.startswith("中国人民今天")


STATE = {"fingerprint": "x", "loader": {}, "seconds": 0.0}


def test_a_full_disk_leaves_the_previous_one_whole(
    model: CausalLM, tokenizer: TokenizerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = TorchEngine(model, Config(precision="float32"))
    checkpoints.save(engine.snapshot(), model.config, tokenizer, tmp_path, 1, STATE)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_checksums", full)
    for step in (1, 2):  # a new one, and one that would replace it
        with pytest.raises(OSError, match="No space left"):
            checkpoints.save(engine.snapshot(), model.config, tokenizer, tmp_path, step, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoints.read_state(tmp_path / "step-00000001")["step"] == 1


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer/optimizer.safetensors", "trainer/state.json", None])
def test_a_damaged_newest_one_falls_back(
    name: str | None, run_training: RunTraining, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes on from the one before, says so, keeps the damaged one, and ends as if nothing had happened."""
    run_training(tmp_path / "unbroken", save_every_steps=5)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=12, save_every_steps=5, keep_checkpoints=3)
    newest = checkpoints.newest(tmp_path / "broken" / "checkpoints")
    assert newest is not None and newest.name == "step-00000010"
    if name is None:
        (newest / "trainer" / "random.safetensors").unlink()
    else:
        damage(newest / name)
    capsys.readouterr()
    run_training(tmp_path / "broken", save_every_steps=5)
    said = capsys.readouterr().err
    assert "warning" in said and "kept as damaged-step-00000010" in said
    assert (tmp_path / "broken" / "checkpoints" / "damaged-step-00000010").is_dir()
    ends = [tmp_path / kind / "checkpoints" / "step-00000012" for kind in ("unbroken", "broken")]
    for file in ("model.safetensors", "trainer/optimizer.safetensors"):
        assert ends[0].joinpath(file).read_bytes() == ends[1].joinpath(file).read_bytes()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_average_is_what_everyone_opens(optimizer: str, run_training: RunTraining, tmp_path: Path) -> None:
    """A run with an average that is broken off and goes on ends as the unbroken one; without one the losses are the same."""
    settings = {"save_every_steps": 5, "optimizer": optimizer}
    run_training(tmp_path / "plain", **settings)
    settings |= {"ema_decay": 0.8}
    run_training(tmp_path / "unbroken", **settings)
    with pytest.raises(RuntimeError, match="injected fault"):
        run_training(tmp_path / "broken", fail_at=8, **settings)
    run_training(tmp_path / "broken", **settings)
    plain, unbroken, broken = (tmp_path / n / "checkpoints" / "step-00000012" for n in ("plain", "unbroken", "broken"))
    for file in ("model.safetensors", "trainer/weights.safetensors", "trainer/optimizer.safetensors"):
        assert unbroken.joinpath(file).read_bytes() == broken.joinpath(file).read_bytes(), file
    weights, own = load_folder(plain).state_dict(), checkpoints.read_snapshot(broken, {})
    assert own.weights.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.weights.items())
    shown = load_folder(broken).state_dict()
    assert all(torch.equal(tensor, own.averaged[name]) for name, tensor in shown.items())
    assert not any(torch.equal(tensor, weights[name]) for name, tensor in shown.items())
    assert not (plain / "trainer" / "weights.safetensors").exists()
    damage(broken / "trainer" / "weights.safetensors")
    with pytest.raises(CheckpointError, match="checksum differs"):
        checkpoints.read_state(broken)


def test_all_damaged_is_an_error(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path, keep_checkpoints=2)
    for path in checkpoints.checkpoints(tmp_path / "checkpoints"):
        damage(path / "trainer" / "optimizer.safetensors")
    with pytest.raises(CheckpointError, match=r"checksum differs.*no older checkpoint is whole; to start anew, move"):
        checkpoints.choose(tmp_path / "checkpoints")
    assert len(checkpoints.checkpoints(tmp_path / "checkpoints")) == 2  # nothing is moved
    assert checkpoints.choose(tmp_path / "nowhere") is None


def test_checksums_that_name_nothing_are_no_checksums(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    folder = checkpoints.require_newest(tmp_path / "checkpoints")
    (folder / "checksums.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"checksums\.json does not name trainer/state\.json"):
        checkpoints.read_state(folder)


def test_what_is_missing_is_named(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    folder = checkpoints.require_newest(tmp_path / "checkpoints")
    (folder / "trainer" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing from the checkpoint"):
        checkpoints.read_state(folder)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.read_snapshot(folder, {})


def test_clean_removes_what_a_kill_left_and_brings_back_what_it_hid(tmp_path: Path) -> None:
    for name in (".step-00000005.partial", ".step-00000003.gone", "step-00000004", ".step-00000004.old",
                 ".step-00000006.old"):  # fmt: skip
        (tmp_path / name).mkdir()
    checkpoints.clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000006"]
    assert checkpoints.newest(tmp_path / "nowhere") is None and checkpoints.checkpoints(tmp_path / "nowhere") == []
    checkpoints.delete(tmp_path / "step-00000004")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000006"]


def test_no_pickle_is_written(run_training: RunTraining, tmp_path: Path) -> None:
    run_training(tmp_path)
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".jsonl", ".safetensors"}
