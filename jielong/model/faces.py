"""A model of ours as its class of transformers, made of the very same parameters: what libraries that expect that class are given.

Training through such a face trains our model, and nothing is ever copied. Layers with an adapter beside them are shared whole.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.errors import ModelError
from jielong.model.hf import to_hf_config
from jielong.model.transformer import CausalLM


def face(model: CausalLM, scored: bool = False) -> Any:
    """The model as its class of transformers, in training mode; scored: as its class for sequence classification, of whose one label
    `model.score` gives the score.

    Raises ModelError when that class has other parameters.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.initialization import no_init_weights

    table = to_hf_config(model.config, 0)  # ids of special tokens mean nothing to training
    kernel = "eager" if model.config.attention == "eager" else "sdpa"
    settings = AutoConfig.for_model(**table)
    if scored:
        settings.num_labels = 1
    classes: Any = AutoModelForSequenceClassification if scored else AutoModelForCausalLM  # without types
    with no_init_weights():
        theirs = classes.from_config(settings, attn_implementation=kernel, dtype=torch.float32)
    for path, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            parent, _, leaf = path.rpartition(".")
            setattr(theirs.get_submodule(parent), leaf, layer)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if scored:
        parameters = {name: one for name, one in parameters.items() if not name.startswith("lm_head.")}
    shapes = {name: parameter.shape for name, parameter in theirs.named_parameters(remove_duplicate=False)}
    if shapes != {name: parameter.shape for name, parameter in parameters.items()}:
        other = sorted(shapes.keys() ^ parameters.keys()) or ["shapes"]
        raise ModelError(
            f"model: {type(theirs).__name__} of this transformers has other parameters than the checkpoint, got {other[0]}; take "
            "another version of transformers"
        )
    for name, parameter in parameters.items():
        path, _, leaf = name.rpartition(".")
        setattr(theirs.get_submodule(path), leaf, parameter)
    embedding = theirs.get_input_embeddings()
    if (
        embedding.weight.dtype != torch.float32
    ):  # held in half beside an adapter: what blocks add to stays float32, as in ours
        embedding.register_forward_hook(lambda module, given, found: found.float())
    if scored:
        theirs.score.forward = lambda hidden: _in_float32(hidden, theirs.score.weight)
    return theirs.train()


def _in_float32(hidden: Tensor, weight: Tensor) -> Tensor:
    """Scores are compared with each other: half precision would make some of them alike."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.linear(hidden.float(), weight.float())
