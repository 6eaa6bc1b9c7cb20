"""The model that a policy is to stay near: the adapter switched off, or a second copy of the base that nobody trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from jielong.model.faces import face
from jielong.model.hf import load_folder
from jielong.model.transformer import CausalLM


@contextlib.contextmanager
def without_adapter(model: CausalLM) -> Iterator[None]:
    """The model as its base. peft's own switch would freeze the adapter, too."""
    layers: list[Any] = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


class Reference:
    """What the base says, as a model of transformers. `model` is it in our own terms."""

    def __init__(self, policy: CausalLM, theirs: Any, base: Path, device: torch.device) -> None:
        """theirs: the policy's face; None: nobody calls it. base: the folder that training began with."""
        self._policy, self._theirs = policy, theirs
        self.model = policy
        if not policy.adapted:
            self.model = load_folder(base, policy.config.attention).to(device).eval().requires_grad_(False)
            self._theirs = face(self.model).eval() if theirs is not None else None

    @property
    def theirs(self) -> Any:
        """The model of transformers; the policy's own where an adapter is trained."""
        return self._theirs

    def __call__(self, *given: Any, **inputs: Any) -> Any:
        """As the model of transformers is called; without gradients."""
        with torch.no_grad(), self.switched():
            return self._theirs(*given, **inputs)

    @contextlib.contextmanager
    def switched(self) -> Iterator[CausalLM]:
        """`model` as the base."""
        with without_adapter(self._policy) if self._policy.adapted else contextlib.nullcontext():
            yield self.model
