"""The end of the last pass: a chunk's documents and rejects in the formats that leave the stage, and what the report counts.

The split is a hash of the text with the run's seed, so a document stays on its side when sources are added, reordered or
read again, and two copies of a text do not face each other across the split (but in a corpus so small that one side stays
empty: one document is moved there).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from jielong.data.annotating import LEAVES, annotator
from jielong.data.augmenting import Augmenter
from jielong.data.compiled import kernel
from jielong.data.deduplicating.fingerprints import unit_hashes
from jielong.data.documents import DOCUMENT_SCHEMA, LEVEL, REJECT_SCHEMA, text_id
from jielong.data.measuring.balance import Counter as BalanceCounter
from jielong.data.measuring.columns import COLUMNS
from jielong.data.pipeline.chunks import (
    Reject,
    chunk_folder,
    column_array,
    pa,
    read_parquet,
    string_array,
    text_array,
    write_table,
)
from jielong.data.pipeline.docs import Docs
from jielong.data.pipeline.recorder import REPEATED, Recorder, histogram
from jielong.data.steps import Annotate, Augment

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
    data, offsets = docs.encoded()
    encoded = [data.data[start:end] for start, end in pairwise(offsets.tolist())]
    splits = [xxhash.xxh3_64_intdigest(data, setting.seed) for data in encoded]
    table = _annotated(_documents(docs, encoded, setting), docs, chars, setting, recorder)
    thresholds = [round(fraction * 2**64) for fraction in setting.validation_fractions]
    sources = docs.places["source"].tolist()
    held = np.array([split < thresholds[source] for split, source in zip(splits, sources, strict=True)], np.bool_)
    rejects = [_rejects_of_pass(Path(work), task.number, setting) for work in setting.folders[: task.at]]
    rejects.append(_rejects(recorder.rejects, setting))
    write_table(folder / "rejects.parquet", pa.concat_tables(rejects), LEVEL, ("source", "stage", "rule", "file"))
    recorder.leave(HOLD_OUT, docs.places["source"], chars)
    copies = _copies(docs, ~held, setting, recorder)
    train = table.filter(column_array(~held))
    if copies:
        train = pa.concat_tables([train, _table_of_copies(copies, setting, table.schema)])
    write_table(folder / "train.parquet", train, LEVEL, ("source", *LEAVES))
    write_table(folder / "validation.parquet", table.filter(column_array(held)), LEVEL, ("source", *LEAVES))
    found = {"final": _figures(docs, encoded, splits, held, setting, copies)}
    characters = np.zeros(CODE_POINTS, np.int32)
    found["final"]["repeated"] = repeated_lines(docs, characters)
    np.save(folder / "characters.npy", counted(characters), allow_pickle=False)
    if setting.balance:
        found["balance"] = BalanceCounter(setting.balance).count(data, offsets, docs.places["source"])
    return found


@dataclass(frozen=True)
class Copy:
    """A changed copy of a training document."""

    text: str
    place: tuple[int, int, int, int]  # of the document that it was made from
    method: str
    number: int


def _copies(docs: Docs, train: NDArray[np.bool_], setting: Setting, recorder: Recorder) -> list[Copy]:
    """What the augment steps make of the training documents, counted as documents that each step adds."""
    found: list[Copy] = []
    sources, chars = docs.places["source"], int(docs.columns["text_len"].sum())
    rows, places = np.flatnonzero(train).tolist(), docs.places.tolist()
    for step in setting.plan.copying:
        label, augmenter = setting.plan.labels[step], _augmenter(setting.plan.steps[step], setting.seed)
        recorder.enter(label, sources, chars)
        works = [setting.plan.applies(step, name) for name in setting.sources]
        made: list[Copy] = []
        for row in rows:
            place = places[row]
            texts = augmenter(docs.text(row)) if works[place[0]] else []
            if texts:
                recorder.copied(label, augmenter.kind, docs.text(row), texts, docs.places[row])
            made += [Copy(text, place, augmenter.kind, number) for number, text in enumerate(texts, 1)]
        sources = np.concatenate([sources, np.array([copy.place[0] for copy in made], sources.dtype)])
        chars += sum(len(copy.text) for copy in made)
        recorder.leave(label, sources, chars)
        found += made
    return found


@lru_cache
def _augmenter(step: Augment, seed: int) -> Augmenter:
    return Augmenter(step, seed)


def _table_of_copies(copies: list[Copy], setting: Setting, schema: Any) -> Any:
    """Copies as documents: their meta says what made them, and their columns are empty, since nothing measured them."""
    meta = []
    for copy in copies:
        _, file, line, part = copy.place
        value: dict[str, Any] = {"file": setting.files[file][1], "line": line} | ({"part": part} if part else {})
        meta.append(orjson.dumps(value | {"augmented": copy.method, "copy": copy.number}).decode())
    columns = {
        "id": [text_id(copy.text.encode("utf-8")) for copy in copies],
        "text": [copy.text for copy in copies],
        "source": [setting.sources[copy.place[0]] for copy in copies],
        "meta": meta,
    }
    rest = {field.name: pa.nulls(len(copies), field.type) for field in schema if field.name not in columns}
    return pa.table({name: string_array(values) for name, values in columns.items()} | rest, schema=schema)


def _documents(docs: Docs, encoded: list[memoryview], setting: Setting) -> Any:
    places = docs.places.tolist()
    files = {file: orjson.dumps(setting.files[file][1]).decode() for file in np.unique(docs.places["file"]).tolist()}
    meta = [  # as orjson writes it, which takes ten times as long
        f'{{"file":{files[file]},"line":{line},"part":{part}}}' if part else f'{{"file":{files[file]},"line":{line}}}'
        for _, file, line, part in places
    ]
    columns = {
        "id": string_array([text_id(data) for data in encoded]),
        "text": text_array(docs),
        "source": string_array([setting.sources[place[0]] for place in places]),
        "meta": string_array(meta),
    }
    assert list(columns) == DOCUMENT_SCHEMA.names
    measured = {name: docs.columns[name] for name in COLUMNS if name in docs.columns}
    return pa.table(columns | {name: column_array(values) for name, values in measured.items()})


def _annotated(table: Any, docs: Docs, chars: int, setting: Setting, recorder: Recorder) -> Any:
    """The documents with the columns of the step annotate, null where it does not work on a source."""
    number = setting.plan.annotating
    if number is None:
        return table
    label, step, sources = setting.plan.labels[number], setting.plan.steps[number], docs.places["source"]
    assert isinstance(step, Annotate)
    recorder.enter(label, sources, chars)
    works = [setting.plan.applies(number, name) for name in setting.sources]
    texts = (docs.text(row) if works[source] else None for row, source in enumerate(sources.tolist()))
    for name, column in annotator(step).columns(texts).items():
        table = table.append_column(name, column)
    recorder.leave(label, sources, chars)
    return table


def _rejects(rejects: list[Reject], setting: Setting) -> Any:
    rows: dict[str, list[Any]] = {name: [] for name in REJECT_SCHEMA.names}
    for row in rejects:
        source, file, line, part = row.place.tolist()
        _add(rows, row.text, (source, file, line, part), (row.step, row.rule, row.detail), setting)
    return _table_of_rejects(rows)


def _rejects_of_pass(work: Path, number: int, setting: Setting) -> Any:
    rows: dict[str, list[Any]] = {name: [] for name in REJECT_SCHEMA.names}
    for row in read_parquet(chunk_folder(work, number) / "rejects.parquet").to_pylist():
        place = (row["source"], row["file"], row["line"], row["part"])
        _add(rows, row["text"], place, (row["step"], row["rule"], row["detail"]), setting)
    return _table_of_rejects(rows)


def _table_of_rejects(rows: dict[str, list[Any]]) -> Any:
    line = column_array(np.array(rows["line"], np.int64))
    columns = {name: line if name == "line" else string_array(values) for name, values in rows.items()}
    return pa.table(columns, schema=REJECT_SCHEMA)


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


def _figures(
    docs: Docs, encoded: list[memoryview], splits: list[int], held: Any, setting: Setting, copies: list[Copy]
) -> dict[str, Any]:
    """Counts for the manifest and the report."""
    sources = docs.places["source"]
    chars = docs.columns["text_len"].astype(np.int64)
    sizes = np.array([len(data) for data in encoded], np.int64)
    count = len(setting.sources)
    copied = np.array([[copy.place[0], len(copy.text), len(copy.text.encode("utf-8"))] for copy in copies], np.int64)
    origins = np.concatenate([sources, copied[:, 0] if copies else []]).astype(np.int64)
    every_chars = np.concatenate([chars, copied[:, 1] if copies else []])
    every_size = np.concatenate([sizes, copied[:, 2] if copies else []])
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
        "train": int((~held).sum()) + len(copies),
        "validation": int(held.sum()),
        "extremes": extremes,
        "kept": dict(zip(setting.sources, np.bincount(origins, minlength=count).tolist(), strict=True)),
        "chars": dict(zip(setting.sources, np.bincount(origins, every_chars, count).astype(int).tolist(), strict=True)),
        "own_chars": dict(zip(setting.sources, np.bincount(sources, chars, count).astype(int).tolist(), strict=True)),
        "bytes": dict(zip(setting.sources, np.bincount(origins, every_size, count).astype(int).tolist(), strict=True)),
        "languages": by_language,
        "columns": {
            name: histogram(name, values) for name, values in docs.columns.items() if COLUMNS[name].kind != "text"
        },
        "lengths": {
            name: histogram("text_len", chars[mask]) for name, mask in (("train", ~held), ("validation", held))
        },
        "preview": [[setting.sources[int(sources[row])], docs.opening(row, 200)] for row in range(min(3, len(docs)))],
    }


def repeated_lines(docs: Docs, characters: NDArray[np.int32]) -> list[tuple[str, int]]:
    """The lines that stand in most documents of a chunk, each with their number; on the way `characters` are counted.

    characters: of each code point, how often it occurs is added to it.
    """
    hashes, starts = unit_hashes(*docs.encoded(), MIN_REPEATED_HAN, np.zeros(len(docs), np.int64), characters)
    size = 1 << int(2 * np.count_nonzero(hashes) + 1).bit_length()
    places, counts = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    _count_lines(hashes, starts, places, counts)
    places, counts = places[counts > 1], counts[counts > 1]
    often = np.lexsort((hashes[places], -counts))[:REPEATED]
    rows = np.searchsorted(starts, places[often], side="right") - 1
    found = []
    for row, place, count in zip(rows.tolist(), places[often].tolist(), counts[often].tolist(), strict=True):
        line = str(docs.utf8(row).split(b"\n")[place - int(starts[row])], "utf-8").strip()
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


def counted(characters: NDArray[np.int32]) -> NDArray[np.int64]:
    """The code points that occur and how often, [distinct, 2], of the counts of all."""
    present = np.flatnonzero(characters)
    return np.stack([present, characters[present].astype(np.int64)], axis=1)
