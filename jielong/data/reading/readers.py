"""Raw files -> records, one at a time, and a reason for everything that is not one.

A reader never stops at a bad line and never drops one in silence: what can be used is a `Record`, what cannot is a
`BadRecord` with one of REASONS, the place and the raw text. The only things passed over are blank lines between
records. A file that breaks in the middle (a truncated download, say) gives every record before the break and then one
`broken_file`; the rest of the corpus goes on. Memory is bounded by the longest record (streams.MAX_RECORD_BYTES).

orjson parses; it also refuses what would break later steps: NaN, lone surrogates in escapes, absurd nesting.
"""

from __future__ import annotations

import codecs
import glob
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from jielong.data.config import Source
from jielong.data.reading import encodings, streams
from jielong.data.reading.arrays import iter_array
from jielong.data.reading.corpora import builtin_files, read_builtin
from jielong.data.reading.hubs import hub_files, is_hub
from jielong.data.reading.objects import Object, json_objects, objects_of
from jielong.data.reading.presets import PRESETS
from jielong.data.reading.records import (
    TEXT_FIELDS,
    BadRecord,
    Item,
    Record,
    absent,
    composed,
    find_field,
    judge,
    reject,
    too_big,
    undecodable,
)
from jielong.data.reading.records import shown as shown_path
from jielong.data.reading.streams import BrokenStreamError, Count, open_stream, read_lines, without_mark
from jielong.data.reading.tables import csv_rows, parquet_rows, read_csv, read_parquet
from jielong.errors import InputError
from jielong.storage import AnyFile, is_url, listing, shown, size_of

__all__ = ["BadRecord", "Item", "Object", "Record", "encoding_of", "expand", "kind_of", "read_file", "read_objects"]

KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "txt",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
PACKINGS = (".gz", ".zst")
DELIMITERS = {"csv": ",", "tsv": "\t"}
KNOWN_SUFFIXES = f"{' '.join(KINDS)}, the text kinds also with {' or '.join(PACKINGS)} after it"
ENDINGS = tuple(kind + packing for kind in KINDS for packing in ("", *PACKINGS) if kind != ".parquet" or not packing)
BUILTIN_PREFIX = "builtin:"
AUTO = "auto"
NOT_FOR_FILES = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "unicode-escape", "raw-unicode-escape")
MAX_ASCII_PIECES = 1 << 11  # 128 MiB without a character that tells encodings apart

WHOLE_FILE_BYTES = 1 << 20  # document = "auto": a txt file up to here is one document


# ------------------------------------------------------------------------------------------------------- finding


def kind_of(path: AnyFile) -> tuple[str, str] | None:
    """('jsonl', '.gz') and the like, by the suffixes; None for a file that is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKINGS else ""
    kind = KINDS.get(suffixes[-1]) if suffixes else None
    return None if kind is None or (kind == "parquet" and packing) else (kind, packing)


def expand(path: str, folder: Path) -> list[AnyFile]:
    """The files of a source, sorted: a file, a folder searched below, a glob (also **), builtin:NAME, the same behind a URL, or
    a dataset of a hub (hf:owner/name), which is fetched into the hub's cache.

    Relative paths start at `folder`. In folders and globs hidden files and files of other suffixes are passed over, and
    links to folders are not followed. Raises InputError when nothing is found or a named file is of an unknown kind.
    """
    if not path.strip():
        raise InputError("data.sources: an empty path was given; give a file, a folder, a glob or builtin:NAME")
    if path.startswith(BUILTIN_PREFIX):
        return list(builtin_files(path.removeprefix(BUILTIN_PREFIX)))
    if is_hub(path):
        return [file for file in hub_files(path, ENDINGS) if kind_of(file)]
    if is_url(path):
        return _remote(path)
    full = Path(os.path.normpath(folder.absolute() / Path(path).expanduser()))
    if full.is_file():
        if kind_of(full) is None:
            raise InputError(
                f"data.sources: unknown kind of file, got {full}; known: {KNOWN_SUFFIXES}; rename or convert"
            )
        return [full]
    if full.is_dir():
        found = _walk(full)
    elif glob.has_magic(path):
        if not Path(path).expanduser().is_absolute():  # root_dir, because the folder's own name may hold [ or *
            names = glob.glob(path, root_dir=folder.absolute(), recursive=True)  # noqa: PTH207 - Path.glob cannot
        else:
            names = glob.glob(str(Path(path).expanduser()), recursive=True)  # noqa: PTH207 - it finds hidden files
        hits = [folder.absolute() / name for name in names]
        found = [file for hit in hits for file in (_walk(hit) if hit.is_dir() else [hit])]
    else:
        raise InputError(
            f"data.sources: nothing found at {full}; give a file, a folder, a glob or builtin:NAME, "
            f"absolute or relative to {folder.absolute()}"
        )
    known = {Path(os.path.normpath(file)) for file in found if kind_of(file) is not None}
    runs: dict[Path, bool] = {}
    # a pipe has no end, and what a run folder holds is no corpus: neither is read
    files = sorted(file for file in known if file.is_file() and not any(_is_run(place, runs) for place in file.parents))
    if not files:
        raise InputError(
            f"data.sources: nothing found at {full}; no file of a known kind is there; known: {KNOWN_SUFFIXES}"
        )
    return list(files)


def _remote(url: str) -> list[AnyFile]:
    """The files behind a URL: what is hidden or of another kind is passed over, but not a file that was named."""
    found = listing(url)
    files = [
        file
        for file in found
        if kind_of(file) is not None and not any(part.startswith(".") for part in file.url.split("/"))
    ]
    if not files:
        more = f"; {len(found)} files of other kinds are there" if found else ""
        raise InputError(f"data.sources: nothing found at {shown(url)}{more}; known: {KNOWN_SUFFIXES}; check the URL")
    return list(files)


def _is_run(folder: Path, seen: dict[Path, bool]) -> bool:
    """Whether a folder is a run of ours (recipe.toml beside the lock), looked up once."""
    if folder not in seen:
        seen[folder] = (folder / ".lock").is_file() and (folder / "recipe.toml").is_file()
    return seen[folder]


def _walk(folder: Path) -> list[Path]:
    def fail(error: OSError) -> None:
        raise error  # os.walk would pass over a folder that cannot be read, and its text would vanish

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return found


# ------------------------------------------------------------------------------------------------------- reading


def read_file(path: AnyFile, source: Source, progress: Count | None = None) -> Iterator[Item]:
    """All records of a file, good and bad, in order.

    `progress` is called with numbers of bytes of the file as it lies on disk; at the end they add up to its size.
    Raises InputError for an unknown encoding and for a remote file that cannot be had, OSError if it cannot be opened.
    """
    if source.path.startswith(BUILTIN_PREFIX):
        yield from read_builtin(source.path.removeprefix(BUILTIN_PREFIX), path)
        if progress is not None and (size := size_of(path)):
            progress(size)
    else:
        yield from _counted(path, source, progress, _items)


def read_objects(path: AnyFile, source: Source, progress: Count | None = None) -> Iterator[Object | BadRecord]:
    """All records of a file as they stand there, with all their fields: JSON objects, or rows of a table. Else as `read_file`;
    the file must not be of the kind txt, and of `source` only path and encoding count.
    """
    yield from _counted(path, source, progress, _objects)


T = TypeVar("T", Item, Object | BadRecord)


def _counted(
    path: AnyFile,
    source: Source,
    progress: Count | None,
    read: Callable[[AnyFile, Source, Count, int], Iterator[T]],
) -> Iterator[T]:
    """What `read` gives of a file, with every byte counted, and `broken_file` where it breaks off."""
    size, seen = size_of(path), 0

    def count(amount: int) -> None:
        nonlocal seen
        amount = min(amount, size - seen)
        seen += amount
        if progress is not None and amount:
            progress(amount)

    source = source.model_copy(update={"encoding": encoding_of(path, source)})
    line = 0
    try:
        for item in read(path, source, count, size):
            line = item.line
            yield item
    except BrokenStreamError as error:
        yield reject("broken_file", f"unreadable after line {line}: {error}", b"", path, line + 1)
    count(size - seen)


def _items(path: AnyFile, source: Source, count: Count, size: int) -> Iterator[Item]:
    kind, packing = _kind(path)
    if kind == "parquet":
        yield from read_parquet(path, source, count, size)
        return
    with path.open("rb") as file:
        stream, encoding = open_stream(file, packing, source.encoding, count)
        if kind == "jsonl":
            yield from _jsonl(_elements(path, packing, stream, encoding), encoding, path, source)
        elif kind == "txt":
            document = _document_kind(path, packing, source) if source.document == "auto" else source.document
            reader = {"file": _txt_file, "paragraph": _txt_paragraphs, "line": _txt_lines}[document]
            yield from reader(stream, encoding, path)
        else:
            yield from read_csv(stream, encoding, path, source, DELIMITERS[kind])


def _objects(path: AnyFile, source: Source, count: Count, size: int) -> Iterator[Object | BadRecord]:
    kind, packing = _kind(path)
    assert kind != "txt", path
    if kind == "parquet":
        yield from objects_of(parquet_rows(path, count, size), path)
        return
    with path.open("rb") as file:
        stream, encoding = open_stream(file, packing, source.encoding, count)
        if kind == "jsonl":
            elements = _elements(path, packing, stream, encoding)
            yield from objects_of(json_objects(elements, encoding, path), path, encoding)
        else:
            yield from objects_of(csv_rows(stream, encoding, path, DELIMITERS[kind]), path, encoding)


def _kind(path: AnyFile) -> tuple[str, str]:
    known = kind_of(path)
    assert known is not None, path
    return known


def encoding_of(path: AnyFile, source: Source) -> str:
    """The encoding in which a file is read: the one the source names, or what its bytes say. Raises InputError."""
    if source.path.startswith(BUILTIN_PREFIX):
        return "utf-8"
    known = kind_of(path)
    if source.encoding != AUTO:
        _check_encoding(source.encoding)
        return source.encoding
    if known is None or known[0] == "parquet":
        return "utf-8"
    with path.open("rb") as file:
        stream, _ = open_stream(file, known[1], "utf-8", lambda _: None)
        sample = b""
        try:  # read1 gives what there is before a break
            for _ in range(MAX_ASCII_PIECES):
                piece = stream.read1(encodings.LOOKED_AT)
                if not piece or len(sample) >= encodings.SAMPLE_BYTES:
                    break
                # plain ASCII says nothing; but a mark at the start of the file does
                sample = sample + piece if sample and not sample.isascii() else sample[:4] + piece
        except BrokenStreamError:
            pass
    return encodings.detect(sample)


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
        if codecs.lookup(encoding).name in NOT_FOR_FILES:
            raise LookupError(encoding)
    except (LookupError, UnicodeError):
        raise InputError(
            f"data.sources.encoding: not a text encoding, got {encoding!r}; for example auto, utf-8, gb18030, big5, utf-16; change it"
        ) from None


# --------------------------------------------------------------------------------------------------------- kinds


def _elements(
    path: AnyFile, packing: str, stream: io.BufferedReader, encoding: str
) -> Iterator[tuple[int, bytes, bool]]:
    """The lines of a JSON file, or the elements of its array."""
    array = path.name.lower().removesuffix(packing).endswith(".json") and _is_array(stream)
    return iter_array(stream, encoding) if array else read_lines(stream, encoding)


def _is_array(stream: io.BufferedReader) -> bool:
    return stream.peek(64).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _jsonl(rows: Iterator[tuple[int, bytes, bool]], encoding: str, path: AnyFile, source: Source) -> Iterator[Item]:
    """JSON objects, a line or an element of an array each."""
    known = None if source.preset is None else PRESETS[source.preset]
    name, wanted = shown_path(path), TEXT_FIELDS[0] if source.text_field is None else source.text_field
    plain = encoding == "utf-8" and known is None
    for item in json_objects(rows, encoding, path):
        if isinstance(item, BadRecord):
            yield item
            continue
        number, line, value = item
        text = value.get(wanted) if plain else None
        # nearly always it is a good one: what finds the field and judges is spared, and NUL, which JSON can only spell,
        # is looked for in the bytes, which is much faster than in the text
        if isinstance(text, str) and text and not text.isspace() and b"\\u0000" not in line:
            yield Record(text, name, number, wanted)
        elif known is not None:
            yield composed(value, known, line, path, number, encoding)
        elif (field := find_field(value, source)) is None:
            yield reject("missing_text", absent(list(value), source), line, path, number, encoding)
        else:
            yield judge(value[field], field, line, path, number, encoding)


def _blank(line: bytes, encoding: str) -> bool:
    # a line of U+3000 ideographic spaces is blank too, so it must be decoded; long lines are not blank
    return line.isspace() or not line or (len(line) < 64 and not line.decode(encoding, "replace").strip())


def _txt(raw: bytes, path: AnyFile, line: int, encoding: str) -> Item:
    """One txt document: line ends become \\n, blank edges go, spaces (the U+3000 indent) stay."""
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        return undecodable(error, raw, path, line, encoding)
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    return judge(text, "", raw, path, line, encoding)


def _txt_file(stream: io.BufferedReader, encoding: str, path: AnyFile) -> Iterator[Item]:
    raw = stream.read(streams.MAX_RECORD_BYTES + 1)
    if len(raw) > streams.MAX_RECORD_BYTES:
        while stream.read(streams.BUFFER_BYTES):
            pass  # to the end, so that a file that breaks off is noticed
        yield too_big(raw, path, 1, encoding)
    else:
        yield _txt(without_mark(raw, encoding), path, 1, encoding)


def _txt_lines(stream: io.BufferedReader, encoding: str, path: AnyFile) -> Iterator[Item]:
    for number, line, cut in read_lines(stream, encoding):
        if cut:
            yield too_big(line, path, number, encoding)
        elif not _blank(line, encoding):
            yield _txt(line, path, number, encoding)


def _txt_paragraphs(stream: io.BufferedReader, encoding: str, path: AnyFile) -> Iterator[Item]:
    first, parts, size = 0, list[bytes](), 0

    def finish() -> Item:
        raw = b"".join(parts)
        return (
            too_big(raw, path, first, encoding)
            if size >= streams.MAX_RECORD_BYTES
            else _txt(raw, path, first, encoding)
        )

    for number, line, _cut in read_lines(stream, encoding):
        if not _blank(line, encoding):
            first = first if parts else number
            if size < streams.MAX_RECORD_BYTES:  # past that, only its start is kept, to show
                parts.append(line)
            size += len(line)
        elif parts:
            yield finish()
            parts, size = [], 0
    if parts:
        yield finish()


def _document_kind(path: AnyFile, packing: str, source: Source) -> str:
    """What one document is in this txt file, found by reading it: up to its first blank line, or once in full."""
    with path.open("rb") as file:
        stream, encoding = open_stream(file, packing, source.encoding, lambda _: None)
        try:
            if len(stream.read(WHOLE_FILE_BYTES + 1)) <= WHOLE_FILE_BYTES:
                return "file"
            file.seek(0)
            stream, encoding = open_stream(file, packing, source.encoding, lambda _: None)
            blank = any(_blank(line, encoding) for _, line, _ in read_lines(stream, encoding))
        except BrokenStreamError:
            return "paragraph"  # it breaks before its first blank line; what is whole of it is still used
    return "paragraph" if blank else "line"
