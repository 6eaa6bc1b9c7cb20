"""The picture, rendered to text: of the terminal's size whatever is in it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from jielong.train.control.drawing import Typed, columns, curve, draw, lines, smoothed, wrap
from jielong.train.control.reading import View
from tests.train.control.test_telling import STATUS

STEPS: list[dict[str, Any]] = [{"step": n, "loss": 6.0 - n / 100} for n in range(1, 301)]
EVENTS: list[dict[str, Any]] = [{"step": n, "event": "skipped", "text": f"事件 {n}: " + "很长" * 60} for n in range(9)]


def picture(view: View, typed: Typed, width: int = 80, height: int = 24) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, height=height, force_terminal=False).print(draw(view, typed, width, height), end="")
    return file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60), (40, 12), (20, 5), (80, 1)])
@pytest.mark.parametrize("large", [False, True])
def test_it_has_the_size_of_the_terminal(width: int, height: int, large: bool) -> None:
    typed = Typed(["【中国】" + "人民" * 200, "\x1b[31m\nred"], "prompt:", "人工智能" * 30, large)
    for view in (View("small"), View("small", STATUS, STEPS, EVENTS)):
        found = lines(view, typed, width, height)
        assert len(found) == height and all(cell_len(line.plain) <= width for line in found)
        assert all("\n" not in line.plain and "\x1b" not in line.plain for line in found)


def test_what_is_in_it() -> None:
    found = picture(View("small", STATUS, STEPS, EVENTS), Typed(["【中国】人民"]))
    text = "\n".join(found)
    assert found[0].startswith("small  running  step 1,200 of 5,000  phase 2")
    assert "24.0%, 1 h 02 min left" in found[1] and found[1].count("█") == round(
        0.24 * (80 - len(" 24.0%, 1 h 02 min left"))
    )
    assert "loss of steps 1 to 300, smoothed: now 3.09" in found[2]
    assert "bits/byte -" in text and "speed 12.3k tokens/s" in text and "MFU 43.2%" in text
    assert "step 8: 事件 8" in text and "step 5: 事件 5" not in text
    assert (
        "【中国】人民" in text
        and found[-1] == "p pause r resume s save x stop l rate g generate t prompts b batch ? help q quit"
    )


def test_what_does_not_go_on_says_so() -> None:
    found = picture(View("small", STATUS | {"state": "stopped"}, STEPS), Typed())
    assert found[0].startswith("small  stopped  step 1,200 of 5,000  phase 2") and "left" not in found[1]
    assert picture(View("small"), Typed())[0].startswith("small  not begun  step 0")


def test_the_title_has_the_newest_step() -> None:
    """A status is up to a second old; the records beside it are not."""
    assert "step 1,207 of" in picture(View("small", STATUS, [{"step": 1207, "loss": 3.0}]), Typed())[0]


def test_a_question_shows_the_end_of_what_is_typed() -> None:
    last = picture(View("small"), Typed(question="prompt:", line="前" * 60 + "人工智能"), 40)[-1]
    assert last.startswith("prompt: 前") and last.endswith("人工智能▏") and cell_len(last) <= 40


def test_answers_end_with_the_newest_and_a_long_one_begins_at_its_beginning() -> None:
    several = [f"answer {n}" for n in range(30)]
    text = "\n".join(picture(View("small"), Typed(several)))
    assert "answer 29" in text and "answer 3\n" not in text
    long = "\n".join(f"line {n}" for n in range(40))
    typed = Typed([*several, long], large=True)
    text = "\n".join(picture(View("small"), typed))
    assert "line 0" in text and "line 39" not in text and "answer" not in text
    typed.scroll = -30
    assert "line 39" in "\n".join(picture(View("small"), typed))
    typed.scroll = -500
    picture(View("small"), typed)
    assert -40 <= typed.scroll < 0  # one key up is one line up again


def test_a_curve_by_hand() -> None:
    """0 to 15 over two lines: sixteen eighths, of which the lowest value has one."""
    assert curve([0.0, 7.0, 8.0, 15.0], 2) == ["  ▁█", "▁███"]
    assert curve([2.0, 2.0], 1) == ["▁▁"]


def test_smoothing_and_columns_by_hand() -> None:
    assert smoothed([1.0, 2.0]) == [1.0, pytest.approx(2.9 / 1.9)]  # (0.9 + 2) / (0.9 + 1)
    assert columns([1.0, 3.0, 5.0, 7.0], 2) == [2.0, 6.0] and columns([1.0], 5) == [1.0]


def test_wide_characters_are_wrapped_by_columns() -> None:
    assert wrap("中国ab人民", 5) == ["中国a", "b人民"] and wrap("", 5) == [""]


def test_words_stay_whole_where_a_space_is_near() -> None:
    assert wrap("must be a factor", 12) == ["must be a", "factor"] and wrap("must be aa b", 10) == ["must be aa", "b"]
    assert wrap("abcd efghijklmnop", 12) == ["abcd efghijk", "lmnop"]  # too far to the left
    assert wrap("step is 12 中国人民", 12) == ["step is 12", "中国人民"] and wrap("   ", 2) == ["  ", ""]
