"""What is written into shards: how an id is stored, what stands around a document, and the manifest that says so.

    shards/
      train-00000.bin     headerless little-endian uint16 or uint32: documents end to end
      train-00000.idx     int64, documents + 1: where each document starts in the .bin, in tokens
      train-00000.bytes   int64, documents: UTF-8 bytes of each document's text (bits per byte are counted from text)
      train-00000.src     uint16, documents: the number of each document's source in the manifest's list
      train-00000.use     uint8, tokens, only in shards with a mask: 1 for a token that is learned, 0 for one that is only given
      validation-...
      manifest.json       the scheme (dtype, vocabulary, end and start ids), and per split: counts (also for each source and
                          each file), files and the checksums of their four parts

numpy opens each of them with one line. The shards are length-free: rows of any length are cut when they are read.

A document is closed by the end-of-text id unless the recipe says otherwise (`tokenizer.eos`), and opened by the start id when
it says so (`tokenizer.bos`). The start id is an input only, nothing predicts it (reading.py, `targets`).

The manifest carries a checksum of its own bytes, taken with zeros in the checksum's place, so a flipped byte in it is found
when the folder is opened, as one in the other files is by `verify`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash

from jielong.errors import ShardError, TokenizerError
from jielong.runs import write_bytes
from jielong.tokenizer.config import UINT16_IDS

FORMAT = 3
PARTS = ("bin", "idx", "bytes", "src")
MASK = "use"  # the part of shards with a mask
COUNTED = ("documents", "tokens", "bytes", "chars")
NO_SUM = "0" * 32
AGAIN = "make the shards again: jielong tokenizer RECIPE --fresh"


@dataclass(frozen=True)
class Scheme:
    """How documents become tokens on disk. Raises TokenizerError for a dtype that can not hold every id."""

    vocab_size: int  # ids are below it
    end_id: int
    start_id: int | None = None  # stands before each document's tokens; None: nothing does
    closes: bool = True  # whether end_id stands behind each document's tokens
    dtype: str = "auto"  # auto, uint16 or uint32; auto: the narrower one that holds every id
    masked: bool = False  # whether it is written of each token if it is learned (conversations: answers are)

    def __post_init__(self) -> None:
        assert 0 <= self.end_id < self.vocab_size and (self.start_id is None or 0 <= self.start_id < self.vocab_size)
        if self.dtype == "uint16" and self.vocab_size > UINT16_IDS:
            raise TokenizerError(
                f"tokenizer.dtype: uint16 does not hold every id of the vocabulary, got {self.vocab_size:,} ids; at most "
                f"{UINT16_IDS:,}; set it to auto or uint32, or take a smaller vocabulary"
            )
        narrow = "uint16" if self.vocab_size <= UINT16_IDS else "uint32"
        object.__setattr__(self, "dtype", narrow if self.dtype == "auto" else self.dtype)

    @property
    def id_type(self) -> np.dtype[Any]:
        """The little-endian type of an id."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def parts(self) -> tuple[str, ...]:
        """The files of a shard, by their endings."""
        return (*PARTS, MASK) if self.masked else PARTS

    @property
    def around(self) -> int:
        """Tokens that stand around each document's own."""
        return (self.start_id is not None) + self.closes

    @property
    def row_start(self) -> int:
        """The input before a document's first predicted token: the start id, or else the end of the document before it."""
        return self.end_id if self.start_id is None else self.start_id


def write_manifest(folder: Path, scheme: Scheme, splits: dict[str, dict[str, Any]]) -> None:
    """The shards folder's manifest.json; written last, it makes the folder readable. `splits`: summaries of writers."""
    value = {
        "format": FORMAT,
        "xxh3_128": NO_SUM,
        "dtype": scheme.dtype,
        "vocab_size": scheme.vocab_size,
        "end_of_text_id": scheme.end_id,
        "start_id": scheme.start_id,
        "ends_documents": scheme.closes,
        **({"masked": True} if scheme.masked else {}),
        "splits": splits,
    }
    data = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY) + b"\n"
    write_bytes(folder / "manifest.json", data.replace(NO_SUM.encode(), xxhash.xxh3_128_hexdigest(data).encode(), 1))


def read_manifest(folder: Path) -> tuple[Scheme, dict[str, dict[str, Any]]]:
    """Scheme and splits of a shards folder. Raises ShardError for one that is missing, damaged or of another format."""
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
        value = orjson.loads(data)
        found = value["format"]
        if found == FORMAT:
            given = str(value["xxh3_128"])
            if xxhash.xxh3_128_hexdigest(data.replace(given.encode(), NO_SUM.encode(), 1)) != given:
                raise ShardError(f"{path}: damaged, its checksum differs from its content's; {AGAIN}")
            start = value["start_id"]
            scheme = Scheme(
                value["vocab_size"],
                value["end_of_text_id"],
                start,
                value["ends_documents"],
                value["dtype"],
                bool(value.get("masked", False)),
            )
            return scheme, dict(value["splits"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{folder}: not a readable shards folder ({error!r}); {AGAIN}") from None
    raise ShardError(f"{folder}: shards of another format, got {found}; this version reads {FORMAT}; {AGAIN}")


def is_shards(folder: Path) -> bool:
    """Whether a folder looks like one of shards, readable or not."""
    return (folder / "manifest.json").is_file() and any(folder.glob("*-[0-9]*.idx"))
