"""Bytes of an optimizer's state, and the most besides while it steps: pure arithmetic, no torch.

    adamw        8 a weight, two moments in float32; the fused form takes nothing else
    muon         4 a weight of the blocks' matrices, a momentum; 8 of the rest. A run of at most RUN elements of one shape takes its
                 updates in float32 and their copies for Newton-Schulz, then two copies and two squares (train/optimizers/orthogonal.py)
    lion         4 a weight; updates of a run of RUN elements
    adamw8bit    2 a weight of large matrices, and 8 for every 256 of them; 8 a weight of the rest, the embedding's too. On a CPU
                 bitsandbytes takes 20 bytes a weight (measured) of the matrix that it is at; its CUDA kernels take nothing
    average      4 a weight, if there is one

In which type Newton-Schulz works depends on the machine; assumed is bfloat16.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from jielong.model.config import Config
from jielong.model.cost import parameters

FLOAT, HALF = 4, 2  # bytes
RUN = 1 << 22  # elements: that of train/optimizers/orthogonal.py
LEAST_EIGHT_BIT = 4096  # elements
BLOCK = 256  # numbers of 8-bit state with one largest
TABLES = 2 * 256 * FLOAT  # what the codes stand for, once for all
ON_CPU = 20  # bytes a weight


class Optimizer(NamedTuple):
    """Bytes."""

    state: int
    working: int  # the most besides, in its step


def optimizer_memory(config: Config, name: str = "adamw", averaged: bool = False, device: str = "cpu") -> Optimizer:
    """Of the optimizer that a recipe names, with the average of the weights if there is one."""
    whole = parameters(config)
    average = FLOAT * whole if averaged else 0
    if name == "lion":
        return Optimizer(FLOAT * whole + average, FLOAT * min(RUN, whole))
    if name == "muon":
        shapes = _matrices(config)
        inside = sum(high * wide * count for (high, wide), count in shapes.items())
        return Optimizer(FLOAT * inside + 2 * FLOAT * (whole - inside) + average, max(map(_run, shapes.items())))
    if name == "adamw8bit":
        sizes = _matrices(config, stacked=True)
        if not config.tie_word_embeddings:
            sizes[config.vocabulary, config.hidden_size] += 1
        large = {(a, b): count for (a, b), count in sizes.items() if a * b >= LEAST_EIGHT_BIT}
        inside = sum(a * b * count for (a, b), count in large.items())
        blocks = sum(-(-a * b // BLOCK) * count for (a, b), count in large.items())
        state = 2 * inside + 2 * FLOAT * blocks + (TABLES if large else 0) + 2 * FLOAT * (whole - inside)
        return Optimizer(state + average, ON_CPU * max((a * b for a, b in large), default=0) if device == "cpu" else 0)
    return Optimizer(2 * FLOAT * whole + average, 0)


def _run(entry: tuple[tuple[int, int], int]) -> int:
    """The most that Newton-Schulz takes at a time for matrices of a shape."""
    (high, wide), count = entry
    together = min(count, max(1, RUN // (high * wide)))
    elements, squares = together * high * wide, together * min(high, wide) ** 2
    return max((FLOAT + HALF) * elements, 2 * HALF * (elements + squares))


def _matrices(config: Config, stacked: bool = False) -> Counter[tuple[int, int]]:
    """The blocks' matrices, (rows, columns), and how many there are of each. stacked: experts of a layer as one."""
    width, size = config.hidden_size, config.size_of_head
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    found: Counter[tuple[int, int]] = Counter()
    for layer in range(config.num_hidden_layers):
        found.update([(queries, width), (keys, width), (keys, width), (width, queries)])
        inner = config.feed_forward_size
        if config.is_sparse(layer):
            assert config.num_experts is not None
            inner, experts = config.expert_size, config.num_experts
            if stacked:
                found.update([(experts * 2 * inner, width), (experts * width, inner)])
            else:
                found[inner, width] += 2 * experts
                found[width, inner] += experts
            if config.shared_expert_intermediate_size is None:
                continue
            inner = config.shared_expert_intermediate_size
        found.update([(inner, width), (inner, width), (width, inner)])
    return found
