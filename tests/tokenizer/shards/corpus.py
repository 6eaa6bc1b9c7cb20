"""Documents as the data stage leaves them, and a tokenizer, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config

SOURCES = ("web", "books")


def texts(count: int, seed: int = 1) -> list[str]:
    """Random Chinese with Latin, digits, emoji and line ends; now and then an empty one."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        codes = chance.integers(0x4E00, 0x4E00 + 300, int(chance.integers(0, 200)))
        rows.append("".join(map(chr, codes)) + (f" GPT-{number}\n\U0001f600" if number % 3 else ""))
    return rows


def write_documents(folder: Path, files: dict[str, list[list[str]]], row_group: int = 7) -> Path:
    """`train-00000.parquet` and so on, of the given texts; sources take turns."""
    folder.mkdir(parents=True)
    for split, parts in files.items():
        for number, rows in enumerate(parts):
            table = pa.table({"text": rows, "source": [SOURCES[n % 2] for n in range(len(rows))]})
            pq.write_table(table, folder / f"{split}-{number:05d}.parquet", row_group_size=row_group)
    return folder


def write_tokenizer(folder: Path) -> Path:
    bpe.save(bpe.train(texts(40, 9), 330, Config().specials, 2, True), folder)
    return folder
