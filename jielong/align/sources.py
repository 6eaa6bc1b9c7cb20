"""The files that the sources of preferences and prompts name, found as those of conversations are (tune/sources.py)."""

from __future__ import annotations

from pathlib import Path

from jielong.align.config import Examples, Source
from jielong.storage import AnyFile
from jielong.tune.sources import found_files, labelled

Files = list[tuple[Source, list[AnyFile]]]
WHAT = "preferences"


def files_of(config: Examples, folder: Path, table: str = "align") -> Files:
    """The files of each source, sorted, those that are held out whole first. Relative paths start at `folder`; table: of the recipe.
    Raises InputError for a source of which nothing is found, and for files that hold plain text.
    """
    return found_files(config.sources, folder, table, WHAT)


def inputs(config: Examples, folder: Path, table: str = "align") -> list[tuple[str, AnyFile]]:
    """The same in the order of the recipe, each labelled by its source and its path there, for the stage's fingerprint."""
    return labelled(config.sources, folder, table, WHAT)
