"""Which of llama.cpp's first cuts a byte-level BPE has.

Before it merges, llama.cpp cuts a text by patterns that stand in its code under names ("tokenizer.ggml.pre": qwen2, llama-bpe, ...);
a file can only name one. Our own pattern (tokenizer/bpe.py) has no name there. But a cut matters only where a token would cross
it, and the tokens of a BPE that was trained on finer pieces cross few borders of those, so that another cut mostly gives the
same ids. How often is measured: the folder's tokenizer, and the same with each of the cuts below, on PROBES; the one with the
fewest texts of other ids is taken, of several the one whose pieces are most often the same, and of those the best known.

The patterns are llama.cpp's (src/llama-vocab.cpp), as the `tokenizers` library writes them; each splits what the one before left.
Names that only its latest versions know are left out, because a file with an unknown name does not open.
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
import tokenizers
from tokenizers import pre_tokenizers

from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.reporting.examples import EXAMPLES

_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_LEAD = r"[^\r\n\p{L}\p{N}]?"


@dataclass(frozen=True)
class Precut:
    """A first cut of llama.cpp's. whole: a piece that is a token is that token, whatever its merges (`ignore_merges`)."""

    name: str
    patterns: tuple[str, ...]
    whole: bool = False


PRECUTS = (
    Precut("qwen2", (rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_TAIL}",)),
    Precut("llama-bpe", (rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}",), whole=True),
    Precut("gpt-2", (_GPT2,)),
    Precut("starcoder", (r"\p{N}", _GPT2)),
    Precut("deepseek-coder", (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}")),
    Precut(
        "deepseek-v3",
        (
            r"\p{N}{1,3}",
            "[一-龥\u3040-\u30ff]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
        ),
    ),
    Precut(
        "gpt-4o",
        (
            rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    ),
    Precut(
        "tekken",
        (
            rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        whole=True,
    ),
)

_SENTENCES = (  # U+FF11 ... are fullwidth digits, U+FF0E a fullwidth full stop
    "I'm sure that it's what they'd say; we've heard it, and you'll hear it. DON'T SHOUT, IT'S LATE.",
    "The committee's 3rd report (2024-05-17) was 1,234 pages long: who reads 12345 of them?",
    "def main(args):\n\tfor i in range(10):\n\t\tprint(f'{i}: {args[i]}')\n\n\nif __name__ == '__main__':\n    main([])\n",
    "他说：'很好'，她说：\"it's fine\"。第\uff11\uff12\uff13号、第2号；\uff13\uff0e\uff11与3.14。",
    "用GPT生成的文本里，iPhone15和5G都要写对，C++20、Python3.12也一样。",
    "　　全角空格开头的段落。\r\n第二行  有两个空格，\t还有制表符。 \n\n 最后一行 ",
    "カタカナとひらがな、漢字まじりの文。한국어도 조금. Привет, мир! Ελληνικά, café, naïve, e\u0301te\u0301.",
    "网址 https://example.com/路径?q=中文&n=10#top，邮箱 someone@example.com。",
    "价格：¥1,299.00 / $180 / €165（约合人民币一千二百九十九元），涨幅↑3.5%～5%。",
    "问：“今天天气怎么样？”答：“不错！！！”……——他笑了笑（真的）。",
)
_JOINTS = ("", " ", "\n", "\n\n", "  ", "，", "'", " 's ", "10", "\u3000", "A", "\t")


def probes() -> list[str]:
    """Some hundreds of texts in Chinese and English: passages, their clauses, and ends and beginnings of passages put together in
    ways that patterns treat differently."""
    passages = [example.text for example in EXAMPLES] + list(_SENTENCES)
    clauses = [
        clause
        for text in passages
        for clause in text.replace("。", "。\0").replace("，", "，\0").replace("\n", "\n\0").split("\0")
    ]
    joined = [
        first[-12:] + _JOINTS[(a * 5 + b) % len(_JOINTS)] + second[:12]
        for a, first in enumerate(passages)
        for b, second in enumerate(passages)
        if (a + b) % 3 == 0
    ]
    return [text for text in dict.fromkeys([*passages, *clauses, *joined]) if text.strip()]


@dataclass(frozen=True)
class Choice:
    """The cut that was taken, and in how many of the probes ids and pieces are others than the folder's tokenizer's."""

    name: str
    probes: int
    differ: int
    pieces_differ: int
    example: str = ""  # the shortest text with other ids


def choose(tokenizer: TokenizerFolder) -> Choice:
    """The cut of PRECUTS that comes nearest to a byte-level BPE's own."""
    texts = probes()
    expected, pieces = tokenizer.encode(texts), [_pieces(tokenizer.backend, text) for text in texts]
    found = []
    for whole in (False, True):
        emulated = _emulated(tokenizer.backend, whole)
        for rank, precut in enumerate(PRECUTS):
            if precut.whole != whole:
                continue
            emulated.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in precut.patterns]
                + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
            )
            ids = [encoding.ids for encoding in emulated.encode_batch_fast(texts, add_special_tokens=False)]
            others = [text for text, mine, theirs in zip(texts, expected, ids, strict=True) if mine != theirs]
            cut = sum(_pieces(emulated, text) != mine for text, mine in zip(texts, pieces, strict=True))
            example = min(others, key=len, default="")
            found.append((len(others), cut, rank, Choice(precut.name, len(texts), len(others), cut, example)))
    return min(found, key=lambda row: row[:3])[3]


def _emulated(backend: tokenizers.Tokenizer, whole: bool) -> tokenizers.Tokenizer:
    """The same vocabulary and merges as llama.cpp has them: no normalizer, no post-processor, its own `ignore_merges`."""
    table = orjson.loads(backend.to_str())
    table["model"]["ignore_merges"] = whole
    table["normalizer"] = table["post_processor"] = None
    copy = tokenizers.Tokenizer.from_str(orjson.dumps(table).decode("utf-8"))
    copy.encode_special_tokens = True
    return copy


def _pieces(backend: tokenizers.Tokenizer, text: str) -> list[tuple[int, int]]:
    """The borders of a text's pieces, in characters."""
    cutter = backend.pre_tokenizer
    return [] if cutter is None else [borders for _, borders in cutter.pre_tokenize_str(text)]
