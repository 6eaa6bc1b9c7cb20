"""Checkpoints: every one a whole Hugging Face folder, plus `trainer/` for exact resume.

    train/checkpoints/step-00000200/
      config.json, generation_config.json, model.safetensors, tokenizer files     AutoModelForCausalLM opens it
      adapter_config.json, adapter_model.safetensors                              in its place, where an adapter is trained
      trainer/state.json              step, data position, guard, loss scale, fingerprint of the recipe
      trainer/optimizer.safetensors   trainer/random.safetensors
      trainer/heads.safetensors       what is of training alone: PPO's value head, the scales of layers of signs
      trainer/weights.safetensors     only with ema_decay: model.safetensors is the average then, and training goes on with these
      checksums.json                  of every file; checked before anything is loaded

A checkpoint is written under a hidden name, flushed and renamed: at any moment the newest visible one is whole. `Keeper`
(keeping.py) writes them beside the training and says which ones stay.

A newest checkpoint that is damaged is no end: `choose` moves it to `damaged-step-...`, says so, and takes the one before.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from jielong.errors import CheckpointError
from jielong.model.adapters import Adapted, read_tensors, save_adapter
from jielong.model.config import Config as ModelConfig
from jielong.model.heads import SCORE, is_beside
from jielong.model.hf import CHECKSUMS, HEAD, load_folder, save_state, verify_checksums, write_checksums, write_configs
from jielong.progress import say
from jielong.runs import publish, write_json
from jielong.tokenizer.folder import TokenizerFolder, copy_folder
from jielong.train.engines.interface import Snapshot
from jielong.train.optimizers.averaging import STEPS

NAME = re.compile(r"step-(\d+)")
TRAINER, STATE = "trainer", "state.json"
OPTIMIZER, RANDOM = "optimizer.safetensors", "random.safetensors"
WEIGHTS, HEADS = "weights.safetensors", "heads.safetensors"


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


def name_of(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


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


def choose(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, or None where there is none at all; damaged newer ones are moved out of the way.

    Raises CheckpointError when there are checkpoints and all of them are damaged; nothing is moved then.
    """
    damaged: list[tuple[Path, Exception]] = []
    for checkpoint in reversed(checkpoints(folder)):
        try:
            read_state(checkpoint)
        except (CheckpointError, OSError) as error:  # a disk that fails, too
            damaged.append((checkpoint, error))
            continue
        for other, found in damaged:
            set_aside(other, found)
        return checkpoint
    if damaged:
        raise CheckpointError(
            f"{_what(damaged[0][1])}; no older checkpoint is whole; to start anew, move {folder} away"
        )
    return None


def set_aside(checkpoint: Path, error: Exception) -> None:
    """Move a damaged checkpoint out of the way, and say so."""
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}-{number}")
    checkpoint.rename(aside)
    say(f"train: warning: {_what(error)}; it is kept as {aside.name}, and the run goes on from the checkpoint before")


def _what(error: Exception) -> str:
    """What is wrong, without the advice that an error ends with."""
    return str(error).split("; ")[0]


def save(
    snapshot: Snapshot, config: ModelConfig, tokenizer: TokenizerFolder, folder: Path, step: int, state: dict[str, Any],
    adapted: Adapted | None = None,
) -> Path:  # fmt: skip
    """Write and publish the checkpoint of a step; a checkpoint of that step that is there already is replaced.

    adapted: what is written is an adapter.
    """
    final, partial = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    (partial / TRAINER).mkdir(parents=True)
    try:
        averaged = {name: tensor for name, tensor in snapshot.averaged.items() if name != STEPS}
        ends = (tokenizer.end_id, tokenizer.start_id)
        weights = {name: tensor for name, tensor in snapshot.weights.items() if not is_beside(name)}
        if beside := {name: tensor for name, tensor in snapshot.weights.items() if is_beside(name)}:
            save_file(beside, str(partial / TRAINER / HEADS))
        if adapted is not None:
            save_adapter(weights, adapted, partial)
            write_configs(config, "float32", partial, *ends, tokenizer.stop_ids, SCORE in weights)
        else:
            save_state(config, averaged or weights, partial, *ends, stop_ids=tokenizer.stop_ids)
        if averaged:
            tied = HEAD if config.tie_word_embeddings else None
            own = {name: tensor for name, tensor in snapshot.weights.items() if name != tied}
            save_file(own | {STEPS: snapshot.averaged[STEPS]}, str(partial / TRAINER / WEIGHTS))
        copy_folder(tokenizer, partial)
        save_file(snapshot.optimizer, str(partial / TRAINER / OPTIMIZER))
        save_file(snapshot.random, str(partial / TRAINER / RANDOM))
        write_json(partial / TRAINER / STATE, {"step": step, "scale": snapshot.scale, **state})
        write_checksums(partial)
        publish(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return final


def delete(checkpoint: Path) -> None:
    """Remove a checkpoint: out of sight first, so that a kill leaves no half-deleted one."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.gone")
    shutil.rmtree(hidden, ignore_errors=True)
    checkpoint.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)  # `clean` takes what another process still holds open


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Check a checkpoint's sums and read its trainer state. Raises CheckpointError."""
    if not (checkpoint / CHECKSUMS).is_file():
        raise CheckpointError(f"{checkpoint}: has no {CHECKSUMS}, so it is not whole; delete that folder")
    sums = verify_checksums(checkpoint)
    for name in (STATE, OPTIMIZER, RANDOM):
        if f"{TRAINER}/{name}" not in sums:
            raise CheckpointError(f"{checkpoint}: {CHECKSUMS} does not name {TRAINER}/{name}; delete that folder")
    path = checkpoint / TRAINER / STATE
    try:
        state = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete the folder {checkpoint}") from None
    if not isinstance(state, dict) or not state.keys() >= {"step", "fingerprint", "loader", "seconds"}:
        raise CheckpointError(f"{path}: not a trainer state of ours; delete the folder {checkpoint}")
    return state


def read_snapshot(
    checkpoint: Path, state: dict[str, Any], weights: bool = True, adapted: Adapted | None = None
) -> Snapshot:
    """What an engine needs to go on from a checkpoint; `state` is what `read_state` gave. Raises CheckpointError.

    adapted: of a checkpoint that is an adapter.

    weights: False leaves out those that `load_folder` gives; where it gives an average, the weights are in the snapshot all the same.
    """
    optimizer, random = (_tensors(checkpoint, name) for name in (OPTIMIZER, RANDOM))
    heads = read_heads(checkpoint) if weights else {}
    if adapted is not None:
        given = read_tensors(checkpoint, adapted.adapter) if weights else {}
        return Snapshot(given | heads, optimizer, random, state.get("scale", {}))
    averages = (checkpoint / TRAINER / WEIGHTS).is_file()
    shown = load_folder(checkpoint).state_dict() if weights or averages else {}
    if not averages:
        return Snapshot(shown | heads, optimizer, random, state.get("scale", {}))
    own = _tensors(checkpoint, WEIGHTS)
    averaged = shown | {STEPS: own.pop(STEPS)}
    if HEAD in shown and HEAD not in own:  # tied
        own[HEAD] = own["model.embed_tokens.weight"]
    return Snapshot(own, optimizer, random, state.get("scale", {}), averaged)


def read_heads(checkpoint: Path) -> dict[str, Tensor]:
    """What a checkpoint keeps of a model beside what it publishes (heads.is_beside), or nothing. Raises CheckpointError."""
    return _tensors(checkpoint, HEADS) if (checkpoint / TRAINER / HEADS).is_file() else {}


def _tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    path = checkpoint / TRAINER / name
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); delete the folder {checkpoint}") from None


def clean(folder: Path) -> None:
    """Remove what a kill in the middle of saving left behind; put back what a kill between two renames hid."""
    if not folder.is_dir():
        return
    for path in folder.glob(".step-*.old"):  # see runs.publish
        final = folder / path.name.removeprefix(".").removesuffix(".old")
        if not final.exists():
            path.rename(final)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
