"""The texts a report measures on: files in a stream, each a domain of its own, or a few built-in pages.

Compression is a property of a tokenizer *and* a text: one that was made on news cuts verse and code badly, and an average over
a mixture hides it. So every file is a domain with its own row (MOST_DOMAINS of them; of more, every --text argument is one).

Files are read by the readers of the data stage, in all their kinds and encodings, up to a limit of text for each domain, in
batches of at most BATCH_BYTES. A longer document is measured in pieces of that size, cut between characters, which bounds the
memory whatever the files hold: encoding takes about 70 bytes of memory a byte of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from jielong.data.config import Source
from jielong.data.reading.readers import KINDS, PACKINGS, BadRecord, expand, read_file
from jielong.data.reading.records import printable
from jielong.errors import InputError
from jielong.storage import AnyFile
from jielong.tokenizer.reporting.examples import EXAMPLES

BATCH_BYTES = 1_000_000
BATCH_DOCUMENTS = 1000
MOST_DOMAINS = 32
DEMONSTRATION = "demonstration"


@dataclass
class Domain:
    """One row of the report's tables: a name and the files it is read from; without files, the built-in examples."""

    name: str
    files: list[tuple[AnyFile, Source]]
    documents: int = 0
    bad: int = 0  # records that the readers could not use
    more: bool = field(default=False)  # whether text was left out because of the limit


def domains(paths: list[str]) -> list[Domain]:
    """The domains of files, folders and globs, in the order given. Raises InputError for paths that cannot be used."""
    if not paths:
        return [Domain(DEMONSTRATION, [])]
    groups: list[tuple[str, list[tuple[AnyFile, Source]]]] = []
    seen: set[AnyFile] = set()
    for path in paths:
        if not path.strip():
            raise InputError("--text: an empty path was given; give files, folders or globs")
        source = Source(name="text", path=path, document="auto")
        files = [(file, source) for file in expand(path, Path.cwd()) if file not in seen]
        seen.update(file for file, _ in files)
        groups.append((path, files))
    if len(seen) <= MOST_DOMAINS:
        groups = [(stem(file), [(file, source)]) for _, files in groups for file, source in files]
    found, taken = [], set[str]()
    for name, files in groups:
        if not files:
            continue
        unique, number = printable(name), 2
        while unique in taken:
            unique, number = f"{printable(name)} ({number})", number + 1
        taken.add(unique)
        found.append(Domain(unique, files))
    return found


def stem(file: AnyFile) -> str:
    """The name without the suffixes that the readers know: 新闻.v2.jsonl.gz -> 新闻.v2."""
    name = Path(file.name)
    for known in (PACKINGS, KINDS):
        if name.suffix.lower() in known:
            name = name.with_suffix("")
    return name.name


def batches(domain: Domain, most_bytes: int) -> Iterator[list[str]]:
    """A domain's documents, at most `most_bytes` of UTF-8 in all, in batches of at most BATCH_BYTES. Counts into the domain."""
    batch: list[str] = []
    size = 0
    for text in _pieces(domain, most_bytes):
        length = len(text.encode("utf-8"))
        if batch and (size + length > BATCH_BYTES or len(batch) == BATCH_DOCUMENTS):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _pieces(domain: Domain, most_bytes: int) -> Iterator[str]:
    left = most_bytes
    for text in _documents(domain):
        if left <= 0:
            domain.more = True
            return
        domain.documents += 1
        raw = text.encode("utf-8")
        domain.more |= len(raw) > left
        raw, start = raw[:left], 0
        left -= len(raw)
        while start < len(raw):
            end = _between_characters(raw, start + BATCH_BYTES)
            # at the limit the last character may be cut: it is left out
            if piece := raw[start:end].decode("utf-8", "ignore"):
                yield piece
            start = end


def _between_characters(raw: bytes, at: int) -> int:
    """The last place up to `at` that is not inside a character."""
    while at < len(raw) and raw[at] & 0xC0 == 0x80:
        at -= 1
    return min(at, len(raw))


def _documents(domain: Domain) -> Iterator[str]:
    if not domain.files:
        yield from (example.text for example in EXAMPLES)
    for file, source in domain.files:
        for item in read_file(file, source):
            if isinstance(item, BadRecord):
                domain.bad += 1
            else:
                yield item.text
