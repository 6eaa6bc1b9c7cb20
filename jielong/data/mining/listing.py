"""The listing of fragments, for a person to read and strike out, and that person's copy read back.

One tab-separated line a fragment, the most frequent first: action, score, documents, occurrences, evidence, example,
context. A line feed is written ⏎. Whoever changes `action` to keep or remove (or adds lines of their own: only action
and example are read) and names the file in the recipe decides: what is written there wins over the judge. A line
speaks for the fragment that holds at least half of the n-grams of its example, so a listing outlives small changes of
the corpus; punctuation, blanks and what a spreadsheet does to quotation marks do not matter. A line marked remove
that no fragment of this corpus answers to still removes its own text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jielong.data.mining.grams import fold_plain, hashes_plain
from jielong.errors import InputError

COLUMNS = ("action", "score", "documents", "occurrences", "evidence", "example", "context")
ACTIONS = ("remove", "keep")
LINE_FEED = "\u23ce"  # U+23CE return symbol
FIELD = "data.steps.fragments.listing"


@dataclass(frozen=True)
class Row:
    """A line of the listing; `context` holds what stands before and behind at some places."""

    action: str
    score: float
    documents: int
    occurrences: int
    evidence: tuple[str, ...]
    example: str
    context: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Mark:
    """What a person decided about a text: action, and the hashes of its n-grams."""

    action: str
    example: str
    grams: tuple[int, ...]


def write_listing(path: Path, rows: Iterable[Row]) -> None:
    """Write the lines in the given order."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        context = " | ".join(f"…{_flat(before)}【】{_flat(behind)}…" for before, behind in row.context)
        values = (
            row.action,
            f"{row.score:.1f}",
            str(row.documents),
            str(row.occurrences),
            _flat("; ".join(row.evidence)),
        )
        lines.append("\t".join((*values, _flat(row.example), context)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_listing(path: Path, n: int) -> list[Mark]:
    """The lines of an edited copy. InputError names the file and the line that cannot be used."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{FIELD}: not UTF-8, got {path} ({error.reason} at byte {error.start}); save it as tab-separated UTF-8 text"
        ) from None
    except OSError as error:
        raise InputError(f"{FIELD}: cannot be read, got {path} ({error.strerror}); check the path") from None
    columns = list(COLUMNS)
    marks: dict[tuple[int, ...], Mark] = {}
    for number, line in enumerate(text.split("\n"), 1):
        cells = [cell.strip() for cell in line.rstrip("\r").split("\t")]
        if not any(cells):
            continue
        if "action" in cells and "example" in cells:
            columns = cells
            continue
        action, example = (
            cells[columns.index(name)] if columns.index(name) < len(cells) else "" for name in ("action", "example")
        )
        action = action.lower()
        if action not in ACTIONS:
            raise InputError(
                f"{FIELD}: unknown action in {path}:{number}, got {action!r}; allowed: {', '.join(ACTIONS)}; write one in the "
                "column action"
            )
        grams = tuple(hashes_plain([letter[0] for letter in fold_plain(example)], n))
        if not grams:
            raise InputError(
                f"{FIELD}: no fragment in {path}:{number}, got {example!r}; at least {n} letters and digits (min_chars); take the "
                "line out"
            )
        known = marks.get(grams)
        if known is not None and known.action != action:
            raise InputError(
                f"{FIELD}: both remove and keep for one text, got {path}:{number}; one action a text; take one of the lines out"
            )
        marks[grams] = Mark(action, example, grams)
    return list(marks.values())


def _flat(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", LINE_FEED).replace("\t", " ")
