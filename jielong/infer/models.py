"""From what a user types as MODEL to a model and its tokenizer.

MODEL is a run's name (its newest checkpoint, the tuned one where there is one), a run folder, a checkpoint folder, or a Hugging Face folder of a class
in `model.hf_config.CLASSES`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong.errors import InputError, JielongError, ModelError
from jielong.infer.config import Config
from jielong.model.hf import load_folder, read_config
from jielong.model.transformer import CausalLM
from jielong.progress import say
from jielong.recipe import parse_section
from jielong.runs import TRAINED, list_runs, writes
from jielong.runtime import choose_device, has_fast_bfloat16
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.train.checkpoints import newest

if TYPE_CHECKING:
    import torch


def find_model(model: str, runs_dir: Path) -> Path:
    """The model folder that MODEL means. Raises InputError saying where it was looked for."""
    path = Path(model).expanduser()
    if (path / "config.json").is_file() or (path / "adapter_config.json").is_file():
        if not writes(path):
            raise InputError(
                f"MODEL: a reward model, which writes no text, got {path}; judge with it: jielong judge A B --by {path}"
            )
        return path
    if path.name == "quantize" and (path / "model" / "config.json").is_file():  # a stage's folder
        return path / "model"
    for run in (runs_dir / model, path):
        for checkpoints in (*(run / stage / "checkpoints" for stage in TRAINED), run / "checkpoints"):
            if (checkpoint := newest(checkpoints)) is not None and writes(checkpoint):
                return checkpoint
    known_runs = (run for run in list_runs(runs_dir) for stage in TRAINED if newest(run.stage(stage) / "checkpoints"))
    runs = list(dict.fromkeys(run.name for run in known_runs))
    if (runs_dir / model / "recipe.toml").is_file():
        raise InputError(f"MODEL: the run {model!r} has no checkpoint yet; train it first: jielong run {model}")
    known = f"trained runs in {runs_dir}: {', '.join(runs)}" if runs else f"there is no trained run in {runs_dir} yet"
    raise InputError(
        f"MODEL: neither a run nor a model folder, got {model!r}; {known}; give one or a folder with config.json"
    )


def config_folder(folder: Path) -> Path:
    """The folder that holds a model's config.json: itself, or of an adapter without one (peft writes none) its base."""
    from jielong.model.adapters import base_of, is_adapter

    return base_of(folder) if is_adapter(folder) and not (folder / "config.json").is_file() else folder


def open_tokenizer(folder: Path) -> TokenizerFolder:
    """The tokenizer of a model folder; of an adapter that has none beside it, its base's."""
    there = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return open_folder(folder if there else config_folder(folder))


def run_sampling(folder: Path) -> dict[str, Any]:
    """The [infer] table of the run that a checkpoint belongs to; empty for a folder that belongs to none."""
    recipe = folder.resolve().parents[2] / "recipe.toml" if len(folder.resolve().parents) > 2 else folder
    if folder.resolve().parent.name != "checkpoints" or not recipe.is_file():
        return {}
    try:  # only this table: a key elsewhere that another version wrote does not make the model unusable
        table = tomllib.loads(recipe.read_text(encoding="utf-8")).get("infer", {})
        section = parse_section("infer", Config, table)
    except (JielongError, ValueError) as error:
        say(f"{recipe}: its [infer] table cannot be used ({error}); sampling with the defaults")
        return {}
    return section.model_dump(exclude={"prompts", "device"})


def open_model(
    model: str, runs_dir: Path, device: str = "auto", precision: str = "float32"
) -> tuple[CausalLM, TokenizerFolder, Path]:
    """Load MODEL on a device, ready to generate, with a tokenizer that knows the model's start and stop ids.

    precision: of weights and cache, as in the recipe's [infer] table. No weight asks for a gradient.
    Raises ModelError for a tokenizer that has more ids than the model has embeddings, InputError for a precision that the
    device does not have.
    """
    folder = find_model(model, runs_dir)
    place = choose_device(device, "device")
    tokenizer, config = open_tokenizer(folder), read_config(config_folder(folder))
    loaded = load_folder(folder, quantized=True)
    if tokenizer.size > loaded.config.vocabulary:
        raise ModelError(
            f"{folder}: the tokenizer has {tokenizer.size} ids, the model {loaded.config.vocabulary} embeddings; "
            "they do not belong together"
        )
    generation = folder / "generation_config.json"
    tables = [config, read_config(folder, generation.name)] if generation.is_file() else [config]
    stops = {stop for table in tables for stop in _ids(table.get("eos_token_id"))}
    start = next(iter(_ids(config.get("bos_token_id"))), tokenizer.start_id)
    tokenizer = dataclasses.replace(tokenizer, start_id=start, stop_ids=frozenset(stops))
    kind = choose_type(precision, place, loaded.stored_dtype)
    return loaded.requires_grad_(False).to(place, kind).eval(), tokenizer, folder


def choose_type(precision: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """The type of weights and cache. auto: on CUDA that of the file, if the device is fast at it; elsewhere float32.

    Raises InputError for half precision elsewhere: on the CPU its products are no faster for one token.
    """
    import torch

    if precision == "auto":
        known = device.type == "cuda" and (
            stored == torch.float16 or (stored == torch.bfloat16 and has_fast_bfloat16(device))
        )
        return stored if known and stored is not None else torch.float32
    if precision != "float32" and device.type != "cuda":
        raise InputError(f"infer.precision: half precision only on cuda, got {precision} on {device.type}; use float32")
    kind: torch.dtype = getattr(torch, precision)
    return kind


def _ids(value: Any) -> list[int]:
    """Token ids as the configs write them: one, a list, or none."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
