"""Choose how text becomes ids: compiled code where it gives the library's ids exactly, else nothing (the library itself).

`open_encoder` reads what the `tokenizers` library would do, from its own description of itself (`to_str`), and answers None
for anything that the compiled ways do not cover: other models than BPE and Unigram, dropout, normalizers except NFC,
pre-tokenizers except patterns before ByteLevel, added tokens that swallow blanks or mind word boundaries, a vocabulary that
lacks a byte. Nothing is guessed: a new field with a value that is not known here means None as well.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol
from unicodedata import is_normalized

import numpy as np
import orjson
import tokenizers
from numpy.typing import NDArray

from jielong.tokenizer.encoding.bpe_encoder import BpeEncoder, Vocabulary
from jielong.tokenizer.encoding.fixed_words import FixedWords
from jielong.tokenizer.encoding.splitting import GPT2_PATTERN, open_splitter
from jielong.tokenizer.encoding.unigram_encoder import UnigramEncoder
from jielong.tokenizer.training.bpe_merges import byte_chars

OF_BPE = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
OF_WORD = ("single_word", "lstrip", "rstrip")
SCORE_GRAINS = 1024  # scores of pieces are multiples of 1 / 1024, in what is learned here
NEVER_CHOSEN = -1e5  # a special token of such a score is no way of writing anything


class Encoder(Protocol):
    """Texts to ids."""

    def __call__(
        self, data: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """`data`: the UTF-8 bytes of texts end to end; text n is data[offsets[n] : offsets[n + 1]]. Returns the ids of all
        texts end to end, without special tokens, and where each text's begin and the last ends."""


def open_encoder(folder: Path, backend: tokenizers.Tokenizer, threads: int | None = None) -> Encoder | None:
    """The compiled encoder of an opened folder, or None. `threads`: at most so many work at once; None: one a core."""
    threads = threads or os.cpu_count() or 1
    described: dict[str, Any] = orjson.loads(backend.to_str())
    if described.get("truncation") or described.get("padding"):
        return None
    kind = (described.get("model") or {}).get("type")
    if kind == "Unigram":
        return _open_unigram(described, backend, threads)
    return _open_bpe(described, backend, threads) if kind == "BPE" else None


def _open_unigram(described: dict[str, Any], backend: tokenizers.Tokenizer, threads: int) -> UnigramEncoder | None:
    patterns, model = _patterns(described.get("pre_tokenizer")), described["model"]
    words = _fixed_words(described.get("added_tokens") or [], bool(backend.encode_special_tokens))
    splitter = None if patterns is None else open_splitter(patterns)
    if described.get("normalizer") or model.get("byte_fallback") or splitter is None or words is None:
        return None
    chars, special = (
        byte_chars(),
        {token["content"] for token in described.get("added_tokens") or [] if token["special"]},
    )
    pieces = list[tuple[bytes, int, float]]()
    for number, (name, score) in enumerate(model["vocab"]):
        exact = score < 0 and float(score * SCORE_GRAINS).is_integer()  # sums of such scores are the same in any order
        if name in special and score < NEVER_CHOSEN:
            continue
        if not name or not exact or any(char not in chars for char in name):
            return None
        pieces.append((bytes(map(chars.__getitem__, name)), number, score))
    if len({piece for piece, _, _ in pieces if len(piece) == 1}) < 256:
        return None
    try:
        return UnigramEncoder(pieces, splitter, words, threads)
    except UnicodeDecodeError:  # a piece that is neither characters, nor a byte, nor two first ones
        return None


def _open_bpe(described: dict[str, Any], backend: tokenizers.Tokenizer, threads: int) -> BpeEncoder | None:
    patterns = _patterns(described.get("pre_tokenizer"))
    normalizer = described.get("normalizer")
    plain = normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}
    model = described["model"]
    if patterns is None or any(model.get(name) for name in OF_BPE) or not (plain or normalizer == {"type": "NFC"}):
        return None
    splitter = open_splitter(patterns)
    words = _fixed_words(described.get("added_tokens") or [], bool(backend.encode_special_tokens))
    vocabulary = _vocabulary(model)
    if splitter is None or words is None or vocabulary is None:
        return None
    return BpeEncoder(vocabulary, splitter, words, None if plain else backend, threads)


def _patterns(pre_tokenizer: dict[str, Any] | None) -> tuple[str, ...] | None:
    """The patterns in the order in which they cut; None for anything else."""
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    found = []
    for step in steps[:-1]:
        pattern = step.get("pattern", {}).get("Regex")
        if step["type"] != "Split" or step["behavior"] != "Isolated" or step["invert"] or pattern is None:
            return None
        found.append(pattern)
    return (*found, GPT2_PATTERN) if steps[-1]["use_regex"] else tuple(found)


def _fixed_words(tokens: list[dict[str, Any]], as_text: bool) -> tuple[FixedWords, ...] | None:
    """The added tokens: those looked for in the text as it is, then those in the normalized text."""
    passes = []
    for normalized in (False, True):
        taken = [token for token in tokens if token["normalized"] == normalized]
        if all(token["special"] and as_text for token in taken):
            continue  # found, but left as text: nothing changes
        if any(token[name] for token in taken for name in OF_WORD):
            return None
        if normalized and any(not is_normalized("NFC", token["content"]) for token in taken):
            return None  # the library looks for its normalized form
        ids = [None if token["special"] and as_text else token["id"] for token in taken]
        passes.append(FixedWords(zip((token["content"].encode() for token in taken), ids, strict=True)))
    return tuple(passes)


def _vocabulary(model: dict[str, Any]) -> Vocabulary | None:
    """The tokens as bytes. A token with a character that stands for no byte (a special token) cannot arise from text."""
    chars = byte_chars()
    names: dict[str, int] = model["vocab"]
    tokens = {
        bytes(chars[char] for char in name): number
        for name, number in names.items()
        if all(char in chars for char in name)
    }
    tokens.pop(b"", None)
    if any(bytes([byte]) not in tokens for byte in range(256)):
        return None
    merges = []
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        merges.append((names[left], names[right], names[left + right]))
    return Vocabulary(tokens, merges, bool(model.get("ignore_merges")))
