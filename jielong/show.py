"""Tables and summaries for the terminal: plain functions from results to text. Columns line up with Chinese in them."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong import STAGES
from jielong.errors import JielongError, RunError
from jielong.metrics import read_jsonl
from jielong.progress import human_bytes, human_count, human_seconds
from jielong.runs import TRAINED, Run, list_runs, open_run

if TYPE_CHECKING:
    from jielong.workflow import Outcome

COUNTED = ("documents", "tokens", "bytes", "chars")


def width(text: str) -> int:
    """Columns a text takes in a terminal: full-width characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table with aligned columns; numbers to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(width, column)) for column in columns]
    numeric = [bool(rows) and all(c[:1].isdigit() or c in ("", "-") for c in column[1:]) for column in columns]

    def line(cells: list[str]) -> str:
        parts = []
        for cell, size, right in zip(cells, widths, numeric, strict=True):
            pad = " " * (size - width(cell))
            parts.append(pad + cell if right else cell + pad)
        return "  ".join(parts).rstrip()

    return "\n".join([line(head), line(["-" * size for size in widths]), *map(line, rows)])


def number(value: Any) -> str:
    """A figure for a table cell."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def key_figure(stage: str, counts: dict[str, Any]) -> str:
    """The one line that says what a stage gave."""
    if stage == "data":
        added = f" + {counts['added']:,} by splitting" if counts["added"] else ""
        return (
            f"{counts['read']:,} read{added} = {counts['kept']:,} kept + {sum(counts['rejected'].values()):,} rejected, "
            f"{human_count(counts['chars'])} characters"
        )
    if stage == "tokenizer":
        return f"{counts['vocab_size']:,} tokens, {counts['chars_per_token']:.2f} characters a token"
    if stage == "model":
        return f"{human_count(counts['parameters'])} parameters, {counts['hf_class']}"
    if stage in TRAINED:
        loss = "not finite" if counts["final_loss"] is None else f"{counts['final_loss']:.3f}"
        unit = "tokens" if "tokens" in counts else "examples"
        return (
            f"{counts['steps']:,} steps, {human_count(counts[unit])} {unit}, loss {loss}, "
            f"{human_count(counts[f'{unit}_per_second'])} {unit}/s" + _trouble(counts)
        )
    if stage == "quantize":
        sizes = " to ".join(human_bytes(counts[key]) for key in ("bytes_before", "bytes"))
        models = (counts.get("compared") or {}).get("models") or []
        bits = [row["bits_per_byte"] for row in models]
        return f"{counts['method']}, {sizes}" + (
            f", bits per byte {bits[0]:.4f} to {bits[1]:.4f}" if len(bits) == 2 else ""
        )
    if stage == "infer":
        return f"{counts['prompts']} prompts continued"
    if stage == "evaluate":
        return f"{counts['bits_per_byte']:.4f} bits per byte on {counts['documents']:,} documents"
    return ""


def before_after(compared: dict[str, Any]) -> str:
    """What a model that went on from another one gained and forgot, and both models' words, as text."""
    rows = [
        [row["text"], f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['after'] / row['before'] - 1:+.1%}"]
        for row in compared["rows"]
    ]
    lines = [table(["bits per byte on", "before", "after", "change"], rows)]
    for row in compared["prompts"]:
        lines += ["", row["prompt"], f"  before: {_one_line(row['before'])}", f"  after:  {_one_line(row['after'])}"]
    return "\n".join(lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def summary(run: Run, outcomes: list[Outcome], places: dict[str, str], texts: list[dict[str, Any]]) -> str:
    """The end of `jielong run`: what each stage did, where everything is, and the continuations."""
    rows = [
        [o.stage, o.state, human_seconds(o.seconds) if o.seconds else "", key_figure(o.stage, o.counts)]
        for o in outcomes
    ]
    parts = ["", table(["stage", "state", "time", "result"], rows)]
    for outcome in outcomes:
        if outcome.stage == "data" and outcome.state == "done":
            parts += ["", steps_table(outcome.counts)]
        if outcome.stage == "evaluate" and "compared" in outcome.counts:
            parts += ["", before_after(outcome.counts["compared"])]
    if all(outcome.state == "up to date" for outcome in outcomes):
        parts.append(f"\nEverything is up to date in {run.root}; nothing was done. (--fresh makes it again.)")
    size = max((width(name) for name in places), default=0)
    parts += ["", *(f"{name}{' ' * (size - width(name))}  {path}" for name, path in places.items())]
    if texts:
        parts.append("")
        parts += [f"【{row['prompt']}】{row['text']}\n" for row in texts]
    return "\n".join(parts)


def steps_table(counts: dict[str, Any]) -> str:
    """What each step of the data stage did to the documents."""
    rows = []
    for row in counts["steps"]:
        most = sorted(row["rules"].items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{rule} {count:,}" for rule, count in most[:3]) + (", ..." if len(most) > 3 else "")
        numbers = [f"{row[key]:,}" if row[key] else "" for key in ("in", "edited", "rejected", "added")]
        rows.append([row["step"], *numbers, shown])
    return table(["step", "in", "edited", "rejected", "added", "rejected most by"], rows)


def presets(rows: list[dict[str, Any]]) -> str:
    """The known corpora, a paragraph each."""
    found = []
    for row in rows:
        lines = [f"{row['name']}  {row['title']}", f"  {row['size']}; {row['licence']}"]
        lines.append(f"  {row['form']}: {', '.join(row['files'])}; fields {', '.join(row['fields'])}")
        lines += [f"  {place}" for place in row["where"]]
        lines.append(f"  {row['dirt']}" + (f" (steps: {', '.join(row['steps'])})" if row["steps"] else ""))
        lines += [f"  not confirmed: {row['unconfirmed']}"] if row["unconfirmed"] else []
        found.append("\n".join(lines))
    use = 'In a recipe: sources = [{ name = "wudao", path = "WuDaoCorpus2.0_base_200G", preset = "wudao" }]'
    return "\n\n".join([*found, use])


def shards(found: dict[str, Any]) -> list[tuple[str, str | None]]:
    """What `jielong shards` found: lines, each with the colour it is shown in. Documents of a row take turns in colour."""
    lines: list[tuple[str, str | None]] = []
    for turn, part in enumerate(found.get("parts", [])):
        colour = ("green", "cyan")[turn % 2]
        size = f"{part['document_tokens']:,} tokens"
        if part["to_token"] - part["from_token"] < part["document_tokens"]:
            size = f"tokens {part['from_token']:,} to {part['to_token'] - 1:,} of {part['document_tokens']:,}"
        lines.append((f"--- document {part['document']:,}, {part['source']}, {size} ---", colour))
        if "text" not in part:
            lines.append((" ".join(map(str, part["ids"])), None))
            continue
        pieces = [f"{token}:{piece!r}" for token, piece in zip(part["ids"], part["pieces"], strict=True)]
        lines += [(part["text"], None), ("ids and pieces:", colour), (" ".join(pieces), None)]
    if lines:
        return lines
    kind = f"{found['dtype']}, {found['vocab_size']:,} ids, end-of-text {found['end_of_text_id']}"
    start = "" if found["start_id"] is None else f", documents begin with {found['start_id']}"
    ends = "" if found["ends_documents"] else ", documents are not closed"
    lines.append((f"{found['folder']}: {kind}{start}{ends}", None))
    cells, files = list[list[str]](), list[list[str]]()
    for split, entry in found["splits"].items():
        for source, row in {"": entry, **entry["by_source"]}.items():
            each = [number(row["tokens"] / row["documents"]) if row["documents"] else "-"]
            each += [number(row["bytes"] / row["tokens"]) if row["tokens"] else "-"]
            cells.append([split if not source else "", source, *(number(row[key]) for key in COUNTED), *each])
        files += [
            [row["name"], number(row["documents"]), number(row["tokens"]), row["xxh3_128"]["bin"]]
            for row in entry["files"]
        ]
    lines.append((table(["split", "source", *COUNTED, "tokens/document", "bytes/token"], cells), None))
    shown = files if len(files) <= 20 else [*files[:20], ["...", "", "", ""]]
    lines.append(("\n" + table(["file", "documents", "tokens", "checksum of the .bin"], shown), None))
    if found.get("verified"):
        lines.append(("\nEvery byte was read; every checksum is right.", "green"))
    return lines


# ---------------------------------------------------------------------------------------------------------- status


def status_rows(runs_dir: Path, name: str) -> list[dict[str, Any]]:
    """State of every run (or of one), as plain data."""
    if name:
        run = open_run(runs_dir, name)
        if not (run.root / "recipe.toml").is_file():
            known = ", ".join(run.name for run in list_runs(runs_dir)) or "none yet"
            raise RunError(f"RUN: no such run in {runs_dir}, got {name!r}; runs there: {known}")
        runs = [run]
    else:
        runs = list_runs(runs_dir)
    rows = []
    for run in runs:
        try:
            rows.append(_status_of(run))
        except (JielongError, KeyError) as error:  # one run that cannot be read does not hide the others
            rows.append(
                {
                    "name": run.name,
                    "folder": str(run.root),
                    "bytes": None,
                    "stages": {},
                    "error": f"cannot be read: {error}",
                }
            )
    return rows


def _status_of(run: Run) -> dict[str, Any]:
    from jielong.recipe import load
    from jielong.workflow import stage_state

    recipe = load(str(run.root / "recipe.toml"))
    fingerprints: dict[str, str] = {}
    stages = {}
    for stage in recipe.sections:
        manifest = run.manifest(stage)
        row = {"state": stage_state(recipe, run, stage, fingerprints)}
        if manifest is not None:
            row |= {
                "started": manifest["started"],
                "seconds": manifest["wall_seconds"],
                "result": key_figure(stage, manifest["counts"]),
            }
        elif stage in TRAINED and (steps := read_jsonl(run.stage(stage) / "metrics.jsonl")):
            row["result"] = f"step {number(steps[-1].get('step'))}, loss {number(steps[-1].get('loss'))}"
        if stage in TRAINED:
            row |= _going_on(run, stage)
        stages[stage] = row
    size = sum(file.stat().st_size for file in run.root.rglob("*") if file.is_file())
    return {"name": run.name, "folder": str(run.root), "bytes": size, "stages": stages}


def _going_on(run: Run, stage: str) -> dict[str, Any]:
    """A training that goes on now, as it said last; empty for any other."""
    from jielong.train.control.mailbox import Mailbox
    from jielong.train.control.telling import alive, one_line

    said = Mailbox(run.stage(stage)).status()
    return {"state": "going on", "result": one_line(said), "live": said} if said is not None and alive(said) else {}


def status_table(rows: list[dict[str, Any]], runs_dir: Path) -> str:
    """`status_rows` as text."""
    if not rows:
        return f"There is no run in {runs_dir} yet. Start one with: jielong run tiny"
    parts = []
    for run in rows:
        if "error" in run:
            parts += [f"{run['name']}  ({run['folder']})", f"error: {run['error']}", ""]
            continue
        parts.append(f"{run['name']}  ({run['folder']}, {human_bytes(run['bytes'])})")
        cells = [
            [stage, row["state"], human_seconds(row["seconds"]) if "seconds" in row else "", row.get("result", "")]
            for stage, row in sorted(run["stages"].items(), key=lambda item: list(STAGES).index(item[0]))
        ]
        parts += [table(["stage", "state", "time", "result"], cells), ""]
    return "\n".join(parts).rstrip()


# ----------------------------------------------------------------------------------------------------------- check


def check_report(result: dict[str, Any], out: Path | None) -> str:
    """The result of `jielong check` as text."""
    parts = [f"  {number + 1}. {text[:70]}" for number, text in enumerate(result["preview"])]
    parts = ["first documents:", *parts, ""] if parts else []
    rows = [
        [
            Path(row["path"]).name,
            number(row["records"]),
            number(row["good"]),
            number(row["bad"]),
            human_bytes(row["bytes"]),
        ]
        for row in result["files"]
    ]
    parts.append(table(["file", "read", "good", "bad", "size"], rows))
    if result["bad"]:
        parts += ["", "bad lines:"]
        parts += [f"  {row['file']}:{row['line']}: {row['reason']}: {row['detail']}" for row in result["bad"]]
        more = sum(result["rejected"].values()) - len(result["bad"])
        parts += [f"  and {more:,} more"] if more > 0 else []
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in result["rejected"].items()) or "none"
    parts += [
        "",
        f"read {result['read']:,} = kept {result['kept']:,} + rejected {result['read'] - result['kept']:,} ({reasons})",
    ]
    if out is not None:
        parts.append(f"clean copies and rejects.jsonl are in {out}")
    return "\n".join(parts)


def _trouble(counts: dict[str, Any]) -> str:
    """What a training had to put up with, if anything."""
    found = [
        (counts.get("not_taken"), "{:,} steps not taken"),
        (counts.get("rolled_back"), "{:,} times back to a checkpoint"),
    ]
    said = [form.format(number) for number, form in found if number]
    if (rate := counts.get("learning_rate_factor", 1.0)) != 1.0:
        said.append(f"learning rate times {rate:.3g}")
    return "".join(f", {part}" for part in said)
