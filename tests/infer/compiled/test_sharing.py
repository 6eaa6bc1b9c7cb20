"""Counters of pieces: each claimed once, by any number of threads."""

import threading

import numpy as np

from jielong.infer.compiled import sharing


def test_counters_have_lines_of_their_own() -> None:
    state = np.zeros(sharing.state_size(17), np.int64)
    assert [int(sharing.claim(state, phase)) for phase in (0, 0, 16, 16)] == [0, 1, 0, 1]
    sharing.complete(state, 16)
    assert sharing.complete_and_claim(state, 16) == 2
    sharing.wait_for(state, 16, 2)
    sharing.leave(state)
    sharing.wait_until_left(state, 1)
    assert sorted(np.flatnonzero(state) % sharing.COUNTER) == [0] * 4 and state.sum() == 2 + 3 + 2 + 1


def test_each_piece_has_one_owner() -> None:
    state, owned = np.zeros(sharing.state_size(1), np.int64), list[list[int]]()

    def work() -> None:
        mine, piece = [], sharing.claim(state, 0)
        while piece < 2000:
            mine.append(piece)
            piece = sharing.complete_and_claim(state, 0)
        sharing.wait_for(state, 0, 2000)
        owned.append(mine)
        sharing.leave(state)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    sharing.wait_until_left(state, 3)
    for thread in threads:
        thread.join()
    assert sorted(piece for mine in owned for piece in mine) == list(range(2000))
