"""Documents of the data stage -> shards: encoded on all cores, put together in order, taken up again after a kill.

    chunks (chunks.py) -> workers encode them, in any order (workers.py) -> this process appends them in order (writing.py)

Everything lies in `tokenizer.work/` of the run folder until it is whole, in a folder named by a hash of all that determines the result
(tokenizer, scheme, shard size, documents). There, a shard is done when its `.json`, its entry of the manifest, is there; a chunk
is deleted when the shards that hold its documents are done. So a kill costs at most the chunks that were at work, and the disk
holds the tokens once, and the chunks of one shard. The order of chunks and the cut into shards depend on the documents
alone: any number of processes, killed or not, writes the same bytes.

At the end the files get a second name (a hard link) in the stage's folder, and the work folder goes when the stage is published.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from jielong.errors import FULL
from jielong.progress import Progress, human_count, say
from jielong.runs import hash_file, hash_json, sync_folder, write_json
from jielong.tokenizer.shards.chunks import CHUNK_BYTES, Chunk, chunk_folder, chunks_of, is_there, read_chunk
from jielong.tokenizer.shards.manifest import PARTS, write_manifest
from jielong.tokenizer.shards.workers import Crew, Setting, Task
from jielong.tokenizer.shards.writing import ShardWriter

SPLITS = ("train", "validation")


def make_shards(
    setting: Setting, documents: Path, made_from: str, work: Path, out: Path, shard_tokens: int, processes: int | None
) -> dict[str, dict[str, Any]]:
    """Write shards of both splits into `out`, which must not exist; returns the summary of each split.

    made_from: the fingerprint of what made the documents. work: the folder that keeps what is done. processes: None for one
    a core, or one where the text is too little to be worth more.
    """
    chunks = {split: chunks_of(documents, split) for split in SPLITS}
    tokenizer = {file.name: hash_file(file) for file in sorted(setting.tokenizer.iterdir()) if file.is_file()}
    scheme = [setting.scheme.vocab_size, setting.scheme.end_id, setting.scheme.start_id, setting.scheme.closes]
    rows = [[chunk.file.name, *chunk.groups, chunk.documents, chunk.size] for part in chunks.values() for chunk in part]
    name = hash_json([tokenizer, scheme, setting.scheme.dtype, setting.sources, made_from, rows, shard_tokens])[:16]
    place = work / f"shards-{name}"
    for old in (*work.glob("shards-*"), *work.glob(".*.tmp")):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)
    few = sum(chunk.size for part in chunks.values() for chunk in part) < 2 * CHUNK_BYTES
    count = min(processes or (1 if few else os.cpu_count() or 1), max(len(part) for part in chunks.values()))
    with Crew(setting, count) as crew:
        for split in SPLITS:
            _make_split(crew, chunks[split], place / split, split, shard_tokens)
    out.mkdir(parents=True)
    found = {split: _writer(crew.setting, place / split, split, shard_tokens).summary() for split in SPLITS}
    for split in SPLITS:
        for entry in found[split]["files"]:
            for part in PARTS:
                _second_name(place / split / f"{entry['name']}.{part}", out / f"{entry['name']}.{part}")
    write_manifest(out, setting.scheme, found)
    return found


def _make_split(crew: Crew, chunks: list[Chunk], place: Path, split: str, shard_tokens: int) -> None:
    """Bring the shards of a split to their end."""
    place.mkdir(parents=True, exist_ok=True)
    _tidy(place, split)
    pending: dict[int, Chunk] = {}  # appended, but in a shard that is not whole yet: the last document of each

    def closed(entry: dict[str, Any]) -> None:
        sync_folder(place)
        write_json(place / f"{entry['name']}.json", entry)
        safe = sum(row["documents"] for row in writer.files)
        for last in [last for last in pending if last <= safe]:
            shutil.rmtree(chunk_folder(place, pending.pop(last).number))

    writer = _writer(crew.setting, place, split, shard_tokens, closed)
    passed = writer.documents  # in shards that are done
    total = sum(chunk.size for chunk in chunks)
    with Progress(f"tokenizer: {split} shards", total, "B") as bar, writer:
        if passed:
            say(f"tokenizer: {len(writer.files)} {split} shards were done before; going on behind them")
        for chunk, end in _in_order(crew, chunks, place, passed, bar):
            pending[end] = chunk
            given, first = read_chunk(chunk, place, crew.setting.scheme), end - chunk.documents
            writer.append(given.part(max(0, passed - first), chunk.documents))
            bar.note(f"{human_count(writer.tokens)} tokens")
    assert writer.documents == sum(chunk.documents for chunk in chunks), "documents are missing in the shards"
    for chunk in pending.values():
        shutil.rmtree(chunk_folder(place, chunk.number), ignore_errors=True)


def _in_order(crew: Crew, chunks: list[Chunk], place: Path, passed: int, bar: Progress) -> Iterator[tuple[Chunk, int]]:
    """The chunks that hold documents behind the first `passed`, in order, each when it is there, and where it ends."""
    ends = list(itertools.accumulate(chunk.documents for chunk in chunks))
    for chunk in (chunk for chunk, end in zip(chunks, ends, strict=True) if end <= passed):
        shutil.rmtree(chunk_folder(place, chunk.number), ignore_errors=True)
    there = {chunk.number for chunk, end in zip(chunks, ends, strict=True) if end <= passed or is_there(chunk, place)}
    bar.start_at(sum(chunk.size for chunk in chunks if chunk.number in there))
    done = crew.do(Task(chunk, place) for chunk in chunks if chunk.number not in there)
    for chunk, end in zip(chunks, ends, strict=True):
        if end <= passed:
            continue
        while chunk.number not in there:
            task = next(done)
            there.add(task.chunk.number)
            bar.advance(task.chunk.size)
        yield chunk, end


def _writer(setting: Setting, place: Path, split: str, shard_tokens: int, on_close: Any = None) -> ShardWriter:
    """A writer behind the shards that are done."""
    done = [orjson.loads(path.read_bytes()) for path in sorted(place.glob(f"{split}-*.json"))]
    assert [entry["name"] for entry in done] == [f"{split}-{number:05d}" for number in range(len(done))]
    more = {} if on_close is None else {"on_close": on_close}
    return ShardWriter(place, split, setting.scheme, shard_tokens, setting.sources, done, **more)


def _tidy(place: Path, split: str) -> None:
    """Remove what a kill left half done: scratch folders, and files of a shard that was open."""
    for scratch in place.glob(".*.tmp"):
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            scratch.unlink()
    for path in place.glob(f"{split}-*"):
        if not path.with_suffix(".json").is_file():
            path.unlink()


def _second_name(path: Path, target: Path) -> None:
    """A hard link, or a copy where the file system knows none."""
    try:
        os.link(path, target)
    except OSError as error:
        if error.errno in FULL:
            raise
        shutil.copyfile(path, target)


def clean_up(work: Path) -> None:
    """When the stage is published: nothing of the work folder is needed any more."""
    shutil.rmtree(work, ignore_errors=True)
