"""Words and parts of speech of the finished documents, as columns: for those who count words, sample by them or train taggers.

Chinese is written without spaces, so what a word is has to be found. It is found once, in the last pass, of the text as it
is written to the documents: behind every step that changes text, or the columns would speak of another text. No step and no
later stage reads them.

- `words`: list<string>. Every character belongs to exactly one word, blanks, line ends and marks too: the words of a document
  joined are its text, to the character. Where a word stands follows by adding up lengths.
- `pos`: list<string> of the same length, a tag of the ICTCLAS kind for each word: n noun, v verb, a adjective, nr person, ns
  place, m number, eng Latin letters, ..., x for marks, blanks and what has no tag.

Both come from rjieba (jieba-rs in Rust, MIT), with jieba's dictionary and its hidden Markov model for words that stand in no
dictionary. Beside jieba 0.42.1 (`jieba.posseg`, Python) on 0.6 MB of mixed text it is about 190 times as fast; 96 % of its words
are words of jieba as well, and of those 97 % have the same tag. It splits fewer decimals, addresses and Latin names. What it
lacks is jieba's tagger: a word of the dictionary always has its most frequent tag, whatever stands around it, and for some
words that is an odd one (很 is zg).

rjieba leaves three things to be done for a list of the user's own words: a word that the dictionary knows keeps its tag
there, so given tags are put in afterwards; a new one without a tag has an empty one, here x, as in jieba; and a word with a mark
in it (哈利·波特) is cut at the mark whatever its frequency, so such words are found first, by longest match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow

from jielong.data import steps
from jielong.data.cleaning.flagged import FlaggedWords
from jielong.errors import InputError, MissingExtraError

pa: Any = pyarrow  # it has no types of its own

WORDS = pa.list_(pa.string())  # the type of both columns
LEAVES = tuple(f"{name}.list.element" for name in ("words", "pos"))  # their names within a Parquet file
UNKNOWN = "x"  # the tag of what has none
BATCH_CHARS = 1 << 18  # of text whose words are Python's at a time, some 40 MB of them; then they are Arrow's

_LINE = re.compile(r"(\S+)(?:\s+([0-9]{1,9}))?(?:\s+([A-Za-z][0-9A-Za-z_-]{0,15}))?")


class Annotator:
    """The step `annotate`: cuts texts into words and tags them."""

    def __init__(self, step: steps.Annotate) -> None:
        """Raises MissingExtraError without rjieba, InputError for a list of words that cannot be used."""
        try:
            from rjieba import Jieba
        except ImportError:
            raise MissingExtraError("rjieba", "data", "for the step annotate") from None
        self.step = step
        self._jieba: Any = Jieba()  # its own types say that tag() gives words alone
        self._tags: dict[str, str] = {}  # of the user's words, where rjieba's is another
        self._first: FlaggedWords | None = None  # words that rjieba does not keep whole
        if step.dictionary is not None:
            self._learn(read_dictionary(Path(step.dictionary)))

    def _learn(self, words: dict[str, tuple[int | None, str | None]]) -> None:
        for word, (frequency, tag) in words.items():
            known = self._jieba.has_word(word)
            self._jieba.add_word(word, frequency, tag)
            if tag is not None or not known:
                self._tags[word] = tag or UNKNOWN
        free = (word for word, (frequency, _) in words.items() if frequency is None)
        if odd := [word for word in free if self._jieba.cut(word) != [word]]:
            self._first = FlaggedWords(odd)

    def __call__(self, text: str) -> list[tuple[str, str]]:
        """The words of a text, each with its tag. Joined they are the text."""
        if self._first is None:
            found: list[tuple[str, str]] = self._jieba.tag(text)
        else:
            found, position = [], 0
            for start, end in self._first.find(text):
                found += self._jieba.tag(text[position:start])
                found.append((text[start:end], UNKNOWN))
                position = end
            found += self._jieba.tag(text[position:])
        assert "".join([word for word, _ in found]) == text
        if self._tags:
            found = [(word, self._tags.get(word, tag)) for word, tag in found]
        return found

    def columns(self, texts: Iterable[str | None]) -> dict[str, Any]:
        """The columns of some documents as Arrow's; None stands for a document that is not looked at and gets null."""
        words, tags = list[Any](), list[Any]()
        for batch in _batches(texts):
            found = [None if text is None else self(text) for text in batch]
            if self.step.words:
                words.append(pa.array([None if row is None else [word for word, _ in row] for row in found], WORDS))
            if self.step.pos:
                tags.append(pa.array([None if row is None else [tag for _, tag in row] for row in found], WORDS))
        chosen = (("words", self.step.words, words), ("pos", self.step.pos, tags))
        return {name: pa.chunked_array(chunks, WORDS) for name, wanted, chunks in chosen if wanted}


@lru_cache(maxsize=1)
def annotator(step: steps.Annotate) -> Annotator:
    """The annotator of a step, made once in each process."""
    return Annotator(step)


def read_dictionary(path: Path) -> dict[str, tuple[int | None, str | None]]:
    """Word -> its frequency and its tag, None where the list does not say. The format is jieba's: word [frequency] [tag].

    UTF-8, one word a line; lines that begin with # are comments; of a word that stands there twice the last line counts. Raises
    InputError for a file that cannot be used.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"data.steps.annotate.dictionary: not UTF-8, got {path}; convert it") from None
    found: dict[str, tuple[int | None, str | None]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(
                f"data.steps.annotate.dictionary: no word, got {line.strip()[:40]!r} in line {number} of {path}; write a word "
                "without blanks, then, if you like, its frequency and its tag"
            )
        word, frequency, tag = match.groups()
        found[word] = (None if frequency is None else int(frequency), tag)
    if not found:
        raise InputError(f"data.steps.annotate.dictionary: no words, got {path}; write one word a line")
    return found


def _batches(texts: Iterable[str | None]) -> Iterator[list[str | None]]:
    batch, chars = list[str | None](), 0
    for text in texts:
        batch.append(text)
        chars += len(text or "")
        if chars >= BATCH_CHARS:
            yield batch
            batch, chars = [], 0
    if batch:
        yield batch
