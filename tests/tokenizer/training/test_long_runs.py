"""Runs of long pieces: by hand, and as a listing that waits for a person."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jielong.data.mining.listing import read_listing
from jielong.errors import InputError
from jielong.tokenizer.training.long_runs import LongRuns, write_candidates

HAN = np.array([0, 1, 4, 5, 7, 11, 12], np.int64)


def test_runs_by_hand() -> None:
    """Pieces 4 and 3 in a row are 12 characters; 2, 2 are only 8; 4 alone is no run; a run does not cross documents."""
    runs = LongRuns(HAN)
    runs.add(np.array([1, 4, 3, 1, 4, 3, 0, 2, 2, 4, 4, 3, 3, 1], np.uint32), np.array([0, 7, 10, 10, 14]))
    runs.add(np.array([4, 3], np.uint32), np.array([0, 2]))
    assert [(ids.tolist(), documents, times) for ids, documents, times in runs.most(1)] == [
        ([4, 3], 2, 3),
        ([2, 2, 4], 1, 1),
        ([4, 3, 3], 1, 1),
    ]
    assert [ids.tolist() for ids, _, _ in runs.most(2)] == [[4, 3]]
    assert LongRuns(HAN).most(1) == []


def test_a_single_piece_that_is_long_enough_is_a_run() -> None:
    """12 characters in one piece are a run, 11 are not; beside other long pieces they are part of one."""
    runs = LongRuns(HAN)
    runs.add(np.array([0, 6, 0, 5, 0, 6, 1, 6, 2, 6], np.uint32), np.array([0, 6, 10]))
    assert [(ids.tolist(), documents, times) for ids, documents, times in runs.most(1)] == [
        ([6], 1, 2),
        ([6, 2, 6], 1, 1),
    ]


def test_the_listing_waits_for_a_decision(tmp_path: Path) -> None:
    path = tmp_path / "long_pieces.tsv"
    write_candidates(path, [("关注公众号领取更多精彩免费好书", 12, 13)])
    with pytest.raises(InputError, match="unknown action"):
        read_listing(path, 12)
    path.write_text(path.read_text(encoding="utf-8").replace("\n?\t", "\nremove\t"), encoding="utf-8")
    (mark,) = read_listing(path, 12)
    assert mark.action == "remove" and mark.example == "关注公众号领取更多精彩免费好书"
