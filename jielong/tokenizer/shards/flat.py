"""The flat `.bin` of other projects: token ids end to end, without header or index, documents closed by one id.

nanoGPT, minimind, baby-llama2-chinese and many others write such files (uint16, rarely uint32). Nothing in them says which type
and which tokenizer: both have to be told, and so has the id that closes documents (to guess it by frequency would take the
comma for it). `open_flat` reads one as it is: documents are found in one pass, 8 bytes of memory a document, and the text's size is not
known. `import_flat` makes a shards folder of it, with checksums, index and the text's bytes, counted from the decoded text
(bytes that are no UTF-8 count as the U+FFFD that stands for them, 3 bytes).

What stands behind the last end id is a document too; the import closes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jielong.errors import ShardError
from jielong.progress import Progress
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.manifest import COUNTED, Scheme, is_shards, read_manifest, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import Documents, ShardWriter

LOOK = 1 << 24  # ids looked at in one go
BATCH_TOKENS = 1 << 20  # decoded in one go
SOURCE = "text"
SPLITS = ("train", "validation")


class FlatShards(Shards):
    """A flat file, read like a split of shards. Sizes of texts are not known: `text_bytes` and `characters` are 0."""

    def __init__(self, path: Path, dtype: str, end_id: int, vocab_size: int) -> None:
        scheme = Scheme(vocab_size, end_id, dtype=dtype)
        size, width = _size(path), scheme.id_type.itemsize
        if size == 0 or size % width:
            raise ShardError(
                f"{path}: not a file of {dtype} ids, got {size} bytes; must be a multiple of {width}, more than 0; "
                "correct --dtype or get the file again"
            )
        self.path = path
        tokens = np.memmap(path, scheme.id_type, mode="r")
        offsets = _ends(path, tokens, end_id, vocab_size)
        counts = dict(zip(COUNTED, (len(offsets) - 1, len(tokens), 0, 0), strict=True))
        self.files = []
        self._hold(path.parent, path.name, scheme, {SOURCE: counts}, [tokens], [offsets])
        self._lengths, self._origins = [], [np.zeros(len(offsets) - 1, np.uint16)]

    def __reduce__(self) -> tuple[Any, ...]:
        return FlatShards, (self.path, self.scheme.dtype, self.end_id, self.vocab_size)

    def document_bytes(self, number: int) -> int:
        """Not known: raises ShardError."""
        raise ShardError(
            f"{self.path}: a flat file does not say how long its texts are; make shards of it: jielong shards import"
        )


def open_flat(path: Path, dtype: str, end_id: int, vocab_size: int) -> FlatShards:
    """Open a headerless file of little-endian ids. Raises ShardError for one that can not be such a file."""
    return FlatShards(path, dtype, end_id, vocab_size)


def _size(path: Path) -> int:
    if not path.is_file():
        raise ShardError(f"FILE: no such file, got {path}; give a flat file of token ids")
    return path.stat().st_size


def _ends(path: Path, tokens: npt.NDArray[Any], end_id: int, vocab_size: int) -> npt.NDArray[np.int64]:
    """Where each document starts, and where the last one ends."""
    found = [np.zeros(1, np.int64)]
    with Progress("looking for documents", tokens.nbytes, "B") as bar:
        for start in range(0, len(tokens), LOOK):
            part = tokens[start : start + LOOK]
            if int(part.max()) >= vocab_size:
                at = start + int(np.argmax(part >= vocab_size))
                raise ShardError(
                    f"{path}: an id outside the vocabulary, got {int(tokens[at])} at place {at:,}; must be below "
                    f"{vocab_size:,}; correct --dtype or give the tokenizer that the file was made with"
                )
            found.append(np.flatnonzero(part == end_id) + start + 1)
            bar.advance(part.nbytes)
    starts = np.concatenate(found)
    if len(starts) == 1:
        raise ShardError(f"{path}: no document ends, got not one id {end_id} in {len(tokens):,}; correct --end-id")
    return starts if starts[-1] == len(tokens) else np.append(starts, len(tokens))


def import_flat(
    path: Path, dtype: str, end_id: int | None, tokenizer: TokenizerFolder, out: Path, split: str, shard_tokens: int
) -> dict[str, Any]:
    """Make a split of a shards folder from a flat file; returns its summary. end_id: None for the tokenizer's.

    `out` may hold other splits of the same scheme; they stay. Raises ShardError for one that holds this split, or other shards.
    """
    if dtype not in ("uint16", "uint32"):
        raise ShardError(f"--dtype: not a type of ids, got {dtype!r}; it is uint16 or uint32; correct it")
    if split not in SPLITS:
        raise ShardError(f"--split: not a split, got {split!r}; it is {' or '.join(SPLITS)}; correct it")
    end = tokenizer.end_id if end_id is None else end_id
    if not 0 <= end < tokenizer.size:
        raise ShardError(
            f"--end-id: not an id of the tokenizer, got {end}; must be below {tokenizer.size:,}; correct it"
        )
    flat = open_flat(path, dtype, end, tokenizer.size)
    others: dict[str, dict[str, Any]] = {}
    scheme = Scheme(tokenizer.size, end, dtype=dtype)
    if is_shards(out):
        there, others = read_manifest(out)
        if there != scheme or split in others:
            why = (
                f"they already have the split {split!r}"
                if split in others
                else "they are of another tokenizer or dtype"
            )
            raise ShardError(f"--out: shards that can not be added to, got {out}; {why}; give another folder")
    elif out.exists() and set(out.iterdir()) != set(out.glob(f"{split}-[0-9]*.*")):
        raise ShardError(f"--out: neither empty nor a shards folder, got {out}; give another folder")
    for left in out.glob(f"{split}-*.*"):  # of an import that was broken off: the manifest does not name them
        left.unlink()
    with (
        Progress(f"importing {path.name}", flat.tokens, "tokens") as bar,
        ShardWriter(out, split, scheme, shard_tokens, (SOURCE,)) as writer,
    ):
        for part in _batches(flat, tokenizer):
            writer.append(part)
            bar.advance(len(part.tokens))
    summary = writer.summary()
    write_manifest(out, scheme, others | {split: summary})
    return summary


def _batches(flat: FlatShards, tokenizer: TokenizerFolder) -> Iterator[Documents]:
    """The documents of a flat file with what is known of their texts; the last one closed."""
    [lengths] = flat.lengths()
    numbers = np.cumsum(lengths) // BATCH_TOKENS
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(lengths)]
    for start, end in itertools.pairwise(starts):
        rows = [flat.document(number).tolist() for number in range(start, end)]
        if rows[-1][-1] != flat.end_id:
            rows[-1].append(flat.end_id)
        texts = tokenizer.backend.decode_batch([row[:-1] for row in rows], skip_special_tokens=True)
        sizes = np.array([len(text.encode("utf-8")) for text in texts], np.int64)
        characters = np.array([len(text) for text in texts], np.int64)
        tokens = np.array(list(itertools.chain.from_iterable(rows)), flat.scheme.id_type)
        counts = np.array([len(row) for row in rows], np.int64)
        yield Documents(tokens, counts, sizes, characters, np.zeros(len(rows), np.int64))
