"""What every compiled encoder does alike: fixed words first, then the pre-split, and a share of the texts for each thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jielong.tokenizer.encoding.fixed_words import ORDINARY, FixedWords
from jielong.tokenizer.encoding.splitting import Splitter

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]
Ids = NDArray[np.uint32]


class BatchEncoder:
    """Texts to ids; how a piece becomes ids is `_encode_pieces`."""

    def __init__(self, splitter: Splitter, words: tuple[FixedWords, ...], threads: int) -> None:
        self._splitter, self._words, self.threads = splitter, words, max(threads, 1)

    def __call__(self, data: Bytes, offsets: Offsets) -> tuple[Ids, Offsets]:
        """`data`: the UTF-8 bytes of texts end to end; text n is data[offsets[n] : offsets[n + 1]]. Returns the ids of all
        texts end to end (uint32), without special tokens, and where each text's begin and the last ends (int64)."""
        shares = share_out(offsets, self.threads)
        if len(shares) == 1:
            return self._encode_share(data, offsets)
        with ThreadPoolExecutor(len(shares)) as pool:
            parts = list(pool.map(lambda share: self._encode_share(data, offsets[share[0] : share[1] + 1]), shares))
        before = np.cumsum([0, *(len(ids) for ids, _ in parts)])
        ends = [part[1:] + start for (_, part), start in zip(parts, before, strict=False)]
        return np.concatenate([ids for ids, _ in parts]), np.concatenate([np.zeros(1, np.int64), *ends])

    def _encode_share(self, data: Bytes, offsets: Offsets) -> tuple[Ids, Offsets]:
        segments, fixed = offsets, np.full(len(offsets) - 1, ORDINARY, np.int64)
        of_text = np.arange(len(offsets), dtype=np.int64)
        for words in self._words:
            segments, first, fixed = words.cut(data, segments, fixed)
            of_text = first[of_text]
        bounds, first = self._splitter(data, segments)
        ids, ends = self._encode_pieces(data, bounds, first, fixed)
        return ids.copy(), ends[of_text]  # the rest of the array was never written

    def _encode_pieces(
        self, data: Bytes, bounds: Offsets, first: Offsets, fixed: NDArray[np.int64]
    ) -> tuple[Ids, Offsets]:
        """Ids of segments, each a fixed token or the pieces first[n] to first[n + 1], and where those of each begin."""
        raise NotImplementedError


def share_out(offsets: Offsets, most: int) -> list[tuple[int, int]]:
    """Ranges of texts with about as many bytes each; at least one, and none empty of texts unless there are none."""
    marks = offsets[0] + (offsets[-1] - offsets[0]) * np.arange(1, most) // most
    cuts = sorted({0, len(offsets) - 1, *np.searchsorted(offsets, marks).tolist()})
    return list(pairwise(cuts)) or [(0, 0)]
