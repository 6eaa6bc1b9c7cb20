"""A few documents as shards, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path

from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter

DOCUMENTS = [("一", [5]), ("二三", [6, 7]), ("", []), ("四五六", [8, 9, 10]), ("七", [11])]
END, START = 3, 2
SCHEMES = {
    "end": Scheme(100, END),
    "both": Scheme(100, END, START),
    "start": Scheme(100, END, START, closes=False),
    "bare": Scheme(100, END, closes=False, dtype="uint32"),
}


def stored(ids: list[int], scheme: Scheme) -> list[int]:
    """A document as it lies in shards of a scheme, the slow way."""
    return [*([] if scheme.start_id is None else [scheme.start_id]), *ids, *([scheme.end_id] if scheme.closes else [])]


def write(folder: Path, scheme: Scheme = SCHEMES["end"], shard_tokens: int = 5, chunks: int = 1) -> Path:
    """DOCUMENTS as the split train, `chunks` of them at a time."""
    with ShardWriter(folder, "train", scheme, shard_tokens) as writer:
        for start in range(0, len(DOCUMENTS), chunks):
            part = DOCUMENTS[start : start + chunks]
            writer.add([text for text, _ in part], [ids for _, ids in part])
    write_manifest(folder, scheme, {"train": writer.summary()})
    return folder


def make(folder: Path, rows: list[list[int]], scheme: Scheme = SCHEMES["end"], shard_tokens: int = 7) -> Shards:
    """Documents of given ids; document n has 10 x (n + 1) bytes of text."""
    with ShardWriter(folder, "train", scheme, shard_tokens) as writer:
        writer.add(["x" * 10 * (number + 1) for number in range(len(rows))], rows)
    write_manifest(folder, scheme, {"train": writer.summary()})
    return Shards(folder, "train")
