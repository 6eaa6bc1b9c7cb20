"""The files that the sources of conversations name, and the chat template that the recipe names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from jielong.data.config import Source as DataSource
from jielong.data.reading.readers import BadRecord, Object, expand, kind_of, read_objects
from jielong.data.reading.streams import Count
from jielong.errors import InputError
from jielong.storage import AnyFile
from jielong.tune.config import Config, Source

Files = list[tuple[Source, list[AnyFile]]]
READ = "jsonl, json, csv, tsv or parquet"


def files_of(config: Config, folder: Path) -> Files:
    """The files of each source, sorted, those that are held out whole first: what they hold must not be trained on. Relative paths
    start at `folder`. Raises InputError for a source of which nothing is found, and for files that hold plain text.
    """
    found = Files()
    for source in sorted(config.sources, key=lambda source: not source.validation):
        with _told_as_ours():
            files = expand(source.path, folder)
        for file in files:
            if (kind_of(file) or ("txt",))[0] == "txt" or source.path.startswith("builtin:"):
                raise InputError(
                    f"tune.sources: plain text holds no conversations, got {file} in the source {source.name}; give {READ}"
                )
        found.append((source, files))
    return found


def inputs(config: Config, folder: Path) -> list[tuple[str, AnyFile]]:
    """Files outside the run that determine the result, each with its label. Raises InputError as `files_of` and `template_text` do."""
    from jielong.data.stage import within

    order = [source.name for source in config.sources]
    found = sorted(files_of(config, folder), key=lambda item: order.index(item[0].name))
    files: list[tuple[str, AnyFile]] = [
        (f"{source.name}/{name}", file) for source, named in found for file, name in within(named)
    ]
    if config.template is not None:
        template_text(config, folder)
        files.append(("template", Path(folder, config.template)))
    return files


def template_text(config: Config, folder: Path) -> str | None:
    """The chat template that the recipe names; None: the tokenizer's own. Raises InputError for a file that is not there."""
    if config.template is None:
        return None
    path = Path(folder, config.template)
    if not path.is_file():
        raise InputError(f"tune.template: no such file, got {path}; give a file that holds a Jinja chat template")
    return path.read_text(encoding="utf-8")


def read_source(source: Source, files: list[AnyFile], progress: Count) -> Iterator[Object | BadRecord]:
    """The records of a source, good and bad, in order, at most as many as it says."""
    place = DataSource(name=source.name, path=source.path, encoding=source.encoding)
    with _told_as_ours():
        yield from islice(
            (item for file in files for item in read_objects(file, place, progress)), source.max_documents
        )


@contextlib.contextmanager
def _told_as_ours() -> Iterator[None]:
    """The readers' errors name the data stage's table: here they are about this one."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("data.sources", "tune.sources")) from None
