"""The model: a Llama-family decoder, parallelism and I/O left out.

Shapes, as suffixes: B rows of a batch, T query positions, S key positions (cached and new), C hidden_size, H query
heads, G key-value heads, D size of a head, V vocabulary, E experts.

Parameter names are Hugging Face's (`model.layers.0.self_attn.q_proj.weight`), so a checkpoint is a state dict with a
config mapping (`hf.py`), and adapter libraries' target names work unchanged. RMSNorm, rotary positions, grouped-query
attention and SwiGLU follow Llama (arXiv:2302.13971, 2307.09288); `qk_norm` follows Qwen3 (arXiv:2505.09388). Three files
stand beside this one: `positions.py` (rotary frequencies and their stretching, ALiBi), `attention.py` (what is seen, and the
kernels), `experts.py` (mixtures of experts).

There are no buffers of positions: rotary angles are computed from the positions of each batch, in float32 (bfloat16 can not
tell position 257 from 258). This costs T x D/2 sines a batch, nothing beside one projection, and lets packed rows restart
their positions at every document.

A cache (`infer/cache.py`) keeps keys and values, rotated; or, where it throws tokens away, not yet rotated (`late`); or, for EL-attention (arXiv:2105.04779), the layer's normed input instead of
both (`hidden`): with the key and value products moved to the query's side, q Wk^T x^T = (q Wk^T) x^T, every head reads the
same C numbers a token. That needs positions that do not touch the keys (ALiBi or none) and no norm on them.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jielong.model import fused
from jielong.model.attention import Kind, Sight, attend, choose_kernel, shifted_attention, weigh
from jielong.model.config import Config
from jielong.model.cross_entropy import IGNORE, OutputLayer
from jielong.model.experts import Routing, SparseMLP, auxiliary_loss, expert_use
from jielong.model.feed_forward import MLP
from jielong.model.positions import (
    ContinuousFrequencies,
    alibi_slopes,
    attention_factor,
    inverse_frequencies,
    rotary,
    rotate,
    stretched_positions,
)

Angles = tuple[Tensor, Tensor]  # cos and sin, (B, 1, T, D)


class Cache(Protocol):
    """What the model needs of a cache: how much went through it, what it shows, and to append what a layer made of new tokens."""

    length: int  # tokens that went through it, in every layer; the model moves it on after its last layer
    capacity: int  # positions that it will hold at most, which frequencies that depend on the length are made for
    late: bool  # keys are kept before rotation, and rotated whenever they are read
    hidden: bool  # keeps each layer's normed input in place of keys and values

    def look(self, length: int) -> tuple[Tensor, Tensor, bool]:
        """For `length` new tokens: places of the queries (T,), of the keys (S,), and whether those are simply 0 to S-1."""

    def append(self, layer: int, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values; returns all that are seen, (B, G, S, D)."""

    def append_hidden(self, layer: int, x_BTC: Tensor) -> Tensor:
        """Store new inputs; returns all of them, (B, S, C)."""

    def advance(self, length: int) -> None:
        """Every layer has seen `length` more tokens."""


class Losses(NamedTuple):
    """What one micro-batch costs; sums over its labels, so that micro-batches add up."""

    cross_entropy: Tensor  # nats
    auxiliary: Tensor  # z loss; the experts' balance and z losses, with their weights, times the number of labels
    expert_use_LE: Tensor | None  # how many choices fell on each expert of each sparse layer; None: a dense model


class Context(NamedTuple):
    """What every layer of one pass shares."""

    sight: Sight
    angles: Angles | None  # of the queries, and of keys that are rotated as they come
    key_angles: Angles | None  # of all keys, where they are rotated late
    slopes_H: Tensor | None
    kernel: str


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32.

    Under autocast the result is cast here, once, and not by each of the two or three projections that read it.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        if dtype in fused.KINDS and fused.usable(x, self.weight):
            return fused.norm(x, self.weight, self.eps, dtype)
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(dtype)


class Attention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        size, bias = config.size_of_head, bool(config.attention_bias)
        queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias is True)
        self.q_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(size, config.rms_norm_eps) if config.qk_norm else None
        if config.talking_heads:
            self.talk_before = nn.Parameter(torch.eye(config.num_attention_heads))
            self.talk_after = nn.Parameter(torch.eye(config.num_attention_heads))

    def _kind(self, context: Context) -> Kind:
        config = self.config
        talk = (self.talk_before, self.talk_after) if config.talking_heads else None
        dropout = config.attention_dropout if self.training else 0.0
        window = config.window(self.layer)
        return Kind(context.kernel, window, context.slopes_H, config.attn_logit_softcapping, talk, dropout)

    def forward(self, x_BTC: Tensor, context: Context, cache: Cache | None) -> Tensor:
        rows, length, _ = x_BTC.shape
        split, kind = (rows, length, -1, self.config.size_of_head), self._kind(context)
        q_BTHD = self.q_proj(x_BTC).view(split)
        if self.q_norm is not None:
            q_BTHD = self.q_norm(q_BTHD)
        q_BHTD = _turned(q_BTHD, context.angles, context.kernel)
        if cache is not None and cache.hidden:
            began, x_BSC = cache.length == 0, cache.append_hidden(self.layer, x_BTC)
            if not began:
                return self._project(self._over_hidden(q_BHTD, x_BSC, context, kind), x_BTC)
        k_BTGD, v_BTGD = self.k_proj(x_BTC).view(split), self.v_proj(x_BTC).view(split)
        if self.k_norm is not None:
            k_BTGD = self.k_norm(k_BTGD)
        v_BGTD = v_BTGD.transpose(1, 2)
        k_BGTD = _turned(k_BTGD, context.angles if context.key_angles is None else None, context.kernel)
        if cache is not None and not cache.hidden:
            k_BGTD, v_BGTD = cache.append(self.layer, k_BGTD, v_BGTD)
        if context.key_angles is not None:
            k_BGTD = rotate(k_BGTD, *context.key_angles)
        group = self.config.shifted_attention
        if group is not None and self.training and cache is None and length > group and length % group == 0:
            return self._project(shifted_attention(q_BHTD, k_BGTD, v_BGTD, context.sight, kind, group), x_BTC)
        return self._project(attend(q_BHTD, k_BGTD, v_BGTD, context.sight, kind), x_BTC)

    def _project(self, out_BHTD: Tensor, like: Tensor) -> Tensor:
        out: Tensor = self.o_proj(out_BHTD.transpose(1, 2).flatten(2).to(like.dtype))
        return out

    def _over_hidden(self, q_BHTD: Tensor, x_BSC: Tensor, context: Context, kind: Kind) -> Tensor:
        """EL-attention: scores and values from the cached inputs, the key and value products on the query's side."""
        groups, size = self.config.num_key_value_heads, self.config.size_of_head
        wk_GDC, wv_GDC = (proj.weight.float().view(groups, size, -1) for proj in (self.k_proj, self.v_proj))
        with torch.autocast(q_BHTD.device.type, enabled=False):
            rows, heads, length, _ = q_BHTD.shape
            x_BSC, q_BGHTD = (
                x_BSC.float(),
                q_BHTD.float().reshape(rows, groups, -1, length, size),
            )  # heads of each group
            # heads and queries in one dimension: a product that spreads x over the heads would copy it for each
            folded_BNC = torch.einsum("bghtd,gdc->bghtc", q_BGHTD, wk_GDC).reshape(rows, heads * length, -1)
            scores = (folded_BNC @ x_BSC.transpose(1, 2)).view(rows, heads, length, -1)
            if self.k_proj.bias is not None:  # the same for every key; it counts only under a soft cap
                bias_GD = self.k_proj.bias.float().view(groups, size)
                scores = scores + torch.einsum("bghtd,gd->bght", q_BGHTD, bias_GD).flatten(1, 2)[..., None]
            sight = context.sight
            seen = sight.mask(kind.window) if kind.slopes_H is None else sight.bias(kind.window, kind.slopes_H)
            weights = weigh(scores / math.sqrt(size), seen, kind.cap, kind.talk)
            mixed_BGHTC = (weights.reshape(rows, heads * length, -1) @ x_BSC).view(*q_BGHTD.shape[:-1], -1)
            out_BGHTD = torch.einsum("bghtc,gdc->bghtd", mixed_BGHTC, wv_GDC)
            if self.v_proj.bias is not None:
                share = weights.sum(dim=-1).view(*q_BGHTD.shape[:-1], 1)  # 1, but where heads talk
                out_BGHTD = out_BGHTD + self.v_proj.bias.float().view(groups, 1, 1, size) * share
            out_BHTD: Tensor = out_BGHTD.flatten(1, 2)
            return out_BHTD


def _turned(x_BTHD: Tensor, angles: Angles | None, kernel: str) -> Tensor:
    """Heads before their tokens, rotated where there are angles: (B, H, T, D). float32 but for the kernel that rounds them anyway."""
    if angles is None:
        return x_BTHD.transpose(1, 2)
    if kernel == "tiles" and fused.usable(x_BTHD) and not angles[0].requires_grad:
        return fused.rotated(x_BTHD, *angles)
    return rotate(x_BTHD.transpose(1, 2), *angles)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); with experts also what the gate did."""

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp: MLP | SparseMLP = (
            SparseMLP(config) if config.is_sparse(layer) else MLP(config.hidden_size, config.feed_forward_size)
        )

    def forward(self, x_BTC: Tensor, context: Context, cache: Cache | None) -> tuple[Tensor, Routing | None]:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), context, cache)
        normed_BTC, routing = self.post_attention_layernorm(x_BTC), None
        if isinstance(self.mlp, SparseMLP):
            out_BTC, routing = self.mlp(normed_BTC)
        else:
            out_BTC = self.mlp(normed_BTC)
        return x_BTC + out_BTC, routing


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids -> hidden states."""

    noise: float | None = None  # `[tune] neftune_alpha`: of what is added to embeddings in training
    recompute: bool = False  # `[train] recompute`: of a block only its input is kept for the way back

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        scaling = config.rope_scaling
        self.frequencies = ContinuousFrequencies(config) if scaling and scaling.rope_type == "clex" else None
        self._kernels: dict[tuple[str, bool], str] = {}

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
        padding_B: Tensor | None = None,
        reach: int | None = None,
    ) -> tuple[Tensor, list[Routing]]:
        """Hidden states (B, T, C) and, of each layer with experts, what its gate did. Arguments as in `CausalLM.forward`."""
        context = self._context(ids_BT, positions_BT, documents_BT, cache, padding_B, reach)
        x_BTC = self.embed_tokens(ids_BT)
        if torch.is_autocast_enabled(ids_BT.device.type):
            x_BTC = x_BTC.float()  # frozen in half precision: the residual stream is not
        if self.noise is not None and self.training:
            x_BTC = with_noise(x_BTC, documents_BT, self.noise)
        again = self.recompute and self.training and torch.is_grad_enabled()
        routings: list[Routing] = []
        for layer in self.layers:
            if again:
                x_BTC, routing = checkpoint(layer, x_BTC, context, cache, use_reentrant=False)
            else:
                x_BTC, routing = layer(x_BTC, context, cache)
            if routing is not None:
                routings.append(routing)
        if cache is not None:
            cache.advance(ids_BT.shape[1])
        return self.norm(x_BTC), routings

    def _context(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None,
        documents_BT: Tensor | None,
        cache: Cache | None,
        padding_B: Tensor | None,
        reach: int | None,
    ) -> Context:
        config, device, length = self.config, ids_BT.device, ids_BT.shape[1]
        if cache is None:
            places_T = torch.arange(length, device=device)
            sight = Sight(places_T, places_T, True, documents_BT, padding_B)
        else:
            assert documents_BT is None, "a cache holds one document a row"
            sight = Sight(*cache.look(length), None, padding_B)
        half = torch.is_autocast_enabled(device.type) or self.embed_tokens.weight.dtype != torch.float32
        kernel = self.kernel(device.type, half)
        if cache is not None and kernel in ("varlen", "flex", "tiles"):  # few queries, and another length at every step
            kernel = "eager" if config.attn_logit_softcapping else "sdpa"
        if config.position != "rope":
            slopes_H = alibi_slopes(config.num_attention_heads, device) if config.position == "alibi" else None
            return Context(sight, None, None, slopes_H, kernel)

        def positions(places: Tensor) -> Tensor:
            return places[None] if padding_B is None else (places[None] - padding_B[:, None]).clamp(min=0)

        covered: Tensor | int = reach or (length if cache is None else cache.capacity)
        if positions_BT is None:
            positions_BT = positions(sight.queries_T)
        elif reach is None and cache is None:
            covered = positions_BT.max() + 1
        factor = attention_factor(config)
        if self.frequencies is None:
            inverse_d = inverse_frequencies(config, covered, device)
        elif self.training:  # the same tokens as if they came from a longer text
            assert config.rope_scaling is not None and config.rope_scaling.factor is not None
            stretch = 1 + torch.rand((), device=device) * (config.rope_scaling.factor - 1)
            inverse_d, positions_BT = self.frequencies(stretch), stretched_positions(positions_BT, stretch)
        else:
            inverse_d = self.frequencies(self.frequencies.stretch_of(covered))
        late = rotary(positions(sight.keys_S), inverse_d, factor) if cache is not None and cache.late else None
        return Context(sight, rotary(positions_BT, inverse_d, factor), late, None, kernel)

    def kernel(self, device: str, half: bool) -> str:
        """The attention kernel for packed rows on a type of device, in half precision or not; looked for once."""
        if (device, half) not in self._kernels:
            self._kernels[device, half] = choose_kernel(self.config, device, half)[0]
        return self._kernels[device, half]


def with_noise(x_BTC: Tensor, documents_BT: Tensor | None, alpha: float) -> Tensor:
    """Uniform noise of alpha / sqrt(length x C) on embeddings (NEFTune, arXiv:2310.05914); length: of each token's document."""
    rows, length, width = x_BTC.shape
    lengths_BT = torch.full((rows, length), float(length), device=x_BTC.device)
    if documents_BT is not None:
        counts = torch.zeros(rows, length + 1, device=x_BTC.device)
        lengths_BT = counts.scatter_add(1, documents_BT, torch.ones_like(lengths_BT)).gather(1, documents_BT)
    return x_BTC + (torch.rand_like(x_BTC) * 2 - 1) * (alpha / (lengths_BT * width).sqrt())[..., None]


class CausalLM(nn.Module):
    """The decoder and its output layer."""

    stored_dtype: torch.dtype = torch.float32  # of the weights in the folder that the model was loaded from
    adapted: bool = False  # whether an adapter is trained in place of the weights (adapters.py)
    is_loaded_in_4bit: bool = False  # names that peft looks for (frozen.py)
    is_loaded_in_8bit: bool = False
    z_loss: float = 0.0  # weight of logsumexp(logits)^2 in what is trained on; `[train] z_loss`, set by an engine

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = OutputLayer(config.hidden_size, config.vocabulary)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: Cache | None = None,
        padding_B: Tensor | None = None,
        reach: int | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each position.

        positions_BT: place of each token in its document (default: 0, 1, ... or on from the cache).
        documents_BT: number of each token's document; None: a row is one document.
        padding_B: how many tokens at the beginning of each row are filling (of the row as the cache holds it).
        reach: length that frequencies which depend on it (dynamic NTK, CLEX) are made for; None: the highest position + 1, with
        a cache its capacity.
        """
        logits_BTV: Tensor = self.lm_head(self.model(ids_BT, positions_BT, documents_BT, cache, padding_B, reach)[0])
        return logits_BTV

    def losses(
        self, ids_BT: Tensor, labels_BT: Tensor, positions_BT: Tensor | None, documents_BT: Tensor | None
    ) -> Losses:
        """What is trained on. Labels are already shifted; those that are IGNORE do not count."""
        hidden_BTC, routings = self.model(ids_BT, positions_BT, documents_BT)
        z_loss = self.z_loss if self.training else 0.0
        cross_entropy, auxiliary = self.lm_head(hidden_BTC.flatten(0, 1), labels_BT.flatten(), z_loss)
        if not routings:
            return Losses(cross_entropy, auxiliary, None)
        balance = auxiliary_loss(routings, self.config, len(ids_BT)) * (labels_BT != IGNORE).sum()
        return Losses(cross_entropy, auxiliary + balance, expert_use(routings))

    def loss_sum(
        self, ids_BT: Tensor, labels_BT: Tensor, positions_BT: Tensor | None, documents_BT: Tensor | None
    ) -> Tensor:
        """Sum of the cross-entropy over labels that are not IGNORE, in nats: what is measured."""
        return self.losses(ids_BT, labels_BT, positions_BT, documents_BT).cross_entropy


@torch.no_grad()
def initialise(model: CausalLM, seed: int) -> None:
    """Normal weights of `initializer_range`; projections that write to the residual stream get 1/sqrt(2 layers) of it.

    The scaling is GPT-2's (section 2.3): it keeps the residual stream's variance independent of depth. Talking heads begin
    with each head by itself, CLEX with its network at zero, which is NTK-aware scaling.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        elif ".talk_" in name:
            parameter.copy_(torch.eye(len(parameter)))
        elif name == "model.frequencies.down_proj":
            parameter.zero_()
        else:
            deviation = config.initializer_range
            if name.removesuffix(".weight").endswith(("o_proj", "down_proj")):
                deviation /= math.sqrt(2 * config.num_hidden_layers)
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, deviation, generator=generator))
