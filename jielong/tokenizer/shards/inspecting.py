"""What lies in a shards folder, for people: counts, one document or one row as text, ids beside their pieces; and the check.

Plain data in, plain data out; jielong/show.py makes text of it. Rows are those of `PackedRows`: what a model is to predict, in
stored order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jielong.errors import InputError
from jielong.runs import list_runs
from jielong.tokenizer.folder import TokenizerFolder, open_folder, show_bytes
from jielong.tokenizer.shards.manifest import COUNTED, is_shards, read_manifest
from jielong.tokenizer.shards.reading import Shards


def find_shards(target: str, runs_dir: Path) -> tuple[Path, Path | None]:
    """The shards folder that a run's name or a folder means, and the folder of its tokenizer where that lies beside it.

    Raises InputError saying where it was looked for.
    """
    path = Path(target).expanduser()
    for folder in (path, path / "shards", path / "tokenizer" / "shards", runs_dir / target / "tokenizer" / "shards"):
        if is_shards(folder):
            tokenizer = folder.parent if (folder.parent / "tokenizer.json").is_file() else None
            return folder, tokenizer
    runs = [run.name for run in list_runs(runs_dir) if is_shards(run.stage("tokenizer") / "shards")]
    known = f"runs with shards in {runs_dir}: {', '.join(runs)}" if runs else f"no run in {runs_dir} has shards yet"
    raise InputError(f"RUN: neither a run with shards nor a shards folder, got {target!r}; {known}; give one")


def inspect(
    target: str,
    runs_dir: Path,
    split: str = "train",
    row: int | None = None,
    length: int = 512,
    document: int | None = None,
    tokenizer: Path | None = None,
) -> dict[str, Any]:
    """`describe`, and under `parts` the document or row that is asked for, with its text where a tokenizer is known.

    Raises InputError for a number that there is not, and for a row and a document at once.
    """
    if row is not None and document is not None:
        raise InputError("--row: given together with --document; show one of them at a time")
    folder, beside = find_shards(target, runs_dir)
    found = describe(folder)
    if split not in found["splits"]:
        raise InputError(
            f"--split: no split {split!r} in {folder}; it has {', '.join(found['splits'])}; name one of them"
        )
    if row is None and document is None:
        return found
    shards, place = Shards(folder, split), tokenizer or beside
    opened = None if place is None else open_folder(place)
    if opened is not None and opened.size != shards.vocab_size:
        raise InputError(
            f"--tokenizer: not the one of these shards, got {opened.size:,} ids; they were written with "
            f"{shards.vocab_size:,}; give that one"
        )
    if document is not None:
        return found | {"split": split, "parts": show_document(shards, document, opened)}
    assert row is not None
    return found | {"split": split, "parts": show_row(shards, row, length, opened)}


def describe(folder: Path) -> dict[str, Any]:
    """Scheme, counts, sources and files of a shards folder. Raises ShardError for one that can not be opened."""
    scheme, splits = read_manifest(folder)
    rows = {}
    for split, entry in splits.items():
        Shards(folder, split)  # sizes
        rows[split] = {key: entry[key] for key in COUNTED} | {
            "bytes_on_disk": sum((folder / f"{row['name']}.{part}").stat().st_size for row in entry["files"] for part in scheme.parts),
            "by_source": entry["by_source"],
            "files": entry["files"],
        }  # fmt: skip
    return {
        "folder": str(folder),
        "dtype": scheme.dtype,
        "vocab_size": scheme.vocab_size,
        "end_of_text_id": scheme.end_id,
        "start_id": scheme.start_id,
        "ends_documents": scheme.closes,
        "splits": rows,
    }


def verify_all(target: str, runs_dir: Path) -> dict[str, Any]:
    """Read every byte of every split; returns `describe`. Raises ShardError naming the first file that is damaged."""
    folder, _ = find_shards(target, runs_dir)
    described = describe(folder) | {"verified": True}
    for split in described["splits"]:
        Shards(folder, split).verify()
    return described


def show_document(shards: Shards, number: int, tokenizer: TokenizerFolder | None) -> list[dict[str, Any]]:
    """One document, as a list of one part. Raises InputError for a number that there is not."""
    if not 0 <= number < shards.documents:
        raise InputError(f"--document: no such document, got {number}; {_there_are(shards.documents)}")
    return [_part(shards, number, 0, len(shards.document(number)), tokenizer)]


def show_row(shards: Shards, number: int, length: int, tokenizer: TokenizerFolder | None) -> list[dict[str, Any]]:
    """The parts of documents that row `number` of `length` tokens holds. Raises InputError for a row that there is not."""
    rows = -(-shards.target_tokens // length)
    if not 0 <= number < rows:
        raise InputError(f"--row: no such row of {length} tokens, got {number}; {_there_are(rows)}")
    document, offset = shards.locate(number * length)
    left, parts = length, list[dict[str, Any]]()
    while left and document < shards.documents:
        count = min(left, len(shards.targets(document)) - offset)
        given = len(shards.document(document)) - len(shards.targets(document))  # a stored start id, which is no target
        if count:
            parts.append(_part(shards, document, offset + given, offset + given + count, tokenizer))
        left, document, offset = left - count, document + 1, 0
    return parts


def _there_are(count: int) -> str:
    return f"they are numbered from 0 to {count - 1:,}" if count else "there is none"


def _part(shards: Shards, number: int, start: int, end: int, tokenizer: TokenizerFolder | None) -> dict[str, Any]:
    """Tokens from `start` up to `end` of a stored document."""
    document = shards.document(number)
    ids = document[start:end].astype(np.int64).tolist()
    found = {
        "document": number,
        "source": shards.source_of(number),
        "from_token": start,
        "to_token": end,
        "document_tokens": len(document),
        "ids": ids,
    }
    if tokenizer is not None:
        found |= {"text": tokenizer.decode(ids), "pieces": [piece(tokenizer, number) for number in ids]}
    return found


def piece(tokenizer: TokenizerFolder, number: int) -> str:
    """What one id stands for, for people; one that is no whole character shows its bytes as <E4><B8>."""
    text = str(tokenizer.backend.decode([number], skip_special_tokens=False))
    return show_bytes(str(tokenizer.backend.id_to_token(number))) if "\ufffd" in text else text
