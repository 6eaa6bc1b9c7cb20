"""Train a byte-level BPE whose first cut knows Chinese.

A byte-level BPE covers any text without an unknown token: its alphabet is the 256 bytes, and decode(encode(x)) == x.
Before merging, the text is cut by `PRE_SPLIT` into pieces that no token may cross. The usual pattern (GPT-4's, Qwen's)
takes `\\p{L}+` as a word, in which Han and Latin letters run together ("用GPT生成" is one word) and a character class for
letters has no meaning for Chinese. Here:

- a run of Han characters is one piece, so that words inside it are found by frequency;
- letters of other scripts are words;
- either takes the one mark or blank before it along, so that a clause's first word and the comma before it can be one
  token; the mark behind a word is never in its piece, and no token holds the end of one clause and the start of the next;
- digits one by one (`split_digits`), so that 1998 is not one opaque token and arithmetic has places.

Bytes a token on held-out web text, 32,000 tokens learned from 46 MB: 4.21 without marks before words, 4.36 with marks before
Han, 4.46 with marks before either, 4.51 with blanks before Han as well (this pattern); Qwen 2's, which mixes scripts,
has 4.51.

The merging itself is compiled code of our own (`training.bpe_merges`), with the merges of the `tokenizers` library's trainer,
which `train_plain` calls: its memory grows with the number of *different* pieces, which for Chinese is close to the number
of clauses: about 13 bytes a byte of *different* pieces, where the library takes 70 a byte of text. `max_train_bytes` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from jielong.data.cleaning.scan import encode
from jielong.errors import TokenizerError
from jielong.runs import write_json
from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.config import END_OF_TEXT
from jielong.tokenizer.encoding.fixed_words import ORDINARY, FixedWords
from jielong.tokenizer.encoding.splitting import open_splitter
from jielong.tokenizer.training.bpe_merges import byte_chars, learn_merges
from jielong.tokenizer.training.piece_counts import PieceCounter

LEAD = r"[^\r\n\p{L}\p{M}\p{N}\p{Han}]?"  # one mark or blank
HAN = LEAD + r"\p{Han}+"
WORD = LEAD + r"[\p{L}\p{M}&&[^\p{Han}]]+"
LETTER, OTHER_WORD = r"\p{Latin}", LEAD + r"[\p{L}\p{M}&&[^\p{Han}\p{Latin}]]+"
DIGIT, DIGITS = r"\p{N}", r"\p{N}+"
PUNCTUATION = r" ?[^\s\p{L}\p{M}\p{N}\p{Han}]+[\r\n]*"
SPACE = r"\s*[\r\n]+|\s+(?!\S)|\s+"

BATCH_CHARS = 1_000_000  # of text that is cut at once


def pre_split(split_digits: bool, split_letters: bool = False) -> str:
    """The pattern whose matches are the pieces that merging works inside. `split_letters`: Latin letters one by one, too,
    for text in which words of Latin letters are rare or misspelt."""
    words = (LETTER, OTHER_WORD) if split_letters else (WORD,)
    return "|".join((HAN, *words, DIGIT if split_digits else DIGITS, PUNCTUATION, SPACE))


def sample(batches: Iterable[list[str]], total_bytes: int, max_bytes: int) -> Iterator[str]:
    """Documents spread evenly over a corpus of `total_bytes`, about `max_bytes` of them; all when there are no more."""
    number = 0
    for batch in batches:
        for text in batch:
            # document n is taken where n x share passes a whole number
            if total_bytes <= max_bytes or (number + 1) * max_bytes // total_bytes > number * max_bytes // total_bytes:
                yield text
            number += 1


def train(
    texts: Iterable[str],
    vocab_size: int,
    specials: tuple[str, ...],
    min_frequency: int,
    split_digits: bool,
    split_letters: bool = False,
    user_words: tuple[str, ...] = (),
    progress: Callable[[int, int], None] | None = None,
) -> tokenizers.Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens (fewer when the text has no more pairs to merge).

    `user_words` are kept whole wherever they stand: as added tokens behind the learned ones, counted in `vocab_size`; no
    merge is learned from them. `progress` is called with the tokens there are and the tokens wanted.
    Raises TokenizerError for a user word that the byte-level alphabet cannot give back.
    """
    pattern = pre_split(split_digits, split_letters)
    chars = byte_chars()
    names = {byte: char for char, byte in chars.items()}
    words = [word for word in dict.fromkeys(user_words) if word not in specials]
    pieces = _count(texts, pattern, tuple(words))
    fixed = [bytes(map(chars.__getitem__, word)) if set(word) <= chars.keys() else None for word in specials]
    merges = learn_merges(pieces, vocab_size - len(words), min_frequency, fixed, progress)
    spelled = ["".join(names[byte] for byte in token) for token in merges.tokens]
    spelled[: len(specials)] = specials
    tokenizer = untrained(
        pattern,
        models.BPE(
            vocab={name: number for number, name in enumerate(spelled)},
            merges=[(spelled[left], spelled[right]) for left, right in merges.pairs],
        ),
    )
    tokenizer.add_special_tokens(list(specials))
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    for word in words:
        number = tokenizer.token_to_id(word)
        if number is None or tokenizer.decode([number]) != word:
            raise TokenizerError(
                f"user_words: cannot be kept whole, got {word!r}; a word of Latin letters must not have accents; leave it out"
            )
    return tokenizer


def _count(texts: Iterable[str], pattern: str, words: tuple[str, ...]) -> PieceCounter:
    """The different pieces of all texts outside of the words. Memory: one batch of texts, and the pieces."""
    splitter = open_splitter((pattern,))
    assert splitter is not None, "our own pattern is of the kind that is compiled"
    whole = FixedWords((word.encode("utf-8"), number) for number, word in enumerate(words))
    pieces = PieceCounter()
    for batch in batches_of(texts):
        data, segments = encode(batch)
        found = np.full(len(batch), ORDINARY, np.int64)
        if words:
            segments, _, found = whole.cut(data, segments, found)
        bounds, first = splitter(data, segments)
        pieces.add(data, bounds, np.repeat(found == ORDINARY, np.diff(first)))
    return pieces


def batches_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts by the BATCH_CHARS, or one that is longer."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def train_plain(
    texts: Iterable[str],
    vocab_size: int,
    specials: tuple[str, ...],
    min_frequency: int,
    split_digits: bool,
    split_letters: bool = False,
) -> tokenizers.Tokenizer:
    """The twin of `train`: the library's own trainer."""
    tokenizer = untrained(pre_split(split_digits, split_letters), models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def untrained(pattern: str, model: models.Model) -> tokenizers.Tokenizer:
    """A tokenizer over bytes that cuts by a pattern first."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save(tokenizer: tokenizers.Tokenizer, folder: Path) -> None:
    """Write a folder that `AutoTokenizer.from_pretrained` opens, with its chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
    }
    write_json(folder / "tokenizer_config.json", config)
