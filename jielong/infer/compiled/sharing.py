"""How threads share a step: pieces of work that are claimed, phases that are over when all their pieces are done.

Threads do not wait for each other but for work. A thread that the system keeps from running delays the others by one piece at
most, and all is done even if it never comes: a barrier would stand still until it did, which on a shared machine doubles the
time of a step. Who waits looks at a counter SPINS times and then gives its core away, for the one that has the piece may need it.

Each phase has two int64 counters in `state`: pieces that are done, pieces that were claimed. One more counts the threads that have
left, so that the memory of a step is not used again before.
"""

from __future__ import annotations

import numpy as np

from jielong.data.compiled import kernel
from jielong.data.emitters import address
from jielong.infer.compiled.vectors import fetch, fetch_add, give_way

LINE = 64  # bytes that come to a core together
COUNTER = LINE // 8  # int64 from a counter to the next: threads do not disturb each other
SPINS = 1000  # looks at a counter, a microsecond or two


def state_size(phases: int) -> int:
    """How many int64 the counters of a step take."""
    return (2 * phases + 1) * COUNTER


@kernel
def claim(state: np.ndarray, phase: int) -> int:
    """The number of a piece that nobody else has."""
    piece: int = fetch_add(address(state) + (2 * phase + 1) * LINE, 1)
    return piece


@kernel
def complete(state: np.ndarray, phase: int) -> None:
    """A claimed piece is done."""
    fetch_add(address(state) + 2 * phase * LINE, 1)


@kernel
def complete_and_claim(state: np.ndarray, phase: int) -> int:
    """Give back a piece, take the next one."""
    complete(state, phase)
    piece: int = claim(state, phase)
    return piece


@kernel
def wait_for(state: np.ndarray, phase: int, pieces: int) -> None:
    """Until all pieces of a phase are done."""
    spins = 0
    while fetch(address(state) + 2 * phase * LINE) < pieces:
        spins += 1
        if spins > SPINS:
            give_way()


@kernel
def leave(state: np.ndarray) -> None:
    """A thread will touch nothing of this step any more."""
    complete(state, state.shape[0] // (2 * COUNTER))


@kernel
def wait_until_left(state: np.ndarray, threads: int) -> None:
    """Until so many threads have left."""
    wait_for(state, state.shape[0] // (2 * COUNTER), threads)
