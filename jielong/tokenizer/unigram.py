"""Train a vocabulary of scored pieces: the kinds `unigram` and `bytepiece`.

Both learn from all frequent fragments down to the wanted number (training.pieces) and write text in the way whose scores have
the highest sum. What differs:

- `unigram`: the most probable way, within the pieces that a BPE would work in (bpe.pre_split): words and clauses, as
  sentencepiece has it;
- `bytepiece`: the way with the fewest tokens, of those the most probable, within lines: a piece may hold a word with the comma
  before it, a set phrase with its marks, an indentation with a keyword. Digits stand alone (`split_digits`), Latin letters
  if wanted (`split_letters`).

Nothing is unknown to either: what no piece covers is spelled in bytes, and decode(encode(x)) == x. The folder holds a Unigram
model over the byte alphabet of ByteLevel, which the `tokenizers` library encodes in native code, and compiled code here ten times
as fast (encoding.unigram_encoder).

Memory: about 10 bytes a byte of the text that is learned from (`max_train_bytes`), and 350 MB for what is counted at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import tokenizers
from tokenizers import AddedToken, models

from jielong.errors import TokenizerError
from jielong.tokenizer.bpe import batches_of, pre_split, untrained
from jielong.tokenizer.encoding.splitting import open_splitter
from jielong.tokenizer.training.bpe_merges import byte_chars, byte_order
from jielong.tokenizer.training.fragment_counts import read_segments
from jielong.tokenizer.training.pieces import Learned, Round, learn_pieces

Kind = Literal["unigram", "bytepiece"]

PENALTY = {"unigram": 0.0, "bytepiece": 8.0}  # 8 outweighs the differences between probabilities
LONGEST = {"unigram": 16, "bytepiece": 7}  # characters of a piece that holds more than ASCII
SPELLED = 8  # special tokens whose spelling may be among the pieces, which then is none
NEVER = -1e6  # the score of a special token: text that spells it is ordinary text
CANDIDATES = 4_000_000  # a fragment that stands less than once in so many bytes is no candidate
LEAST_CHARACTER = 2  # times that a character occurs that may stand in pieces


def line_split(split_digits: bool, split_letters: bool) -> str:
    """The pattern of `bytepiece`: lines with the line feeds behind them, and what stands alone."""
    alone = (r"\p{N}" if split_digits else "") + (r"\p{Latin}" if split_letters else "")
    singles = rf"[{alone}]|" if alone else ""
    return rf"{singles}[^{alone}\n]+\n*|\n+"


def train(
    texts: Iterable[str],
    kind: Kind,
    vocab_size: int,
    specials: tuple[str, ...],
    min_frequency: int = 2,
    split_digits: bool = True,
    split_letters: bool = False,
    user_words: tuple[str, ...] = (),
    coverage: float = 0.9999,
    threads: int = 1,
    tell: Callable[[Round], None] = lambda _: None,
) -> tuple[tokenizers.Tokenizer, Learned]:
    """A tokenizer of at most `vocab_size` tokens (fewer when the text has no more fragments), and how it was learned.

    coverage: share of the text whose characters may stand in pieces; the rarer ones are always spelled in bytes. `user_words`
    are kept whole wherever they stand: added tokens behind the learned ones, counted in `vocab_size`. `tell` is called with
    every round. Raises TokenizerError for a user word that the byte alphabet cannot give back.
    """
    pattern = (pre_split if kind == "unigram" else line_split)(split_digits, split_letters)
    splitter = open_splitter((pattern,))
    assert splitter is not None, "our own patterns are of the kind that is compiled"
    words = [word for word in dict.fromkeys(user_words) if word not in specials]
    text = read_segments(batches_of(texts), splitter, coverage, LEAST_CHARACTER)
    wanted = vocab_size - len(specials) - 256 - len(words)
    least = max(min_frequency, text.size // CANDIDATES)
    more = min(len(specials), SPELLED) + len(words)  # what may be learned and is there already
    learned = learn_pieces(text, max(wanted + more, 0), PENALTY[kind], LONGEST[kind], least, threads, tell)
    vocabulary = _vocabulary(specials, learned, words)[: vocab_size - len(words)]
    tokenizer = untrained(pattern, models.Unigram(vocabulary, None, False))
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    for word in words:
        number = tokenizer.token_to_id(word)
        if number is None or tokenizer.decode([number]) != word:
            raise TokenizerError(
                f"user_words: cannot be kept whole, got {word!r}; a word of Latin letters must not have accents; leave it out"
            )
    return tokenizer, learned


def _vocabulary(specials: tuple[str, ...], learned: Learned, words: list[str]) -> list[tuple[str, float]]:
    """Special tokens, the 256 bytes, then the pieces by falling use, without those that are tokens of another kind."""
    taken = {*specials, *(word for word in words if len(word) > 1)}
    names = {byte: char for char, byte in byte_chars().items()}
    scores = {bytes([byte]): learned.byte_score for byte in byte_order()} | dict(learned.pieces)
    spelled = [("".join(names[byte] for byte in piece), score) for piece, score in scores.items()]
    return [
        *((special, NEVER) for special in specials),
        *((name, score) for name, score in spelled if name not in taken),
    ]
