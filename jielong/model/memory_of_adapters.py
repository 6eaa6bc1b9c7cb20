"""How much memory a training step takes where little of a model is trained, or little is kept: adapters, quantized weights, recomputing.

The arithmetic of memory.py with other sums, and coarser: what a layer keeps is counted as there, what is alive on the way back as the most of any
layer. Frozen weights have no gradients, no state and, held in half precision, no copies; a frozen output layer makes no gradient. What an adapter adds:
its two matrices with gradients and state, and for the way back its input after dropout, the mask and the input of B, of every target. A quantized weight is
written out in half precision for its product. With recomputing each block keeps its input, and one block at a time all the rest.
"""

from __future__ import annotations

from jielong.model.adapter_config import Adapter
from jielong.model.config import Config
from jielong.model.cost import attention_parameters, feed_forward_parameters, parameters
from jielong.model.memory import FLOAT, HALF, LOGITS, Training, Work, _attention, _feed_forward, _shared
from jielong.model.memory_of_optimizers import optimizer_memory

NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, a byte for 64 of them, four for 256 of these
INT8 = 1.0
STATE = {
    "adamw": 8.0,
    "lion": 4.0,
    "adamw8bit": 2 + 8 / 256,
}  # bytes of the optimizer's state for each number of an adapter


def adapter_parameters(config: Config, adapter: Adapter) -> int:
    """Numbers that an adapter trains beside what it trains as a whole; experts have none."""
    shapes = _targets(config, adapter)
    each = sum(adapter.rank * (into + out) + (out if adapter.kind == "dora" else 0) for into, out in shapes)
    dense = sum(not config.is_sparse(layer) for layer in range(config.num_hidden_layers))
    of_attention = sum(
        adapter.rank * (into + out) + (out if adapter.kind == "dora" else 0)
        for into, out in shapes[: _in_attention(adapter)]
    )
    return dense * each + (config.num_hidden_layers - dense) * of_attention


def _in_attention(adapter: Adapter) -> int:
    return sum(name in ("q_proj", "k_proj", "v_proj", "o_proj") for name in adapter.targets)


def _targets(config: Config, adapter: Adapter) -> list[tuple[int, int]]:
    """Inputs and outputs of a dense block's targets, those of attention first."""
    width, inner, size = config.hidden_size, config.feed_forward_size, config.size_of_head
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    shapes = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width),
              "gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}  # fmt: skip
    return [shape for name, shape in shapes.items() if name in adapter.targets]


def lean_memory(
    config: Config, work: Work, optimizer: str = "adamw", adapter: Adapter | None = None, recompute: bool = False
) -> Training:
    """Bytes of a training step; see the module's text. Without adapter and recomputing `training_memory` is exacter."""
    layers, tokens, item = range(config.num_hidden_layers), work.tokens, work.item
    stream, half = FLOAT * tokens * config.hidden_size, item == HALF
    matrices = sum(attention_parameters(config) + feed_forward_parameters(config, layer) for layer in layers)
    table = config.vocabulary * config.hidden_size
    tables = table * (1 if config.tie_word_embeddings else 2)
    largest = max(config.hidden_size * config.feed_forward_size, config.hidden_size**2)
    if adapter is None:
        weights, trained, copies, head = FLOAT * parameters(config), parameters(config), True, True
        state, working = optimizer_memory(config, optimizer, device=work.device)
    else:
        whole = "embeddings" in adapter.whole
        trained = adapter_parameters(config, adapter) + (tables if whole else 0)
        each = {"nf4": NF4, "int8": INT8, "float32": FLOAT}.get(adapter.base_weights, HALF if half else FLOAT)
        held = HALF if half and adapter.base_weights != "float32" and not whole else FLOAT
        norms = parameters(config) - matrices - tables
        weights = round(each * matrices) + held * tables + FLOAT * (norms + adapter_parameters(config, adapter))
        copies, head = half and adapter.base_weights == "float32", whole
        state, working = round(STATE.get(optimizer, 8.0) * trained), 0
    parts = [(_attention(config, work, n), _feed_forward(config, work, n)) for n in layers]
    added = 0
    if adapter is not None:
        mask = item + 1 if adapter.dropout else 0
        added = sum(tokens * (into * mask + adapter.rank * item) for into, _ in _targets(config, adapter))
    kept = [sum(part.saved - (0 if copies else part.cast) for part in pair) + added for pair in parts]
    low = sum(part.cast for pair in parts for part in pair) if copies and half else 0
    besides = max(max(way.besides for way in part.backward) for pair in parts for part in pair)
    written = HALF * largest if adapter is not None and adapter.base_weights in ("nf4", "int8") else 0
    shared, passing = _shared(config, work)
    saved = len(parts) * stream if recompute else sum(kept)
    block = max(kept) if recompute else 0
    size = max(64, LOGITS[work.device] // config.vocabulary // 64 * 64)
    logits = config.vocabulary * 2 * item * min(size, tokens) + (
        0 if work.fused else FLOAT * config.vocabulary * min(size, tokens)
    )
    normed = 2 * item * tokens * config.hidden_size
    of_head = (
        (FLOAT * table + (2 * FLOAT * table if half else 0)) if head else HALF * table * (half and adapter is None)
    )
    gradients = FLOAT * trained
    always = weights + state + shared + work.workspace + (gradients if work.accumulates else 0)
    made = 0 if work.accumulates else gradients
    moments = {
        "forward, a layer": always + saved + block + passing + written,
        "forward, the loss": always + saved + stream + normed + logits + of_head,
        "backward, a layer": always
        + saved
        + block
        + besides
        + stream
        + written
        + (made if adapter is not None else FLOAT * table + made // 2),
        "step, the optimizer": weights + state + gradients + working + work.workspace,
    }
    return Training(weights, gradients, state, low, saved + block + shared, logits, moments)
