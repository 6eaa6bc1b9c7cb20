"""Bits per byte: the cross-entropy of a model on a text, divided by the text's UTF-8 bytes.

Loss a token can not be compared between tokenizers (a token that holds more text is harder to guess); bits a byte can. The
bytes are counted from the text, never from the tokens: a token of a byte-level vocabulary is often no whole UTF-8
sequence. Every token of every document counts, its end-of-text too (it must be paid for to say where the text ends);
a document starts from a lone end-of-text (or the start token) and has no other document in view. Documents
longer than the context are cut into rows, each starting blind: stated, because a sliding window would give less.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from jielong.model.transformer import CausalLM
from jielong.tokenizer.shards.reading import Shards
from jielong.train.loader import IGNORE, evaluation_batches


@torch.no_grad()
def measure(
    model: CausalLM,
    shards: Shards,
    sequence_length: int,
    rows: int,
    max_tokens: int | None = None,
    autocast: contextlib.AbstractContextManager[Any] | None = None,
    start_id: int | None = None,
    progress: Callable[[int], None] | None = None,
    documents: Iterable[int] | None = None,
) -> dict[str, float]:
    """Loss (nats a token) and bits per byte of a model over whole documents of a split, in stored order.

    start_id: the token before a document's first one (None: that of the shards, as our models are trained).
    documents: their numbers (None: all). max_tokens: stop after the document that reaches this many tokens (None: all). The model's mode is put back.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    nats, tokens, text_bytes, seen = 0.0, 0, 0, 0

    def counted() -> Iterator[int]:
        nonlocal seen
        for number in range(shards.documents) if documents is None else documents:
            seen += 1  # what is taken is covered whole
            yield number

    try:
        with autocast or contextlib.nullcontext():
            for batch, finished_bytes in evaluation_batches(
                shards, sequence_length, rows, max_tokens, start_id, counted()
            ):
                parts = (batch.inputs, batch.labels, batch.positions, batch.documents)
                nats += float(model.loss_sum(*(torch.from_numpy(part).to(device) for part in parts)))
                tokens += int((batch.labels != IGNORE).sum())
                text_bytes += finished_bytes
                if progress is not None:
                    progress(int((batch.labels != IGNORE).sum()))
    finally:
        model.train(training)
    return {
        "loss": nats / tokens,
        "bits_per_byte": nats / math.log(2) / text_bytes,
        "bits": nats / math.log(2),
        "tokens": tokens,
        "bytes": text_bytes,
        "documents": seen,
    }
