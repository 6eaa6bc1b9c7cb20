"""The dense feed-forward layer, SwiGLU without biases (arXiv:2002.05202, section 2; arXiv:2302.13971, section 2.2).

It has a file of its own because two others are built of it: the blocks of `transformer.py`, and the shared expert of
`experts.py`. Parameter names are Hugging Face Llama's.

It costs 3 products of C x I a token (6 C I floating-point operations forward), and at the usual I = 8/3 C as many weights
as a ReLU layer of width 4 C. The three matrices stay apart: one matrix for gate and up would save a kernel launch, but
adapters and every tool downstream know them under these names.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jielong.model import fused


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x)).

    hidden_size: numbers in and out, C; size: numbers in between, I.
    """

    def __init__(self, hidden_size: int, size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, size, bias=False)
        self.up_proj = nn.Linear(hidden_size, size, bias=False)
        self.down_proj = nn.Linear(size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        between = fused.gated(gate, up) if fused.usable(gate, up) else F.silu(gate) * up
        out: Tensor = self.down_proj(between)
        return out
