"""Texts as arrays in, token ids as arrays out: the form in which documents are encoded in bulk.

UTF-8 bytes end to end with offsets is what Parquet holds and what a compiled encoder reads, and ids end to end with offsets is what
shards hold: between the two no Python object a document is needed. `bulk_encoder` gives the compiled encoder where there
is one for the tokenizer (encoding/encoder.py), else `encode_bytes`, its slow twin, which asks the library. That one is called on batches of at
most BATCH_BYTES of text, because `tokenizers` keeps about 70 bytes of memory a byte of text until a batch is done.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.writing import pack

BATCH_DOCUMENTS, BATCH_BYTES = 1000, 4_000_000

Ids = NDArray[np.uint32]
Offsets = NDArray[np.int64]
Encode = Callable[[NDArray[np.uint8], Offsets], tuple[Ids, Offsets]]


def bulk_encoder(tokenizer: TokenizerFolder, threads: int | None = None) -> Encode:
    """The fastest way from bytes to ids, called as `encode_bytes` is without the tokenizer. threads: None for one a core."""
    from jielong.tokenizer.encoding.encoder import open_encoder

    compiled = open_encoder(tokenizer.path, tokenizer.backend, threads)
    return functools.partial(encode_bytes, tokenizer) if compiled is None else compiled


def encode_bytes(tokenizer: TokenizerFolder, data: NDArray[np.uint8], offsets: Offsets) -> tuple[Ids, Offsets]:
    """Token ids of texts given as UTF-8 bytes end to end and the places where each begins (and the last one ends).

    Returns ids end to end, without special tokens, and where those of each text begin (and the last one ends).
    """
    view = np.ascontiguousarray(data).data
    texts = (str(view[start:end], "utf-8") for start, end in pairwise(offsets.tolist()))
    parts = [pack(tokenizer.encode(batch)) for batch, _ in batches([(text, "")] for text in texts)]
    ids = np.concatenate([np.empty(0, np.uint32), *(ids for ids, _ in parts)])
    lengths = np.concatenate([np.empty(0, np.int64), *(np.diff(starts) for _, starts in parts)])
    return ids, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def encode_arrays(tokenizer: TokenizerFolder, texts: list[str]) -> tuple[Ids, Offsets]:
    """`encode_bytes` of texts given as strings."""
    parts = [text.encode("utf-8") for text in texts]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return encode_bytes(tokenizer, np.frombuffer(b"".join(parts), np.uint8), offsets)


def batches(
    groups: Iterable[list[tuple[str, str]]], most_bytes: int = BATCH_BYTES
) -> Iterator[tuple[list[str], list[str]]]:
    """Regroup texts, each with its source, so that a batch holds at most `most_bytes` of UTF-8, or one text that is longer
    than that. Yields texts and sources."""
    batch: list[tuple[str, str]] = []
    size = 0
    for group in groups:
        for text, source in group:
            length = len(text.encode("utf-8"))
            if batch and (size + length > most_bytes or len(batch) == BATCH_DOCUMENTS):
                yield _apart(batch)
                batch, size = [], 0
            batch.append((text, source))
            size += length
    if batch:
        yield _apart(batch)


def _apart(batch: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [text for text, _ in batch], [source for _, source in batch]
