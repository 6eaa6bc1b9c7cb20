"""Two texts side by side while both are written: a pure class that is fed pieces and says what a terminal is to be sent.

Nothing that stands is moved: a row is ended when both texts have gone beyond it, and only the last row is written again in its
place, with a carriage return. So what was said stays in the terminal's memory as any output does. Lines are measured in columns
(a Chinese character takes two) by rich.
"""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from jielong.progress import plain
from jielong.train.control.drawing import wrap

BETWEEN = " │ "
LEAST = 24  # columns that a text needs
SPARE = 3  # columns of a terminal that stay empty: in the last one some begin a new line, and Ctrl-C is shown as ^C


def fits(width: int) -> bool:
    """Whether two texts go side by side in a terminal of so many columns."""
    return (width - SPARE - len(BETWEEN)) // 2 >= LEAST


class Columns:
    """Two texts under their names; every method returns what is to be written."""

    def __init__(self, names: tuple[str, str], width: int) -> None:
        """width: of the terminal, columns, for which `fits` is true."""
        self.each = (width - SPARE - len(BETWEEN)) // 2
        self._names = names
        self._lines: tuple[list[str], list[str]] = ([""], [""])  # of each, wrapped; the last one may still grow
        self._ended = [False, False]
        self._rows = 0  # that are ended

    def head(self) -> str:
        """The names, underlined."""
        names = [plain(name).replace("\n", " ") for name in self._names]
        cut = [name if cell_len(name) <= self.each else set_cell_size(name, self.each - 1) + "…" for name in names]
        return f"{self._row(cut[0], cut[1])}\n{'─' * self.each}─┼─{'─' * self.each}\n"

    def put(self, side: int, piece: str) -> str:
        """A piece of a text, 0 or 1."""
        lines = self._lines[side]
        first, *more = plain(piece).replace("\t", " ").split("\n")
        lines += wrap(lines.pop() + first, self.each)
        for paragraph in more:
            lines += wrap(paragraph, self.each)
        return self._draw()

    def end(self, side: int) -> str:
        """A text is complete."""
        self._ended[side] = True
        return self._draw()

    def _draw(self) -> str:
        texts = range(2)
        # a row stands when no text can change it: those before the last of a text that is written, all of one that is complete
        growing = [len(self._lines[side]) - 1 for side in texts if not self._ended[side]]
        stands = min(growing) if growing else max(len(lines) for lines in self._lines)
        found = "\r"
        while self._rows < stands:
            found += self._row(*(self._line(side, self._rows) for side in texts)) + "\n"
            self._rows += 1
        return found + (self._row(*(self._line(side, self._rows) for side in texts)) if growing else "")

    def _line(self, side: int, row: int) -> str:
        lines = self._lines[side]
        return lines[row] if row < len(lines) else ""

    def _row(self, left: str, right: str) -> str:
        return f"{set_cell_size(left, self.each)}{BETWEEN}{set_cell_size(right, self.each)}"
