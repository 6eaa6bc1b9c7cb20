"""A vocabulary as bytes: what each id stands for, of which kind it is, and which entries look like rubbish.

Tokenizers write their tokens in two ways. Byte-level ones (GPT-2's and all after it) spell every byte as a printable
character; sentencepiece ones write text, with U+2581 for a space, and `<0xE4>` for a byte that no piece covers. Which of the
two it is, the folder's decoder says, and once the tokens are bytes every question has one answer for all of them: a token is
*whole* when its bytes are UTF-8, and a *byte* when it is one byte of a character or is spelled `<0x..>`.

Rubbish in a vocabulary costs twice: rows of the embedding that are hardly ever trained, and strange answers when one of them
is met (the tokens made of adverts in a well-known vocabulary of 2024 were found by sorting its Chinese entries by length).
Here: entries of JUNK_HAN Han characters or more, fragments that repeat themselves, and phrases with a word that adverts use.
It is a list for a person to read, not a verdict.

Cost: a vocabulary of 150,000 takes a second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
import tokenizers
from numpy.typing import NDArray

from jielong.data.measuring.codepoints import DIGIT, HAN, LATIN, SCRIPT_SHIFT, SPACE, WORD, classes

KINDS = ("han1", "han2", "han3", "han4", "latin", "digits", "symbols", "space", "other", "mixed", "byte", "part",
         "special", "hole")  # fmt: skip
JUNK_HAN = 8  # an idiom has four; seven is a line of verse
LEAST_HAN = 4  # below that, a repeated or advertising word is a word
ADVERT_WORDS = (
    "点击", "扫码", "二维码", "公众号", "微信号", "加微信", "客服", "热线", "免费", "下载", "登录", "网址", "官网", "彩票", "棋牌", "博彩",
    "娱乐城", "申博", "开奖", "投注", "代孕", "包邮", "在线观看", "无码", "成人", "中文字幕", "版权所有", "版权归", "转载", "责任编辑", "阅读全文",
    "最新章节", "手机阅读", "上一篇", "下一篇",
)  # fmt: skip
BYTE_SPELLING = re.compile(r"<0x([0-9A-Fa-f]{2})>")
REPEATED = re.compile(r"(.{1,6}?)\1{2,}|(.{2,6})\2", re.DOTALL)


@dataclass(frozen=True)
class Vocabulary:
    """All ids of a tokenizer, by id. `raw`: the bytes of each; empty for an id that no token has."""

    raw: list[bytes]
    kinds: NDArray[np.uint8]  # place in KINDS
    lengths: NDArray[np.int64]  # bytes of each id
    broken: NDArray[np.bool_]  # bytes that are no whole UTF-8
    single: NDArray[np.bool_]  # one byte of a character, or spelled <0x..>
    special: frozenset[int]

    def of_kind(self, kind: str) -> NDArray[np.bool_]:
        """Which ids are of a kind."""
        found: NDArray[np.bool_] = self.kinds == KINDS.index(kind)
        return found

    @property
    def usable(self) -> int:
        """Entries that ordinary text can use: all but special tokens and holes."""
        return len(self.raw) - int(self.of_kind("special").sum() + self.of_kind("hole").sum())

    def counts(self) -> dict[str, int]:
        """Entries by kind, in the order of KINDS."""
        found = np.bincount(self.kinds, minlength=len(KINDS))
        return {kind: int(number) for kind, number in zip(KINDS, found, strict=True)}


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level spelling: printable bytes stand for themselves, the others follow U+0100."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(itself)]
    return {chr(byte): byte for byte in itself} | {chr(0x100 + place): byte for place, byte in enumerate(rest)}


def decoders(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The steps of a tokenizer's decoder, as its JSON writes them; none when it has no decoder."""
    if backend.decoder is None:
        return []
    state = orjson.loads(backend.decoder.__getstate__())
    return list(state["decoders"]) if state["type"] == "Sequence" else [state]


def token_bytes(token: str, steps: list[dict[str, Any]]) -> bytes:
    """What one token stands for, wherever in a text it is: the decoder's steps that look at a token by itself."""
    for step in steps:
        kind = step["type"]
        if kind == "ByteLevel":
            table = byte_alphabet()
            if all(char in table for char in token):
                return bytes(table[char] for char in token)
        elif kind == "Replace" and "String" in step["pattern"]:
            token = token.replace(step["pattern"]["String"], step["content"])
        elif kind == "Metaspace":
            token = token.replace(step["replacement"], " ")
        elif kind == "ByteFallback" and (found := BYTE_SPELLING.fullmatch(token)):
            return bytes([int(found[1], 16)])
    return token.encode("utf-8", "replace")


def whole_text(raw: bytes) -> str | None:
    """The bytes as text, or None when they are no whole UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def shown(raw: bytes) -> str:
    """Bytes for a person: text, and what is no whole character as <E4><B8>."""
    text, rest = "", raw
    while rest:
        try:
            return text + rest.decode("utf-8")
        except UnicodeDecodeError as error:
            end = max(error.end, error.start + 1)
            text += rest[: error.start].decode("utf-8") + "".join(f"<{byte:02X}>" for byte in rest[error.start : end])
            rest = rest[end:]
    return text


def read_vocabulary(backend: tokenizers.Tokenizer) -> Vocabulary:
    """Every id of a tokenizer, as bytes and by kind."""
    names = backend.get_vocab(with_added_tokens=True)
    size, steps = 1 + max(names.values()), decoders(backend)
    special = {number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    raw, single = [b""] * size, np.zeros(size, np.bool_)
    holes = np.ones(size, np.bool_)
    falls_back = any(step["type"] == "ByteFallback" for step in steps)
    for token, number in names.items():
        raw[number] = token.encode("utf-8", "replace") if number in special else token_bytes(token, steps)
        holes[number] = False
        spelled = falls_back and BYTE_SPELLING.fullmatch(token) is not None
        single[number] = number not in special and (spelled or (len(raw[number]) == 1 and raw[number][0] >= 0x80))
    texts = [whole_text(bytes_) for bytes_ in raw]
    broken = np.array([text is None for text in texts])
    kinds = kinds_of([text or "" for text in texts])
    kinds[broken] = KINDS.index("part")
    kinds[single] = KINDS.index("byte")
    kinds[sorted(special)] = KINDS.index("special")
    kinds[holes] = KINDS.index("hole")
    lengths = np.array([len(bytes_) for bytes_ in raw], np.int64)
    return Vocabulary(raw, kinds, lengths, broken, single, frozenset(special))


def kinds_of(texts: list[str]) -> NDArray[np.uint8]:
    """The kind of each text by its characters, one space before it left out; empty texts are "space".

    symbols: no letter at all; other: letters of other scripts; mixed: anything together, such as Han with punctuation.
    """
    cut = [text[1:] if text.startswith(" ") and len(text) > 1 else text or " " for text in texts]
    lengths = np.array([len(text) for text in cut], np.int64)
    table = classes()
    codes = np.frombuffer("".join(cut).encode("utf-32-le"), np.uint32)
    flags = table.flags[table.of[codes]]
    starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
    every, any_ = np.bitwise_and.reduceat(flags, starts), np.bitwise_or.reduceat(flags, starts)
    han, latin, digits, space, word = ((every & bit) > 0 for bit in (HAN, LATIN, DIGIT, SPACE, WORD))
    letters = (any_ >> SCRIPT_SHIFT) > 0  # the number of a script is above zero for letters only
    found = np.full(len(cut), KINDS.index("mixed"), np.uint8)
    found[word & letters & ((any_ & (LATIN | HAN | DIGIT)) == 0)] = KINDS.index("other")
    found[~letters & ((any_ & HAN) == 0)] = KINDS.index("symbols")
    for mask, kind in ((latin, "latin"), (digits, "digits"), (space, "space")):
        found[mask] = KINDS.index(kind)
    for length, kind in ((1, "han1"), (2, "han2"), (3, "han3")):
        found[han & (lengths == length)] = KINDS.index(kind)
    found[han & (lengths > 3)] = KINDS.index("han4")
    return found


def longest(vocabulary: Vocabulary, count: int) -> list[int]:
    """Ids of the longest Chinese entries, the longest first, then by id."""
    ids = np.flatnonzero(vocabulary.of_kind("han4"))
    return [
        int(number) for number in sorted(ids, key=lambda number: (-int(vocabulary.lengths[number]), number))[:count]
    ]


def han_characters(text: str) -> int:
    """How many characters of a text are Han."""
    table = classes()
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    return int(((table.flags[table.of[codes]] & HAN) > 0).sum())


def junk(vocabulary: Vocabulary) -> dict[int, str]:
    """Id -> why an entry looks like rubbish: "advert", "repeated" or "long". Only entries with Han are looked at."""
    wanted = vocabulary.of_kind("han4") | vocabulary.of_kind("mixed")
    found: dict[int, str] = {}
    for number in np.flatnonzero(wanted):
        text = whole_text(vocabulary.raw[number]) or ""
        if len(text) < LEAST_HAN or (han := han_characters(text)) < LEAST_HAN:
            continue
        repeated = REPEATED.search(text)
        if any(word in text for word in ADVERT_WORDS):
            found[int(number)] = "advert"
        elif repeated is not None and len(repeated[0]) >= LEAST_HAN:
            found[int(number)] = "repeated"
        elif han >= JUNK_HAN:
            found[int(number)] = "long"
    return found
