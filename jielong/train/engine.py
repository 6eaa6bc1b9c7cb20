"""The `torch` engine on one device: what the loop needs done, behind six methods.

Optimizer state is written as safetensors with the parameter's name in the key (`exp_avg.model.norm.weight`), so it is
readable by anybody, and no pickle is ever loaded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from jielong.errors import CheckpointError
from jielong.model.attention import choose_kernel
from jielong.model.experts import move_biases
from jielong.model.transformer import CausalLM, Losses
from jielong.runtime import choose_device, choose_precision, random_state, restore_random_state
from jielong.train.config import Config
from jielong.train.loader import Batch
from jielong.train.optimizers import adamw

OPTIMIZER, RANDOM = "optimizer.safetensors", "random.safetensors"


class TorchEngine:
    """Owns device, precision, model and optimizer; the loop owns everything else."""

    def __init__(self, model: CausalLM, config: Config) -> None:
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        self.grad_clip = config.grad_clip
        self.document_mask = config.document_mask
        self.model = model.to(self.device).train()
        self.optimizer = adamw(self.model, config, self.device)
        half = self.precision != "float32"
        self.attention = choose_kernel(self.model.config, self.device.type, half)  # (kernel, why)
        self.model.model.kernel(self.device.type, half)  # settled here, so that nothing is looked for in compiled code
        self._losses: Callable[..., Losses] = self.model.losses
        if config.compile:
            self._losses = torch.compile(self.model.losses)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 matrix products, float32 weights and reductions; or nothing, in float32."""
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def forward(self, batch: Batch) -> Losses:
        """Sums over a batch's labels: the cross-entropy in nats, what the experts' balance adds, and their use."""
        ids, labels, positions, documents = (
            torch.from_numpy(part).to(self.device)
            for part in (batch.inputs, batch.labels, batch.positions, batch.documents)
        )
        with self.autocast():
            if self.document_mask:
                return self._losses(ids, labels, positions, documents)
            return self._losses(ids, labels, None, None)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch ships it untyped

    def gradient_norm(self) -> float:
        """Clip the gradients and return their norm before clipping. Not finite when any gradient is not."""
        limit = self.grad_clip if self.grad_clip is not None else float("inf")
        return float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))

    def step(self, learning_rate: float) -> None:
        """One optimizer step at the given learning rate; gradients are gone afterwards."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def balance(self, expert_use_LE: Tensor) -> None:
        """After a step: move the experts' biases towards an even load, where the model balances in that way."""
        rate = self.model.config.router_bias_update_rate
        if rate > 0:
            move_biases(self.model, expert_use_LE, rate)

    def save(self, folder: Path) -> None:
        """Write optimizer and random state into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).detach().to("cpu").contiguous()
        save_file(tensors, str(folder / OPTIMIZER))
        save_file(random_state(self.device), str(folder / RANDOM))

    def load(self, folder: Path) -> None:
        """Put back what `save` wrote. The model's weights are already in place."""
        try:
            tensors, random = load_file(str(folder / OPTIMIZER)), load_file(str(folder / RANDOM))
        except Exception as error:  # safetensors raises its own error type and OSError
            raise CheckpointError(
                f"{folder}: optimizer state cannot be read ({error}); delete that checkpoint"
            ) from None
        for name, parameter in self.model.named_parameters():
            keys = {key: key[: -len(name) - 1] for key in tensors if key.endswith(f".{name}")}
            keys = {key: kind for key, kind in keys.items() if "." not in kind}
            if not keys:
                raise CheckpointError(f"{folder}: no optimizer state for {name}; delete that checkpoint")
            # AdamW's step counter stays on the CPU unless it is fused on the device; torch keeps it where it is given
            self.optimizer.state[parameter] = {
                kind: tensors[key].to(parameter.device if kind != "step" or self.device.type == "cuda" else "cpu")
                for key, kind in keys.items()
            }
        restore_random_state(random, self.device)
