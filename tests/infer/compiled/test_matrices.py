"""Products of whole matrices, against numpy, and their pieces."""

import numpy as np
import pytest

from jielong.infer.compiled import matrices
from jielong.infer.compiled.vectors import INT4, INT8, OUTPUTS


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("outputs", [1, OUTPUTS, 2 * OUTPUTS + 1])
def test_multiply(rows: int, outputs: int) -> None:
    chance = np.random.default_rng(rows)
    w, x = (chance.standard_normal((n, 70)).astype(np.float32) for n in (outputs + 2, rows))
    out = np.zeros((rows, outputs + 2), np.float32)
    matrices.multiply(0, w.ctypes.data, 1, outputs + 1, 70, x.ctypes.data, 70, rows, out.ctypes.data, outputs + 2)
    expected = x @ w.T
    expected[:, [0, -1]] = 0  # rows of the matrix that were not asked for
    np.testing.assert_allclose(out, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [0, 1, INT8, INT4])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 8), (5, 8), (1000, 512), (17, 40_000)])
def test_pieces_cover_a_matrix_once(outputs: int, columns: int, kind: int) -> None:
    size, pieces = matrices.rows_of_piece(columns, kind), matrices.pieces_of(outputs, columns, kind)
    assert size % OUTPUTS == 0 and (pieces - 1) * size < outputs <= pieces * size
    most = matrices.QUANTIZED_PIECE_BYTES if kind in (INT8, INT4) else matrices.PIECE_BYTES
    assert size == OUTPUTS or size * matrices.row_bytes(columns, kind) <= most


def test_bytes_of_a_row() -> None:
    assert [matrices.row_bytes(64, kind) for kind in range(5)] == [256, 128, 128, 64, 32]
