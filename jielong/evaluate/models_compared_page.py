"""What `compare` found, for people: a table for a terminal, and a page with a picture of size against quality and what each model writes.

The page is in the template of the other reports (pieces.py): one file that loads nothing, in two languages. Names of models and their
texts come from outside and enter by `data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from jielong.charts import COLOURS, FONT, GRID, INK, MUTED, PAPER, Words, both, nice_ticks
from jielong.pieces import Piece, data, exact, page, paragraph, say, table, written
from jielong.progress import human_bytes
from jielong.runs import write_text

ABOUT = Words("jielong, quantized models compared", "jielong 量化模型对比报告")
WIDE, NARROW = (760, 380), (400, 320)
COLUMNS = (
    ("bits_per_byte", Words("bits per byte", "每字节比特"), ".4f"),
    ("divergence", Words("KL, nats a token", "KL（奈特/词元）"), ".4f"),
    ("same_first", Words("same first choice", "首选相同"), ".1%"),
    ("greedy_agreement", Words("greedy agreement", "贪心续写一致"), ".0%"),
    ("tokens_per_second", Words("tokens/s", "词元/秒"), ".0f"),
)


def table_rows(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows for a terminal."""
    head = ["model", "bits/byte", "change", "KL", "same first", "greedy", "disk", "memory", "tokens/s"]
    first = found["models"][0]
    rows = []
    for row in found["models"]:
        change = row["bits_per_byte"] / first["bits_per_byte"] - 1
        rows.append([
            row["name"], f"{row['bits_per_byte']:.4f}", "-" if row is first else f"{change:+.2%}", f"{row['divergence']:.4f}",
            f"{row['same_first']:.1%}", _cell(row["greedy_agreement"], ".0%"), human_bytes(row["bytes_on_disk"]),
            human_bytes(row["bytes_in_memory"]), _cell(row["tokens_per_second"], ".0f"),
        ])  # fmt: skip
    return head, rows


def notes(found: dict[str, Any]) -> Iterator[str]:
    """What must be known to read the table."""
    text = found["text"]
    yield (
        f"Bits per byte: {text['documents']:,} held-out documents, {text['tokens']:,} tokens. KL and first choices: {text['rows']} rows of "
        f"{text['row_tokens']} tokens of them. Greedy: {text['continuations']} continuations. Speed: batch 1 on {found['device']}, "
        f"{found['threads']} threads, in turn."
    )


def _cell(number: float | None, form: str) -> str:
    return "-" if number is None else format(number, form)


def picture(found: dict[str, Any], size: tuple[int, int]) -> str:
    """Size on disk against bits per byte, a labelled point for each model, as `<svg>`; the better ones are low and to the left."""
    width, height = size
    left, right, top, foot = 58.0, 24.0, 34.0, height - 46.0
    points: list[tuple[float, float, str]] = [
        (row["bytes_on_disk"] / 1e6, row["bits_per_byte"], row["name"]) for row in found["models"]
    ]
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    x_high = max(xs) * 1.12
    low, high = min(ys), max(ys)
    room = (high - low) * 0.15 or high * 0.01
    low, high = low - room, high + room

    def px(x: float) -> float:
        return left + x / x_high * (width - left - right)

    def py(y: float) -> float:
        return foot - (y - low) / (high - low) * (foot - top)

    title = Words("Bits per byte against size on disk", "每字节比特与磁盘大小")
    told = "; ".join(f"{name}: {x:.1f} MB, {y:.4f}" for x, y, name in points)
    out = [
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="sizes-{width}-title sizes-{width}-desc" font-family="{escape(FONT)}" font-size="12">',
        f'<title id="sizes-{width}-title">{escape(" · ".join(title))}</title>',
        f'<desc id="sizes-{width}-desc">{escape(told)}</desc>',
        f'<text class="ink" x="0" y="15" font-size="13" font-weight="600" fill="{INK}">{both(title)}</text>',
    ]
    for y in nice_ticks(low, high, 5):
        out.append(
            f'<path class="grid" d="M{left} {py(y):.1f}H{width - right}" stroke="{GRID}" fill="none"/>'
            f'<text class="muted" x="{left - 8}" y="{py(y) + 4:.1f}" text-anchor="end" fill="{MUTED}">{y:g}</text>'
        )
    for x in nice_ticks(0.0, x_high, 5):
        out.append(
            f'<text class="muted" x="{px(x):.1f}" y="{foot + 18:.1f}" text-anchor="middle" fill="{MUTED}">{x:g}</text>'
        )
    label = Words("size on disk, MB", "磁盘大小（MB）")
    out.append(
        f'<text class="muted" x="{width - right}" y="{height - 8}" text-anchor="end" fill="{MUTED}">{both(label)}</text>'
    )
    taken: list[tuple[float, float]] = []
    for place, (x, y, name) in enumerate(points):
        colour = 0 if place == 0 else 1
        cx, cy = px(x), py(y)
        label_y = cy - 9
        while any(abs(label_y - other_y) < 13 and abs(cx - other_x) < 90 for other_x, other_y in taken):
            label_y -= 13
        taken.append((cx, label_y))
        anchor = "end" if cx > width * 0.7 else "start"
        out.append(
            f'<circle class="d{colour}" cx="{cx:.1f}" cy="{cy:.1f}" r="5" fill="{COLOURS[colour]}" stroke="{PAPER}"/>'
            f'<text class="ink" x="{cx + (6 if anchor == "start" else -6):.1f}" y="{label_y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(name)}</text>'
        )
    return "".join(out) + "</svg>"


def compose(found: dict[str, Any]) -> str:
    """The page's body."""
    rows, first = found["models"], found["models"][0]
    body = f"<h1>{say('Smaller models, measured', '量化模型，逐一测量').html}</h1>\n"
    others = rows[1:]
    if others:
        best = min(others, key=lambda row: row["bits_per_byte"])
        change = best["bits_per_byte"] / first["bits_per_byte"] - 1
        share = best["bytes_on_disk"] / first["bytes_on_disk"]
        en = f" is nearest to the full model: {change:+.2%} bits per byte, at {share:.0%} of its size on disk."
        zh = f" 最接近全精度模型：每字节比特 {change:+.2%}，磁盘大小为其 {share:.0%}。"
        body += f'<p class="lede">{data(best["name"]).html}{say(en, zh).html}</p>\n'
    body += f'<figure class="wide">{picture(found, WIDE)}</figure>\n<figure class="narrow">{picture(found, NARROW)}</figure>\n'
    head = [say("model", "模型"), *(say(*words) for _, words, _ in COLUMNS[:1]), say("change", "变化"),
            *(say(*words) for _, words, _ in COLUMNS[1:4]), say("disk", "磁盘"), say("memory", "内存"),
            *(say(*words) for _, words, _ in COLUMNS[4:])]  # fmt: skip
    cells: list[list[Piece]] = []
    for row in rows:
        numbers = [say("–") if row[key] is None else exact(row[key], form) for key, _, form in COLUMNS]
        change = say("–") if row is first else say(f"{row['bits_per_byte'] / first['bits_per_byte'] - 1:+.2%}")
        cells.append([data(row["name"]), numbers[0], change, *numbers[1:4], say(human_bytes(row["bytes_on_disk"])),
                      say(human_bytes(row["bytes_in_memory"])), numbers[4]])  # fmt: skip
    body += table(head, cells).html
    text = found["text"]
    body += paragraph(
        f"Bits per byte on {text['documents']:,} held-out documents ({text['tokens']:,} tokens). KL(full || model) and first choices on "
        f"{text['rows']} rows of {text['row_tokens']} tokens. Greedy agreement: the share of {text['continuations']} continuations before the first "
        f"token that differs. Memory: weights as they are held. Speed at batch 1 on {found['device']} with {found['threads']} threads, models in turn, medians.",
        f"每字节比特取自 {text['documents']:,} 篇留出文档（{text['tokens']:,} 词元）。KL（全精度 ‖ 模型）与首选一致率取自 {text['rows']} 行、每行 {text['row_tokens']} 词元。"
        f"贪心续写一致：{text['continuations']} 段续写中首个不同词元之前的比例。内存为权重所占。速度为批量 1，{found['device']}，{found['threads']} 线程，各模型轮流，取中位数。",
        "note",
    ).html
    if found["prompts"]:
        body += f'<section id="samples">\n<h2>{say("What they write", "各模型的续写").html}</h2>\n'
        for place, prompt in enumerate(found["prompts"]):
            for row in rows:
                sample = row["samples"][place] if place < len(row["samples"]) else ""
                body += f'<div class="written">{written(prompt, sample).html}<p class="note">{data(row["name"]).html}</p></div>\n'
        body += "</section>\n"
    return body


def write_page(found: dict[str, Any], path: Path, name: str) -> None:
    """Write the page. name: of what was quantized, as the user gave it."""
    write_text(path, page(f"{name} · jielong", compose(found), ABOUT))
