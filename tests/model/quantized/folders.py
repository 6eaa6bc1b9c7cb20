"""A small random model folder, quantized by hand into each form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file, save_file

from jielong.model.config import Config
from jielong.model.hf import save_folder
from jielong.model.quantized.files import CONFIG
from jielong.model.transformer import CausalLM, initialise

SHAPE = Config(vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=128,
               max_position_embeddings=64)  # fmt: skip


def dense(folder: Path, **shape: Any) -> CausalLM:
    """A random model with large weights, and its folder."""
    model = CausalLM(SHAPE.model_copy(update=shape))
    initialise(model, 1)
    for name, parameter in model.named_parameters():
        parameter.data.mul_(4 if parameter.ndim == 2 else 1)
        if name.endswith("bias"):
            parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    save_folder(model, folder, 0)
    return model.eval()


def rewrite(folder: Path, tensors: dict[str, torch.Tensor], gone: list[str], described: dict[str, Any]) -> None:
    """Put tensors in place of others, and say in config.json how they are to be read."""
    state = {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name not in gone}
    save_file(state | tensors, folder / "model.safetensors")
    table = orjson.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(orjson.dumps({**table, CONFIG: described}))
