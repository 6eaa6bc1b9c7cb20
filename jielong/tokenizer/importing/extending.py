"""Give a tokenizer new words, so that a model can go on training on a field whose words it cuts to pieces.

The ids of old tokens stay, new ids follow the largest old one, and every new id is told with the old ids it stands for
(`extension.json`): the mean of their embedding rows is a good first row for it. How a word gets in depends on the tokenizer:

- **BPE**: merges are added *after* all others, joining the tokens that the word is cut into today, left to right; what is made
  on the way becomes a token too (three parts cost two ids; words share their beginnings). No added merge makes an old token or
  one text in two ways. So for **every** text: the old cut comes first and the new merges only join neighbours in it; write each
  new token as its old ids and you have the old cut again. A text where no added pair meets is cut as before. The price: a word
  whose neighbours pull it apart in the old cut is not found there.
- **Unigram**: the word becomes a piece with the mean score of its parts, which beats the parts together. A text that does not
  contain the word is cut as before.
- **A sentencepiece BPE whose words are cut out first** (`sentencepiece_model.growing`, as Chinese-LLaMA's): the word joins that
  list. A text that does not contain the word is cut as before.
- A word that the tokenizer's first cut takes apart ("GPT生成" where Han and Latin are kept apart) becomes an **added token**,
  found before anything else, in a byte-level tokenizer; any other refuses it and says why.
- A character that a sentencepiece BPE spells in bytes gets an id of its own first.

Source of the way: Cui et al. 2023, Efficient and Effective Text Encoding for Chinese LLaMA (arXiv:2304.08177), who merge a
Chinese sentencepiece vocabulary into Llama's. Cost: 20,000 words take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import tokenizers

from jielong.errors import TokenizerError
from jielong.runs import write_bytes, write_json
from jielong.tokenizer.folder import TokenizerFolder, copy_folder, open_folder
from jielong.tokenizer.importing.sentencepiece_model import SPACE, WORDS_MARK, pattern_of
from jielong.tokenizer.importing.tiktoken_file import byte_characters
from jielong.tokenizer.training.pieces import grained

FORMAT = 1
FILE = "extension.json"
STALE = ("vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json")  # the vocabulary as it was
NEVER = -1000.0  # a score so low that any spelling of such a piece is better: pieces that no text may give
HAN = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
    (0x3007, 0x3007),
)  # and ideographic zero


@dataclass(frozen=True)
class NewToken:
    """One new id. `parts`: the old ids that its text was cut into."""

    id: int
    text: str
    parts: tuple[int, ...]
    how: str  # merge, piece, word, character or added
    asked: bool  # False: made on the way to a longer one


@dataclass(frozen=True)
class Extended:
    """What an extension did."""

    tokenizer: TokenizerFolder
    old_size: int
    tokens: tuple[NewToken, ...]
    known: tuple[str, ...]  # words that were one token already
    refused: dict[str, str] = field(default_factory=dict)  # word -> why it is not among the tokens


def extend(folder: TokenizerFolder, words: list[str], out: Path, count: int | None = None) -> Extended:
    """Write a tokenizer folder that knows some words, the most important first.

    count: at most so many new ids (those made on the way are counted); words that do not fit are refused. Raises TokenizerError
    for an `out` that holds a tokenizer, and for a tokenizer without room after its ids.
    """
    if (out / "tokenizer.json").exists():
        raise TokenizerError(f"out: holds a tokenizer already, got {out}; give an empty folder")
    work = _Work(folder, count)
    for word in dict.fromkeys(words):
        work.add(word)
    copy_folder(folder, out)
    for name in STALE:
        (out / name).unlink(missing_ok=True)
    write_bytes(out / "tokenizer.json", work.tokenizer().to_str(pretty=False).encode("utf-8"))
    config = orjson.loads((out / "tokenizer_config.json").read_bytes())
    write_json(out / "tokenizer_config.json", config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    opened = open_folder(out)
    for token in work.new:
        assert opened.backend.id_to_token(token.id) is not None, "a new id without a token"
    assert opened.size == folder.size + len(work.new), "the new ids do not follow the old ones"
    table = {
        "format": FORMAT,
        "old_size": folder.size,
        "size": opened.size,
        "tokens": [asdict(token) for token in work.new],
        "known": work.known,
        "refused": work.refused,
    }
    write_json(out / FILE, table)
    return Extended(opened, folder.size, tuple(work.new), tuple(work.known), work.refused)


def extend_with(
    folder: TokenizerFolder, other: TokenizerFolder, out: Path, count: int | None = None, han_only: bool = True
) -> Extended:
    """Add another tokenizer's tokens, in the order of its ids: those of Han characters alone, or all that are text."""
    words = [text for text in token_texts(other) if not han_only or is_han(text)]
    return extend(folder, words, out, count)


def token_texts(folder: TokenizerFolder) -> list[str]:
    """The texts of a tokenizer's ordinary tokens in the order of their ids; those that are no whole characters left out, and
    a sentencepiece's U+2581 as a space."""
    bytes_of = {char: byte for byte, char in enumerate(byte_characters())}
    special = {token.content for token in folder.backend.get_added_tokens_decoder().values()}
    byte_level = _is_byte_level(orjson.loads(folder.backend.to_str()))
    texts = []
    for token, _ in sorted(folder.backend.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1]):
        if token in special or (token.startswith("<0x") and token.endswith(">")):
            continue
        if byte_level:
            try:
                texts.append(bytes(bytes_of[c] for c in token).decode("utf-8"))
            except (KeyError, UnicodeDecodeError):
                continue
        else:
            texts.append(token.replace(SPACE, " "))
    return texts


def is_han(text: str) -> bool:
    """Whether a text is made of Han characters alone."""
    return bool(text) and all(any(first <= ord(c) <= last for first, last in HAN) for c in text)


def _types(value: Any) -> set[str]:
    """All values of `type` in a nested table: the kinds of steps in a tokenizer.json."""
    if isinstance(value, list):
        return {name for item in value for name in _types(item)}
    if not isinstance(value, dict):
        return set()
    own = {value["type"]} if isinstance(value.get("type"), str) else set()
    return own | {name for item in value.values() for name in _types(item)}


def _is_byte_level(table: dict[str, Any]) -> bool:
    return "ByteLevel" in _types(table.get("pre_tokenizer")) | _types(table.get("decoder"))


class _Work:
    """A tokenizer.json on its way to the extended one."""

    def __init__(self, folder: TokenizerFolder, count: int | None) -> None:
        self.old, self.count, self.size = folder, count, folder.size
        self.table: dict[str, Any] = orjson.loads(folder.backend.to_str())
        self.model: dict[str, Any] = self.table["model"]
        self.byte_level = _is_byte_level(self.table)
        self.new: list[NewToken] = []
        self.keys: list[str] = []  # the same tokens as the vocabulary writes them
        self.known: list[str] = []
        self.refused: dict[str, str] = {}
        self.there = {**folder.backend.get_vocab(with_added_tokens=True)}  # every token's id, the new ones too
        self.parts: dict[str, tuple[int, ...]] = {}  # of the new ones
        self.ranks: dict[tuple[str, str], int] = {}  # of the new merges
        self.scores: dict[str, float] = {}  # of the new pieces
        self.added: list[str] = []
        cut = self.table.get("pre_tokenizer") or {}
        self.word_pattern = str(cut.get("pattern", {}).get("Regex", "")) if cut.get("type") == "Split" else ""
        self.alphabet = str.maketrans(dict(enumerate(byte_characters())))
        self.way: Callable[[str, str], str | None] = self._as_added
        if self.model["type"] == "Unigram":
            self.way = self._as_piece
            special = {token.content for token in folder.backend.get_added_tokens_decoder().values()}
            usable = [score for text, score in self.model["vocab"] if text not in special and score > NEVER]
            self.least = min(usable, default=-10.0)
        elif self.word_pattern.startswith(WORDS_MARK):
            self.way = self._as_word
        elif self.model["type"] == "BPE":
            self.way = self._as_merges

    def add(self, word: str) -> None:
        """Make a word one token, or note why not."""
        if not word.strip() or len(word.encode("utf-8", "replace")) > 200 or any(c in word for c in "\r\n\0"):
            self.refused[word] = "not a word: empty, over 200 bytes or of several lines"
            return
        spelled = self.spell(word)
        if spelled in self.there or word in self.there:
            if self._is_old(spelled) or self._is_old(word):
                self.known.append(word)
            self._mark_asked(spelled)
            return
        if self.count is not None and len(self.new) >= self.count:
            self.refused[word] = f"no room: {self.count} new tokens were allowed"
            return
        whole = self._stays_whole(word, spelled)
        before = len(self.new)
        problem = self.way(word, spelled) if whole is None else self._as_added(word, whole)
        if problem is None and self.count is not None and len(self.new) > self.count:
            problem = f"no room: {self.count} new tokens were allowed"
        if problem is not None:
            self.refused[word] = problem
            self._take_back(before)

    def _take_back(self, count: int) -> None:
        """Forget all new tokens but the first `count`."""
        for key in self.keys[count:]:
            for table in (self.there, self.parts, self.scores):
                table.pop(key, None)
        del self.new[count:], self.keys[count:]
        self.added = [text for text in self.added if text in self.there]
        self.ranks = {pair: rank for pair, rank in self.ranks.items() if pair[0] + pair[1] in self.there}

    def spell(self, word: str) -> str:
        """A word as the vocabulary writes it."""
        if self.byte_level:
            return word.encode("utf-8").decode("latin-1").translate(self.alphabet)
        return word.replace(" ", SPACE) if SPACE in self.there else word

    def _is_old(self, spelled: str) -> bool:
        return self.there.get(spelled, self.size) < self.size

    def _mark_asked(self, spelled: str) -> None:
        number = self.there[spelled] - self.size if spelled in self.there else -1
        if number >= 0:
            self.new[number] = replace(self.new[number], asked=True)

    def _stays_whole(self, word: str, spelled: str) -> str | None:
        """Why a word does not reach the model in one piece, or None when it does."""
        backend, text = self.old.backend, word
        if backend.normalizer is not None:
            text = str(backend.normalizer.normalize_str(word))
            if text.removeprefix(SPACE) not in (word, spelled) and text != spelled:
                return "the normalizer changes it"
        if self.way == self._as_word or backend.pre_tokenizer is None:
            return None
        pieces = [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
        return None if len(pieces) == 1 else "the first cut takes it apart"

    def _put(self, spelled: str, text: str, parts: tuple[int, ...], how: str, asked: bool) -> None:
        token_id = self.size + len(self.new)
        self.there[spelled], self.parts[spelled] = token_id, parts
        self.new.append(NewToken(token_id, text, parts, how, asked))
        self.keys.append(spelled)

    # ------------------------------------------------------------------------------------------------- ways in

    def _as_added(self, word: str, why: str) -> str | None:
        changed = "normalizer" in why
        inside = all(c in self.alphabet.values() for c in word) and not word.isascii()
        if changed or not self.byte_level or inside:  # the library would decode the last as bytes
            return why if why != word else "its kind of tokenizer cannot be extended"
        self.added.append(word)
        self._put(word, word, tuple(self.old.encode([word])[0]), "added", True)
        return None

    def _as_piece(self, word: str, spelled: str) -> str | None:
        parts = self._old_ids(spelled)
        scores = [float(self.model["vocab"][part][1]) for part in parts]
        self.scores[spelled] = grained(max(sum(scores) / len(scores), self.least))  # the compiled encoder wants such
        self._put(spelled, word, parts, "piece", True)
        return None

    def _as_word(self, word: str, spelled: str) -> str | None:
        self._put(spelled, word, tuple(self._inner(word)), "word", True)
        return None

    def _as_merges(self, word: str, spelled: str) -> str | None:
        for char in dict.fromkeys(spelled):
            if char not in self.there:
                self._put(char, char, self._old_ids(char), "character", False)
        parts = self._merged(self._old_cut(spelled))
        while len(parts) > 1:
            at = next((n for n in range(len(parts) - 1) if self._may_join(parts[n], parts[n + 1])), None)
            if at is None:
                return "its parts cannot be joined without making an old token"
            left, right = parts[at : at + 2]
            self.ranks[left, right] = len(self.ranks)
            text = word if left + right == spelled else self._text(left + right)
            self._put(left + right, text, self._ids_of(left) + self._ids_of(right), "merge", left + right == spelled)
            parts[at : at + 2] = [left + right]
        self._mark_asked(spelled)
        return None

    # --------------------------------------------------------------------------------------------- cuts of a spelling

    def _may_join(self, left: str, right: str) -> bool:
        """Whether the two make a new token, and one that was cut in this way when it stands alone."""
        joined = left + right
        if joined in self.there:
            return False
        alone = tuple(part for piece in self._old_cut(joined) for part in self._ids_of(piece))
        return alone == self._ids_of(left) + self._ids_of(right)

    def _ids_of(self, token: str) -> tuple[int, ...]:
        return self.parts[token] if token in self.parts else (self.there[token],)

    def _old_ids(self, spelled: str) -> tuple[int, ...]:
        return tuple(token.id for token in self.old.backend.model.tokenize(spelled))

    def _inner(self, word: str) -> Iterable[int]:
        """Old ids of a word without the dummy prefix in front, of a tokenizer that cuts words out first."""
        cut, model = self.old.backend.pre_tokenizer, self.old.backend.model
        for piece, _ in cut.pre_tokenize_str(self.spell(word)):
            yield from (token.id for token in model.tokenize(piece))

    def _old_cut(self, spelled: str) -> list[str]:
        """Tokens of a spelling by the old merges; a character that has no token of its own stands for its bytes."""
        cut: list[str] = []
        run = ""
        for char in [*spelled, ""]:
            if char and self._is_old(char):
                run += char
                continue
            if run:
                cut += [token.value for token in self.old.backend.model.tokenize(run)]
            cut += [char] if char else []
            run = ""
        return cut

    def _merged(self, parts: list[str]) -> list[str]:
        """The new merges applied: the lowest rank first, the leftmost of equals."""
        while True:
            ranked = [(self.ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in self.ranks]
            if not ranked:
                return parts
            at = min(ranked)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]

    def _text(self, spelled: str) -> str:
        if not self.byte_level:
            return spelled.replace(SPACE, " ")
        back = {char: byte for byte, char in enumerate(byte_characters())}
        return bytes(back[c] for c in spelled).decode("utf-8", "replace")

    # ------------------------------------------------------------------------------------------------- the result

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The extended tokenizer. Raises TokenizerError where the model has no place for further ids."""
        # added tokens too: they get the ids that the vocabulary says, wherever new ones follow them
        inside = sorted(self.there.items(), key=lambda item: item[1])
        if self.model["type"] == "Unigram":
            if [token_id for _, token_id in inside] != list(range(len(inside))):
                raise TokenizerError(f"{self.old.path}: its ids have gaps; it cannot be extended")
            kept = self.model["vocab"]
            further = [[text, self.scores.get(text, NEVER)] for text, _ in inside[len(kept) :]]
            self.model["vocab"] = kept + further
        else:
            self._check_added()
            self.model["vocab"] = dict(inside)
        if self.model["type"] == "BPE":
            self.model["merges"] = [
                *self.model["merges"],
                *(list(pair) for pair in sorted(self.ranks, key=self.ranks.__getitem__)),
            ]
        if self.word_pattern.startswith(WORDS_MARK) and self.new:
            self.table["pre_tokenizer"]["pattern"]["Regex"] = self._longer_pattern()
        result = tokenizers.Tokenizer.from_str(orjson.dumps(self.table).decode("utf-8"))
        result.add_tokens([tokenizers.AddedToken(text, normalized=False, special=False) for text in self.added])
        return result

    def _check_added(self) -> None:
        """Added tokens move into the model's vocabulary, where a piece of the first cut that is a token as a whole is looked
        up: none of them may be such a piece."""
        if not self.model.get("ignore_merges"):
            return
        inner = self.old.backend.get_vocab(with_added_tokens=False)
        for token in self.old.backend.get_added_tokens_decoder().values():
            whole = self.old.backend.pre_tokenizer.pre_tokenize_str(token.content)
            if token.content not in inner and len(whole) == 1:
                raise TokenizerError(
                    f"{self.old.path}: text that spells its added token {token.content!r} would become that token; "
                    "it cannot be extended"
                )

    def _longer_pattern(self) -> str:
        """New words first; with them the old words that begin with a new one, or the shorter would win."""
        new = {self.spell(token.text) for token in self.new}
        cut = self.old.backend.pre_tokenizer
        longer = [
            text
            for text, token_id in self.there.items()
            if token_id < self.size
            and any(text[:n] in new for n in range(1, len(text)))
            and len(cut.pre_tokenize_str(text)) == 1
        ]
        return WORDS_MARK + pattern_of(sorted([*new, *longer])) + "|" + self.word_pattern.removeprefix(WORDS_MARK)
