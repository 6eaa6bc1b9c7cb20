"""Text from a stream of tokens, never half a character.

A token of a byte-level vocabulary may hold a third of a Han character. Ids are decoded together with a few before them
(some tokenizers treat the first token of a text differently), and text is given out only as far as it ends in whole
characters: an unfinished tail decodes to U+FFFD and is held back until it is complete. Bytes that never become a
character (a model early in training writes such) are left out and counted.
"""

from __future__ import annotations

from jielong.infer.stops import StopStrings
from jielong.tokenizer.folder import TokenizerFolder

BROKEN = "\ufffd"
LONGEST_CHARACTER = 4  # bytes; more undecodable tokens than this in a row can not become one character


class TextStream:
    """Feed ids with `push`, get whole characters back; `finish` gives the rest."""

    def __init__(self, tokenizer: TokenizerFolder, context: list[int]) -> None:
        """context: the prompt's ids, of which the last few give the decoder its surroundings."""
        self.tokenizer = tokenizer
        self.broken = 0  # replacement characters left out
        self._ids = list(context[-8:])
        self._before = 0  # ids[_before:_shown] are decoded again as surroundings
        self._shown = len(self._ids)  # ids already given out as text

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character is unfinished."""
        self._ids.append(token)
        known = self.tokenizer.decode(self._ids[self._before : self._shown])
        text = self.tokenizer.decode(self._ids[self._before :])
        if text.endswith(BROKEN) and len(self._ids) - self._shown < LONGEST_CHARACTER:
            return ""
        return self._give(known, text)

    def finish(self) -> str:
        """The text still held back, without an unfinished character."""
        known = self.tokenizer.decode(self._ids[self._before : self._shown])
        return self._give(known, self.tokenizer.decode(self._ids[self._before :]))

    def _give(self, known: str, text: str) -> str:
        # an unfinished prompt tail may change once it is completed: take what differs from the common start on
        new = text[len(known) :] if text.startswith(known) else text[len(known.rstrip(BROKEN)) :]
        self._before, self._shown = self._shown, len(self._ids)
        self.broken += new.count(BROKEN)
        return new.replace(BROKEN, "")


class Writing:
    """A continuation as it grows, token by token: its text, which may be shown, and whether a stop string ended it."""

    def __init__(self, tokenizer: TokenizerFolder, context: list[int], stop: tuple[str, ...]) -> None:
        self.tokens = 0
        self._characters, self._stops = TextStream(tokenizer, context), StopStrings(stop)
        self._pieces: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether a stop string was met."""
        return self._stops.found

    @property
    def broken(self) -> int:
        """Replacement characters that were left out."""
        return self._characters.broken

    @property
    def text(self) -> str:
        """All that was given out."""
        return "".join(self._pieces)

    def push(self, token: int) -> str:
        """The text that this token lets be shown."""
        self.tokens += 1
        return self._give(self._stops.push(self._characters.push(token)))

    def finish(self) -> str:
        """The text still held back, without an unfinished character."""
        return self._give(self._stops.push(self._characters.finish()) + self._stops.finish())

    def _give(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece
