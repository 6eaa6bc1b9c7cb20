"""A model to go on from: its files as the initial model of a run, its tokenizer compared, and rows for new tokens.

Nothing of the base is copied where nothing changes: the run's model folder has links to its weights. Where the tokenizer has more ids than the
base has rows, the weights are written anew. A new token's rows (embedding, output layer) are the mean of the rows of the old tokens that its text was
cut into before (`extension.json`, which the tokenizer stage writes), so that a text that is cut anew means to the model nearly what it
meant; where that is not known, the mean of all rows.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import orjson
import torch
from torch import Tensor

from jielong.errors import ModelError
from jielong.model.adapters import is_adapter
from jielong.model.config import Config
from jielong.model.hf import load_folder, save_state, write_configs
from jielong.model.hf_config import from_hf_config, read_config
from jielong.model.hf_weights import INDEX, weight_files
from jielong.progress import human_bytes, say
from jielong.tokenizer.folder import TokenizerFolder, open_folder

EXTENSION = "extension.json"
ROWS = ("model.embed_tokens.weight", "lm_head.weight")  # a row for each id
SLACK = 1.1  # free disk space, times what is written


def base_files(base: Path) -> list[tuple[str, Path]]:
    """The files of a base that determine its weights. Raises ModelError where there is no base."""
    if not (base / "config.json").is_file():
        raise ModelError(
            f"base: no model folder, got {base}; give a folder that holds config.json and safetensors, or that of a trained run"
        )
    if is_adapter(base):
        from jielong.model.adapters import CONFIG, WEIGHTS, base_of

        return [("base/" + name, base / name) for name in (CONFIG, WEIGHTS)] + base_files(base_of(base))
    tables = [path for name in ("config.json", "generation_config.json") if (path := base / name).is_file()]
    return [("base/" + path.name, path) for path in (*tables, *weight_files(base))]


def adopt(config: Config, tokenizer: TokenizerFolder, start_id: int | None, out: Path) -> Config:
    """Write the initial model folder of a run that goes on from `config.base`: config.json, generation_config.json and weights, or
    links to them. Returns the shape. Raises ModelError for a tokenizer that is another one, or for too little disk.
    """
    assert config.base is not None
    base = Path(config.base)
    rows = from_hf_config(read_config(base), str(base / "config.json")).vocabulary
    known = _compare(tokenizer, base, rows)
    parts = {number: old for number, old in _parts(tokenizer).items() if number not in known}
    config = config.model_copy(update={"vocab_size": max(config.vocab_size or 0, rows, tokenizer.size), "base": None})
    if config.vocabulary == rows and not parts and not is_adapter(base):
        kind = _dtype(base)
        for path in weight_files(base):
            (out / path.name).symlink_to(path.resolve())
        if (base / INDEX).is_file():
            (out / INDEX).symlink_to((base / INDEX).resolve())
    else:
        model = load_folder(base)
        state, kind = dict(model.state_dict()), model.stored_dtype
        for name in ROWS:
            state[name] = extended(state[name], config.vocabulary, parts)
        _room(sum(tensor.numel() for tensor in state.values()) * kind.itemsize, out)
        if parts:
            say(f"model: {len(parts):,} rows for new tokens, each the mean of what its text was cut into before")
        save_state(config, {name: tensor.to(kind) for name, tensor in state.items()}, out, tokenizer.end_id, start_id)
    write_configs(config, str(kind).removeprefix("torch."), out, tokenizer.end_id, start_id, stops_of(base))
    return config


def stops_of(folder: Path) -> list[int]:
    """The ids that end a text, as a model folder's generation_config.json says (a chat model has several)."""
    if not (folder / "generation_config.json").is_file():
        return []
    given = read_config(folder, "generation_config.json").get("eos_token_id")
    return [item for item in (given if isinstance(given, list) else [given]) if isinstance(item, int)]


def _dtype(base: Path) -> torch.dtype:
    """The type that a base's config.json says its weights have; float32 where it says nothing."""
    table = read_config(base)
    found = getattr(torch, str(table.get("dtype") or table.get("torch_dtype")), None)
    return found if isinstance(found, torch.dtype) else torch.float32


def _room(size: int, out: Path) -> None:
    free = shutil.disk_usage(out).free
    if free < SLACK * size:
        raise ModelError(
            f"model.base: the disk has too little room for the weights with new rows, got {human_bytes(free)} free; they are "
            f"{human_bytes(size)}; free some space"
        )


def _compare(tokenizer: TokenizerFolder, base: Path, rows: int) -> set[int]:
    """The run's tokenizer must give the old ids their old meaning; returns those that the base knows, all of its rows where it cannot be asked.

    Raises ModelError naming the first id that has another meaning.
    """
    try:
        old = open_folder(base).backend.get_vocab(with_added_tokens=True)
    except Exception:  # a base without tokenizer files: the recipe's word must do
        say(f"model: {base} holds no tokenizer that can be read; it is taken on trust that tokenizer.path is its own")
        return set(range(rows))
    new = tokenizer.backend.get_vocab(with_added_tokens=True)
    for token, number in sorted(old.items(), key=lambda item: item[1]):
        if number < rows and new.get(token) != number:
            raise ModelError(
                f"tokenizer.path: not the tokenizer of model.base, got {token!r} with id {new.get(token)}; the base has it as {number}; "
                f"set tokenizer.path to {base}, and extend it with tokenizer.extend_words or extend_with"
            )
    return set(old.values())


def _parts(tokenizer: TokenizerFolder) -> dict[int, list[int]]:
    """Of new ids, the old ids that their text was cut into before."""
    path = tokenizer.home / EXTENSION
    if not path.is_file():
        return {}
    return {row["id"]: row["parts"] for row in orjson.loads(path.read_bytes())["tokens"]}


def extended(old_VC: Tensor, rows: int, parts: dict[int, list[int]]) -> Tensor:
    """A table of vectors with more rows: each new one the mean of its parts' rows, or of all."""
    before, mean_C = len(old_VC), old_VC.float().mean(dim=0)
    spare = sorted(number for number in parts if number < before)  # rows that the base has and never trained
    new_VC = torch.empty(rows, old_VC.shape[1], dtype=old_VC.dtype)
    new_VC[:before] = old_VC
    for number in (*spare, *range(before, rows)):
        known = [part for part in parts.get(number, ()) if part < number]
        new_VC[number] = new_VC[known].float().mean(dim=0) if known else mean_C
    return new_VC
