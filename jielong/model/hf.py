"""A model's life as a Hugging Face folder: `config.json`, `model.safetensors`, tokenizer files.

`hf_config` decides which class a folder declares and maps the config's fields, `hf_weights` maps the names of tensors and
moves them; this file puts the two together. Both directions are lossless: ours -> Hugging Face -> ours gives the same
tensors and the same config.json, and any folder of a class in `hf_config.CLASSES` opens here with equal logits.

A folder written here holds `checksums.json`; when it is there, it is checked before anything is loaded. Weights are
safetensors only: a pickle (`pytorch_model.bin`) is refused, never opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson
import torch

from jielong.errors import CheckpointError
from jielong.model.adapters import base_of, is_adapter, merged
from jielong.model.config import Config
from jielong.model.frozen import Frozen
from jielong.model.heads import SCORE, add_head, as_scored, is_scored
from jielong.model.hf_config import (
    class_of,
    from_hf_config,
    read_config,
    reason_for_own_class,
    to_hf_config,
)
from jielong.model.hf_weights import read_weights, write_weights
from jielong.model.quantized.opening import QUANTIZATION, opening
from jielong.model.transformer import CausalLM
from jielong.runs import hash_file, write_json

__all__ = [
    "CHECKSUMS",
    "class_of",
    "from_hf_config",
    "load_folder",
    "read_config",
    "reason_for_own_class",
    "save_folder",
    "save_state",
    "to_hf_config",
    "verify_checksums",
    "write_checksums",
]
CHECKSUMS = "checksums.json"
HEAD = "lm_head.weight"  # not in the files where the embedding is tied to it
MAX_SHARD_BYTES = 5_000_000_000  # Hugging Face's bound of many years: a file that can be fetched again when it breaks


def save_folder(
    model: CausalLM, folder: Path, end_id: int, start_id: int | None = None, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write config.json, generation_config.json and the weights into a folder (not atomic: publish the folder).

    max_shard_bytes: weights that exceed it are split into several files with an index.
    """
    save_state(model.config, model.state_dict(), folder, end_id, start_id, max_shard_bytes)


def save_state(
    config: Config, state: Mapping[str, torch.Tensor], folder: Path, end_id: int, start_id: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES, stop_ids: Iterable[int] = (),
) -> None:  # fmt: skip
    """`save_folder` of a model that is given as its config and its state_dict (a checkpoint's, say).

    stop_ids: ids that end a text beside end_id, for generation_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = str(state["model.embed_tokens.weight"].dtype).removeprefix("torch.")
    write_configs(config, kind, folder, end_id, start_id, stop_ids, SCORE in state)
    table = read_config(folder)
    left_out = HEAD if config.tie_word_embeddings or SCORE in state else None
    kept = {name: tensor for name, tensor in state.items() if name != left_out}
    write_weights(kept, folder, table["model_type"], max_shard_bytes)


def write_configs(
    config: Config, dtype: str, folder: Path, end_id: int, start_id: int | None, stop_ids: Iterable[int] = (),
    scored: bool = False,
) -> None:  # fmt: skip
    """config.json and generation_config.json of a model folder. scored: of a reward model."""
    table = to_hf_config(config, end_id, start_id) | {"dtype": dtype}
    if scored:
        table = as_scored(table)
    ends = list(dict.fromkeys([*sorted(stop_ids), table["eos_token_id"]]))
    write_json(folder / "config.json", table)
    write_json(
        folder / "generation_config.json",
        {"bos_token_id": table["bos_token_id"], "eos_token_id": ends if len(ends) > 1 else ends[0]},
    )


def write_checksums(folder: Path) -> None:
    """Write checksums.json over every file of a model folder; the last thing written before the folder is published."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {str(path.relative_to(folder)): hash_file(path) for path in files})


def verify_checksums(folder: Path) -> dict[str, str]:
    """Check a folder against its checksums.json, if it has one; returns it. Raises CheckpointError naming the file."""
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        sums: dict[str, str] = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        raise CheckpointError(f"{path}: not valid JSON; the checkpoint is damaged; use another one") from None
    if not isinstance(sums, dict):
        raise CheckpointError(f"{path}: not a list of checksums; the checkpoint is damaged; use another one")
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing from the checkpoint; use another checkpoint or delete {folder}")
        if hash_file(file) != expected:
            raise CheckpointError(
                f"{file}: damaged, its checksum differs from {CHECKSUMS}; delete the folder {folder} to go on "
                "without it"
            )
    return sums


def load_folder(
    folder: Path, attention: str | None = None, frozen: Frozen | None = None, quantized: bool = False
) -> CausalLM:
    """Open a Hugging Face folder as our model, float32, on the CPU; its `stored_dtype` is the type on disk.

    A folder with an adapter is opened as its base with the adapter folded in; a reward model has a `score`, and no output layer.

    attention: the kernel, as in the recipe; None: auto. frozen: how weights that nobody trains are held, and where.
    quantized: a quantized folder is opened too, to be used, not trained.
    Raises CheckpointError for a damaged file and ModelError for what can not be represented.
    """
    verify_checksums(folder)
    if is_adapter(folder):
        assert frozen is None, "a base for adapters is no adapter"
        return merged(load_folder(base_of(folder), attention), folder)
    table = read_config(folder)
    packed = opening(folder, table) if quantized else None
    config = from_hf_config({**table, QUANTIZATION: None} if packed else table, str(folder / "config.json"))
    if attention is not None:
        config = config.model_copy(update={"attention": attention})
    with torch.device("meta"):
        model = CausalLM(config)
        if is_scored(table):
            add_head(model, "score")
        for holder in (frozen, packed):
            if holder is not None:
                holder.swap(model)
    tied = HEAD if config.tie_word_embeddings or is_scored(table) else None
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    take = {} if frozen is None else {"take": frozen.take}
    state, stored = read_weights(folder, shapes, tied, **take, tensors=packed.tensors() if packed else None)
    if tied:
        state[tied] = state["model.embed_tokens.weight"]
    if frozen is not None:
        frozen.place(state)
    if packed is not None:
        packed.place(model, state)
    model.load_state_dict(state, assign=True, strict=frozen is None and packed is None)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.requires_grad_(frozen is None and packed is None)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())), "a buffer that no file holds"
    model.stored_dtype = stored
    return model
