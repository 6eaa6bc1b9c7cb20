"""Text that a method looks at: documents that a run held out, or files, as rows of token ids.

Documents of a run are drawn by a hash of their number, at most half of what it held out, so that the rest is there to measure on: text that
a method has seen says nothing about the text that it has not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from jielong.errors import InputError
from jielong.runs import TRAINED
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.temporary import shards_of_files

Rows = npt.NDArray[np.int64]  # (rows, length)


@dataclass(frozen=True)
class Text:
    """Shards, and which of their documents are meant."""

    shards: Shards
    documents: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Of all the documents."""
        return sum(self.shards.length(number) for number in self.documents)

    def rows(self, length: int, tokens: int) -> Rows:
        """The documents end to end, each with its end-of-text, cut into rows; the last one only if it is full. At most `tokens`.

        Raises InputError where there is not one row.
        """
        found, total = [], 0
        for number in self.documents:
            found.append(np.asarray(self.shards.targets(number), np.int64))
            total += len(found[-1])
            if total >= tokens:
                break
        joined = np.concatenate(found)[:tokens] if found else np.empty(0, np.int64)
        rows = len(joined) // length
        if rows == 0:
            raise InputError(
                f"calibration: too little text, got {len(joined):,} tokens; a row of {length} is needed at least; give more, or a "
                "smaller calibration_length"
            )
        return joined[: rows * length].reshape(rows, length)


def run_of(model: Path) -> Path | None:
    """The run folder that a checkpoint, or the initial model, lies in; None: it lies in none."""
    parents = model.resolve().parents
    if model.resolve().name == "model" and (parents[0] / "recipe.toml").is_file():
        return parents[0]
    if len(parents) > 2 and parents[0].name == "checkpoints" and parents[1].name in (*TRAINED, "reward"):
        root = parents[2] if parents[1].name != "reward" else parents[3]
        return root if (root / "recipe.toml").is_file() else None
    return None


def held_out(run: Path, vocabulary: int) -> Shards | None:
    """The documents that a run held out, or the conversations where it read none; None: there are none of this vocabulary."""
    for place in (run / "tokenizer" / "shards", run / "tune" / "data" / "shards"):
        if (place / "manifest.json").is_file():
            shards = Shards(place, "validation")
            if shards.vocab_size <= vocabulary and shards.documents:
                return shards
    return None


def divided(shards: Shards, tokens: int) -> tuple[Text, Text]:
    """Documents to calibrate on, of so many tokens, and the others to measure on; never more than half for the first."""
    order = sorted(range(shards.documents), key=lambda number: xxhash.xxh3_64_intdigest(str(number).encode()))
    taken, total = 0, 0
    while taken < len(order) // 2 and total < tokens:
        total += shards.length(order[taken])
        taken += 1
    if taken == 0:  # a single document must do for both
        return Text(shards, tuple(order)), Text(shards, tuple(order))
    return Text(shards, tuple(order[:taken])), Text(shards, tuple(sorted(order[taken:])))


@contextmanager
def text_of_files(paths: Sequence[str], tokenizer: TokenizerFolder) -> Iterator[Text]:
    """All readable documents of files. Raises DataError where there is none."""
    with shards_of_files(paths, tokenizer, "quantize: tokenising", "--calibration") as (shards, _):
        yield Text(shards, tuple(range(shards.documents)))
