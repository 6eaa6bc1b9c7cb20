"""Shards for as long as they are needed: files that no data stage has read, tokenised into a temporary folder."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jielong.data.config import Source
from jielong.data.reading.readers import BadRecord, expand, read_file
from jielong.errors import DataError
from jielong.progress import Progress
from jielong.storage import size_of
from jielong.tokenizer.encoding_arrays import batches
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter

SHARD_TOKENS = 10_000_000


@contextmanager
def shards_of_files(
    paths: Sequence[str], tokenizer: TokenizerFolder, label: str, option: str = "--data"
) -> Iterator[tuple[Shards, dict[str, int]]]:
    """Every readable document of files of any form that the data stage reads, as shards with one source, and how many records could
    not be read, by reason. Both are gone when the block ends.

    label: of the progress line. option: what a complaint begins with. Raises DataError where no document can be read.
    """
    rejected: Counter[str] = Counter()
    scheme = Scheme(tokenizer.size, tokenizer.end_id)
    files = [(file, Source(name="text", path=path)) for path in paths for file in expand(path, Path.cwd())]
    with tempfile.TemporaryDirectory() as folder:

        def texts() -> Iterator[list[tuple[str, str]]]:
            for file, source in files:
                for record in read_file(file, source, bar.advance):
                    if isinstance(record, BadRecord):
                        rejected[record.reason] += 1
                    else:
                        yield [(record.text, source.name)]

        with (
            Progress(label, sum(size_of(file) for file, _ in files), "B") as bar,
            ShardWriter(Path(folder), "text", scheme, SHARD_TOKENS) as writer,
        ):
            for batch, _ in batches(texts()):
                writer.add(batch, tokenizer.encode(batch))
        if writer.documents == 0:
            raise DataError(f"{option}: no readable document, got {', '.join(paths)}; look at them with: jielong check")
        write_manifest(Path(folder), scheme, {"text": writer.summary()})
        yield Shards(Path(folder), "text"), dict(rejected)
