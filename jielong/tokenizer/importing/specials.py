"""Which tokens of a tokenizer do what: end a text, begin one, end a turn, pad, stand for the unknown.

Everybody writes this in another place. Looked up in this order, the first that names a token of the vocabulary wins:

1. what the user told (`tokenizer.end_token`);
2. `special_tokens_map.json`, then `tokenizer_config.json` (`eos_token`, `bos_token`, `pad_token`, `unk_token`);
3. the ids in `generation_config.json`, which chat models use for the end of a turn;
4. what the file itself says (a sentencepiece model names its pieces) or what is known of it (tiktoken files);
5. well-known names, and only of tokens that are marked as added: "</s>" learned from web pages is just a piece of HTML.

A role that the folder sets to null is taken at its word and not guessed, except for the end of text, without which nothing can
be trained. What is found and what is missing is a table for people (`Specials.lines`): a wrong guess shows there. A name that
is not in the vocabulary is *missing* (the padding of a Llama whose code adds a token that its file has not), not an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import tokenizers

# role -> its field in Hugging Face's tables, and for people
FIELDS = {
    "end": ("eos_token", "end of text"),
    "start": ("bos_token", "beginning of text"),
    "turn_end": (None, "end of a turn"),
    "padding": ("pad_token", "padding"),
    "unknown": ("unk_token", "unknown"),
}
# deepseek writes U+FF5C fullwidth vertical line and U+2581 lower one eighth block
WELL_KNOWN = {
    "end": (
        "<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|eos|>", "<eod>", "[EOS]",
    ),
    "start": ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<s>", "<bos>", "<|bos|>", "<|startoftext|>", "[BOS]"),
    "turn_end": ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|end_of_turn|>"),
    "padding": ("<pad>", "<|pad|>", "<｜▁pad▁｜>", "[PAD]", "<|finetune_right_pad_id|>"),
    "unknown": ("<unk>", "<|unk|>", "[UNK]"),
}  # fmt: skip
ABSENT = "not in the vocabulary"
# ChatGLM's tokenizer is Python code around a sentencepiece model: these follow the pieces
CHATGLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
CHATGLM_PREFIX = ("[gMASK]", "sop")  # what a prompt of it begins with


@dataclass(frozen=True)
class Special:
    """A token with a part to play."""

    role: str  # a key of FIELDS
    token: str
    id: int
    source: str  # where it was found, for people


@dataclass(frozen=True)
class Specials:
    """The special tokens that were found, by role, and what is said of those that were not."""

    found: dict[str, Special] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # role -> why

    def id_of(self, role: str) -> int | None:
        """The id of a role's token, or None."""
        return self.found[role].id if role in self.found else None

    def lines(self) -> Iterator[str]:
        """One line a role, to be shown where a tokenizer is imported."""
        for role, (_, label) in FIELDS.items():
            if role in self.found:
                special = self.found[role]
                yield f"{label}: {special.token} (id {special.id}, {special.source})"
            else:
                yield f"{label}: none ({self.missing[role]})"


def content(value: Any) -> str | None:
    """A special token as the tables write it: a string, or a table with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def find(
    backend: tokenizers.Tokenizer,
    tables: Mapping[str, Mapping[str, Any]],
    of_the_file: Mapping[str, str] | None = None,
    end_token: str | None = None,
) -> Specials:
    """The special tokens of a tokenizer.

    tables: file name -> content of the folder's JSON files, those that win first. of_the_file: role -> token that the
    vocabulary's own file names.
    """
    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    found, missing = {}, {}
    for role in FIELDS:
        reason = "not named by its files, and no well-known name in the vocabulary"
        for source, token in _candidates(role, backend, tables, of_the_file or {}, end_token, added):
            if token is None:
                reason = f"{source} sets it to null"
                break
            token_id = backend.token_to_id(token)
            if token_id is not None:
                found[role] = Special(role, token, token_id, source)
                break
            reason = f"{ABSENT}, got {token!r} in {source}"
            if role == "end":
                break  # a name that cannot be right is the user's to correct, not ours to replace
        if role not in found:
            missing[role] = reason
    return Specials(found, missing)


def _candidates(
    role: str,
    backend: tokenizers.Tokenizer,
    tables: Mapping[str, Mapping[str, Any]],
    of_the_file: Mapping[str, str],
    end_token: str | None,
    added: set[str],
) -> Iterator[tuple[str, str | None]]:
    """(source, token) in the order of trust; a token of None ends the search."""
    key = FIELDS[role][0]
    if role == "end" and end_token is not None:
        yield "tokenizer.end_token", end_token
        return
    null = None
    for name, table in tables.items():
        if key is not None and key in table:
            token = content(table[key])
            if token is None:
                null = null or name
            else:
                yield name, token
                null = None
        ids = _ids(table.get(f"{key[:3]}_token_id")) if key is not None else _ids(table.get("eos_token_id"))
        for token_id in ids:
            token = backend.id_to_token(token_id)
            if token is not None and (key is not None or token in WELL_KNOWN[role]):
                yield name, token
    if null is not None and role != "end":
        yield null, None
    if role in of_the_file:
        yield "the vocabulary's file", of_the_file[role]
    for token in WELL_KNOWN[role]:
        if token in added:
            yield "a well-known name", token


def _ids(value: Any) -> list[int]:
    """Token ids as the tables write them: one, a list, or none."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, int)]
