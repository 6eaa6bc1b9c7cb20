"""A status in words, and whether its run is still there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from typing import Any

import pytest

from jielong.train.control.telling import FORMS, alive, born, figures, one_line, shown, standing, word

STATUS: dict[str, Any] = {
    "pid": os.getpid(), "host": platform.node(), "state": "running", "step": 1200, "total_steps": 5000, "phase": 1,
    "loss": 3.14159, "validation_bits_per_byte": None, "learning_rate": 3e-4, "grad_norm": 0.5,
    "tokens_per_second": 12_345.0, "mfu": 0.4321, "memory": 2_000_000_000, "elapsed": 95.0, "eta": 3723.0,
}  # fmt: skip


def test_one_line() -> None:
    assert one_line(STATUS) == (
        "running, step 1,200 of 5,000, phase 2, loss 3.1416, lr 3.000e-04, norm 0.500, 12.3k tokens/s, MFU 43.2%, 2 GB, "
        "1 h 02 min left"
    )
    assert one_line({}) == "?, step 0 of 0"


def test_figures_say_what_is_not_known() -> None:
    found = dict(figures(STATUS))
    assert len(found) == len(FORMS) - 1 and found["bits/byte"] == "-" and found["trained for"] == "1 min 35 s"


def test_a_killed_run_is_told_apart() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone = STATUS | {"pid": int(ended.stdout)}
    assert alive(STATUS) and not alive(gone) and not alive(STATUS | {"state": "done"}) and not alive(None)
    assert not alive({"state": "running", "host": platform.node()})
    assert standing(gone) == f"not going on: process {gone['pid']} is gone, at or after step 1200"
    assert standing(STATUS | {"state": "stopped"}) == "not going on: stopped at step 1200"
    assert word(gone) == f"gone (process {gone['pid']})" and word(STATUS) == "running" and word(None) == "not begun"
    assert standing(None) == "no training has begun here" and standing(STATUS).startswith("running (process")


@pytest.mark.skipif(born(os.getpid()) is None, reason="only /proc says when a process began")
def test_another_process_with_the_number_of_a_killed_run_is_not_the_run() -> None:
    ours, parent, first = (born(pid) for pid in (os.getpid(), os.getppid(), 1))
    assert ours is not None and parent is not None and ours >= parent
    assert alive(STATUS | {"born": ours}) and not alive(STATUS | {"born": ours - 1})
    assert not alive(STATUS | {"pid": 1, "born": (first or 0) + 1})  # another user's, unless this is root's
    assert born(2**22 + 1) is None


def test_on_another_machine_the_age_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    far = STATUS | {"host": "elsewhere", "pid": 2**22 + 1, "time": time.time() - 125}
    assert alive(far) and standing(far) == "running on elsewhere, heard 2 min 05 s ago"


def test_a_continuation() -> None:
    assert shown({"prompt": "中国", "text": "人民"}) == "【中国】人民"
