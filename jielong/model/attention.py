"""Attention over what a query may see: one plain way, and the fastest kernel that the device has.

`Sight` says which keys the queries of a pass see (not later ones, the same document, inside the window, no padding) and makes
the form that a kernel takes when it is first asked for: a boolean mask, a bias, bounds of documents, blocks.

The kernels, fastest first; `choose_kernel` says which one is taken and why:

    varlen   FlashAttention over documents laid end to end (flash_attn if it is installed, else torch's own varlen_attn);
             nothing outside a document is computed. CUDA, compute capability 8.0, half precision, packed rows.
    flex     torch's flex_attention, compiled: whole blocks outside a document or a window are skipped. CUDA, capability 8.0. Soft
             cap, too.
    tiles    ours, of matrix products, for packed rows on the CPU (tiles.py): documents that have ended cost nothing.
    sdpa     torch's scaled_dot_product_attention: causal without a mask, or with a mask.
    eager    plain arithmetic, scores in float32: the slow twin of all of them, and the only one for talking heads.

Shapes: B rows, T queries, S keys, H query heads, G key-value heads, D size of a head.

S2-Attn (arXiv:2309.12307) is a way of laying out rows, so every kernel does it: half of the heads attend inside groups of
tokens, the other half inside groups shifted by half a group. The paper's code rolls the row around, and its first tokens
then see its last ones; here the part that was rolled around counts as another document.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jielong.model.config import Config
from jielong.model.positions import alibi_bias
from jielong.model.tiles import Plan, tiled_attention, tiles

Varlen = Callable[
    [Tensor, Tensor, Tensor, Tensor, int, int | None], Tensor
]  # q, k, v (N, heads, D), bounds, longest, window


@dataclass(eq=False)
class Sight:
    """Which keys each query of one pass may see.

    queries_T, keys_S: place of each query and key in its row. plain: the keys are 0 to S-1 and the queries the last T of
    them, so that causal kernels need no mask. documents_BT: number of each token's document (T = S then). padding_B: how many
    places at the beginning of each row are filling.
    """

    queries_T: Tensor
    keys_S: Tensor
    plain: bool = True
    documents_BT: Tensor | None = None
    padding_B: Tensor | None = None
    _made: dict[Any, Any] = field(default_factory=dict)

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def mask(self, window: int | None) -> Tensor | None:
        """(1 or B, 1, T, S), True where a query sees a key; None: all that is not later, which kernels know as causal."""
        length, keys = len(self.queries_T), len(self.keys_S)
        reaches = window is None or window >= keys
        if self.plain and self.documents_BT is None and self.padding_B is None and reaches and length in (1, keys):
            return None
        mask: Tensor = self._once(
            ("mask", None if reaches else window), lambda: self._mask(None if reaches else window)
        )
        return mask

    def _mask(self, window: int | None) -> Tensor:
        queries_T1, keys_1S = self.queries_T[:, None], self.keys_S[None]
        seen = keys_1S <= queries_T1
        if window is not None:
            seen = seen & (queries_T1 - keys_1S < window)
        seen = seen[None, None]
        if self.documents_BT is not None:
            seen = seen & (self.documents_BT[:, None, :, None] == self.documents_BT[:, None, None, :])
        if self.padding_B is not None:  # what is filling sees itself, so that no row of scores is empty
            seen = seen & ((keys_1S >= self.padding_B[:, None, None]) | (keys_1S == queries_T1))[:, None]
        return seen

    def bias(self, window: int | None, slopes_H: Tensor) -> Tensor:
        """ALiBi's bias (1 or B, H, T, S), float32, -inf where a query does not see a key."""

        def make() -> Tensor:
            bias = alibi_bias(self.queries_T, self.keys_S, slopes_H)
            return bias.masked_fill(~self._mask(window), float("-inf"))

        bias: Tensor = self._once(("bias", window), make)
        return bias

    def added(self, window: int | None, slopes_H: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """What a fused kernel adds to the scores, in its type: `bias`, or 0 and -inf for `mask`; None: it is told causal.

        Made once for all layers; from a boolean mask torch would make it in each of them, and keep each for the way back.
        """
        if slopes_H is not None:
            return self._once(("bias", window, dtype), lambda: self.bias(window, slopes_H).to(dtype))  # type: ignore[no-any-return]
        mask = self.mask(window)
        if mask is None:
            return None

        def make() -> Tensor:
            return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))

        added: Tensor = self._once(("added", window, dtype), make)
        return added

    def tiles(self, rows: int, window: int | None) -> Plan:
        """The same as tiles of queries; without a cache and without padding only."""

        def make() -> Plan:
            return tiles(self.documents_BT, rows, len(self.queries_T), window)

        found: Plan = self._once(("tiles", window), make)
        return found

    def bounds(self) -> Tensor:
        """Where the documents of a packed batch begin, rows laid end to end, and the end: int32."""

        def make() -> Tensor:
            assert self.documents_BT is not None
            change = torch.ones_like(self.documents_BT, dtype=torch.bool)
            change[:, 1:] = self.documents_BT[:, 1:] != self.documents_BT[:, :-1]
            starts = change.flatten().nonzero().flatten()
            return F.pad(starts, (0, 1), value=change.numel()).to(torch.int32)

        bounds: Tensor = self._once("bounds", make)
        return bounds

    def groups(self, rows: int, group: int, shift: int) -> Sight:
        """What is seen inside groups of tokens of a row that was rolled back by `shift`: (rows x groups) rows of `group`."""

        def make() -> Sight:
            numbers_BT = self.documents_BT
            if numbers_BT is None:
                numbers_BT = torch.zeros(rows, len(self.queries_T), dtype=torch.long, device=self.queries_T.device)
            numbers_BT = numbers_BT.roll(-shift, dims=1)
            if shift:  # the beginning of the row, rolled behind its end, is another document than what is there
                numbers_BT[:, -shift:] = -1 - numbers_BT[:, -shift:]
            places = torch.arange(group, device=self.queries_T.device)
            return Sight(places, places, True, numbers_BT.reshape(-1, group))

        sight: Sight = self._once(("groups", group, shift), make)
        return sight

    def blocks(self, window: int | None) -> Any:
        """The same as a BlockMask of flex_attention."""

        def make() -> Any:
            from torch.nn.attention.flex_attention import create_block_mask

            queries_T, keys_S, documents, padding = self.queries_T, self.keys_S, self.documents_BT, self.padding_B

            def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                seen = keys_S[key] <= queries_T[query]
                if window is not None:
                    seen = seen & (queries_T[query] - keys_S[key] < window)
                if documents is not None:
                    seen = seen & (documents[row, query] == documents[row, key])
                if padding is not None:
                    seen = seen & ((keys_S[key] >= padding[row]) | (keys_S[key] == queries_T[query]))
                return seen

            rows = next((len(x) for x in (documents, padding) if x is not None), None)
            device = queries_T.device  # compiled, it never makes the whole mask
            return create_block_mask(
                sees, rows, None, len(queries_T), len(keys_S), device=device, _compile=device.type == "cuda"
            )

        return self._once(("blocks", window), make)


class Kind(NamedTuple):
    """What one layer's attention is like, apart from what is seen."""

    kernel: str = "sdpa"
    window: int | None = None
    slopes_H: Tensor | None = None  # ALiBi
    cap: float | None = None  # soft cap of the scores
    talk: tuple[Tensor, Tensor] | None = None  # (H, H) before and after softmax
    dropout: float = 0.0


# ------------------------------------------------------------------------------------------------- the choice

KERNELS = ("varlen", "flex", "tiles", "sdpa")  # the fastest first


def choose_kernel(config: Config, device: str, half: bool = True) -> tuple[str, str]:
    """(kernel, why) for packed rows on a type of device. half: whether queries are float16 or bfloat16."""
    wanted = config.attention
    if config.talking_heads:
        return "eager", "talking heads need plain arithmetic"
    if wanted == "eager":
        return "eager", "plain arithmetic, as the recipe asks"
    order = [name for name in KERNELS if wanted in ("auto", name) or wanted == "varlen"]
    if device == "cpu" and wanted == "auto":
        order = ["tiles", "sdpa"]
    reasons: list[str] = []
    for name in order if order[-1] == "sdpa" else [*order, "sdpa"]:
        against = _against(name, config, device, half)
        if against is None:
            return name, "; ".join(reasons) or "the fastest there is"
        reasons.append(f"no {name}: {against}")
    return "eager", "; ".join(reasons)


def _against(kernel: str, config: Config, device: str, half: bool) -> str | None:
    """Why a kernel cannot be used; None: it can."""
    if kernel == "sdpa":
        return "it has no soft cap" if config.attn_logit_softcapping else None
    if kernel == "tiles":
        if device != "cpu":
            return f"not on {device}"
        if config.attn_logit_softcapping or config.attention_dropout or config.position == "alibi":
            return "it has no soft cap, no dropout and no alibi"
        return None
    if device != "cuda":
        return f"not on {device}"
    if config.attention_dropout:
        return "it has no dropout"
    if torch.cuda.get_device_capability() < (8, 0):
        return "it needs compute capability 8.0"
    if config.size_of_head < 16 or config.size_of_head % 8 or config.size_of_head > 256:
        return f"it has no heads of {config.size_of_head}"
    if kernel == "flex":
        return None if importlib.util.find_spec("triton") is not None else "it needs triton"
    if not half:
        return "it needs half precision"
    if config.position == "alibi" or config.attn_logit_softcapping:
        return "it has no alibi and no soft cap"
    return None if varlen_kernel() is not None else "neither flash_attn nor torch's varlen_attn is there"


@functools.cache
def varlen_kernel() -> Varlen | None:
    """FlashAttention over documents end to end: flash_attn if it is installed, else torch's; None: there is none."""
    if importlib.util.find_spec("flash_attn") is not None:
        from flash_attn import flash_attn_varlen_func

        def flash(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, window: int | None) -> Tensor:
            left = -1 if window is None else window - 1
            out: Tensor = flash_attn_varlen_func(
                q, k, v, bounds, bounds, longest, longest, causal=True, window_size=(left, 0)
            )
            return out

        return flash
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters

    def own(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, window: int | None) -> Tensor:
        named: dict[str, Any] = {"window_size": (-1 if window is None else window - 1, 0)}
        if "window_size" not in known:  # torch 2.10
            assert window is None
            named = {"is_causal": True}
        if q.shape[1] != k.shape[1]:
            if "enable_gqa" in known:
                named["enable_gqa"] = True
            else:
                k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
        out = varlen_attn(q, k, v, bounds, bounds, longest, longest, **named)
        assert isinstance(out, Tensor), "a pair comes back only when it is asked for"
        return out

    return own


# ------------------------------------------------------------------------------------------------- the kernels


def attend(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, sight: Sight, kind: Kind) -> Tensor:
    """softmax(q k^T / sqrt(D)) v over what is seen, by the layer's kernel: (B, H, T, D)."""
    kernel = kind.kernel
    if kernel == "varlen" and sight.documents_BT is None:
        kernel = "sdpa"  # without documents torch's own flash kernel does the same
    if kernel == "flex" and sight.mask(kind.window) is None and kind.cap is None and kind.slopes_H is None:
        kernel = "sdpa"
    if kernel == "tiles":
        length = q_BHTD.shape[2]
        packed = sight.plain and sight.padding_B is None and length == k_BGSD.shape[2]
        if packed and not torch.compiler.is_compiling():
            return tiled_attention(q_BHTD, k_BGSD, v_BGSD, sight.tiles(len(q_BHTD), kind.window))
        kernel = "sdpa"
    if kernel == "varlen":
        run = varlen_kernel()
        assert run is not None
        return packed_attention(q_BHTD, k_BGSD, v_BGSD, sight.bounds(), kind.window, run)
    if kernel == "flex":
        return flex_attention(q_BHTD, k_BGSD, v_BGSD, sight, kind)
    if kernel == "eager":
        seen = sight.mask(kind.window) if kind.slopes_H is None else sight.bias(kind.window, kind.slopes_H)
        group = q_BHTD.shape[1] // k_BGSD.shape[1]
        k_BHSD, v_BHSD = (x.repeat_interleave(group, dim=1) for x in (k_BGSD, v_BGSD))
        return plain_attention(q_BHTD, k_BHSD, v_BHSD, seen, kind.dropout, kind.cap, kind.talk)
    dtype = torch.float32 if q_BHTD.device.type == "cpu" else v_BGSD.dtype
    return fused_attention(q_BHTD, k_BGSD, v_BGSD, sight.added(kind.window, kind.slopes_H, dtype), kind.dropout)


def weigh(scores: Tensor, seen: Tensor | None, cap: float | None, talk: tuple[Tensor, Tensor] | None) -> Tensor:
    """From scores (B, H, T, S), float32, to attention weights. seen: a mask, a bias, or None for causal."""
    length, keys = scores.shape[-2:]
    if seen is None:
        seen = torch.ones(length, keys, dtype=torch.bool, device=scores.device).tril(keys - length)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    if talk is not None:
        scores = torch.einsum("bhts,hi->bits", scores, talk[0].float())
    scores = scores.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else scores + seen
    weights = scores.softmax(dim=-1)
    return weights if talk is None else torch.einsum("bhts,hi->bits", weights, talk[1].float())


def plain_attention(
    q_BHTD: Tensor,
    k_BHSD: Tensor,
    v_BHSD: Tensor,
    seen: Tensor | None,
    dropout: float,
    cap: float | None = None,
    talk: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The slow twin of all kernels. seen: True where a query sees a key, or what is added to the scores; None: causal."""
    with torch.autocast(q_BHTD.device.type, enabled=False):
        scores = (q_BHTD.float() @ k_BHSD.float().transpose(-2, -1)) / math.sqrt(q_BHTD.shape[-1])
        weights = weigh(scores, seen, cap, talk)
        return F.dropout(weights, dropout).to(v_BHSD.dtype) @ v_BHSD


def fused_attention(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, seen: Tensor | None, dropout: float) -> Tensor:
    """torch's fused kernel; in float32 on the CPU, where its bfloat16 form is up to 3 times slower (T = 128; even at 512).

    seen: a mask, or what is added to the scores in the kernel's type; None: causal.
    """
    causal, grouped = seen is None and q_BHTD.shape[2] > 1, q_BHTD.shape[1] != k_BGSD.shape[1]
    if q_BHTD.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            q_BHTD, k_BGSD, v_BGSD = q_BHTD.float(), k_BGSD.float(), v_BGSD.float()
            return F.scaled_dot_product_attention(
                q_BHTD, k_BGSD, v_BGSD, seen, dropout, is_causal=causal, enable_gqa=grouped
            )
    q_BHTD, k_BGSD = q_BHTD.to(v_BGSD.dtype), k_BGSD.to(v_BGSD.dtype)
    if seen is not None and grouped:  # on CUDA no memory-saving kernel takes a mask and groups together
        group, grouped = q_BHTD.shape[1] // k_BGSD.shape[1], False
        k_BGSD, v_BGSD = k_BGSD.repeat_interleave(group, dim=1), v_BGSD.repeat_interleave(group, dim=1)
    return F.scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, seen, dropout, is_causal=causal, enable_gqa=grouped)


def packed_attention(
    q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, bounds: Tensor, window: int | None, run: Varlen
) -> Tensor:
    """Attention of packed rows by a kernel over documents laid end to end. bounds: of the documents, int32 (`Sight.bounds`)."""
    rows, _, length, _ = q_BHTD.shape
    q_NHD, k_NGD, v_NGD = (x.to(v_BGTD.dtype).transpose(1, 2).flatten(0, 1) for x in (q_BHTD, k_BGTD, v_BGTD))
    out_NHD = run(q_NHD, k_NGD, v_NGD, bounds, length, window)
    return out_NHD.view(rows, length, *out_NHD.shape[1:]).transpose(1, 2)


@functools.cache
def _compiled_flex(cuda: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention as flex

    return torch.compile(flex) if cuda else flex


def flex_attention(q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor, sight: Sight, kind: Kind) -> Tensor:
    """torch's flex_attention with blocks left out; compiled on CUDA, uncompiled (slow, for tests) elsewhere."""
    cap, slopes_H, queries_T, keys_S = kind.cap, kind.slopes_H, sight.queries_T, sight.keys_S

    def change(score: Tensor, row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if cap is not None:
            score = cap * torch.tanh(score / cap)
        if slopes_H is not None:
            score = score - slopes_H[head] * (queries_T[query] - keys_S[key])
        return score

    q_BHTD, k_BGSD = q_BHTD.to(v_BGSD.dtype), k_BGSD.to(v_BGSD.dtype)
    out: Tensor = _compiled_flex(q_BHTD.device.type == "cuda")(
        q_BHTD,
        k_BGSD,
        v_BGSD,
        score_mod=change if cap is not None or slopes_H is not None else None,
        block_mask=sight.blocks(kind.window),
        enable_gqa=q_BHTD.shape[1] != k_BGSD.shape[1],
    )
    return out


def shifted_attention(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, sight: Sight, kind: Kind, group: int) -> Tensor:
    """S2-Attn: heads of the first half attend inside groups of `group` tokens, the others in groups half a group later.

    T is a multiple of `group`. Costs T x group scores a head rather than T x T.
    """
    rows, heads, length, size = q_BHTD.shape
    share, half = heads // k_BGTD.shape[1], group // 2
    k_BHTD, v_BHTD = (x.repeat_interleave(share, dim=1) for x in (k_BGTD, v_BGTD))
    outs = []
    for part, shift in ((slice(0, heads // 2), 0), (slice(heads // 2, heads), half)):

        def grouped(x_BHTD: Tensor, part: slice = part, shift: int = shift) -> Tensor:
            x_BhTD = x_BHTD[:, part].roll(-shift, dims=2)
            return (
                x_BhTD.reshape(rows, -1, length // group, group, size).transpose(1, 2).flatten(0, 1)
            )  # (B n, h, group, D)

        inside = sight.groups(rows, group, shift)
        out = attend(grouped(q_BHTD), grouped(k_BHTD), grouped(v_BHTD), inside, kind)
        out = out.view(rows, length // group, -1, group, size).transpose(1, 2).flatten(2, 3)
        outs.append(out.roll(shift, dims=2))
    return torch.cat(outs, dim=1)
