"""Read a sentencepiece `.model` and build a native tokenizer that gives the same ids.

A `.model` is a protobuf message of three parts that matter: the pieces (text, score, kind), what the trainer was asked
(Unigram or BPE, byte fallback, names of the special pieces) and the normalizer's options. Protobuf's wire format is a list of
(field number, value) pairs; thirty lines read it, so neither `sentencepiece` nor `protobuf` is needed.

**Unigram** goes to the `tokenizers` model of that name. That model would also find control and byte pieces ("</s>", "<0x0A>")
in ordinary text, which sentencepiece never does: they get a score so low that any spelling of them is better.

**BPE.** A sentencepiece BPE has no list of merges: of all neighbours whose joined text is a piece, it joins those of the best
score, the leftmost first among equals. So every way to cut a piece into two pieces is a merge, ranked by the piece's score.
Scores are all different in a trained model. In a model to which pieces were added later with one score for all (Chinese-LLaMA
gives 0.0 to 23,296 of them) the leftmost of equals comes first, which no fixed order of merges can say: 1.5 % of the tokens of
Chinese web text come out otherwise. But where the equal score is also the best, joining leftmost first is the same as taking
the longest piece that starts here and grows from its own characters (proof in `growing`): a first cut by a pattern of those
words gives exactly sentencepiece's ids, at a third of the speed. Equal scores below the best are ranked longer first, which is
exact for runs of spaces, the one case known.

**Not the same**, all rare: two Unigram cuts of equal scores (sentencepiece adds in float32, the library in float64: 11 of 1,500
web documents); the library's charsmap normalizer (nfkc, nmt_nfkc) works grapheme by grapheme, so a space or a compatibility
character *followed by a combining mark* comes out otherwise; a piece whose characters are not pieces themselves; a text that
is nothing but one user-defined piece has no dummy prefix; a text that spells a control piece, where the model has equal scores
or no piece for its characters. In no case does a text give a control piece. Pieces marked unused are never given.
`treat_whitespace_as_suffix` and the kinds word and char are refused.

Cost: a model of 65,000 pieces opens in about half a second. Source: sentencepiece's sentencepiece_model.proto and bpe_model.cc.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from jielong.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
SPACE = "\u2581"  # lower one eighth block, which stands for a space
VARINT, EIGHT_BYTES, LENGTH, FOUR_BYTES = 0, 1, 2, 5  # wire types
WORDS_MARK = "(?#words)"  # opens a first cut whose matches are whole tokens; a comment of the pattern language


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its place in the list is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a `.model` file says."""

    pieces: tuple[Piece, ...]
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    whitespace_as_suffix: bool = False
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True
    unknown: str = "<unk>"
    start: str = "<s>"
    end: str = "</s>"
    padding: str = "<pad>"

    @property
    def specials(self) -> dict[str, str]:
        """Role -> control piece, for the roles whose piece is there."""
        there = {piece.text for piece in self.pieces if piece.kind in (CONTROL, UNKNOWN)}
        named = {"end": self.end, "start": self.start, "padding": self.padding, "unknown": self.unknown}
        return {role: text for role, text in named.items() if text in there}


# ------------------------------------------------------------------------------------------------- the wire format


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protobuf message: numbers as int, all others as their bytes. Raises ValueError."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == LENGTH:
            size, at = _varint(data, at)
        elif wire in (FOUR_BYTES, EIGHT_BYTES):
            size = 4 if wire == FOUR_BYTES else 8
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if number == 0 or at + size > len(data):
            raise ValueError(f"field {number} of {size} bytes at byte {at}")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"number cut off at byte {at}")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def parse(data: bytes) -> SentencePieceModel:
    """A `.model` file's bytes -> what they say. Raises ValueError for bytes that are no such file."""
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer |= dict(fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer |= dict(fields(value))
    texts = Counter(piece.text for piece in pieces)
    if not pieces or len(texts) < len(pieces):
        raise ValueError("no pieces" if not pieces else f"the piece {texts.most_common(1)[0][0]!r} is there twice")

    def text_of(number: int, default: str) -> str:
        value = trainer.get(number)
        return value.decode("utf-8") if isinstance(value, bytes) else default

    charsmap = normalizer.get(2, b"")
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_as_suffix=bool(trainer.get(24, 0)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
        unknown=text_of(45, "<unk>"),
        start=text_of(46, "<s>"),
        end=text_of(47, "</s>"),
        padding=text_of(48, "<pad>"),
    )


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in fields(data):
        if number == 1 and isinstance(value, bytes):
            text = value.decode("utf-8")
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            score = struct.unpack("<f", value)[0]
        elif number == 3 and isinstance(value, int):
            kind = value
    return Piece(text, score, kind)


def read(path: Path) -> SentencePieceModel:
    """Read a `.model` file. Raises TokenizerError for one that is damaged or no sentencepiece model."""
    try:
        return parse(path.read_bytes())
    except ValueError as error:  # UnicodeDecodeError is one
        raise TokenizerError(f"{path}: not a sentencepiece model, or damaged ({error}); get the file again") from None


# --------------------------------------------------------------------------------------------- the native tokenizer


def build(model: SentencePieceModel, path: Path) -> tokenizers.Tokenizer:
    """The `tokenizers` tokenizer that gives sentencepiece's ids. `path` is for messages. Raises TokenizerError."""
    if model.model_type not in (UNIGRAM, BPE) or model.whitespace_as_suffix:
        what = "treat_whitespace_as_suffix" if model.whitespace_as_suffix else f"model_type {model.model_type}"
        raise TokenizerError(f"{path}: a sentencepiece option that cannot be used, got {what}; give another tokenizer")
    unknown = next((n for n, piece in enumerate(model.pieces) if piece.kind == UNKNOWN), None)
    words: list[str] = []
    if model.model_type == BPE:
        words, merges = _bpe_parts(model)
        tokenizer = tokenizers.Tokenizer(
            models.BPE(
                {piece.text: n for n, piece in enumerate(model.pieces)},
                merges,
                unk_token=None if unknown is None else model.pieces[unknown].text,
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
                ignore_merges=bool(words),
            )
        )
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram(_unigram_scores(model), unknown, model.byte_fallback))
    steps = _normalizer(model)
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    cuts = _cuts(model, words)
    if cuts:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts) if len(cuts) > 1 else cuts[0]
    space = SPACE if model.escape_whitespaces else " "
    undo = [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(undo)
    tokenizer.add_special_tokens(
        [
            tokenizers.AddedToken(piece.text, normalized=False)
            for piece in model.pieces
            if piece.kind in (CONTROL, UNKNOWN)
        ]
    )
    defined = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
    tokenizer.add_tokens([tokenizers.AddedToken(text, normalized=True, special=False) for text in defined])
    return tokenizer


def _normalizer(model: SentencePieceModel) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    space = SPACE if model.escape_whitespaces else " "
    if model.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(tokenizers.Regex(rf"\A +|[ {space}]+\z"), ""),
            normalizers.Replace(tokenizers.Regex(" {2,}"), " "),
        ]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend(space))
        defined = [piece.text for piece in model.pieces if piece.kind == USER_DEFINED]
        if defined:  # the library normalizes these as if they were texts, to find them in normalized text
            words = pattern_of([text.replace(" ", space) for text in defined])
            steps.append(normalizers.Replace(tokenizers.Regex(rf"\A{space}(?={words}\z)"), ""))
    if model.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return steps


def _unigram_scores(model: SentencePieceModel) -> list[tuple[str, float]]:
    """Each piece with its score; pieces that no text may give are worse than their own characters as unknowns."""
    worst = min((piece.score for piece in model.pieces if piece.kind in (NORMAL, USER_DEFINED)), default=0.0)
    best = max((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)
    never = 100.0 * (min(worst, 0.0) - 10.0)  # the longest control pieces have some twenty characters
    defined = {piece.text: len(piece.text) * best - 0.1 for piece in model.pieces if piece.kind == USER_DEFINED}
    return [
        (piece.text, piece.score if piece.kind == NORMAL else defined.get(piece.text, never)) for piece in model.pieces
    ]


def _cuts(model: SentencePieceModel, words: list[str]) -> list[pre_tokenizers.PreTokenizer]:
    """First cuts that change no id: the words of `growing`, and, for speed, the places before a space that no piece spans."""
    cuts: list[pre_tokenizers.PreTokenizer] = []
    vocabulary = {piece.text for piece in model.pieces if piece.kind == NORMAL}
    marks = [piece.text for piece in model.pieces if piece.kind in (CONTROL, UNKNOWN, BYTE) and len(piece.text) > 1]
    if model.model_type == UNIGRAM:  # a score below all others does not keep a mark out that is spelled with unknowns
        odd = [mark for mark in marks if not set(mark) <= vocabulary]
        if odd:
            cuts.append(pre_tokenizers.Split(tokenizers.Regex("|".join(_mark_cuts(odd, vocabulary))), "isolated"))
    if words:
        scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
        best = max(score for text, score in scores.items() if len(text) > 1)
        inside = {char for text in vocabulary if len(text) > 1 and scores[text] < best for char in text}
        # of a piece that does not grow, and so is none of the words, each character is a token
        single = sorted({char for word in words for char in word} & vocabulary - inside)
        parts = [pattern_of(words), *([f"[{escape(''.join(single))}]"] if single else [])]
        parts += _mark_cuts(marks, vocabulary)
        cuts.append(pre_tokenizers.Split(tokenizers.Regex(WORDS_MARK + "|".join(parts)), "isolated"))
    elif (
        model.escape_whitespaces and SPACE in vocabulary and not any(SPACE in text.lstrip(SPACE) for text in vocabulary)
    ):
        cuts.append(pre_tokenizers.Split(tokenizers.Regex(rf"{SPACE}+[^{SPACE}]*"), "isolated"))
    return cuts


def _mark_cuts(marks: list[str], vocabulary: set[str]) -> list[str]:
    """Patterns of a cut inside what spells a control or byte piece, which so is never looked up whole: as late as can be, and
    not between two unknown characters, which count as one."""
    before: dict[str, list[str]] = {}
    for mark in marks:
        places = [at for at in range(1, len(mark)) if {mark[at - 1], mark[at]} & vocabulary]
        at = max(places, default=len(mark) - 1)
        before.setdefault(mark[at:], []).append(f"(?<={escape(mark[:at])})")
    return [f"(?={escape(rest)})(?:{'|'.join(starts)})" for rest, starts in sorted(before.items())]


# ------------------------------------------------------------------------------------------------ merges from scores


def _bpe_parts(model: SentencePieceModel) -> tuple[list[str], list[tuple[str, str]]]:
    """Words to be cut out first (of models with equal best scores, else none), and the merges in order."""
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    ranked = []
    for text, score in scores.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in scores and right in scores:
                ranked.append((-score, -len(text), -at, left, right))
    ranked.sort(key=lambda row: row[:3])
    return growing(scores), [(left, right) for *_, left, right in ranked]


def growing(scores: dict[str, float]) -> list[str]:
    """Pieces that share the best score and are made of their own characters by joining the leftmost pair; [] where the score
    is nobody else's, or where a cut at these pieces would change what worse pieces do.

    Why these words decide the cut: while characters are read from left to right, no pair to the left of the last character
    can be joined any more, so the leftmost pair is always at the end of what was read, as on a stack: push a character, then
    join the two on top as long as they make a piece. The lowest piece on the stack only ever grows, and is alone on the stack
    after those prefixes of the text that are in this list. In the end it is the longest of them.
    """
    multiple = [text for text, score in scores.items() if len(text) > 1]
    best = max((scores[text] for text in multiple), default=0.0)
    tied = {text for text in multiple if scores[text] == best}
    if len(tied) < 2:
        return []
    others = [text for text in multiple if text not in tied]
    inside = {text[i:j] for text in others for i in range(len(text)) for j in range(i + 2, len(text) + 1)}
    tied -= inside  # a worse piece is made of it later, as "▁the" of "▁t": it stays a merge
    return sorted(text for text in tied if _grows(text, tied))


def _grows(text: str, pieces: set[str]) -> bool:
    stack: list[str] = []
    for char in text:
        stack.append(char)
        while len(stack) > 1 and stack[-2] + stack[-1] in pieces:
            stack[-2:] = [stack[-2] + stack[-1]]
    return len(stack) == 1


def escape(text: str) -> str:
    """Text as a pattern that matches just it."""
    return "".join(c if c.isalnum() or ord(c) > 0x2FFF else f"\\x{{{ord(c):x}}}" for c in text)


def pattern_of(words: list[str]) -> str:
    """A pattern that matches the longest of some words that starts here: a tree of prefixes, with the branches found by
    halving (a plain list of 15,000 alternatives is tried one by one at each character)."""
    tree: dict[str, dict[str, object]] = {}
    for word in words:
        node: dict[str, object] = tree  # type: ignore[assignment]
        for char in word:
            node = node.setdefault(char, {})  # type: ignore[assignment]
        node[""] = {}
    return _branches(tree)


def _branches(node: dict[str, dict[str, object]]) -> str:
    keys = sorted(key for key in node if key)
    if not keys:
        return ""
    return f"(?:{_halves(node, keys)})" + ("?" if "" in node else "")


def _halves(node: dict[str, dict[str, object]], keys: list[str]) -> str:
    if len(keys) <= 4:
        return "|".join(escape(key) + _branches(node[key]) for key in keys)  # type: ignore[arg-type]
    middle = len(keys) // 2
    first, last = escape(keys[0]), escape(keys[middle - 1])
    low, high = _halves(node, keys[:middle]), _halves(node, keys[middle:])
    return f"(?=[{first}-{last}])(?:{low})|(?:{high})"
