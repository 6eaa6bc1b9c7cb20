"""How much memory training and inference take: pure arithmetic, no torch.

A training step has its highest point at one of a few moments, and which one depends on the shape: at the end of the forward
pass (long rows in plain attention), at the start of the backward pass (large vocabularies), on the way back, when the
activations of the layers below and the gradients of those above are there together (large models on few tokens), at its end
(the embedding's gradient), or in the optimizer's step (one small row). So the step is replayed, moment by moment, with the
bytes alive at each: `Training.moments`, of which the largest counts. What is counted is what our engine does:

    weights, gradients   float32, 4 bytes each; gradients are gone after a step
    optimizer            AdamW, two moments in float32, 8 bytes a weight; others: memory_of_optimizers.py
    low precision        under autocast every matrix has a half-precision copy, 2 bytes a weight, from the forward pass, where
                         it is made and cached, to its layer's backward pass, which still needs it
    activations          what autograd keeps of each layer, one line each in `_attention` and `_feed_forward`
    logits               cross-entropy in float32: log-probabilities (N, V) are kept, and at the start of the backward pass
                         two gradients of their size stand beside them, 12 bytes a logit in all, in any precision

Under autocast the residual stream stays in float32, as do norms and rotation; what projections read and write is half as
large. The CPU differs from CUDA: its norm is not fused and keeps the normalised values too, and its attention runs in
float32 with a float mask that all layers share. torch.compile fuses and recomputes; its memory is not modelled and is less.
attention_dropout is predicted up to 13 % too high from 1,024 tokens a row on.

Checked against the measured bytes of tensors (`train/peaks.py`) over shapes, precisions, kernels and experts in
tests/model/test_memory.py, within 10 %; benchmarks/memory.py has the table (on the CPU 0.4 % at most). The CUDA branches are
read off the kernels' signatures and have tests marked gpu, but were not yet run on a card. What a process takes beyond its tensors (the CUDA
context, the gaps of the allocator) is the matter of `Device.usable`.

Shapes: N tokens of a micro-batch, B rows of T, C hidden_size, V vocabulary, Q = H x D and K = G x D numbers of queries and
of keys, I feed-forward width, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass

from jielong.model.config import Config
from jielong.model.cost import (
    attention_parameters,
    el_cache_bytes,
    feed_forward_parameters,
    kv_cache_bytes,
    parameters,
)
from jielong.model.memory_of_optimizers import optimizer_memory

FLOAT, HALF = 4, 2  # bytes
MIB = 1 << 20


@dataclass(frozen=True)
class Work:
    """One micro-batch and how it is computed."""

    rows: int
    length: int
    precision: str = "float32"  # or tf32; bfloat16, float16, fp8 (taken for bfloat16): autocast
    device: str = "cpu"  # or cuda
    document_mask: bool = True
    accumulates: bool = False  # whether gradients of an earlier micro-batch of the step are there already
    capability: int = (
        8  # of a CUDA device, its first number; 9: experts by one grouped product, below 8: no flex, no varlen
    )

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def workspace(self) -> int:
        """What cuBLAS keeps for itself in torch's allocator, bytes."""
        return 0 if self.device == "cpu" else (32 if self.capability == 9 else 8) * MIB

    @property
    def item(self) -> int:
        """Bytes of a number that a projection reads or writes."""
        return FLOAT if self.precision in ("float32", "tf32") else HALF


@dataclass(frozen=True)
class Part:
    """One half of a block, attention or feed-forward, in bytes."""

    saved: int  # what autograd keeps from its forward to its backward pass
    forward: int  # the most besides, while it is computed
    backward: int  # the most besides, on the way back
    gradients: int  # of all its weights
    largest: int  # of its largest weight
    cast: int  # half-precision copies of its weights, if there are any; in `saved` too


@dataclass(frozen=True)
class Training:
    """Bytes of one training step."""

    weights: int
    gradients: int
    optimizer: int
    low_precision: int
    activations: int
    logits: int
    moments: dict[str, int]  # bytes alive at each moment that may be the highest

    @property
    def moment(self) -> str:
        """Where the peak is."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def peak(self) -> int:
        return self.moments[self.moment]

    def phase(self, name: str) -> int:
        """The most in "forward", "backward" or "step"."""
        return max(size for moment, size in self.moments.items() if moment.split(",")[0] == name)


def attention_kernel(config: Config, work: Work) -> str:
    """The kernel that `attention.choose_kernel` and `attend` come to, as far as it can be known without the machine.

    Assumed of a CUDA device: Triton, and one of flash_attn and torch's varlen_attn.
    """
    if config.talking_heads or config.attention == "eager":
        return "eager"
    bare = config.position != "alibi" and not config.attn_logit_softcapping
    if work.device == "cuda" and work.capability >= 8 and not config.attention_dropout:
        if config.attention in ("auto", "varlen") and work.item == HALF and bare:
            return "varlen" if work.document_mask or config.shifted_attention else "sdpa"
        if config.attention in ("auto", "varlen", "flex"):
            plain = bare and not work.document_mask and config.sliding_window is None
            return "sdpa" if plain and not config.shifted_attention else "flex"
    return "eager" if config.attn_logit_softcapping else "sdpa"


def _norm(numbers: int, work: Work, result: int) -> int:
    """What an RMSNorm of so many numbers keeps besides its input: normalised values (CPU), and its result for its reader."""
    return numbers * (result + (FLOAT if work.device == "cpu" else 0))


def _attention(config: Config, work: Work, layer: int) -> Part:
    """One layer's norm and attention."""
    tokens, item, size = work.tokens, work.item, config.size_of_head
    wide, narrow = tokens * config.num_attention_heads * size, tokens * config.num_key_value_heads * size  # N Q, N K
    stream = FLOAT * tokens * config.hidden_size
    saved = stream + _norm(tokens * config.hidden_size, work, item)
    if config.qk_norm:  # reads its input as float32; its result is rotated or cast, which keeps nothing
        saved += FLOAT * (wide + narrow) + _norm(wide + narrow, work, 0)
    kernel = attention_kernel(config, work)
    inner = FLOAT if work.device == "cpu" or kernel == "eager" else item  # bytes of a number inside the kernel
    span, keys = work.length, narrow
    if config.shifted_attention is not None and span > config.shifted_attention:
        span, keys = config.shifted_attention, wide  # groups are rows, heads are spread
        saved += item * wide if item == inner else 0  # the halves put together again, where nothing casts them
    masked = work.document_mask or span < work.length or (config.window(layer) or span) < span
    scores = tokens * config.num_attention_heads * span  # B H T T
    forward = backward = 0
    if kernel == "eager" or (kernel == "sdpa" and config.attention_dropout and work.device == "cpu"):
        cast = item * scores if item == HALF and kernel == "eager" else 0  # the weights as the values' type
        kept = 1  # of the size of the scores: the weights
        if config.attention_dropout:
            kept += 1 if cast or config.talking_heads else 2  # its mask, and what it leaves, unless that is cast
        if config.talking_heads:  # before and after each mixing; one row is mixed without a copy
            kept += (2 if item == HALF else 3) - (work.rows == 1)
        elif config.attn_logit_softcapping:
            kept += 1
        saved += FLOAT * 2 * wide + item * wide  # q, and k and v spread over the heads
        saved += FLOAT * kept * scores + cast + tokens * span  # and the mask
        backward = 2 * FLOAT * scores - cast
        forward = backward + (FLOAT * scores if config.talking_heads else 0)
    else:
        if kernel == "sdpa" and work.device == "cuda" and masked:
            keys = wide  # spread over the heads: no kernel that saves memory takes a mask and groups together
        saved += inner * (2 * wide + 2 * keys) + FLOAT * tokens * config.num_attention_heads  # q, k, v, result, sums
        backward = FLOAT * (2 * wide + 2 * keys)
    if item < inner or kernel == "eager":
        saved += item * wide  # what the output projection reads
    matrices = attention_parameters(config)
    cast = HALF * matrices if item == HALF else 0
    largest = FLOAT * config.hidden_size * config.num_attention_heads * size
    return Part(saved + cast, forward, backward + stream, FLOAT * matrices, largest, cast)


def _feed_forward(config: Config, work: Work, layer: int) -> Part:
    """One layer's second norm and feed-forward part, dense or with experts."""
    tokens, item, width = work.tokens, work.item, config.hidden_size
    stream = FLOAT * tokens * width
    saved = stream + _norm(tokens * width, work, item)
    matrices = feed_forward_parameters(config, layer)
    if not config.is_sparse(layer):
        inner = tokens * config.feed_forward_size
        saved += item * 4 * inner  # gate, its silu, up, their product
        largest = FLOAT * width * config.feed_forward_size
        cast = HALF * matrices if item == HALF else 0
        return Part(saved + cast, 0, 2 * item * inner + stream, FLOAT * matrices, largest, cast)
    assert config.num_experts is not None
    experts, choices = config.num_experts, tokens * config.num_experts_per_tok
    inner = choices * config.expert_size
    saved += stream if item == HALF else 0  # the gate's input as float32
    saved += 3 * FLOAT * tokens * experts  # its logits, scores and shares
    saved += 6 * 8 * choices  # which experts, in which order, with which weights
    saved += item * 2 * choices * width  # rows sorted by expert, and put back into order
    saved += item * 4 * inner  # gate and up, silu, their product
    cast = 0
    if config.shared_expert_intermediate_size is not None:
        saved += item * tokens * (4 * config.shared_expert_intermediate_size + width)
        cast = 3 * width * config.shared_expert_intermediate_size + width
    if work.device == "cuda" and work.capability == 9:  # one grouped product of all; else each is cast at its turn
        cast = matrices - experts * width
    cast *= HALF if item == HALF else 0
    largest = FLOAT * experts * 2 * config.expert_size * width
    backward = item * 2 * (inner + choices * width) + stream
    return Part(saved + cast, 2 * item * choices * width, backward, FLOAT * matrices, largest, cast)


def _shared(config: Config, work: Work) -> tuple[int, int]:
    """What all layers share: (kept until they are on their way back, needed in the forward pass only)."""
    tokens = work.tokens
    kept, passing = 8 * 4 * tokens, 0  # ids, labels, places and documents
    if config.position == "rope":
        kept += 2 * FLOAT * config.size_of_head * (tokens if work.document_mask else work.length)  # cos and sin
    kernel = attention_kernel(config, work)
    if kernel not in ("sdpa", "eager"):
        return kept, passing
    inner = FLOAT if work.device == "cpu" else work.item  # of what sdpa adds to the scores, made once for all layers
    if config.shifted_attention is not None and config.shifted_attention < work.length:
        squares = 2 * tokens * config.shifted_attention  # each half of the heads has its own
        return kept + (inner * squares if kernel == "sdpa" else 0), squares
    windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
    squares = (work.rows if work.document_mask else 1) * work.length**2
    masks = len(windows) if work.document_mask else len(windows - {None})
    passing += squares * masks
    if config.position == "alibi":
        bias = squares * config.num_attention_heads * len(windows)
        return (kept + inner * bias, passing) if kernel == "sdpa" else (kept, passing + FLOAT * bias)
    return kept + (inner * squares * masks if kernel == "sdpa" else 0), passing


def training_memory(config: Config, work: Work, optimizer: str = "adamw", averaged: bool = False) -> Training:
    """Replay one optimizer step of the engine over micro-batches like `work`, and keep the bytes alive at each moment.

    optimizer: as in the recipe; averaged: with an average of the weights, which counts as its.
    """
    tokens, item, width = work.tokens, work.item, config.hidden_size
    weights = FLOAT * parameters(config)
    table = FLOAT * config.vocabulary * width  # the embedding, or the output layer
    kept, gradients = optimizer_memory(config, optimizer, averaged, work.device), weights
    stream, logits = FLOAT * tokens * width, tokens * config.vocabulary
    layers = range(config.num_hidden_layers)
    parts = [part for n in layers for part in (_attention(config, work, n), _feed_forward(config, work, n))]
    copy = table // 2 if item == HALF else 0  # the output layer's
    head = stream + _norm(tokens * width, work, item) + copy
    shared, passing = _shared(config, work)
    always = weights + kept.state + (gradients if work.accumulates else 0) + shared + work.workspace
    saved = sum(part.saved for part in parts)

    moments: dict[str, int] = {}

    def moment(name: str, size: int) -> None:
        moments[name] = max(size, moments.get(name, 0))

    below = 0
    for part in parts:
        below += part.saved
        moment("forward, a layer", always + passing + below + part.forward)
    moment("forward, the loss", always + saved + head + logits * (2 * FLOAT + (HALF if item == HALF else 0)))
    moment("backward, the loss", always + saved + head + logits * 3 * FLOAT)
    product = max(2 * copy + logits * item, copy + table) if copy else table + logits * item
    moment("backward, the output layer", always + saved + head - copy + product + stream)
    # the output layer's gradient waits for the embedding's when they are one weight; else it is added to what is there
    made = table if config.tie_word_embeddings or not work.accumulates else 0
    for part in reversed(parts):
        fresh = part.largest if work.accumulates else 0  # before it is added to what is there
        moment("backward, a layer", always + below + made + part.backward + fresh)
        below -= part.saved
        made += 0 if work.accumulates else part.gradients
    # two gradients of one weight are added: in place where a cast made the first of them, else a third takes the sum
    summed = table if config.tie_word_embeddings and not copy else 0
    moment("backward, the embedding", always + made + table + summed + stream)
    moment("step, the optimizer", weights + kept.state + gradients + kept.working + work.workspace)
    low = sum(part.cast for part in parts) + copy
    activations = saved + head - low + shared
    return Training(weights, gradients, kept.state, low, activations, logits * 3 * FLOAT, moments)


@dataclass(frozen=True)
class Inference:
    """Bytes of generation: weights, and the cache of a batch at full length."""

    weights: int
    kv_cache: int
    el_cache: int | None  # None: the model's positions do not allow it

    @property
    def total(self) -> int:
        """With the key-value cache."""
        return self.weights + self.kv_cache


def inference_memory(config: Config, rows: int, context: int, item: int = FLOAT) -> Inference:
    """What generating takes for `rows` texts of up to `context` tokens, numbers of `item` bytes.

    EL-attention needs positions that do not touch the keys, and no norm on them.
    """
    fits = config.position != "rope" and not config.qk_norm
    el = rows * context * el_cache_bytes(config, item) if fits else None
    return Inference(item * parameters(config), rows * context * kv_cache_bytes(config, item), el)
