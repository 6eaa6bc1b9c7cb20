"""The files that the sources of conversations name, and the chat template that the recipe names.

The sources of [align] are found and read in the same way (align/sources.py): `found_files`, `labelled` and `read_source` know no table.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from jielong.data.config import Source as DataSource
from jielong.data.reading.readers import BadRecord, Object, expand, kind_of, read_objects
from jielong.data.reading.streams import Count
from jielong.errors import InputError
from jielong.storage import AnyFile
from jielong.tune.config import Config, Source

READ = "jsonl, json, csv, tsv or parquet"


class AnySource(Protocol):
    """A source in a recipe: what its files are found and read by."""

    @property
    def name(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def encoding(self) -> str: ...
    @property
    def max_documents(self) -> int | None: ...
    @property
    def validation(self) -> bool: ...


class Templated(Protocol):
    """A table in a recipe that may name a chat template."""

    @property
    def template(self) -> str | None: ...


S = TypeVar("S", bound=AnySource)
Files = list[tuple[Source, list[AnyFile]]]


def files_of(config: Config, folder: Path) -> Files:
    """`found_files` of the recipe's conversations. Raises InputError."""
    return found_files(config.sources, folder, "tune", "conversations")


def inputs(config: Config, folder: Path) -> list[tuple[str, AnyFile]]:
    """Files outside the run that determine the result, each with its label. Raises InputError as `files_of` and `template_text` do."""
    files = labelled(config.sources, folder, "tune", "conversations")
    if config.template is not None:
        template_text(config, folder)
        files.append(("template", Path(folder, config.template)))
    return files


def found_files(sources: Sequence[S], folder: Path, table: str, what: str) -> list[tuple[S, list[AnyFile]]]:
    """The files of each source, sorted, those that are held out whole first: what they hold must not be trained on. Relative paths
    start at `folder`. table: of the recipe; what: should be in them. Raises InputError for a source of which nothing is found, and for
    files that hold plain text.
    """
    found = list[tuple[S, list[AnyFile]]]()
    for source in sorted(sources, key=lambda source: not source.validation):
        with _told_as(table):
            files = expand(source.path, folder)
        for file in files:
            if (kind_of(file) or ("txt",))[0] == "txt":
                raise InputError(
                    f"{table}.sources: plain text holds no {what}, got {file} in the source {source.name}; give {READ}"
                )
        found.append((source, files))
    return found


def labelled(sources: Sequence[AnySource], folder: Path, table: str, what: str) -> list[tuple[str, AnyFile]]:
    """The files of all sources in the order of the recipe, each labelled by its source and its path there. Raises InputError as
    `found_files` does.
    """
    from jielong.data.stage import within

    order = [source.name for source in sources]
    found = sorted(found_files(sources, folder, table, what), key=lambda item: order.index(item[0].name))
    return [(f"{source.name}/{name}", file) for source, named in found for file, name in within(named)]


def template_text(config: Templated, folder: Path, table: str = "tune") -> str | None:
    """The chat template that a table of the recipe names; None: the tokenizer's own. Raises InputError for a file that is not there."""
    if config.template is None:
        return None
    path = Path(folder, config.template)
    if not path.is_file():
        raise InputError(f"{table}.template: no such file, got {path}; give a file that holds a Jinja chat template")
    return path.read_text(encoding="utf-8")


def read_source(
    source: AnySource, files: list[AnyFile], progress: Count, table: str = "tune"
) -> Iterator[Object | BadRecord]:
    """The records of a source, good and bad, in order, at most as many as it says. table: of the recipe."""
    place = DataSource(name=source.name, path=source.path, encoding=source.encoding)
    with _told_as(table):
        yield from islice(
            (item for file in files for item in read_objects(file, place, progress)), source.max_documents
        )


@contextlib.contextmanager
def _told_as(table: str) -> Iterator[None]:
    """The readers' errors name the data stage's table: here they are about another one."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).replace("data.sources", f"{table}.sources")) from None
