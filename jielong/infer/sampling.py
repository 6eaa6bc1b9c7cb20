"""From logits to tokens: small pure functions over float32 logits, applied in Hugging Face's order.

Repetition penalty, temperature, top-k, top-p, then a draw. Each gives what `transformers`' processor of the same name
gives, which the tests check. All but the draw work on the last dimension, so rows of a batch go through them together and
each gets what it would get alone; the draw takes each row's own generator, so a text does not depend on its neighbours.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Divide positive logits of seen tokens by `penalty`, multiply negative ones (CTRL, arXiv:1909.05858, section 4.1).

    seen: bool, True for tokens that the text holds, in the shape of the logits.
    """
    if penalty == 1.0:
        return logits
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, k: int | None) -> Tensor:
    """All but the k largest logits become -inf."""
    if k is None or k >= logits.shape[-1]:
        return logits
    least = torch.topk(logits, k).values[..., -1:]
    return logits.masked_fill(logits < least, float("-inf"))


def keep_top_p(logits: Tensor, p: float | None) -> Tensor:
    """All but the fewest most probable tokens whose probability reaches p become -inf; one always stays."""
    if p is None or p >= 1.0:
        return logits
    ordered, places = torch.sort(logits, descending=False)
    below = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    below[..., -1] = False
    return logits.masked_fill(torch.zeros_like(below).scatter(-1, places, below), float("-inf"))


COLDEST = 1e-6  # below, float32 has no room for the quotients, and nothing but the most probable token has any chance


def choose(
    logits_BV: Tensor,
    seen_BV: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    generators: list[torch.Generator],
) -> Tensor:
    """The next token of each row, (B,), on the logits' device. temperature 0 takes the most probable one and draws nothing.

    generators: one a row, on the logits' device. Each row draws once.
    """
    logits_BV = penalise_repetition(logits_BV.float(), seen_BV, repetition_penalty)
    if temperature < COLDEST:
        return logits_BV.argmax(dim=-1)
    logits_BV = (logits_BV - logits_BV.amax(dim=-1, keepdim=True)) / temperature
    shares_BV = keep_top_p(keep_top_k(logits_BV, top_k), top_p).softmax(dim=-1)
    draws = [torch.multinomial(row, 1, generator=own) for row, own in zip(shares_BV, generators, strict=True)]
    return torch.cat(draws)
