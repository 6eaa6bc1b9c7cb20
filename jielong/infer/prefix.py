"""What a model knows of the text that went through it last, for a next text that begins like it.

In a chat each prompt is the one before it, the answer, and a new question. The keys and values of what both texts begin with are
the same, so they are kept: the next prompt's cache begins as a copy of them, and only the rest goes through the model. Copying a
token moves 2 x layers x G x D numbers, where its pass costs two operations a weight.

The logits are those of a whole pass up to rounding only, because matrix products of other shapes add in another order. Where
frequencies depend on the length of the text (dynamic NTK, CLEX) keys of one capacity do not fit another's, and nothing is kept.
"""

from __future__ import annotations

from itertools import takewhile

from jielong.infer.cache import KVCache
from jielong.model.positions import depends_on_length
from jielong.model.transformer import CausalLM


class Prefix:
    """One text of one model whose weights do not change: `ids` are the tokens whose keys and values are in the cache, in order."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._cache: KVCache | None = None

    def take(self, model: CausalLM, ids: list[int], capacity: int) -> tuple[KVCache, int]:
        """A cache for one text of up to `capacity` tokens that begins with `ids`, and how many of these are in it already.

        At least the last one is not, because its logits are asked for. From now on this is the cache of the prefix; who lets
        more tokens through it adds them to `ids`.
        """
        weight = model.model.embed_tokens.weight
        cache = KVCache(model.config, 1, capacity, weight.device, weight.dtype)
        if self._cache is not None and not depends_on_length(model.config):
            same = takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, ids[:-1], strict=False))
            cache.length = sum(1 for _ in same)
            for new, old in ((cache.keys, self._cache.keys), (cache.values, self._cache.values)):
                new[:, :, :, : cache.length] = old[:, :, :, : cache.length]
        self.ids, self._cache = ids[: cache.length], cache
        return cache, cache.length
