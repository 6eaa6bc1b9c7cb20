"""What a tokenizer does to texts, counted: one tokenizer, one domain, batch after batch.

Every figure comes from three things: how often each id was used (an array as long as the vocabulary), what is known of the ids
(vocabulary.py), and whether the text came back. Bytes and characters are those of the *text*, never sums over tokens: a
normaliser may have dropped some, and a token that is half a character has no length in characters.

`tokens_per_han` is the part of the tokens that Han characters take, for each of them: a token counts for the share of its bytes
that belong to Han. It needs to know which bytes of the text a token covers, which is certain only where decoding gives the text
back and the tokens' bytes add up to it; other documents are left out of this one figure.

Encoding is timed as the pipeline does it (`bulk_encoder`, all cores), every batch by all tokenizers before the next
one is read, each beginning in turn. So a machine that slows down slows all of them, and the ratio of two is worth more than
either speed. No text is encoded twice by one tokenizer: caches would make the second time faster than work ever is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jielong.data.cleaning.scan import encode as encode_utf8
from jielong.data.measuring.codepoints import HAN, classes
from jielong.tokenizer.encoding_arrays import bulk_encoder
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.reporting.vocabulary import Vocabulary, shown

CONTEXT = 24  # characters shown before and after a difference
LISTED_DIFFERENCES = 5
TIMED_BYTES = 100_000  # a smaller batch says nothing about speed
LEAST_TIMED = 3  # batches


@dataclass
class Counts:
    """What was counted of one tokenizer in one domain, or in all."""

    used: NDArray[np.int64]  # how often each id
    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    chars: int = 0
    han: int = 0  # Han characters of the documents that `han_tokens` counts
    han_tokens: float = 0.0
    different: int = 0  # documents that did not come back

    def add(self, other: Counts) -> None:
        """Add another domain's."""
        self.used += other.used
        for name in ("documents", "tokens", "bytes", "chars", "han", "han_tokens", "different"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def figures(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The ratios of the report; None where there is nothing to divide by."""
        broken, single = (int(self.used[mask].sum()) for mask in (vocabulary.broken, vocabulary.single))
        special = vocabulary.of_kind("special")
        used = int(((self.used > 0) & ~special).sum())
        return {
            "documents": self.documents, "tokens": self.tokens, "bytes": self.bytes, "chars": self.chars,
            "chars_per_token": _ratio(self.chars, self.tokens), "bytes_per_token": _ratio(self.bytes, self.tokens),
            "tokens_per_han": _ratio(self.han_tokens, self.han),
            "used": used, "used_share": _ratio(used, vocabulary.usable),
            "broken_share": _ratio(broken, self.tokens), "byte_share": _ratio(single, self.tokens),
            # text is never encoded as a special token, but for the one that stands for what has no token
            "unknown_share": _ratio(int(self.used[special].sum()), self.tokens),
            "different": self.different, "different_share": _ratio(self.different, self.documents),
        }  # fmt: skip


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None


@dataclass
class Measured:
    """One tokenizer of the report and what has been measured of it so far."""

    name: str
    tokenizer: TokenizerFolder
    vocabulary: Vocabulary
    total: Counts = field(init=False)
    texts: dict[str, Counts] = field(default_factory=dict)
    differences: list[dict[str, Any]] = field(default_factory=list)
    growth: list[tuple[int, int]] = field(default_factory=list)  # bytes read, distinct ids seen
    times: list[tuple[int, float]] = field(default_factory=list)  # bytes and seconds of each batch

    def __post_init__(self) -> None:
        self.total = Counts(np.zeros(len(self.vocabulary.raw), np.int64))
        self._encode = bulk_encoder(self.tokenizer)
        self._encode(*encode_utf8(["文"]))  # the first call loads or compiles what it needs

    def measure(self, batch: list[str], domain: str) -> None:
        """Encode a batch, timed, decode it, and count everything."""
        size = sum(len(text.encode("utf-8")) for text in batch)
        data, offsets = encode_utf8(batch)
        start = time.perf_counter()
        flat, ends = self._encode(data, offsets)
        self.times.append((size, time.perf_counter() - start))
        counts = self.count(batch, [flat[a:b].tolist() for a, b in pairwise(ends.tolist())], domain)
        self.total.add(counts)
        if domain not in self.texts:
            self.texts[domain] = Counts(np.zeros_like(counts.used))
        self.texts[domain].add(counts)
        self.growth.append((self.total.bytes, int((self.total.used > 0).sum())))

    def count(self, batch: list[str], ids: list[list[int]], domain: str) -> Counts:
        """The counts of one batch; the first differences are kept."""
        flat = np.concatenate([*(np.asarray(row, np.int64) for row in ids), np.empty(0, np.int64)])
        counts = Counts(np.bincount(flat, minlength=len(self.vocabulary.raw)))
        counts.documents, counts.tokens = len(batch), len(flat)
        counts.chars = sum(map(len, batch))
        counts.bytes = sum(len(text.encode("utf-8")) for text in batch)
        same = []
        for text, row in zip(batch, ids, strict=True):
            back = self.tokenizer.decode(row)
            same.append(back == text)
            if back != text:
                counts.different += 1
                if len(self.differences) < LISTED_DIFFERENCES:
                    self.differences.append({"domain": domain, **first_difference(text, back)})
        counts.han, counts.han_tokens = han_tokens(batch, ids, same, self.vocabulary)
        return counts


def first_difference(text: str, back: str) -> dict[str, Any]:
    """Where two texts first differ: `at` in characters, and what stands there in each (`before` is common to both)."""
    limit = min(len(text), len(back))
    at = next((n for n in range(limit) if text[n] != back[n]), limit)
    return {"at": at, "before": text[max(0, at - CONTEXT) : at], "text": text[at : at + CONTEXT],
            "back": back[at : at + CONTEXT]}  # fmt: skip


def han_tokens(batch: list[str], ids: list[list[int]], same: list[bool], vocabulary: Vocabulary) -> tuple[int, float]:
    """Han characters, and the tokens they take, of the documents whose tokens' bytes are the text's.

    The space that some tokenizers put before a text is left out of its first token.
    """
    spans, texts = [], []
    for text, row, came_back in zip(batch, ids, same, strict=True):
        if not came_back or not row:
            continue
        lengths = vocabulary.lengths[np.asarray(row, np.int64)]
        size = len(text.encode("utf-8"))
        if int(lengths.sum()) == size + 1 and vocabulary.raw[row[0]][:1] == b" ":
            lengths[0] -= 1  # of a copy: the look-up made one
        if int(lengths.sum()) == size:
            spans.append(lengths)
            texts.append(text)
    if not spans:
        return 0, 0.0
    table = classes()
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    han = (table.flags[table.of[codes]] & HAN) > 0
    widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    before = np.concatenate(([0], np.cumsum(np.repeat(han, widths))))  # Han bytes before each byte
    lengths = np.concatenate(spans)
    ends = np.cumsum(lengths)
    shares = (before[ends] - before[ends - lengths]) / np.maximum(lengths, 1)
    return int(han.sum()), float(shares.sum())


def measure_all(every: list[Measured], batch: list[str], domain: str, number: int) -> None:
    """One batch through all tokenizers; `number` of the batch says which one begins."""
    for place in range(len(every)):
        every[(number + place) % len(every)].measure(batch, domain)


def speed(one: Measured, first: Measured) -> dict[str, Any] | None:
    """MB/s over all batches, the middle half of the batches, and the median of the ratios to the first tokenizer's time of the
    same batch. None when there are fewer than LEAST_TIMED batches of TIMED_BYTES."""
    kept = [n for n, (size, _) in enumerate(one.times) if size >= TIMED_BYTES]
    if len(kept) < LEAST_TIMED:
        return None
    seconds = np.array([max(one.times[n][1], 1e-9) for n in kept])
    others = np.array([max(first.times[n][1], 1e-9) for n in kept])
    sizes = np.array([one.times[n][0] for n in kept]) / 1e6
    low, high = np.quantile(sizes / seconds, (0.25, 0.75))
    return {"megabytes_per_second": float(sizes.sum() / seconds.sum()), "low": float(low), "high": float(high),
            "ratio": float(np.median(others / seconds)), "batches": len(kept)}  # fmt: skip


def growth_points(one: Measured, most: int = 40) -> list[tuple[int, int]]:
    """At most about `most` points of the growth of the used vocabulary, the last one among them."""
    step = max(1, len(one.growth) // most)
    return list(dict.fromkeys([*one.growth[::step], *one.growth[-1:]]))


def common_tokens(one: Measured, count: int) -> list[dict[str, Any]]:
    """The most used ids with their share of the tokens."""
    order = np.argsort(-one.total.used, kind="stable")[:count]
    return [
        {"id": int(n), "text": shown(one.vocabulary.raw[n]), "share": float(one.total.used[n] / one.total.tokens)}
        for n in order
        if one.total.used[n]
    ]
