"""Where a run stands, in words: for the dashboard, for `jielong status` and for consoles that are no terminals. No torch here.

A run that was killed leaves a status that says it is running. So the process is looked for: on the same machine by its number and
by when it began; on another one (a shared folder) only the age of the status tells, and it is said.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jielong.progress import human_bytes, human_count, human_seconds

GOING = ("running", "paused", "saving", "validating")  # states of a run whose process is there
FORMS: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "loss": ("loss", "loss {}", lambda value: f"{value:.4f}"),
    "validation_bits_per_byte": ("bits/byte", "validation {} bits/byte", lambda value: f"{value:.4f}"),
    "learning_rate": ("learning rate", "lr {}", lambda value: f"{value:.3e}"),
    "grad_norm": ("gradient norm", "norm {}", lambda value: f"{value:.3f}"),
    "tokens_per_second": ("speed", "{}", lambda value: f"{human_count(value)} tokens/s"),
    "examples_per_second": ("speed", "{}", lambda value: f"{value:.2f} examples/s"),
    "mfu": ("MFU", "MFU {}", lambda value: f"{value:.1%}"),
    "memory": ("memory", "{}", human_bytes),
    "elapsed": ("trained for", "", human_seconds),
    "eta": ("time left", "{} left", human_seconds),
}  # key of a status -> its name, how a line says it, the figure


def figures(status: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and figures of a status, for a table; "-" for what is not known."""
    return [
        (name, "-" if status.get(key) is None else form(status[key]))
        for key, (name, _, form) in FORMS.items()
        if key in status or not key.endswith("_per_second")
    ]


def one_line(status: dict[str, Any]) -> str:
    """A status in one line: what is not known is left out."""
    parts = [f"{status.get('state', '?')}, step {status.get('step', 0):,} of {status.get('total_steps', 0):,}"]
    if status.get("phase") is not None:
        parts.append(f"phase {status['phase'] + 1}")
    parts += [
        line.format(form(status[key])) for key, (_, line, form) in FORMS.items() if line and status.get(key) is not None
    ]
    return ", ".join(parts)


def in_words(validation: dict[str, float]) -> str:
    """What a validation found, in one line: "1.2345 bits/byte", or each figure by its name where it measures something else."""
    if "bits_per_byte" in validation:
        return f"{validation['bits_per_byte']:.4f} bits/byte"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in sorted(validation.items()))


def shown(row: dict[str, Any]) -> str:
    """A continuation in one piece of text."""
    return f"【{row['prompt']}】{row['text']}"


def alive(status: dict[str, Any] | None) -> bool:
    """Whether the run that wrote a status goes on: by its process on this machine, by what it says on another one."""
    if status is None or status.get("state") not in GOING:
        return False
    if status.get("host") != platform.node():
        return True
    try:
        os.kill(int(status["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return status.get("born") in (None, born(int(status["pid"])))


def born(process: int) -> int | None:
    """When a process of this machine began, in ticks since it was switched on: numbers of processes come again, after a restart
    within minutes, but not with the same beginning. None where that is not known (no Linux).
    """
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def word(status: dict[str, Any] | None) -> str:
    """Where a run stands, in a word or two, for a title: the sentence is `standing`."""
    if status is None:
        return "not begun"
    gone = status.get("state") in GOING and not alive(status)
    return f"gone (process {status.get('pid')})" if gone else str(status.get("state", "?"))


def standing(status: dict[str, Any] | None) -> str:
    """One sentence on whether a run goes on."""
    if status is None:
        return "no training has begun here"
    host, state = status.get("host"), status.get("state")
    if alive(status):
        age = max(0.0, time.time() - float(status.get("time", 0)))
        if host == platform.node():
            return f"{state} (process {status.get('pid')})"
        return f"{state} on {host}, heard {human_seconds(age)} ago"
    if state in GOING:
        return f"not going on: process {status.get('pid')} is gone, at or after step {status.get('step')}"
    return f"not going on: {state} at step {status.get('step')}"
