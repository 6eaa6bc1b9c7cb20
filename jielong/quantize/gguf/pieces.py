"""Sentencepiece-like BPE (Llama 2's, Mistral's) as llama.cpp has it: pieces with scores in place of merges.

llama.cpp's `llama` tokenizer begins with single characters and joins, as long as there is one, the neighbours whose joined text
is a token of the highest score, the leftmost of equals. tokenizer.json has a list of merges instead, in the order in which they
are made; minus the place of a token's first merge gives that order as a score. Where `ignore_merges` is set, many pieces share
the best score (tokenizer/importing/sentencepiece_model.py; Chinese-LLaMA's added ones do): those that no merge makes, and those
of the first merges, which are sorted by falling length as far as their scores are the same. They get one score back.

`cut` does what llama.cpp does, so that it can be measured on texts how often its ids are others: a normalizer or a first cut that
tokenizer.json may have is unknown to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jielong.quantize.gguf.precuts import probes
from jielong.tokenizer.folder import TokenizerFolder

SPACE = "\u2581"  # lower one eighth block: a space
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
NEVER = -1e9  # the score of tokens that no text may give


@dataclass(frozen=True)
class Measured:
    """Whether texts begin with a space, and how many of the probes llama.cpp cuts otherwise than the folder's tokenizer."""

    prefix: bool
    probes: int
    differ: int


def scores(model: Mapping[str, Any]) -> dict[str, float]:
    """Token -> score, of the `model` table of a tokenizer.json."""
    made = ["".join(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
    shared = bool(model.get("ignore_merges"))
    falls = (at for at in range(1, len(made)) if len(made[at]) > len(made[at - 1]))
    tied = next(falls, len(made)) if shared else 0
    best: dict[str, float] = {}
    for rank, text in enumerate(made):
        best.setdefault(text, 0.0 if rank < tied else -float(rank) - 1.0)
    unmade = 0.0 if shared else -float(len(made)) - 2.0
    found = {text: best.get(text, unmade if len(text) > 1 else NEVER) for text in model["vocab"]}
    return found | dict.fromkeys(BYTE_TOKENS, 0.0)


def cut(text: str, ids: Mapping[str, int], score: Mapping[str, float], prefix: bool) -> list[int]:
    """The ids that llama.cpp gives a text."""
    symbols = list(((" " if prefix and text else "") + text).replace(" ", SPACE))
    while True:
        joined = [symbols[at] + symbols[at + 1] for at in range(len(symbols) - 1)]
        known = [(-score[pair], at) for at, pair in enumerate(joined) if pair in score]
        if not known:
            break
        _, at = min(known)
        symbols[at : at + 2] = [joined[at]]
    found: list[int] = []
    for symbol in symbols:
        if symbol in ids:
            found.append(ids[symbol])
        else:
            found += [ids[BYTE_TOKENS[byte]] for byte in symbol.encode("utf-8")]
    return found


def measure(tokenizer: TokenizerFolder, ids: Mapping[str, int], score: Mapping[str, float]) -> Measured:
    """With a space before texts, or without: the way that gives fewer texts other ids."""
    texts = probes()
    expected = tokenizer.encode(texts)
    counts = {
        prefix: sum(cut(text, ids, score, prefix) != mine for text, mine in zip(texts, expected, strict=True))
        for prefix in (True, False)
    }
    prefix = min(counts, key=lambda one: counts[one])
    return Measured(prefix, len(texts), counts[prefix])
