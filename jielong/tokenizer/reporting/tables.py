"""The report as tables of text, for the terminal: heads and rows; the command line prints them.

Rows are tokenizers where few figures say much, and texts, kinds or shapes where tokenizers stand side by side in columns. Kinds
and texts keep the order of the report, so that two reports can be compared line by line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from jielong.charts import finite
from jielong.tokenizer.reporting.examples import KINDS

NOISY = "Speeds are noisy: all cores, one machine, this moment; the ratio to the first tokenizer is worth more."


class Table(NamedTuple):
    """A title, the head and the rows of a table."""

    title: str
    head: list[str]
    rows: list[list[str]]


def figure(value: Any, form: str = ".3f") -> str:
    """A number in a table; "-" where there is none."""
    number = finite(value)
    return "-" if number is None else format(number, form)


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """All tables of a report."""
    found = report["tokenizers"]
    names = [one["name"] for one in found]
    yield overview(found)
    for key, title in (
        ("chars_per_token", "Characters a token, by text"),
        ("bytes_per_token", "Bytes a token, by text"),
    ):
        rows = [
            [text["name"], *(figure(one["texts"].get(text["name"], {}).get(key)) for one in found)]
            for text in report["texts"]
        ]
        yield Table(title, ["text", *names], rows)
    yield Table("Vocabulary entries, by kind", ["kind", *names], [
        [kind, *(figure(one["kinds"][kind], ",.0f") for one in found)] for kind in found[0]["kinds"]
    ])  # fmt: skip
    rows = []
    for place, shape in enumerate(found[0]["embeddings"]):
        cells = [f"{one['embeddings'][place]['tied']:.1%} / {one['embeddings'][place]['untied']:.1%}" for one in found]
        rows.append([f"{shape['name']}, width {shape['hidden']:,}", *cells])
    yield Table(
        "Share of the parameters in embeddings, shared with the output layer / not shared", ["model", *names], rows
    )
    rows = []
    for kind, words in KINDS.items():
        of_kind = [example["cuts"] for example in report["examples"] if example["kind"] == kind]
        rows.append([words.en, *(str(sum(len(cuts[place]) for cuts in of_kind)) for place in range(len(found)))])
    yield Table("Tokens of the examples", ["examples", *names], rows)


def overview(found: list[dict[str, Any]]) -> Table:
    """One row a tokenizer, over all texts."""
    rows = []
    for one in found:
        total, speed = one["total"], one["speed"] or {}
        rows.append([
            one["name"], figure(one["vocab_size"], ",.0f"), figure(total["chars_per_token"]), figure(total["bytes_per_token"]),
            figure(total["tokens_per_han"]), figure(total["used_share"], ".1%"), figure(total["broken_share"], ".2%"),
            figure(total["byte_share"], ".2%"), figure(total["unknown_share"], ".2%"), figure(total["different"], ",.0f"),
            figure(speed.get("megabytes_per_second"), ".1f"), figure(speed.get("ratio"), ".2f"),
        ])  # fmt: skip
    head = ["tokenizer", "vocabulary", "chars/token", "bytes/token", "tokens/Han", "used", "cut chars", "single bytes", "unknown",
            "not identical", "MB/s", "ratio"]  # fmt: skip
    return Table("All texts", head, rows)


def notes(report: dict[str, Any]) -> list[str]:
    """What the tables cannot say: texts that do not come back, entries that look like rubbish, records that were bad."""
    found = []
    for one in report["tokenizers"]:
        if one["differences"]:
            first, total = one["differences"][0], one["total"]
            found.append(
                f"{one['name']}: {total['different']:,} of {total['documents']:,} documents do not come back from decoding; "
                f"the first, in {first['domain']}: {first['text']!r} became {first['back']!r} at character {first['at']:,}"
            )
        if one["junk"]:
            listed = ", ".join(entry["text"] for entry in one["junk"][:5])
            found.append(f"{one['name']}: {one['junk_entries']:,} entries worth a look, such as {listed}")
    for text in report["texts"]:
        if text["bad"]:
            found.append(f"{text['name']}: {text['bad']:,} records were not usable: jielong check says why")
    if any(one["speed"] for one in report["tokenizers"]):
        found.append(NOISY)
    else:
        found.append("Too little text to measure speed: give files with --text.")
    return found
