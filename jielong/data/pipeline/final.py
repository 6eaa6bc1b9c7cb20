"""The end of the last pass: a chunk's documents and rejects in the formats that leave the stage, and what the report counts.

The split is a hash of the text with the run's seed, so a document stays on its side when sources are added, reordered or
read again, and two copies of a text do not face each other across the split (but in a corpus so small that one side stays
empty: one document is moved there).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import xxhash

from jielong.data.cleaning.scan import Bytes
from jielong.data.compiled import kernel
from jielong.data.deduplicating.fingerprints import unit_hashes
from jielong.data.documents import DOCUMENT_SCHEMA, LEVEL, REJECT_SCHEMA, text_id
from jielong.data.measuring.columns import COLUMNS
from jielong.data.pipeline.chunks import Reject, chunk_folder, column_array, pa, read_parquet, text_array, write_table
from jielong.data.pipeline.docs import Docs
from jielong.data.pipeline.recorder import REPEATED, Recorder, histogram

if TYPE_CHECKING:
    from jielong.data.pipeline.passes import Setting, Task

HOLD_OUT = "hold_out"  # the last step: train or validation
MIN_REPEATED_HAN = 6  # characters of a line that counts as a repeated fragment
MAX_REPEATED_CHARS = 400
CODE_POINTS = 0x110000


def write_final(folder: Path, docs: Docs, task: Task, setting: Setting, recorder: Recorder) -> dict[str, Any]:
    """train.parquet, validation.parquet, rejects.parquet and characters.npy of a chunk; returns what is counted."""
    chars = int(docs.columns["text_len"].sum())
    recorder.enter(HOLD_OUT, docs.places["source"], chars)
    threshold = round(setting.validation_fraction * 2**64)
    data, offsets = docs.encoded()
    encoded = [data.data[start:end] for start, end in pairwise(offsets.tolist())]
    splits = [xxhash.xxh3_64_intdigest(data, setting.seed) for data in encoded]
    table = _documents(docs, encoded, setting)
    held = np.array([split < threshold for split in splits], np.bool_)
    for name, mask in (("train", ~held), ("validation", held)):
        write_table(folder / f"{name}.parquet", table.filter(pa.array(mask)), LEVEL, ("source",))
    rejects = [_rejects_of_pass(Path(work), task.number, setting) for work in setting.folders[: task.at]]
    rejects.append(_rejects(recorder.rejects, setting))
    write_table(folder / "rejects.parquet", pa.concat_tables(rejects), LEVEL, ("source", "stage", "rule", "file"))
    recorder.leave(HOLD_OUT, docs.places["source"], chars)
    np.save(folder / "characters.npy", count_characters(data), allow_pickle=False)
    return {"final": _figures(docs, encoded, splits, held, setting)}


def _documents(docs: Docs, encoded: list[memoryview], setting: Setting) -> Any:
    places = docs.places.tolist()
    meta = []
    for _, file, line, part in places:
        value: dict[str, Any] = {"file": setting.files[file][1], "line": line}
        meta.append(orjson.dumps(value | {"part": part} if part else value).decode())
    columns = {
        "id": pa.array([text_id(data) for data in encoded], pa.string()),
        "text": text_array(docs),
        "source": pa.array([setting.sources[place[0]] for place in places], pa.string()),
        "meta": pa.array(meta, pa.string()),
    }
    assert list(columns) == DOCUMENT_SCHEMA.names
    measured = {name: docs.columns[name] for name in COLUMNS if name in docs.columns}
    return pa.table(columns | {name: column_array(values) for name, values in measured.items()})


def _rejects(rejects: list[Reject], setting: Setting) -> Any:
    rows: dict[str, list[Any]] = {name: [] for name in REJECT_SCHEMA.names}
    for row in rejects:
        source, file, line, part = row.place.tolist()
        _add(rows, row.text, (source, file, line, part), (row.step, row.rule, row.detail), setting)
    return pa.table(rows, schema=REJECT_SCHEMA)


def _rejects_of_pass(work: Path, number: int, setting: Setting) -> Any:
    rows: dict[str, list[Any]] = {name: [] for name in REJECT_SCHEMA.names}
    for row in read_parquet(chunk_folder(work, number) / "rejects.parquet").to_pylist():
        place = (row["source"], row["file"], row["line"], row["part"])
        _add(rows, row["text"], place, (row["step"], row["rule"], row["detail"]), setting)
    return pa.table(rows, schema=REJECT_SCHEMA)


def _add(
    rows: dict[str, list[Any]], text: str, place: tuple[int, int, int, int], why: tuple[str, str, str], setting: Setting
) -> None:
    source, file, line, part = place
    shown = setting.files[file][1]
    value: dict[str, Any] = {"file": shown, "line": line}
    meta = orjson.dumps(value | {"part": part} if part else value).decode()
    values = (text_id(text.encode("utf-8")), text, setting.sources[source], meta, *why, shown, line)
    for name, item in zip(REJECT_SCHEMA.names, values, strict=True):
        rows[name].append(item)


def _figures(docs: Docs, encoded: list[memoryview], splits: list[int], held: Any, setting: Setting) -> dict[str, Any]:
    """Counts for the manifest and the report."""
    sources = docs.places["source"]
    chars = docs.columns["text_len"].astype(np.int64)
    sizes = np.array([len(data) for data in encoded], np.int64)
    count = len(setting.sources)
    languages = docs.columns.get("lang")
    by_language: dict[str, dict[str, int]] = {}
    if languages is not None:
        for source, language in zip(sources.tolist(), languages.tolist(), strict=True):
            row = by_language.setdefault(setting.sources[source], {})
            row[str(language)] = row.get(str(language), 0) + 1
    order = np.argsort(np.array(splits, np.uint64), kind="stable")
    extremes = {}  # the documents next to the border, for a corpus in which one split stays empty
    for name, rows in (("train", order[~held[order]][:1]), ("validation", order[held[order]][-1:])):
        if len(rows):
            extremes[name] = [splits[int(rows[0])], text_id(encoded[int(rows[0])])]
    return {
        "train": int((~held).sum()),
        "validation": int(held.sum()),
        "extremes": extremes,
        "kept": dict(zip(setting.sources, np.bincount(sources, minlength=count).tolist(), strict=True)),
        "chars": dict(zip(setting.sources, np.bincount(sources, chars, count).astype(int).tolist(), strict=True)),
        "bytes": dict(zip(setting.sources, np.bincount(sources, sizes, count).astype(int).tolist(), strict=True)),
        "languages": by_language,
        "columns": {
            name: histogram(name, values) for name, values in docs.columns.items() if COLUMNS[name].kind != "text"
        },
        "lengths": {
            name: histogram("text_len", chars[mask]) for name, mask in (("train", ~held), ("validation", held))
        },
        "repeated": repeated_lines(docs),
        "preview": [[setting.sources[int(sources[row])], docs.text(row)[:200]] for row in range(min(3, len(docs)))],
    }


def repeated_lines(docs: Docs) -> list[tuple[str, int]]:
    """The lines that stand in most documents of a chunk, each with their number."""
    hashes, starts = unit_hashes(*docs.encoded(), MIN_REPEATED_HAN, np.zeros(len(docs), np.int64))
    size = 1 << int(2 * np.count_nonzero(hashes) + 1).bit_length()
    places, counts = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    _count_lines(hashes, starts, places, counts)
    places, counts = places[counts > 1], counts[counts > 1]
    often = np.lexsort((hashes[places], -counts))[:REPEATED]
    rows = np.searchsorted(starts, places[often], side="right") - 1
    found = []
    for row, place, count in zip(rows.tolist(), places[often].tolist(), counts[often].tolist(), strict=True):
        line = docs.text(row).split("\n")[place - int(starts[row])].strip()
        found.append((line[:MAX_REPEATED_CHARS], count))
    return found


@kernel
def _count_lines(hashes, starts, places, counts):  # type: ignore[no-untyped-def]
    """Fill a hash table (a power of two of places): the first line of each hash, and the documents that have it."""
    last = np.full(len(places), -1, np.int64)  # the document that was counted last
    for doc in range(len(starts) - 1):
        for line in range(starts[doc], starts[doc + 1]):
            if hashes[line] == 0:
                continue
            at = np.int64(hashes[line] & np.uint64(len(places) - 1))
            while places[at] >= 0 and hashes[places[at]] != hashes[line]:
                at = (at + 1) & (len(places) - 1)
            if places[at] < 0:
                places[at] = line
            if last[at] != doc:
                counts[at] += 1
                last[at] = doc


def count_characters(data: Bytes) -> Any:
    """Code points of UTF-8 text and how often each occurs, [distinct, 2] int64."""
    counts = np.zeros(CODE_POINTS, np.int64)
    _count(data, counts)
    present = np.flatnonzero(counts)
    return np.stack([present, counts[present]], axis=1)


@kernel
def _count(data, counts):  # type: ignore[no-untyped-def]
    at = 0
    while at < len(data):
        byte = np.int64(data[at])
        if byte < 0x80:
            code, at = byte, at + 1
        elif byte < 0xE0:
            code, at = (byte & 0x1F) << 6 | np.int64(data[at + 1]) & 0x3F, at + 2
        elif byte < 0xF0:
            code = (byte & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | np.int64(data[at + 2]) & 0x3F
            at += 3
        else:
            code = (byte & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12
            code |= (np.int64(data[at + 2]) & 0x3F) << 6 | np.int64(data[at + 3]) & 0x3F
            at += 4
        counts[code] += 1
