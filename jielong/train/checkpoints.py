"""Checkpoints: every one a whole Hugging Face folder, plus `trainer/` for exact resume.

    train/checkpoints/step-00000200/
      config.json, generation_config.json, model.safetensors, tokenizer files     AutoModelForCausalLM opens it
      trainer/state.json              step, data position, fingerprint of the recipe
      trainer/optimizer.safetensors   trainer/random.safetensors
      checksums.json                  of every file; checked before anything is loaded

A checkpoint is written under a hidden name, flushed and renamed: at any moment the newest visible one is whole.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import orjson

from jielong.errors import CheckpointError
from jielong.model.hf import CHECKSUMS, save_folder, verify_checksums, write_checksums
from jielong.runs import publish, write_json
from jielong.tokenizer.folder import TokenizerFolder, copy_folder
from jielong.train.engine import TorchEngine

NAME = re.compile(r"step-(\d+)")
STATE = "state.json"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    match = NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def newest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


def require_newest(folder: Path) -> Path:
    """The newest checkpoint of a run, for a stage that needs one. Raises CheckpointError when there is none."""
    found = newest(folder)
    if found is None:
        raise CheckpointError(f"{folder}: holds no checkpoint; train first: jielong train RECIPE")
    return found


def save(
    engine: TorchEngine, tokenizer: TokenizerFolder, folder: Path, step: int, state: dict[str, Any], keep: int
) -> Path:
    """Write the checkpoint of a step, then delete all but the newest `keep`."""
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        save_folder(engine.model, partial, tokenizer.end_id, tokenizer.start_id)
        copy_folder(tokenizer, partial)
        engine.save(partial / "trainer")
        write_json(partial / "trainer" / STATE, {"step": step, **state})
        write_checksums(partial)
        publish(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in checkpoints(folder)[:-keep]:
        hidden = old.with_name(f".{old.name}.old")  # out of sight first: a kill leaves no half-deleted checkpoint
        old.rename(hidden)
        shutil.rmtree(hidden)
    return final


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Check a checkpoint's sums and read its trainer state. Raises CheckpointError."""
    if not (checkpoint / CHECKSUMS).is_file():
        raise CheckpointError(f"{checkpoint}: has no {CHECKSUMS}, so it is not whole; delete that folder")
    verify_checksums(checkpoint)
    path = checkpoint / "trainer" / STATE
    try:
        state = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete the folder {checkpoint}") from None
    if not isinstance(state, dict) or not state.keys() >= {"step", "fingerprint", "loader", "seconds"}:
        raise CheckpointError(f"{path}: not a trainer state of ours; delete the folder {checkpoint}")
    return state


def clean(folder: Path) -> None:
    """Remove what a kill in the middle of saving left behind."""
    if folder.is_dir():
        for path in folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)
