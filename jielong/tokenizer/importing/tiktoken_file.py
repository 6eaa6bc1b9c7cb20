"""Read a tiktoken file (Qwen's `qwen.tiktoken`, the `tokenizer.model` of Llama 3) and build a native tokenizer with its ids.

The file is a list of tokens as bytes, each with its rank: `base64 rank` a line. The rank is both the id and the order of
merging: of all neighbours whose joined bytes are a token, those of the lowest rank are joined first, the leftmost of equals
first; a piece of the first cut that is a token as a whole is that token. So every way to cut a token into two tokens is a
merge of that token's rank, and `ignore_merges` stands for the last rule.

What the file does not say are the pattern of the first cut and the special tokens; they stand in the code around it. They are
told apart by the number of ranks, which is more certain than a file's name (Llama 3 calls its file `tokenizer.model`, as a
sentencepiece model is called): `KINDS`. Any other file can be read when its pattern is told. Qwen's code brings a text into
Unicode's form NFC before it cuts; so does the tokenizer made here, and a text in another form comes back in NFC.

Cost: 150,000 ranks open in about two seconds (once: a run keeps the result as tokenizer.json).
Source: openai/tiktoken `_educational.py` for the algorithm; tokenization_qwen.py; llama3 `tokenizer.py`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jielong.errors import TokenizerError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"


@dataclass(frozen=True)
class Kind:
    """What belongs to a rank file and is not in it. The special tokens follow the ranks, in order."""

    name: str
    pattern: str
    specials: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()  # role -> special token
    nfc: bool = False
    starts_prompts: bool = False  # whether a prompt begins with the token of the role `start`


QWEN = Kind(
    "qwen",
    f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}|{_REST}",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))),
    (("end", "<|endoftext|>"), ("turn_end", "<|im_end|>")),
    nfc=True,
)
LLAMA3 = Kind(
    "llama3",
    f"{_CONTRACTIONS}|{_WORDS}|\\p{{N}}{{1,3}}|{_REST}",
    (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        *(f"<|reserved_special_token_{n}|>" for n in range(4)),
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|reserved_special_token_4|>",
        "<|eot_id|>",
        *(f"<|reserved_special_token_{n}|>" for n in range(5, 251)),
    ),
    (("end", "<|end_of_text|>"), ("start", "<|begin_of_text|>"), ("turn_end", "<|eot_id|>")),
    starts_prompts=True,
)
KINDS = {151_643: QWEN, 128_000: LLAMA3}  # by the number of ranks


def looks_like(data: bytes) -> bool:
    """Whether a file's first bytes are a rank file's: base64, a space and a number."""
    line = data[:200].split(b"\n", 1)[0].split()
    try:
        return len(line) == 2 and line[1].isdigit() and len(base64.b64decode(line[0], validate=True)) > 0
    except binascii.Error:
        return False


def read(path: Path) -> list[bytes]:
    """The tokens of a rank file in the order of their ranks. Raises TokenizerError for a file that is damaged or has gaps."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            coded, rank = line.split()
            ranks[base64.b64decode(coded, validate=True)] = int(rank)
        except ValueError:  # binascii.Error is one
            raise TokenizerError(
                f"{path}: line {number} is not `base64 rank`, got {line[:40]!r}; get the file again"
            ) from None
    tokens = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in tokens] != list(range(len(tokens))):
        raise TokenizerError(f"{path}: the ranks must be 0, 1, 2 ... without gaps or repeats; get the file again")
    lacking = sum(bytes([byte]) not in ranks for byte in range(256))
    if lacking:
        raise TokenizerError(f"{path}: {lacking} of the 256 single bytes are no tokens; get the file again")
    return tokens


def kind_of(count: int, path: Path, pattern: str | None = None) -> Kind:
    """What belongs to a file of `count` ranks; a told `pattern` replaces the known one. Raises TokenizerError for unknown
    files."""
    known = KINDS.get(count)
    if pattern is None:
        if known is None:
            raise TokenizerError(
                f"{path}: its first cut is not known, got {count} ranks; known are "
                f"{', '.join(f'{n} ({kind.name})' for n, kind in KINDS.items())}; name its pattern, or give a tokenizer.json"
            )
        return known
    return Kind("told", pattern) if known is None else Kind(known.name, pattern, known.specials, known.roles, known.nfc)


def byte_characters() -> list[str]:
    """The character that stands for each byte in the byte-level alphabet (GPT-2's), by byte."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + rest.index(byte)) for byte in range(256)]


def build(tokens: list[bytes], kind: Kind) -> tokenizers.Tokenizer:
    """The `tokenizers` tokenizer that gives the ids that tiktoken gives. Raises TokenizerError for a bad pattern."""
    # bytes as Latin-1 characters, then those as the alphabet's
    table = dict(enumerate(byte_characters()))
    names = [token.decode("latin-1").translate(table) for token in tokens]
    there = set(names)
    merges = [
        (name[:at], name[at:])
        for name in names
        for at in range(1, len(name))
        if name[:at] in there and name[at:] in there
    ]
    tokenizer = tokenizers.Tokenizer(
        models.BPE({name: rank for rank, name in enumerate(names)}, merges, ignore_merges=True)
    )
    try:
        cut = pre_tokenizers.Split(tokenizers.Regex(kind.pattern), "isolated")
    except Exception as error:  # the library's
        raise TokenizerError(
            f"pattern: not a pattern of a first cut, got {kind.pattern!r} ({error}); correct it"
        ) from None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    if kind.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, normalized=False) for token in kind.specials])
    return tokenizer
