"""The phases of a step by themselves, against numpy; the whole step is tested in test_decoder.py."""

import numpy as np
import pytest

from jielong.infer.compiled import kernels


def numbers(**values: int) -> np.ndarray:
    found = np.zeros(kernels.NUMBERS, np.int64)
    for name, value in values.items():
        found[getattr(kernels, name)] = value
    return found


def test_embedding_takes_the_token_s_row() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    hidden = np.zeros((2, 3), np.float32)
    kernels.embed(numbers(EMBEDDING=table.ctypes.data), np.array([3, 1]), hidden)
    assert (hidden == table[[3, 1]]).all()
    bfloat16 = (table.view(np.uint32) >> 16).astype(np.uint16)  # small whole numbers: exact
    kernels.embed(numbers(EMBEDDING=bfloat16.ctypes.data, EMBEDDING_KIND=1), np.array([0, 2]), hidden)
    assert (hidden == table[[0, 2]]).all()


def test_projections_of_every_piece_make_the_whole() -> None:
    chance = np.random.default_rng(0)
    w, bias, x = (chance.standard_normal(s).astype(np.float32) for s in ((50, 1000), 50, (2, 1000)))
    out, hidden = np.zeros((2, 53), np.float32), chance.standard_normal((2, 50)).astype(np.float32)
    before, written = hidden.copy(), np.zeros((2, 50), np.float32)
    matrix, whole = np.zeros(kernels.FIELDS, np.int64), np.empty(0, np.float32)
    matrix[kernels.ADDRESS] = w.ctypes.data
    plain = matrix.copy()
    matrix[kernels.BIAS] = bias.ctypes.data
    pieces = kernels.pieces_of(50, 1000, 0)
    assert pieces > 1
    for piece in range(pieces):
        kernels.project_piece(piece, matrix, 50, 1000, x.ctypes.data, whole, out, 3)
        kernels.add_projection(piece, plain, 1000, x.ctypes.data, whole, written, hidden)
    np.testing.assert_allclose(out[:, 3:], x @ w.T + bias, atol=1e-4)
    np.testing.assert_allclose(hidden, before + x @ w.T, atol=1e-4)
    assert (out[:, :3] == 0).all()


@pytest.mark.parametrize("window", [1, 3, 100])
def test_attention_over_a_window(window: int) -> None:
    chance = np.random.default_rng(window)
    store, place = chance.standard_normal((2, 9, 4)).astype(np.float32), 6
    shape = numbers(HEADS=2, GROUPS=1, SIZE=4, LENGTH=place, KEYS=store[0].ctypes.data, VALUES=store[1].ctypes.data)
    row, none = chance.standard_normal(16).astype(np.float32), np.zeros((1, 1), np.float32)
    q, new = row[:8].reshape(2, 4).copy(), row[8:].reshape(2, 4)
    out, weights = np.zeros(8, np.float32), np.zeros(kernels.WEIGHTS, np.int64)
    scores = np.zeros((2, 9), np.float32)
    kernels.attend(
        0, 0, 0, shape, np.float32(0), weights, window, 2, none, none, np.zeros(2, np.float32), row, scores, out
    )
    assert (store[:, place] == new).all()
    first = max(2, place + 1 - window)  # two positions are filling
    k, v = store[:, first : place + 1]
    weight = np.exp(q @ k.T / 2)
    np.testing.assert_allclose(out.reshape(2, 4), weight / weight.sum(axis=1, keepdims=True) @ v, rtol=1e-4, atol=1e-6)


def test_phases_of_a_step() -> None:
    assert kernels.count_phases(3) == 17
