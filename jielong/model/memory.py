"""How much memory training and inference take: pure arithmetic, no torch.

A training step has its highest point at one of a few moments, and which one depends on the shape: in attention (long rows), at
the end of the forward pass (large vocabularies), on the way back, when the activations of the layers below and the gradients of
those above are there together (large models on few tokens), at its end (the embedding's gradient), or in the optimizer's step
(one small row). So the step is replayed, moment by moment, with the bytes alive at each: `Training.moments`, of which the largest
counts. What is counted is what our engine does:

    weights, gradients   float32, 4 bytes each; gradients are gone after a step
    optimizer            AdamW, two moments in float32, 8 bytes a weight; others: memory_of_optimizers.py
    low precision        under autocast every matrix of the layers has a half-precision copy, 2 bytes a weight, from the forward
                         pass, where it is made and cached, to its layer's backward pass, which still needs it
    activations          what autograd keeps of each layer, one line each in `_attention` and `_feed_forward`
    losses               made a piece of the tokens at a time (cross_entropy.py): two pieces of logits at most, and from then on
                         the gradients of the last norm's result and of the output layer, which in half precision also has two
                         half-precision copies and one float32 copy of its size meanwhile

Under autocast the residual stream stays in float32, as does what norms compute; what projections read and write is half as
large. On the CPU norms, rotations and gates go by kernels that keep their inputs alone (fused.py), and attention by tiles
(tiles.py): q, k, v and what the output projection reads are kept, and the scores of two tiles are alive at a time, on the way
back of one twice and of the one before; where kernels make no scores (flash.py), none are. Tiles leave out what belongs to other
documents; predicted is a row of one document, which takes the most. Where attention has many narrow heads, two documents a row
took up to 9 % less (16 heads of 16); else the peak is elsewhere. torch's own attention on the CPU runs in float32 with a float
mask that all layers share. Of plain ways CUDA's norms keep less than the CPU's. torch.compile fuses and recomputes; its memory is
not modelled and is less, but for the losses, which are then made of all logits at once, 12 bytes a logit in float32.

Checked against the measured bytes of tensors (`train/peaks.py`) over shapes, precisions, kernels and experts in
tests/model/test_memory.py. At the peak, on the CPU: 0.3 % at most in float32 and 2 % in half precision, where oneDNN's products
take a scratch of their own from torch, which depends on the machine and is not predicted (a few hundred kB); with
attention_dropout, talking heads and soft caps 3 %. The CUDA branches are read off the kernels' signatures and have tests
marked gpu, but were not yet run on a card. What a process takes beyond its tensors (the CUDA context, the gaps of the
allocator) is the matter of `Device.usable`.

Shapes: N tokens of a micro-batch, B rows of T, C hidden_size, V vocabulary, Q = H x D and K = G x D numbers of queries and
of keys, I feed-forward width, E experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

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
TILE = 128  # queries: that of tiles.py
LOGITS = {"cpu": 1 << 23, "cuda": 1 << 26}  # of a piece, at most: those of cross_entropy.py


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

    compiled: bool = False  # by torch.compile: the CPU's kernels are not used, and the logits are whole

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

    @property
    def fused(self) -> bool:
        """Whether norms, rotations, gates and losses go by the kernels of fused.py."""
        return self.device == "cpu" and self.precision != "float16" and not self.compiled


class Way(NamedTuple):
    """A moment on the way back through a part of a block, in bytes."""

    besides: int  # gradients of activations, less what is gone already of what the part has saved
    made: int  # gradients of its weights that are finished: with earlier ones there, they were added to these
    making: int = 0  # the gradient of a weight before it is


@dataclass(frozen=True)
class Part:
    """One half of a block, attention or feed-forward, in bytes."""

    saved: int  # what autograd keeps from its forward to its backward pass
    forward: int  # the most besides, while it is computed
    backward: tuple[Way, ...]  # where it may be the most, on the way back
    gradients: int  # of all its weights
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
    tiled = config.attention in ("auto", "varlen", "tiles") and work.device == "cpu" and bare and not work.compiled
    if tiled and not config.attention_dropout:
        return "tiles"
    return "eager" if config.attn_logit_softcapping else "sdpa"


def _norm(rows: int, width: int, work: Work, result: int) -> int:
    """What an RMSNorm keeps besides its input: its result for its reader; a scale a row, or on the CPU without kernels normalised values."""
    if work.fused:
        return rows * (width * result + FLOAT)
    return rows * width * (result + (FLOAT if work.device == "cpu" else 0))


def _tiles(work: Work, heads: int, groups: int, size: int, span: int, window: int | None) -> tuple[int, int]:
    """The most that attention by tiles takes for one of them, (forward, backward), where a row of `span` is one document.

    Scores, queries, keys and values of the tile, and the scores of the tile before; backward has the weights and their gradients.
    """
    rows, item = work.tokens // span, FLOAT if work.precision == "float16" else work.item
    found, before = [(0, 0)], 0
    for begin in range(0, span, TILE):
        end = min(begin + TILE, span)
        keys = end - max(0, begin - (window or span) + 1) // TILE * TILE
        scores, queries = rows * heads * (end - begin) * keys, rows * heads * (end - begin) * size
        cut = 2 * rows * groups * keys * size if keys < span else 0  # a copy, but where they are all
        more = before + queries + cut
        found.append((item * (scores + more), item * (2 * scores + more + queries)))
        before = scores
    return max(forward for forward, _ in found), max(backward for _, backward in found)


def _flash(config: Config, work: Work) -> bool:
    """Whether attention by tiles goes by kernels that make no scores (flash.py): this machine's processor decides."""
    from jielong.model.flash_products import SUPPORTED

    return SUPPORTED and work.item == HALF and work.precision != "float16" and config.size_of_head % 32 == 0


def _attention(config: Config, work: Work, layer: int) -> Part:
    """One layer's norm and attention."""
    tokens, item, size = work.tokens, work.item, config.size_of_head
    wide, narrow = tokens * config.num_attention_heads * size, tokens * config.num_key_value_heads * size  # N Q, N K
    stream = FLOAT * tokens * config.hidden_size
    saved = stream + _norm(tokens, config.hidden_size, work, item)
    if (
        config.qk_norm
    ):  # reads its input as float32, kernels as it is; its result is rotated or cast, which keeps nothing
        saved += (item if work.fused else FLOAT) * (wide + narrow) + _norm((wide + narrow) // size, size, work, 0)
    kernel = attention_kernel(config, work)
    # bytes of a number inside the kernel
    inner = FLOAT if kernel == "eager" or (work.device == "cpu" and kernel != "tiles") else item
    span, keys = work.length, narrow
    if config.shifted_attention is not None and span > config.shifted_attention:
        span, keys = config.shifted_attention, wide  # groups are rows, heads are spread
        # the halves put together again, where nothing casts them
        saved += item * wide if item == inner and kernel != "tiles" else 0
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
        if config.talking_heads and work.rows == 1:  # as mixing makes no copy on the way back either
            once = FLOAT * scores
            forward, backward = (forward - once, backward) if cast else (forward - 2 * once, backward - once)
        if config.attention_dropout and not cast and not config.talking_heads:
            backward -= FLOAT * scores  # what dropout left is gone by then
            forward = FLOAT * scores if kernel == "eager" else 0
    elif kernel == "tiles":
        saved += item * (2 * wide + 2 * keys)  # q, k, v, and what the output projection reads
        halves = 1 if span == work.length else 2
        groups = config.num_key_value_heads if span == work.length else config.num_attention_heads // 2
        window = config.window(layer)
        # gradients of q, k, v, less what is gone, and below of the result
        if _flash(
            config, work
        ):  # keeps sums, and the result, which in shifted attention is not what the projection reads
            saved += FLOAT * tokens * config.num_attention_heads + (item * wide if halves == 2 else 0)
            backward = item * (wide + 2 * keys) // halves
        else:
            forward, backward = _tiles(work, config.num_attention_heads // halves, groups, size, span, window)
            backward += 2 * FLOAT * keys // halves
        backward += item * wide
        forward += item * (wide + 2 * narrow)  # what the projections gave
        forward += item * 2 * wide if halves == 2 else 0  # keys and values spread over the heads
    else:
        if kernel == "sdpa" and work.device == "cuda" and masked:
            keys = wide  # spread over the heads: no kernel that saves memory takes a mask and groups together
        saved += inner * (2 * wide + 2 * keys) + FLOAT * tokens * config.num_attention_heads  # q, k, v, result, sums
        backward = FLOAT * (2 * wide + 2 * keys)
    if item < inner or kernel == "eager":
        saved += item * wide  # what the output projection reads
    matrices = attention_parameters(config)
    cast = HALF * matrices if item == HALF else 0
    last = (
        config.hidden_size * config.num_attention_heads * size
    )  # weights of the output projection, whose gradient is first
    copy = HALF * last if cast else 0
    narrowed = stream // 2 + copy if cast else 0
    first = Way(stream + narrowed + item * wide, 0, FLOAT * last)
    ways = (first, Way(stream + backward - copy, FLOAT * last))
    return Part(saved + cast, forward, ways, FLOAT * matrices, cast)


def _feed_forward(config: Config, work: Work, layer: int) -> Part:
    """One layer's second norm and feed-forward part, dense or with experts."""
    tokens, item, width = work.tokens, work.item, config.hidden_size
    stream = FLOAT * tokens * width
    saved = stream + _norm(tokens, width, work, item)
    matrices = feed_forward_parameters(config, layer)
    kept = 3 if work.fused else 4  # gate, up, their product; silu of gate
    if not config.is_sparse(layer):
        inner = tokens * config.feed_forward_size
        saved += item * kept * inner
        cast = HALF * matrices if item == HALF else 0
        narrowed = stream // 2 + cast // 3 if cast else 0
        down = Way(stream + narrowed + item * inner, 0, FLOAT * matrices // 3)
        ways: tuple[Way, ...] = (down, Way(stream + 2 * item * inner - cast // 3, FLOAT * matrices // 3))
        return Part(saved + cast, 0, ways, FLOAT * matrices, cast)
    assert config.num_experts is not None
    experts, choices = config.num_experts, tokens * config.num_experts_per_tok
    inner = choices * config.expert_size
    saved += stream if item == HALF else 0  # the gate's input as float32
    saved += 3 * FLOAT * tokens * experts  # its logits, scores and shares
    saved += 6 * 8 * choices  # which experts, in which order, with which weights
    saved += item * 2 * choices * width  # rows sorted by expert, and put back into order
    saved += item * 4 * inner  # gate and up, silu, their product
    cast = gone = beside = 0
    if config.shared_expert_intermediate_size is not None:  # on the way back it is first
        gone = item * tokens * (kept * config.shared_expert_intermediate_size + width)
        cast = 3 * width * config.shared_expert_intermediate_size + width
        saved, beside = saved + gone, FLOAT * cast
    if work.device == "cuda" and work.capability == 9:  # one grouped product of all; else each is cast at its turn
        cast = matrices - experts * width
    cast *= HALF if item == HALF else 0
    row, one = item * choices * width, FLOAT * experts * config.expert_size * width  # gradient of the down projections
    stream += item * tokens * width - gone  # of the norm's result too
    ways = (
        Way(stream + item * inner, beside, one),
        Way(stream + 2 * item * inner - row, beside + one),
        Way(stream - 2 * item * inner, beside + one, 2 * one),
    )
    return Part(saved + cast, 2 * row, ways, FLOAT * matrices, cast)


def _shared(config: Config, work: Work) -> tuple[int, int]:
    """What all layers share: (kept until they are on their way back, needed in the forward pass only)."""
    tokens = work.tokens
    kept, passing = 8 * 4 * tokens, 0  # ids, labels, places and documents
    if config.position == "rope":
        kept += 2 * FLOAT * config.size_of_head * (tokens if work.document_mask else work.length)  # cos and sin
    kernel = attention_kernel(config, work)
    if kernel == "tiles":  # the first key that each query sees
        windows = {config.window(layer) for layer in range(config.num_hidden_layers)}
        return kept + 8 * tokens * (2 if config.shifted_attention is not None else len(windows)), passing
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
    stream = FLOAT * tokens * width
    layers = range(config.num_hidden_layers)
    parts = [part for n in layers for part in (_attention(config, work, n), _feed_forward(config, work, n))]
    end = _end(config, work)
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
    for name, size in end.moments.items():
        moment(name, always + saved + size)
    # the output layer's gradient waits for the embedding's when they are one weight; else it is added to what is there
    made = table if config.tie_word_embeddings or not work.accumulates else 0
    for part in reversed(parts):
        for way in part.backward:
            fresh = way.making + (0 if work.accumulates else way.made)
            moment("backward, a layer", always + below + made + way.besides + fresh)
        below -= part.saved
        made += 0 if work.accumulates else part.gradients
    # two gradients of one weight are added: in place where the first is nobody else's, else a third takes the sum
    summed = table if work.compiled and config.tie_word_embeddings and item == FLOAT else 0
    moment("backward, the embedding", always + made + table + summed + stream)
    held = (
        shared if work.device == "cpu" and attention_kernel(config, work) == "tiles" else 0
    )  # until the losses are dropped
    moment("step, the optimizer", weights + kept.state + gradients + kept.working + held + work.workspace)
    low = sum(part.cast for part in parts) + end.cast
    activations = saved + end.saved + shared - low
    return Training(weights, gradients, kept.state, low, activations, end.logits, moments)


class _End(NamedTuple):
    """The last norm, the output layer and the losses, in bytes."""

    saved: int  # until the way back begins; not gradients of weights
    cast: int  # of it: the weights' half-precision copy
    logits: int  # the most, with what is made of them
    moments: dict[str, int]  # besides what the layers have saved


def _end(config: Config, work: Work) -> _End:
    """In pieces (cross_entropy.py), or with all logits at once where it is compiled."""
    tokens, item, vocabulary = work.tokens, work.item, config.vocabulary
    table, stream = FLOAT * vocabulary * config.hidden_size, FLOAT * tokens * config.hidden_size
    normed, half = item * tokens * config.hidden_size, item == HALF
    saved = stream + _norm(tokens, config.hidden_size, work, 0) + normed
    if work.compiled:
        copy, logits = table // 2 if half else 0, tokens * vocabulary
        saved += copy
        product = max(2 * copy + logits * item, copy + table) if half else table + logits * item
        return _End(saved, copy, logits * 3 * FLOAT, {
            "forward, the loss": saved + logits * (2 * FLOAT + (HALF if half else 0)),
            "backward, the loss": saved + logits * 3 * FLOAT,
            "backward, the output layer": saved - copy + product + stream,
        })  # fmt: skip
    size = max(64, LOGITS[work.device] // vocabulary // 64 * 64)
    piece, before = min(size, tokens), min(size, max(0, tokens - size))  # that before it is still there
    logits = vocabulary * (
        item * (piece + before) + (0 if work.fused else FLOAT * piece)
    )  # softmax, where no kernel does it
    # saved is the gradient of what the norm gave, and no longer that itself; with the output layer's, which is finished. In half
    # precision that takes the weight, the gradient of a piece, and that in float32
    loss = saved + table + normed + logits + (2 * table if half else 0)
    return _End(
        saved, 0, logits, {"forward, the loss": loss, "backward, the last norm": saved + table + normed + stream}
    )


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
