"""Rank files: ids equal those of joining by rank in plain Python, and tiktoken's own."""

from __future__ import annotations

import base64
import unicodedata
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.errors import TokenizerError
from jielong.tokenizer.importing import tiktoken_file
from jielong.tokenizer.importing.tiktoken_file import LLAMA3, QWEN, Kind

REAL = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
FILES = {"qwen1/qwen.tiktoken": QWEN, "llama3/tokenizer.model": LLAMA3}
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("中国人民  \n\nabc's1234，。")), max_size=40
)
KIND = Kind("small", QWEN.pattern, ("<|endoftext|>",))


def by_rank(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """The twin: a piece that is a token, or else its bytes joined, lowest rank first, leftmost of equals."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[at : at + 1] for at in range(len(piece))]
    while True:
        joined = [(ranks[a + b], at) for at, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            return [ranks[part] for part in parts]
        at = min(joined)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def plain(tokens: list[bytes], kind: Kind, text: str) -> list[int]:
    ranks = {token: rank for rank, token in enumerate(tokens)}
    text = unicodedata.normalize("NFC", text) if kind.nfc else text
    return [token for piece in regex.findall(kind.pattern, text) for token in by_rank(ranks, piece.encode())]


def small_tokens() -> list[bytes]:
    """256 bytes, and joins of them learned from a line by counting (each made of two earlier ones)."""
    tokens = [bytes([byte]) for byte in range(256)]
    pieces = [
        [piece.encode()[n : n + 1] for n in range(len(piece.encode()))]
        for piece in regex.findall(QWEN.pattern, "中国人民银行 the theme there 人民 中国银行 abcabc aaaaaaa" * 2)
    ]
    while len(tokens) < 330:
        counts: dict[tuple[bytes, bytes], int] = {}
        for parts in pieces:
            for pair in pairwise(parts):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(sorted(counts), key=lambda pair: counts[pair])
        tokens.append(best[0] + best[1])
        for parts in pieces:
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == best:
                    parts[at : at + 2] = [best[0] + best[1]]
                at += 1
    return list(dict.fromkeys(tokens))


def write(path: Path, tokens: list[bytes]) -> Path:
    path.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens)))
    return path


@lru_cache
def small() -> tuple[list[bytes], tokenizers.Tokenizer]:
    tokens = small_tokens()
    return tokens, tiktoken_file.build(tokens, KIND)


def ids(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    tokenizer.encode_special_tokens = True
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@given(TEXT)
@settings(max_examples=300)
def test_ids_equal_joining_by_rank(text: str) -> None:
    tokens, ours = small()
    got = ids(ours, text)
    # the characters of the pattern's classes differ between Unicode versions: only pieces of equal cuts are compared
    pieces = [piece for piece, _ in ours.pre_tokenizer.pre_tokenize_str(text)]
    table = {char: byte for byte, char in enumerate(tiktoken_file.byte_characters())}
    ranks = {token: rank for rank, token in enumerate(tokens)}
    assert got == [token for piece in pieces for token in by_rank(ranks, bytes(table[c] for c in piece))]
    assert ours.decode(got) == text


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    tokens = small_tokens()
    path = write(tmp_path / "x.tiktoken", tokens)
    assert tiktoken_file.read(path) == tokens
    assert tiktoken_file.looks_like(path.read_bytes())
    assert not any(tiktoken_file.looks_like(data) for data in (b"", b"{}", b"\x0a\x05\x0a\x03abc 1", b"IQ== x\n"))


def test_special_tokens_follow_the_ranks() -> None:
    tokens, ours = small()
    assert ours.token_to_id("<|endoftext|>") == len(tokens)
    assert len(tokens) not in ids(ours, "a<|endoftext|>b")


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    tokens = small_tokens()
    write(path, tokens)
    lines = path.read_bytes().splitlines(keepends=True)
    for content, message in (
        (b"".join(lines[:-2] + lines[-1:]), "without gaps"),
        (b"".join([*lines, b"IQ==\n"]), "is not `base64 rank`"),
        (b"".join([*lines, b"!!! 9\n"]), "is not `base64 rank`"),
        (b"".join(b"%s %d\n" % (line.split()[0], n) for n, line in enumerate(lines[1:])), "1 of the 256 single bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=message):
            tiktoken_file.read(path)


def test_a_pattern_that_is_not_known() -> None:
    with pytest.raises(TokenizerError, match=r"its first cut is not known, got 300 ranks; known are 151643 \(qwen\)"):
        tiktoken_file.kind_of(300, Path("x"))
    assert tiktoken_file.kind_of(300, Path("x"), r"\S+|\s+").pattern == r"\S+|\s+"
    assert tiktoken_file.kind_of(128_000, Path("x"), r"\S+").specials == LLAMA3.specials
    with pytest.raises(TokenizerError, match="pattern: not a pattern of a first cut"):
        tiktoken_file.build(small_tokens(), Kind("bad", "("))


def test_known_special_tokens_have_their_ids() -> None:
    assert [151_643 + QWEN.specials.index(token) for token in ("<|endoftext|>", "<|im_end|>", "<|extra_204|>")] == [
        151_643, 151_645, 151_850,
    ]  # fmt: skip
    names = (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|eot_id|>",
        "<|reserved_special_token_250|>",
    )
    assert [128_000 + LLAMA3.specials.index(token) for token in names] == [128_000, 128_001, 128_006, 128_009, 128_255]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real tokenizers lie outside the project, in ../shared/data")
@pytest.mark.parametrize("name", list(FILES))
def test_real_files(name: str) -> None:
    tokens = tiktoken_file.read(REAL / name)
    kind = tiktoken_file.kind_of(len(tokens), REAL / name)
    assert kind == FILES[name]
    ours = tiktoken_file.build(tokens, kind)
    theirs = tiktoken.Encoding(
        "x", pat_str=kind.pattern, mergeable_ranks={token: n for n, token in enumerate(tokens)}, special_tokens={}
    )
    for text in (
        "中国人民银行今天宣布，下调存款准备金率0.5个百分点。\n\n  It's 2024; I'LL go\r\n",
        "def f(x):\n        return x**2  # 乌克兰\t\t龘靐🀄️ <|endoftext|>",
        # e with an acute accent, halfwidth ka and voiced mark, fullwidth digits, ideographic spaces, the ligature fi
        "e\u0301 \uff76\uff9e \uff11\uff19 \u3000\u3000\ufb01" + "啊" * 300 + " " * 50,
    ):
        expected = theirs.encode_ordinary(unicodedata.normalize("NFC", text) if kind.nfc else text)
        assert ids(ours, text) == expected == plain(tokens, kind, text)
        assert ours.decode(expected) == (unicodedata.normalize("NFC", text) if kind.nfc else text)
