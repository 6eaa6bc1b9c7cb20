"""The dashboard of `jielong watch`, a pure function from what was read to lines of text of exactly the terminal's size.

    run  state  step / total  phase                     title, and a bar with the time left
    loss, smoothed, of the last steps                   a curve in blocks (an eighth of a line high)
    figures                                             three in a line
    events                                              the newest of the history
    answers                                             of the run, and of what was typed
    keys, or what is being typed

Lines are measured in columns (a Chinese character takes two) by rich, and cut there, so nothing wraps and nothing moves. Text from the
corpus and the model has its control characters shown, not obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from rich.cells import cell_len, set_cell_size
from rich.console import Group
from rich.text import Text

from jielong.progress import human_seconds, plain
from jielong.train.control.reading import View
from jielong.train.control.telling import figures, word

BLOCKS = " ▁▂▃▄▅▆▇█"
LEFT = 8  # columns of the curve's numbers
MEMORY = 0.9  # weight of the past in the smoothed loss
FIXED = 8  # lines that are always there
KEYS = "p pause r resume s save x stop l rate g generate t prompts b batch ? help q quit"
COLOURS = {"running": "green", "paused": "yellow", "saving": "cyan", "validating": "cyan"}


@dataclass
class Typed:
    """What stands below the picture, and the answers in it."""

    answers: list[str] = field(default_factory=list)  # oldest first
    question: str = ""  # before what is being typed
    line: str = ""
    large: bool = False  # answers take the place of the curve
    scroll: int = 0  # lines up from where answers would stand


def draw(view: View, typed: Typed, width: int, height: int) -> Group:
    """The picture, `height` lines of at most `width` columns."""
    return Group(*lines(view, typed, width, height))


def lines(view: View, typed: Typed, width: int, height: int) -> list[Text]:
    """The picture, line by line."""
    spare = max(0, height - FIXED)
    events = 0 if typed.large else min(4, spare // 5)
    curve = 0 if typed.large else max(3, min(12, spare * 2 // 5))
    answers = max(0, spare - events - curve)
    found = [*_title(view, width), *_curve(view, width, curve), *_figures(view, width)]
    found += [Text(_cut(f"step {row.get('step', '?')}: {row.get('text', '')}", width), "dim")
              for row in view.events[len(view.events) - events :]] if events else []  # fmt: skip
    found += [Text("─" * width, "dim"), *_answers(typed, width, answers)]
    found = found[: height - 1]
    found += [Text("")] * (height - 1 - len(found))
    found.append(_foot(typed, width))
    for line in found:
        line.no_wrap, line.overflow = True, "crop"
    return found


def _title(view: View, width: int) -> list[Text]:
    status = view.status or {}
    last = view.steps[-1].get("step", 0) if view.steps else 0  # newer than a status, which is written once a second
    step = max(last, status.get("step") or 0)
    total = status.get("total_steps") or 0
    state = word(view.status)
    parts = [view.name, state, f"step {step:,}" + (f" of {total:,}" if total else "")]
    if status.get("phase") is not None:
        parts.append(f"phase {status['phase'] + 1}")
    if status.get("learning_rate_factor", 1.0) != 1.0:
        parts.append(f"rate x{status['learning_rate_factor']:.3g} by hand")
    head = Text(_cut("  ".join(parts), width), "bold " + COLOURS.get(state, "red"))
    share = min(1.0, step / total) if total else 0.0
    rest = f", {human_seconds(status['eta'])} left" if status.get("eta") and view.alive else ""
    left = _cut(f" {share:.1%}{rest}", width)
    room = max(0, width - cell_len(left))
    full = round(room * share)
    return [head, Text("█" * full + "░" * (room - full) + left)]


# --------------------------------------------------------------------------------------------------------- the curve


def smoothed(values: Sequence[float]) -> list[float]:
    """An exponential mean that begins unbiased: the first value is itself, each later one forgets by MEMORY."""
    found, total, weight = list[float](), 0.0, 0.0
    for value in values:
        total, weight = MEMORY * total + value, MEMORY * weight + 1.0
        found.append(total / weight)
    return found


def columns(values: Sequence[float], count: int) -> list[float]:
    """Means of `count` equal parts of a list, one after the other; the list itself where it is shorter."""
    if len(values) <= count:
        return list(values)
    edges = [number * len(values) // count for number in range(count + 1)]
    return [math.fsum(values[low:high]) / (high - low) for low, high in pairwise(edges)]


def curve(values: Sequence[float], height: int) -> list[str]:
    """Values as columns of blocks, `height` lines, the highest value first; the lowest has an eighth of a line."""
    low, high = min(values), max(values)
    steps = 8 * height - 1
    tall = [1 + round(steps * (value - low) / (high - low)) if high > low else 1 for value in values]
    return ["".join(BLOCKS[max(0, min(8, size - 8 * level))] for size in tall) for level in reversed(range(height))]


def _curve(view: View, width: int, height: int) -> list[Text]:
    found = [record for record in view.steps if isinstance(record.get("loss"), (int, float))]
    if not height:
        return []
    if not found:
        return [Text("no step is made yet", "dim"), *[Text("")] * height]
    means = smoothed([record["loss"] for record in found])
    values = columns(means, max(1, width - LEFT))
    rows = curve(values, height)
    labels = {0: max(values), height - 1: min(values)}
    head = f"loss of steps {found[0].get('step', 0):,} to {found[-1].get('step', 0):,}, smoothed: now {means[-1]:.4f}"
    return [Text(_cut(head, width))] + [
        Text(f"{labels[number]:>{LEFT - 1}.3f} " if number in labels else " " * LEFT).append(row, "green")
        for number, row in enumerate(rows)
    ]


# ------------------------------------------------------------------------------------------------------------- words


def _figures(view: View, width: int) -> list[Text]:
    """Three lines of three, whatever is known."""
    status = view.status or (view.steps[-1] if view.steps else {})
    cells = [f"{name} {figure}" for name, figure in figures(status)]
    each = width // 3
    return [
        Text("".join(set_cell_size(_cut(cell, max(1, each - 1)), each) for cell in cells[row : row + 3]))
        for row in (0, 3, 6)
    ]


def _answers(typed: Typed, width: int, height: int) -> list[Text]:
    """The newest answers; one that is longer than the room is shown from its beginning."""
    if not height:
        return []
    wrapped, last = list[str](), 0
    for answer in typed.answers:
        last = len(wrapped)
        for part in plain(answer).split("\n"):
            wrapped += wrap(part, width)
    first = max(0, min(last, len(wrapped) - height))
    start = max(0, min(first - typed.scroll, len(wrapped) - 1))
    typed.scroll = first - start  # keys that led beyond the text are not counted
    return [Text(line) for line in wrapped[start : start + height]]


def wrap(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` columns: at a space in the last third of a line, else at any character."""
    found, line, used = list[str](), "", 0
    for character in text.replace("\t", " "):
        size = cell_len(character)
        if used + size > width:
            at = line.rfind(" ") + 1
            if not (at and character.isascii() and character != " " and cell_len(line[:at]) * 3 > width * 2):
                at = len(line)
            found.append(line[:at].rstrip(" ") or line[:at])
            line = line[at:]
            used = cell_len(line)
            if character == " " and not line:
                continue
        line, used = line + character, used + size
    return [*found, line]


def _cut(text: str, width: int) -> str:
    text = plain(text).replace("\n", " ").replace("\t", " ")
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"


def _foot(typed: Typed, width: int) -> Text:
    """What is being typed, its end always in sight; else the keys."""
    if not typed.question:
        return Text(_cut(KEYS, width), "reverse")
    room = max(1, width - cell_len(typed.question) - 2)
    line = plain(typed.line).replace("\t", " ")
    while cell_len(line) > room:
        line = line[1:]
    return Text(typed.question, "bold").append(f" {line}").append("▏", "blink")
