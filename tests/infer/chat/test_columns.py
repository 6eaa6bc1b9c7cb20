"""Two texts side by side, as a terminal shows what it is sent."""

from __future__ import annotations

import itertools
import random

import pytest
from rich.cells import cell_len

from jielong.infer.chat.columns import BETWEEN, LEAST, Columns, fits

LEFT = "从前有一座山，山上有一座庙，庙里有一个老和尚在给小和尚讲故事。\n第二段 with English words，而且全角（，。！）和 emoji 🙂。"
RIGHT = "短。\n\n" + "很长的一段话" * 20


def screen(sent: str) -> list[str]:
    """The rows of a terminal: a carriage return goes back to the beginning of a row, what is written covers what was there."""
    rows = list[str]()
    for line in sent.split("\n"):
        parts = line.split("\r")
        assert all(cell_len(part) in (0, cell_len(parts[-1])) for part in parts)  # so the last part covers all
        rows.append(parts[-1])
    return rows


def written(columns: Columns, pieces: list[tuple[int, str]]) -> str:
    return "".join(
        [columns.head(), *(columns.put(side, piece) for side, piece in pieces), columns.end(0), columns.end(1)]
    )


@pytest.mark.parametrize("width", [54, 80, 81, 120])
def test_columns_align_under_chinese(width: int) -> None:
    columns = Columns(("模型甲", "runs/mine/train/checkpoints/" + "很长的名字" * 20), width)
    pieces = [pair for both in itertools.zip_longest(LEFT, RIGHT) for pair in enumerate(both) if pair[1] is not None]
    rows = screen(written(columns, pieces))  # type: ignore[arg-type]
    assert rows.pop() == ""
    assert {cell_len(row) for row in rows} == {2 * columns.each + 3} and 2 * columns.each + 3 <= width - 2
    for number, row in enumerate(rows):
        mark = row.index("─┼─" if number == 1 else BETWEEN)
        assert cell_len(row[:mark]) == columns.each
    texts = [[row.split(BETWEEN)[side].rstrip() for row in rows[2:]] for side in (0, 1)]
    for text, lines in zip((LEFT, RIGHT), texts, strict=True):
        assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert rows[0].startswith("模型甲 ") and rows[0].rstrip().endswith("…")


@pytest.mark.parametrize("seed", range(5))
def test_the_picture_does_not_depend_on_the_pieces(seed: int) -> None:
    draw, pieces = random.Random(seed), list[tuple[int, str]]()
    left = [LEFT, RIGHT]
    while any(left):
        side = draw.randrange(2)
        size = draw.randrange(1, 9)
        pieces.append((side, left[side][:size]))
        left[side] = left[side][size:]
    expected = screen(written(Columns(("甲", "乙"), 80), [(0, LEFT), (1, RIGHT)]))
    assert screen(written(Columns(("甲", "乙"), 80), pieces)) == expected


def test_what_is_written_is_seen_at_once() -> None:
    columns = Columns(("甲", "乙"), 80)
    assert screen(columns.head() + columns.put(0, "一"))[-1].startswith("一 ")
    sent = columns.put(1, "二\n三")
    assert screen(sent)[-1].split() == ["一", "│", "二"]  # the other text is not beyond its first row
    assert [row.split() for row in screen(columns.end(0))] == [["一", "│", "二"], ["│", "三"]]
    assert screen(columns.end(1))[-1] == ""


def test_control_characters_are_shown_not_obeyed() -> None:
    sent = Columns(("a", "b"), 80).put(0, "\x1b[2J\r\t终")
    assert sent.count("\r") == 1 and "\\x1b[2J\\x0d 终" in sent


def test_narrow_terminals_have_no_columns() -> None:
    assert fits(80) and not fits(40)
    narrowest = next(width for width in range(200) if fits(width))
    assert Columns(("a", "b"), narrowest).each == LEAST
