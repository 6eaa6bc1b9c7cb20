"""Stop strings: a continuation ends before any of them, and not even the beginning of one is shown.

Text comes in pieces as tokens complete it, and a stop string may begin in one piece and end in another (or in the middle of
one). So text is held back as long as it could be the beginning of a stop string, and the decision does not depend on how the
text was cut: the string that is complete first, reading character by character, ends it; of several that are complete at
the same character, the longest.

Cost: the held text (shorter than the longest stop string) and the new piece are looked through once for each string.
"""

from __future__ import annotations


class StopStrings:
    """Feed text with `push`, get back what may be shown; `found` once a stop string was met."""

    def __init__(self, strings: tuple[str, ...]) -> None:
        assert "" not in strings
        self.strings = strings
        self.found = False
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown now. After a stop string: nothing more."""
        if self.found:
            return ""
        self._held += text
        starts = [(place + len(string), place) for string in self.strings if (place := self._held.find(string)) >= 0]
        if starts:
            self.found = True
            shown, self._held = self._held[: min(starts)[1]], ""
            return shown
        size = self._beginning()
        shown = self._held[: len(self._held) - size]
        self._held = self._held[len(shown) :]
        return shown

    def finish(self) -> str:
        """What was held back at the end of the text: the beginning of a stop string that did not come."""
        rest, self._held = self._held, ""
        return rest

    def _beginning(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = max((len(string) - 1 for string in self.strings), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(string.startswith(self._held[-size:]) for string in self.strings):
                return size
        return 0
