"""`jielong watch`: read, draw, take keys, again and again, until it is left. The run does not notice.

The picture is drawn on the terminal's other screen, and only when something in it has changed; what was on the terminal before is
there again afterwards. Without a terminal a line is said every few seconds.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

from jielong.console import tell
from jielong.train.control.reading import Reader, View
from jielong.train.control.telling import one_line

KEY_SECONDS = 0.1  # how long keys are waited for, between looks at answers
READ_SECONDS = 0.5  # between looks at the run
LINE_SECONDS = 5.0  # between lines, without a terminal


def is_terminal() -> bool:
    """Whether somebody looks and can press keys."""
    return bool(sys.stdin and sys.stdin.isatty() and sys.stdout and sys.stdout.isatty())


def line_of(view: View) -> str:
    """The run in one line."""
    if view.status is None:
        last = view.steps[-1] if view.steps else None
        return f"{view.name}: {view.standing}" + (f", last at step {last['step']:,}" if last else "")
    said = one_line(view.status)
    return f"{view.name}: {said}" if view.alive else f"{view.name}: {view.standing}; last: {said.partition(', ')[2]}"


def watch_lines(reader: Reader, once: bool) -> dict[str, Any]:
    """Say a line every few seconds while the run goes on; once: only one. Returns the last status."""
    while True:
        view = reader.view()
        tell(line_of(view))
        if once or not view.alive:
            return {"run": view.name, "alive": view.alive, "status": view.status}
        time.sleep(LINE_SECONDS)


def watch(reader: Reader) -> dict[str, Any]:
    """The dashboard, until q, Ctrl-C or the end of input. Returns the last status."""
    from rich.console import Console
    from rich.live import Live

    from jielong.train.control.desk import Desk
    from jielong.train.control.drawing import draw, lines
    from jielong.train.control.keyboard import Keyboard

    views, console, before = [reader.view()], Console(), list[Any]()
    desk, read_at = Desk(reader.box, lambda: views[0]), time.monotonic()
    with (
        Keyboard() as keyboard,
        Live(console=console, screen=True, auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt, EOFError),
    ):
        while not desk.left:
            if time.monotonic() - read_at > READ_SECONDS:
                views[0], read_at = reader.view(), time.monotonic()
            desk.collect()
            width, height = console.size
            now = [width, height, *lines(views[0], desk.typed, width, height)]
            if now != before:
                before = now
                live.update(draw(views[0], desk.typed, width, height), refresh=True)
            for key in keyboard.read(KEY_SECONDS):
                desk.press(key)
    return {"run": views[0].name, "alive": views[0].alive, "status": views[0].status}
