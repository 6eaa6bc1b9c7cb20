"""Long texts that many documents share, seen from the tokenizer: runs of long pieces, as candidates for adverts.

A long Chinese piece is a string that recurs: a set phrase, a name, or a line that a site puts under every page. Where
several stand in a row, or one is very long, it is mostly the last. Each run of pieces of LONG_PIECE Han characters or
more, of MIN_CHARS together, is counted (`unigram` may write such a line as one piece: that is a run as well), and what
stands in enough documents is listed in the format of the data stage's step `fragments` (data.mining.listing), for a
person to mark: the column action holds a question mark, and a listing with one is refused there.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jielong.data.mining.listing import Row, write_listing
from jielong.tokenizer.folder import TokenizerFolder

LONG_PIECE = 4  # Han characters of a piece
MIN_CHARS = 12  # of a run: what the step fragments takes at least, by default
LISTED = 500
MIN_DOCUMENTS = 10  # that a run stands in, to be listed
UNDECIDED = "?"
HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+")  # the blocks of common characters


class LongRuns:
    """Counts runs over batches of documents. `han`: of each id, its Han characters, 0 where it holds anything else."""

    def __init__(self, han: NDArray[np.int64]) -> None:
        self._han = han
        self._documents, self._occurrences = Counter[bytes](), Counter[bytes]()

    def add(self, ids: NDArray[np.uint32], offsets: NDArray[np.int64]) -> None:
        """Count the runs of some documents, given as ids end to end and where each begins (and the last ends)."""
        sizes = self._han[ids]
        long = sizes >= LONG_PIECE
        for start, end in pairwise(offsets.tolist()):
            edges = np.flatnonzero(np.diff(np.concatenate([[False], long[start:end], [False]]).astype(np.int8)))
            found = [
                ids[start + first : start + last].tobytes()
                for first, last in edges.reshape(-1, 2).tolist()
                if sizes[start + first : start + last].sum() >= MIN_CHARS
            ]
            self._occurrences.update(found)
            self._documents.update(set(found))

    def most(self, min_documents: int) -> list[tuple[NDArray[np.uint32], int, int]]:
        """Ids, documents and occurrences of the runs in most documents, at most LISTED; equal ones in the order of their ids."""
        rows = [(run, count) for run, count in self._documents.items() if count >= min_documents]
        rows.sort(key=lambda row: (-row[1], row[0]))
        return [(np.frombuffer(run, np.uint32), count, self._occurrences[run]) for run, count in rows[:LISTED]]


def han_of(tokenizer: TokenizerFolder) -> NDArray[np.int64]:
    """Of each id, its Han characters; 0 where its text holds anything else."""
    found = np.zeros(tokenizer.size, np.int64)
    for number in range(tokenizer.size):
        text = tokenizer.decode([number])
        if HAN.fullmatch(text):
            found[number] = len(text)
    return found


def write_candidates(path: Path, runs: list[tuple[str, int, int]]) -> None:
    """Write texts with their documents and occurrences as a listing of the step `fragments`, undecided."""
    evidence = ("long pieces of the tokenizer",)
    write_listing(path, (Row(UNDECIDED, 0.0, documents, times, evidence, text, ()) for text, documents, times in runs))
