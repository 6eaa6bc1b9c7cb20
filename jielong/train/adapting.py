"""A base with an adapter, ready to train: frozen weights as the recipe wants them held, the adapter as a checkpoint left it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from jielong.errors import MissingExtraError, RecipeError
from jielong.model.adapter_config import Adapter
from jielong.model.adapters import Adapted, attach, base_of, fill, identity, is_adapter, read_tensors
from jielong.model.cost import parameters
from jielong.model.frozen import QUANTIZED, Frozen
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM
from jielong.progress import human_count, say
from jielong.train.config import Config
from jielong.train.precision import AUTOCAST, Precision


def open_adapted(
    config: Config,
    adapter: Adapter,
    base: Path,
    attention: str | None,
    newest: Path | None,
    seed: int,
    device: torch.device,
) -> tuple[CausalLM, Adapted]:
    """The model, and what its checkpoints say. base: the folder whose weights stay; newest: a checkpoint to go on from.

    Raises RecipeError for quantized weights where the run computes in float32.
    """
    precision = Precision(config.precision, device).name
    kind = AUTOCAST.get(precision, torch.float32)
    held: str = adapter.base_weights
    check_adapter(adapter, base, device)
    if held == "auto":
        held = "half" if kind != torch.float32 else "float32"
    if adapter.kind == "pissa" or is_adapter(base):  # it takes the weights apart: they are read as they are
        model = load_folder(base, attention)
    else:
        model = load_folder(base, attention, Frozen(held, kind, device))
    model.to(device)
    first = attach(model, adapter, seed, kind if held == "half" else torch.float32)
    if newest is not None:
        fill(model, read_tensors(newest, adapter), newest)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    say(
        f"{adapter.kind}: {human_count(count)} parameters are trained, {count / parameters(model.config):.2%} of the model's; "
        f"the others are held in {precision if held == 'half' else held}"
    )
    return model, Adapted(
        adapter, base.resolve(), weights=identity(base), tied=model.config.tie_word_embeddings, first=first
    )


def check_adapter(adapter: Adapter, base: Path, device: torch.device) -> None:
    """What can be refused before anything is opened or moved. Raises RecipeError, MissingExtraError, ModelError for a base that is gone."""
    held = adapter.base_weights
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError("peft", "tune", "for adapters")
    if held in QUANTIZED and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "tune", f'by adapter.base_weights = "{held}"')
    if held in QUANTIZED and is_adapter(base):
        raise RecipeError(
            f"adapter.base_weights: the base is an adapter itself, whose weights would be rounded twice, got {held} with {base}; "
            "merge it first: jielong merge"
        )
    if held in QUANTIZED and device.type == "mps":
        raise RecipeError(
            f"adapter.base_weights: bitsandbytes has no kernels for mps, got {held}; use auto, or device cpu"
        )
    if is_adapter(base):
        base_of(base)
