"""How a run computes: half precision, the loss scale of float16, tf32 and fp8, in one object that every engine asks.

    float32     everything
    tf32        float32 whose matrix products round their operands to 10 bits of mantissa (CUDA, capability 8.0): about 8
                times float32's peak on an A100 (its data sheet). A switch of the process: set while a run uses it, then put back
    bfloat16    autocast: matrix products in bfloat16, weights, residual stream and reductions in float32
    float16     the same in float16, for a V100. Its smallest number is 6e-8, so gradients are scaled (`LossScale`)
    fp8         the linear layers of the blocks in fp8 (`fp8.py`), the rest as with bfloat16

Always autocast, never a model that is cast as a whole: norms, softmax, losses and the optimizer see float32, so that the stress
test in tests/train/test_precision.py holds with weights that overflow float16 where it is done naively. What stays possible in
float16 is that one product itself is above 65504 (silu(gate) x up in the feed-forward layer is the usual one): no loss scale
helps with that, the loss is not finite and the step must not be taken.

tf32 is set by `set_float32_matmul_precision`: it is not deprecated, warns of nothing in torch 2.11 to 2.13 and keeps torch's
old and new switches agreed. The new one alone (`torch.backends.cuda.matmul.fp32_precision`) makes torch.compile fail, which
still reads an old one (pytorch issue 166387).
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, Final

import torch

from jielong.model.transformer import CausalLM
from jielong.runtime import choose_precision
from jielong.train.fp8 import to_fp8

AUTOCAST: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.bfloat16}
FIRST_SCALE: Final = 65536.0  # torch.amp.GradScaler's
GROWTH_INTERVAL: Final = 2000  # good steps in a row before the scale doubles; GradScaler's


class LossScale:
    """What the loss is multiplied by before the backward pass, so that float16 gradients do not vanish (arXiv:1710.03740).

    `value` doubles after GROWTH_INTERVAL good steps in a row and halves at an overflow, never below 1; it has no upper
    bound but the overflow that it ends in. Where it is not enabled (every precision but float16) it is 1 and never moves.

    Ours rather than torch.amp.GradScaler, for three reasons. The engine has the norm of all gradients anyway, for clipping: one
    number that is finite or not, the same on every rank, instead of a check of each tensor. It works alike with DDP, with
    FSDP2's shards and with DeepSpeed, which have a scaler each. And its state is two numbers in a JSON checkpoint that
    every engine can read. The division by `value` costs nothing: it is folded into the factor that clips.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.value = FIRST_SCALE if enabled else 1.0
        self.good_steps = 0

    def update(self, overflow: bool) -> None:
        """After a step: whether its gradients overflowed, in which case it was not taken."""
        if not self.enabled:
            return
        if overflow:
            self.value, self.good_steps = max(1.0, self.value / 2), 0
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_INTERVAL:
            self.value, self.good_steps = self.value * 2, 0

    def to_json(self) -> dict[str, Any]:
        """The state; empty where there is none."""
        return {"value": self.value, "good_steps": self.good_steps} if self.enabled else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `to_json` gave; an empty state (of a run in another precision) begins anew."""
        fresh = LossScale(self.enabled)
        self.value, self.good_steps = fresh.value, fresh.good_steps
        if self.enabled and state:
            self.value, self.good_steps = float(state["value"]), int(state["good_steps"])

    @classmethod
    def from_json(cls, state: dict[str, Any], enabled: bool = True) -> LossScale:
        """One with the state that `to_json` gave."""
        scale = cls(enabled)
        scale.restore(state)
        return scale


class Precision:
    """The arithmetic of one run on one device.

    Raises RecipeError for a precision that the device does not have.
    """

    def __init__(self, wanted: str, device: torch.device) -> None:
        self.name = choose_precision(wanted, device)
        self.device = device
        self.scale = LossScale(self.name == "float16")
        self._before: str | None = None  # the process's precision of float32 products

    @property
    def half(self) -> bool:
        """Whether queries and keys are in half precision, which some attention kernels need."""
        return self.name in AUTOCAST

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What the forward pass runs in. The backward pass runs outside of it."""
        if self.name in AUTOCAST:
            return torch.autocast(self.device.type, dtype=AUTOCAST[self.name])
        return contextlib.nullcontext()

    def prepare(self, model: CausalLM) -> None:
        """Before the model is wrapped or trained: swap its layers (fp8), set the process's switch (tf32)."""
        if self.name == "fp8":
            to_fp8(model)
        if self.name == "tf32" and self._before is None:
            self._before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")

    def restore(self) -> None:
        """Put the process's switch back. May be called twice."""
        if self._before is not None:
            torch.set_float32_matmul_precision(self._before)
            self._before = None

    def overflows(self, norm: float) -> bool:
        """Whether a gradient norm says that the loss scale is too large: the step is not to be taken, the scale to be halved.

        False at a scale of 1, where nothing can be halved: what is not finite there is not the scale's doing, but the model's
        or the data's, and is judged as in any other precision.
        """
        return self.scale.enabled and self.scale.value > 1.0 and not math.isfinite(norm)
