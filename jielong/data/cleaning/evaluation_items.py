"""Evaluation files -> items: what is asked, what it is asked about, what may be answered, and what to look for of it.

Benchmarks agree on no format: JSON lines (CLUE, C-Eval, CMMLU), one JSON array, arrays in arrays (C3), objects that hold the
records under some key (CMRC2019, SQuAD), CSV with or without a header; all of them packed or not. So the file is parsed as
whatever it is, and records are found by their shape: a list of things of one shape is a collection of records, a list of
different things is one record, an object in whose lists stand questions hands its own strings down to each of them (SQuAD's
context goes to every question below it).

Every string of a record gets a role by the names on the way to it: *answer* (answer, choices, options, A, B, C, D, ...),
*asked* (question, query, sentence1, premise, ...), *context* (context, passage, text, content, and whatever has no name), or
none (id, label, subject, explanation, ...). A string under an unknown name counts as context in a record without any known
name and is left out otherwise, because a leaked item is seldom printed with its keywords and its genre. Left out as well are
strings that look like identifiers, fields that hold the same value in most records (an instruction) and unknown fields
with few short values (a category). Which fields of a file were used for what is reported with it (`EvaluationFile.fields`).

An item is one question: a passage with three questions is three items. Items count from 1 in the order of the file.

What is looked for (`ways_of_file`) is what is asked, if it is at least `ngram` letters long and no other item of the file asks
the same with another passage or other answers; or else with the passage, or else with the answers; or else everything joined.
"""

from __future__ import annotations

import csv
import glob
import io
import lzma
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jielong.data.reading import encodings
from jielong.data.reading.streams import BrokenStreamError, open_stream, without_mark
from jielong.errors import InputError

FIELD = "data.steps.decontaminate.against"
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
PACKINGS = (".gz", ".zst", ".xz")


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


KNOWN = f"{' '.join(KINDS)}, also with {', '.join(PACKINGS)} after it"
ASKED = _words(
    "question query problem stem sentence premise hypothesis texta textb goal ask prompt instruction input utterance "
    "问题 题目 题干 提问 句子"
)
CONTEXT = _words(
    "context passage article paragraph document content text story background material dialogue dialog conversation body "
    "材料 短文 文章 原文 正文 内容 文本 背景 对话"
)
ANSWER = _words(
    "answer choice option candidate correct output response solution ending distractor completion a b c d e f g h "
    "optiona optionb optionc optiond optione optionf 答案 选项 候选 回答"
)
NEITHER = _words(
    "id idx index uid qid guid no number label labeldesc level genre subject category class type source keyword tag "
    "difficulty url link split lang language date time year author domain topic task name file explanation rationale "
    "analysis reason evidence score 编号 序号 标签 类别 分类 学科 科目 难度 来源 解析 关键词"
)
SAME_VALUE_SHARE = 0.5  # of the records, from which one value is an instruction and not part of an item
VALUES_OF_A_CATEGORY = 0.25  # different values for each record, up to which short values are a category
CATEGORY_CHARS = 13
MIN_RECORDS = 8  # fewer do not show what is the same in all of them
PLACEHOLDER = re.compile(r"#[A-Za-z_]+\d*#|\[[A-Z_]{2,}\d*\]|<(?:mask|blank|extra_id_)\d*>", re.ASCII)
MARKER = re.compile(r"^\s*[（(]?[A-Ha-h][.\uff0e、:：)）]\s*")  # before a choice; U+FF0E full-width full stop
NEAR = 100  # letters between the strings of an item, besides NEAR_PART for each
NEAR_PART = 12
MARKS = "abcdefghijklmnopqrstuvwxyz"  # before the choices
JOINED = "question and answer in one"
IDENTIFIER = re.compile(r"[!-~]*")  # ASCII without a blank


@dataclass(frozen=True, slots=True)
class Item:
    """One item as it stands in the file; `number` counts from 1. Strings without letters and digits may occur."""

    number: int
    asked: tuple[str, ...]
    context: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EvaluationFile:
    """The items of a file, and for each role (asked, context, answer, left out) the names of its fields."""

    label: str
    items: tuple[Item, ...]
    fields: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Text:
    path: tuple[str, ...]  # names on the way to the string; "" for a place in a list of different things
    text: str


# ------------------------------------------------------------------------------------------------------- finding


def evaluation_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that the paths stand for, sorted, each once: files, folders (searched below) and globs (also **).

    In folders and globs hidden files and files of other kinds are passed over. Raises InputError for a path that does not
    exist, a named file of an unknown kind, and a folder or glob in which nothing is found.
    """
    files: set[Path] = set()
    for path in paths:
        full = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - Path.absolute leaves .. in it
        if full.is_file():
            if kind_of(full) is None:
                raise InputError(f"{FIELD}: unknown kind of file, got {full}; known: {KNOWN}; rename or convert it")
            files.add(full)
            continue
        if full.is_dir():
            hits = [full]
        elif glob.has_magic(str(path)):
            hits = [Path(name) for name in glob.glob(str(full), recursive=True)]  # noqa: PTH207 - Path.glob needs a root
        else:
            raise InputError(f"{FIELD}: does not exist, got {full}; give evaluation files, folders or globs")
        found = {file for hit in hits for file in (_walk(hit) if hit.is_dir() else [hit]) if kind_of(file) is not None}
        if not found:
            raise InputError(f"{FIELD}: no evaluation file found, got {full}; known: {KNOWN}; check the path")
        files |= found
    return sorted(files)


def labels_of(files: Sequence[Path]) -> list[str]:
    """The path of each file below the folder that they have in common; of a single file its name."""
    if not files:
        return []
    common = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(common).as_posix() for file in files]


def kind_of(path: Path) -> tuple[str, str] | None:
    """('.jsonl', '.gz') and the like, by the suffixes; None for a file that is not known."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKINGS else ""
    return (suffixes[-1], packing) if suffixes and suffixes[-1] in KINDS else None


def _walk(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


# ------------------------------------------------------------------------------------------------------- reading


def read_items(path: Path, label: str) -> EvaluationFile:
    """The items of a file. Raises InputError when it cannot be read, unpacked or parsed; a file may hold no item."""
    known = kind_of(path)
    assert known is not None, path
    text = _unpacked(path, known[1])
    if known[0] in (".csv", ".tsv"):
        records = list(_table_records(text, "\t" if known[0] == ".tsv" else ",", path))
    else:
        records = [record for value in _json_values(text, path) for record in _records(value, [])]
    roles = _roles(records)
    items = []
    for number, record in enumerate(records, 1):
        strings: dict[str, list[str]] = {"asked": [], "context": [], "answer": [], "left out": []}
        for string in record:
            is_name = not any(string.path) and IDENTIFIER.fullmatch(string.text)  # C3's "47-275"
            strings["left out" if is_name else roles[string.path]].append(string.text)
        items.append(Item(number, *(tuple(strings[role]) for role in ("asked", "context", "answer"))))
    fields = {
        role: tuple(sorted({".".join(filter(None, path)) or "(no name)" for path in roles if roles[path] == role}))
        for role in ("asked", "context", "answer", "left out")
    }
    return EvaluationFile(label, tuple(items), fields)


def _unpacked(path: Path, packing: str) -> str:
    """The text of a file, its encoding found out from its bytes."""
    try:
        if packing == ".xz":
            with lzma.open(path) as packed:
                raw = packed.read()
        else:
            with path.open("rb") as file:
                raw = open_stream(file, packing, "utf-8", lambda _: None)[0].read()
    except (BrokenStreamError, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{FIELD}: cannot be unpacked, got {path} ({error}); fetch it again") from None
    except OSError as error:
        raise InputError(f"{FIELD}: cannot be read, got {path} ({error.strerror}); check the file") from None
    encoding = encodings.detect(raw[: encodings.SAMPLE_BYTES])
    try:
        return without_mark(raw, encoding).decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{FIELD}: not {encoding}, got {path} ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None


def _json_values(text: str, path: Path) -> list[Any]:
    """The file as one value, or else one value a line."""
    try:
        return [orjson.loads(text)] if text.strip() else []
    except orjson.JSONDecodeError as error:
        whole = error
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(orjson.loads(line))
            except orjson.JSONDecodeError as error:
                said = f"line {number}: {error}" if values else str(whole)
                raise InputError(f"{FIELD}: not JSON, got {path} ({said}); mend it or take it out") from None
    return values


def _table_records(text: str, delimiter: str, path: Path) -> Iterator[list[_Text]]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    header: list[str] = []
    try:
        for row in rows:
            if not header and row:
                header = [name.strip() for name in row]
                if any(_role((name,)) for name in header):
                    continue
                header = [""] * len(row)  # no header: the first row is a record too
            yield [_Text((name,), cell) for name, cell in zip(header, row, strict=False) if cell.strip()]
    except csv.Error as error:
        raise InputError(f"{FIELD}: not a table, got {path} (line {rows.line_num}: {error}); mend it") from None


# ------------------------------------------------------------------------------------------------------- records


def _shape(value: Any) -> str:
    """What kind of thing a value is; lists by what stands in them."""
    if isinstance(value, list):
        return f"list of {'/'.join(sorted({_shape(inner)[:4] for inner in value}))}"
    return "dict" if isinstance(value, dict) else "text" if isinstance(value, str) else "other"


def _records(value: Any, above: list[_Text]) -> Iterator[list[_Text]]:
    """The records in a value, each with the strings of what it stands in."""
    if isinstance(value, str):
        yield [*above, _Text(("",), value)]
    elif isinstance(value, list) and len({_shape(inner) for inner in value} - {"list of "}) <= 1:
        if value and isinstance(value[0], str) and above:
            yield [*above, *_strings(value, ("",))]
        else:
            for inner in value:
                if isinstance(inner, list) and all(isinstance(cell, str) for cell in inner):
                    yield [*above, *_strings(inner, ("",))]
                else:
                    yield from _records(inner, above)
    elif isinstance(value, dict) and _holds_records(value) and not any(_role((name,)) for name in value):
        for inner in value.values():  # records by their names
            yield from _records(inner, above)
    elif isinstance(value, (list, dict)):
        pairs = value.items() if isinstance(value, dict) else [("", inner) for inner in value]
        own = list(above)
        below: list[Any] = []
        asks = isinstance(value, dict) and any(_role((name,)) == "asked" for name in value)
        for name, inner in pairs:
            if not asks and _role((name,)) != "answer" and _holds_records(inner):
                below.append(inner)
            else:
                own += _strings(inner, (name,))
        for inner in below:
            yield from _records(list(inner.values()) if isinstance(inner, dict) else inner, own)
        if not below and len(own) > len(above):
            yield own


def _holds_records(value: Any) -> bool:
    """Whether a value is a collection of objects in which something is asked, told or answered."""
    if isinstance(value, dict):
        value = list(value.values()) if value and all(isinstance(inner, dict) for inner in value.values()) else []
    if not isinstance(value, list):
        return False
    objects = [inner for inner in value if isinstance(inner, dict)]
    return any(
        _role((name,)) in ("asked", "context", "answer") or _holds_records(inner)
        for object_ in objects
        for name, inner in object_.items()
    )


def _strings(value: Any, path: tuple[str, ...]) -> list[_Text]:
    """All strings in a value with the names on the way to them."""
    if isinstance(value, str):
        return [_Text(path, value)] if value.strip() else []
    if isinstance(value, list):
        return [string for inner in value for string in _strings(inner, path)]
    if isinstance(value, dict):
        return [string for name, inner in value.items() for string in _strings(inner, (*path, name))]
    return []


# --------------------------------------------------------------------------------------------------------- roles


def _bare(name: str) -> str:
    """A field's name without case, blanks, underscores, numbers and the plural."""
    bare = re.sub(r"[\W_\d]+", "", name.lower())
    if bare in ASKED or bare in CONTEXT or bare in ANSWER or bare in NEITHER:
        return bare
    return bare[:-1] if bare.endswith("s") else bare


def _role(path: tuple[str, ...]) -> str:
    """The role that the names on the way to a string give it; "" for unknown names."""
    names = [_bare(name) for name in path]
    if any(name in ANSWER for name in names):
        return "answer"
    if names[-1] in NEITHER or names[-1].endswith("id"):
        return "left out"
    if any(name in ASKED for name in names):
        return "asked"
    return "context" if any(name in CONTEXT or not path[n] for n, name in enumerate(names)) else ""


def _roles(records: list[list[_Text]]) -> dict[tuple[str, ...], str]:
    """The role of every field of a file, from its name and its values."""
    values: dict[tuple[str, ...], Counter[str]] = {}
    for record in records:
        for string in record:
            values.setdefault(string.path, Counter())[string.text] += 1
    roles = {path: _role(path) for path in values}
    some_known = any(role in ("asked", "context") for role in roles.values())
    for path, counts in values.items():
        if roles[path] == "answer":
            continue
        total, most = counts.total(), max(counts.values())
        unknown = not roles[path]
        if unknown:
            roles[path] = "left out" if some_known else "context"
        short = all(len(text) < CATEGORY_CHARS for text in counts)
        category = unknown and short and len(counts) <= VALUES_OF_A_CATEGORY * total
        if total >= MIN_RECORDS and (most > SAME_VALUE_SHARE * total or category):
            roles[path] = "left out"
    return roles


# ------------------------------------------------------------------------------------------------ what is wanted


@dataclass(frozen=True, slots=True)
class Need:
    """A string of an item in its parts, folded. Of what is asked, the beginning and the end have to be there.

    `cuts` are the ends of parts at a placeholder: 2 n is where part n begins, 2 n + 1 where it ends.
    """

    parts: tuple[str, ...]
    asked: bool = False
    cuts: tuple[int, ...] = ()

    @property
    def letters(self) -> int:
        """Letters in all parts."""
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which an item may stand in a document: all needs near one another. `key` is looked for first."""

    file: int
    number: int
    half: str
    needs: tuple[Need, ...]
    key: Need
    reach: int  # letters on both sides of a place of the key in which everything has to stand


def is_long(need: Need, ngram: int) -> bool:
    """Whether a part of it has an n-gram."""
    return any(len(part) >= ngram for part in need.parts)


def _ways_of(file: int, item: Item, folded: dict[str, str], repeated: bool, ngram: int) -> list[Way]:
    """How an item is looked for; empty: it is too short. `repeated`: other items of the file ask the same.

    `folded` holds the folded form of every part of every string of the item.
    """

    def need(strings: Iterable[str], asked: bool) -> list[Need]:
        parts, cuts = list[str](), list[int]()
        for string in strings:
            pieces = PLACEHOLDER.split(string)
            for number, piece in enumerate(pieces):
                if len(folded[piece]) > 1:
                    cuts += [2 * len(parts)] * (number > 0) + [2 * len(parts) + 1] * (number < len(pieces) - 1)
                    parts.append(folded[piece])
        return [Need(tuple(parts), asked, tuple(cuts))] if parts else []

    asked = [found for string in item.asked for found in need([string], asked=True)]
    context = need(item.context, asked=False)
    every = dict.fromkeys(folded[MARKER.sub("", answer)] for answer in item.answers)
    choices = tuple(choice for choice in every if choice and not ("a" <= choice <= "h" and len(choice) == 1))
    words = tuple(choice for choice in choices if len(choice) > 1)
    answers = [Need(words)] if words else []
    tries: list[tuple[str, list[Need]]] = []
    if not repeated and any(is_long(string, ngram) for string in asked):
        tries.append(("question", asked))
    if not (repeated and not context):
        tries.append(("question", asked + context))
    tries.append(("question and answer", asked + context + answers))
    for half, needs in tries:
        long = [need for need in needs if is_long(need, ngram)]
        if long:
            key = max(long, key=lambda need: (need.asked and not repeated, need.letters))
            return [_way(file, item, half, needs, key)]
    strings = ["".join(part for need in needs for part in need.parts) for needs in (context, asked)]
    orders = dict.fromkeys(("".join(strings), "".join(reversed(strings))))
    marked = "".join(mark + choice for mark, choice in zip(MARKS, choices, strict=False))
    joined = dict.fromkeys(short + rest for short in orders if short for rest in ("".join(choices), marked))
    needs_of = [Need((text,)) for text in joined]
    return [_way(file, item, JOINED, [need], need) for need in needs_of if is_long(need, ngram)]


def _way(file: int, item: Item, half: str, needs: list[Need], key: Need) -> Way:
    reach = NEAR + sum(need.letters + NEAR_PART * len(need.parts) for need in needs)
    return Way(file, item.number, half, tuple(needs), key, reach)


def ways_of_file(
    number: int, file: EvaluationFile, ngram: int, fold: Callable[[list[str]], list[str]]
) -> list[list[Way]]:
    """For each item of the file the ways to look for it; empty: it is too short. `number` is the file's, kept in the ways."""
    strings = {MARKER.sub("", string) for item in file.items for string in item.answers}
    strings.update(string for item in file.items for string in (*item.asked, *item.context))
    pieces = sorted(strings | {piece for string in strings for piece in PLACEHOLDER.split(string)})
    folded = dict(zip(pieces, fold(pieces), strict=True))
    rests: dict[tuple[str, ...], set[tuple[tuple[str, ...], ...]]] = {}
    for item in file.items:
        rests.setdefault(item.asked, set()).add((item.context, item.answers))
    return [_ways_of(number, item, folded, len(rests[item.asked]) > 1, ngram) for item in file.items]
