"""The whole report as one dictionary: open the tokenizers, read the texts once, measure all side by side.

Everything the command prints, writes as JSON or draws on its page is taken from what `compare` returns; nothing is computed
after it but shares. Memory: the tokenizers themselves, one batch of text with its ids (100 MB), and 8 bytes an id of the
vocabulary for each domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jielong.errors import InputError
from jielong.progress import Progress
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.reporting import examples, measuring, texts
from jielong.tokenizer.reporting.measuring import Measured
from jielong.tokenizer.reporting.shapes import Shape, shapes, shares
from jielong.tokenizer.reporting.vocabulary import Vocabulary, junk, longest, read_vocabulary, shown

LONGEST, JUNK, COMMON, SPECIALS = 24, 60, 24, 64  # entries listed


def find(name: str, runs_dir: Path) -> Path:
    """The folder or file that a name means: a path, a run folder, or the name of a run. Raises InputError."""
    if not name.strip():
        raise InputError("TOKENIZER: an empty name was given; give a tokenizer folder or file, or the name of a run")
    path = Path(name).expanduser()
    for run in (path, runs_dir / name):
        if (run / "recipe.toml").is_file():
            if (run / "tokenizer").is_dir():
                return run / "tokenizer"
            raise InputError(
                f"TOKENIZER: the run {name!r} has no tokenizer yet; make it: jielong tokenizer {run / 'recipe.toml'}"
            )
    if path.exists():
        return path
    raise InputError(
        f"TOKENIZER: neither a folder or file nor a run in {runs_dir}, got {name!r}; give a folder that holds tokenizer.json"
    )


def label(path: Path, depth: int = 1) -> str:
    """What a tokenizer is called: its folder's name, of a run's stage the run's; more of the path with a greater depth."""
    parts = [part for part in path.absolute().parts if part != path.anchor]
    if path.is_file():
        parts = parts[:-1] if path.stem == "tokenizer" else [*parts[:-1], path.stem]
    if len(parts) > 1 and parts[-1] == "tokenizer":
        parts = parts[:-1]
    return "/".join(parts[-depth:]) or str(path)


def labels(paths: Sequence[Path]) -> list[str]:
    """A name for each path, as short as keeps them apart; the same path twice gets a number."""
    found = [label(path) for path in paths]
    for depth in range(2, 8):
        found = [label(path, depth) if found.count(name) > 1 else name for path, name in zip(paths, found, strict=True)]
    return [
        f"{name} ({found[:place].count(name) + 1})" if name in found[:place] else name
        for place, name in enumerate(found)
    ]


def compare(
    names: list[str], paths: list[str], runs_dir: Path, most_megabytes: float, hidden: str | None
) -> dict[str, Any]:
    """Measure tokenizers on texts. Returns `tokenizers` (see `_row`), `texts`, `examples` and `limit_megabytes`.

    Raises InputError for names, texts and widths that cannot be used, TokenizerError for a tokenizer that does not open.
    """
    if not math.isfinite(most_megabytes) or most_megabytes <= 0:
        raise InputError(f"--max-megabytes: not a size, got {most_megabytes}; a number above 0; for example 20")
    wanted, places = shapes(hidden), [find(name, runs_dir) for name in names]
    every = [_open(name, place) for name, place in zip(labels(places), places, strict=True)]
    found = texts.domains(paths)
    limit = int(most_megabytes * 1_000_000)
    pairs = [(one.tokenizer, one.vocabulary) for one in every]
    cuts = examples.cut_all(pairs)  # also the first, slow call of each encoder
    number = 0
    with Progress("report: measuring", None, "B") as bar:
        for domain in found:
            bar.note(domain.name)
            for batch in texts.batches(domain, limit):
                measuring.measure_all(every, batch, domain.name, number)
                bar.advance(sum(len(text.encode("utf-8")) for text in batch))
                number += 1
    found = [domain for domain in found if domain.name in every[0].texts]
    if not found:
        raise InputError(f"--text: no text was found in {', '.join(paths)}; give files that hold some")
    return {
        "tokenizers": [_row(one, every[0], wanted) for one in every],
        "texts": [_text(domain, every[0]) for domain in found],
        "examples": cuts,
        "limit_megabytes": most_megabytes,
    }


def _open(name: str, place: Path) -> Measured:
    tokenizer = open_folder(place)
    return Measured(name, tokenizer, read_vocabulary(tokenizer.backend))


def _text(domain: texts.Domain, first: Measured) -> dict[str, Any]:
    counts = first.texts[domain.name]
    return {"name": domain.name, "documents": domain.documents, "bytes": counts.bytes, "chars": counts.chars,
            "bad": domain.bad, "more": domain.more}  # fmt: skip


def _row(one: Measured, first: Measured, wanted: tuple[Shape, ...]) -> dict[str, Any]:
    """Everything about one tokenizer."""
    vocabulary = one.vocabulary
    rubbish = junk(vocabulary)
    used = one.total.used
    listed = sorted(rubbish, key=lambda number: (-int(vocabulary.lengths[number]), number))[:JUNK]
    return {
        "name": one.name,
        "path": str(one.tokenizer.path),
        "vocab_size": len(vocabulary.raw),
        "special": _specials(one.tokenizer, vocabulary),
        "kinds": vocabulary.counts(),
        "broken_entries": int(vocabulary.broken.sum()),
        "total": one.total.figures(vocabulary),
        "texts": {name: counts.figures(vocabulary) for name, counts in one.texts.items()},
        "growth": measuring.growth_points(one),
        "common": measuring.common_tokens(one, COMMON),
        "longest": [_entry(vocabulary, number) for number in longest(vocabulary, LONGEST)],
        "junk_entries": len(rubbish),
        "junk": [
            _entry(vocabulary, number) | {"why": rubbish[number], "count": int(used[number])} for number in listed
        ],
        "embeddings": shares(len(vocabulary.raw), wanted),
        "speed": measuring.speed(one, first),
        "differences": one.differences,
    }


def _entry(vocabulary: Vocabulary, number: int) -> dict[str, Any]:
    return {"id": number, "text": shown(vocabulary.raw[number])}


def _specials(tokenizer: TokenizerFolder, vocabulary: Vocabulary) -> dict[str, Any]:
    """The roles that were found, why others were not, and the first special tokens by id."""
    ids = sorted(vocabulary.special)
    found = tokenizer.specials.found
    return {
        "count": len(ids),
        "roles": {role: {"id": one.id, "text": one.token, "source": one.source} for role, one in found.items()},
        "missing": dict(tokenizer.specials.missing),
        "tokens": [_entry(vocabulary, number) for number in ids[:SPECIALS]],
    }
