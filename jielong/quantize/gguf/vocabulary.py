"""The tokenizer in a GGUF file: tokens with their types, merges or scores, special tokens, the chat template.

llama.cpp has no general tokenizer; each kind is code of its own, and two of them can be filled from ours:

    gpt2    BPE over bytes: all that are trained here as `bpe`, Qwen's, Llama 3's, ... Tokens, merges and the name of a first cut
            (precuts.py)
    llama   BPE over characters with tokens for bytes: Llama 2's, Mistral's. Tokens with scores (pieces.py)

Refused is what it would read otherwise than we do: our kinds `unigram` and `bytepiece`, which choose the best of all ways over
bytes, sentencepiece's Unigram, and WordPiece.

Ids between tokens, and rows of the embedding beyond the last one, become tokens of the type "unused", because llama.cpp wants as
many tokens as rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from jielong.errors import TokenizerError
from jielong.model.bases import stops_of
from jielong.model.hf_config import read_config
from jielong.quantize.gguf import pieces, precuts
from jielong.tokenizer.chat.templates import template_of
from jielong.tokenizer.folder import TokenizerFolder, open_folder

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # gguf's TokenType


@dataclass(frozen=True)
class Vocabulary:
    """What is written of a tokenizer. `model`: llama.cpp's kind of it."""

    model: str
    pre: str  # the first cut
    tokens: list[str]  # one for each row of the embedding
    types: list[int]
    merges: list[str]
    scores: list[float]  # none for gpt2
    ids: dict[str, int]  # role -> id, as GGUFWriter's add_<role>_token_id calls them
    begins: bool  # whether a prompt begins with bos
    ends: bool  # whether it ends with eos
    prefix: bool | None  # whether a space is put before it; None: the kind has no such thing
    template: str | None
    probes: int
    differ: int
    notes: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """The part of what `export` returns."""
        return {"model": self.model, "pre": self.pre, "probes": self.probes, "differ": self.differ}


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of a model folder whose embedding has so many rows.

    Raises TokenizerError for a kind that llama.cpp does not have, or more tokens than rows.
    """
    tokenizer = open_folder(folder)
    if tokenizer.size > rows:
        raise TokenizerError(
            f"{folder}: the tokenizer has {tokenizer.size} ids, the model {rows} embeddings; they do not belong together"
        )
    table = orjson.loads(tokenizer.backend.to_str())
    model, notes = table["model"], list[str]()
    kind = _kind(folder, table)
    tokens, types = _tokens(tokenizer, rows, kind)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    if kind == "gpt2" and (left_out := _types(table.get("normalizer")) - {"Sequence"}):
        notes.append(f"tokenizer: llama.cpp leaves out its normalizer ({', '.join(sorted(left_out))})")
    begins, ends = _added(folder, tokenizer)
    shared: dict[str, Any] = {
        "tokens": tokens,
        "types": types,
        "ids": _special_ids(folder, tokenizer),
        "begins": begins,
        "ends": ends,
        "template": template_of(tokenizer),
        "notes": notes,
    }
    if kind == "gpt2":
        choice = precuts.choose(tokenizer)
        if choice.pieces_differ or choice.differ:
            notes.append(_about(choice))
        return Vocabulary(
            "gpt2",
            choice.name,
            merges=merges,
            scores=[],
            prefix=None,
            probes=choice.probes,
            differ=choice.differ,
            **shared,
        )
    score = pieces.scores(model)
    measured = pieces.measure(tokenizer, {token: number for number, token in enumerate(tokens)}, score)
    if measured.differ:
        notes.append(
            f"tokenizer: llama.cpp's cut of {measured.differ} of {measured.probes} probe texts has other ids "
            f"({measured.differ / measured.probes:.1%})"
        )
    values = [score.get(token, pieces.NEVER) for token in tokens]
    return Vocabulary(
        "llama", "default", merges=[], scores=values, prefix=measured.prefix, probes=measured.probes, differ=measured.differ,
        **shared,
    )  # fmt: skip


def _about(choice: precuts.Choice) -> str:
    """One sentence on a first cut that is not quite the folder's, or on ids that differ for another reason."""
    what = (
        f"the ids of {choice.differ} ({choice.differ / choice.probes:.1%}) are others, those of {choice.example!r} for one"
        if choice.differ
        else "the ids of none are others"
    )
    if not choice.pieces_differ:
        return f"tokenizer: its first cut is llama.cpp's {choice.name}; of {choice.probes} probe texts {what}"
    return (
        f"tokenizer: llama.cpp has no name for its first cut; the nearest is {choice.name}: of {choice.probes} probe texts "
        f"{choice.pieces_differ} are cut into other pieces first, and {what}"
    )


def _kind(folder: Path, table: dict[str, Any]) -> str:
    """llama.cpp's kind of a tokenizer.json. Raises TokenizerError where there is none."""
    model = table["model"]
    plain = (
        model["type"] == "BPE" and not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
    )
    over_bytes = any("ByteLevel" in _types(table.get(part)) for part in ("pre_tokenizer", "decoder"))
    if plain and over_bytes:
        return "gpt2"
    if plain and model.get("byte_fallback") and model["vocab"].keys() >= set(pieces.BYTE_TOKENS):
        return "llama"
    what = f"{model['type']} over {'bytes' if over_bytes else 'characters'}"
    raise TokenizerError(
        f"tokenizer: llama.cpp has none of its kind, got {what} in {folder}; BPE over bytes, or over characters with all 256 bytes "
        "as tokens, can be exported; use the Hugging Face folder with transformers or vLLM instead"
    )


def _types(part: Any) -> set[str]:
    """The types of a component of tokenizer.json, and of those in it."""
    if isinstance(part, list):
        return {name for item in part for name in _types(item)}
    if not isinstance(part, dict):
        return set()
    inside = {name for value in part.values() if isinstance(value, (list, dict)) for name in _types(value)}
    return inside | {str(part.get("type"))}


def _tokens(tokenizer: TokenizerFolder, rows: int, kind: str) -> tuple[list[str], list[int]]:
    """Every token by id, and its type."""
    backend = tokenizer.backend
    there = backend.get_vocab(with_added_tokens=True)
    tokens, types = [""] * rows, [UNUSED] * rows
    for token, number in there.items():
        tokens[number], types[number] = token, NORMAL
        if kind == "llama" and token in pieces.BYTE_TOKENS:
            types[number] = BYTE
    for number, added in backend.get_added_tokens_decoder().items():
        types[number] = CONTROL if added.special else USER_DEFINED
    unknown = tokenizer.specials.id_of("unknown")
    if kind == "llama" and unknown is not None:
        types[unknown] = UNKNOWN
    for number in range(rows):
        if not tokens[number]:
            name = f"[PAD{number}]"
            tokens[number], types[number] = (f"[UNUSED{number}]" if name in there else name), UNUSED
    return tokens, types


def _added(folder: Path, tokenizer: TokenizerFolder) -> tuple[bool, bool]:
    """Whether a prompt begins with bos and ends with eos: what tokenizer_config.json says, else what the tokenizer does."""
    path = folder / "tokenizer_config.json"
    config = read_config(folder, path.name) if path.is_file() else {}
    bare, whole = (tokenizer.backend.encode("一", add_special_tokens=added).ids for added in (False, True))
    at = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)
    does = (at > 0, len(whole) > at + len(bare))
    first, last = (
        bool(config[key]) if isinstance(config.get(key), bool) else found
        for key, found in zip(("add_bos_token", "add_eos_token"), does, strict=True)
    )
    return first, last


def _special_ids(folder: Path, tokenizer: TokenizerFolder) -> dict[str, int]:
    """bos (the model's word counts), eos, pad, unk, and eot where the model stops at the end of a turn."""
    bos = read_config(folder).get("bos_token_id")
    found = {
        "bos": bos if isinstance(bos, int) else tokenizer.start_id,
        "eos": tokenizer.end_id,
        "pad": tokenizer.specials.id_of("padding"),
        "unk": tokenizer.specials.id_of("unknown"),
    }
    turn_end = tokenizer.specials.id_of("turn_end")
    if turn_end in stops_of(folder):
        found["eot"] = turn_end
    return {role: number for role, number in found.items() if number is not None}


def write_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    """Write the tokenizer's keys."""
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for role, number in vocabulary.ids.items():
        getattr(writer, f"add_{role}_token_id")(number)
    writer.add_add_bos_token(vocabulary.begins)
    writer.add_add_eos_token(vocabulary.ends)
    if vocabulary.prefix is not None:
        writer.add_add_space_prefix(vocabulary.prefix)
    if vocabulary.template is not None:
        writer.add_chat_template(vocabulary.template)
