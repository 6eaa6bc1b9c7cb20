"""What `evaluate_lengths` found, for people: tables for a terminal, and a page with the curves.

The page is in the template of the other reports (pieces.py): one file that loads nothing, in two languages. The model's name is
the only text from outside, and enters by `data`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jielong.charts import COLOURS, DARK_COLOURS, Series, Words, finite, line_chart
from jielong.pieces import Piece, data, exact, page, paragraph, say, table
from jielong.progress import human_count
from jielong.runs import write_text

ABOUT = Words("jielong, context lengths of a model", "jielong 上下文长度报告")
SIZE, NARROW = (760, 340), (400, 300)
LENGTH = Words("context, tokens", "上下文（词元）")
TRAINED = Words("trained length", "训练长度")
STYLE = (  # the key stands below a picture: its curves may rise into any corner
    "".join(f".key .l{n}{{background:{colour}}}" for n, colour in enumerate(COLOURS))
    + "@media screen and (prefers-color-scheme:dark){"
    + "".join(f".key .l{n}{{background:{colour}}}" for n, colour in enumerate(DARK_COLOURS))
    + "}"
)
PASSKEYS = (  # key of a row's passkey, title, short name
    (
        "likelihood",
        Words("The right number is the most likely of ten", "十选一，正确口令最可能"),
        Words("of ten", "十选一"),
    ),
    ("greedy", Words("The model says the right number", "直接说出正确口令"), Words("said", "直接说出")),
)


def value(row: dict[str, Any], key: str) -> float | None:
    """A figure of a row: its own, or of its passkey; None where there is none."""
    own = finite(row.get(key))
    return own if own is not None else finite((row.get("passkey") or {}).get(key))


def schemes(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured: the model as it is, then each scaling."""
    listed: list[dict[str, Any]] = found["schemes"]
    return listed


# ------------------------------------------------------------------------------------------------------ terminal


def tables(found: dict[str, Any]) -> Iterator[tuple[list[str], list[list[str]]]]:
    """For each scheme the head and the rows of a table."""

    def cell(number: float | None, form: str, known: bool = True) -> str:
        return "-" if number is None or not known else format(number, form)

    for scheme in schemes(found):
        head = [scheme["name"], "bits/byte", "change", "+-", "passkey of ten", "passkey said", "mean rank"]
        rows = [
            [f"{row['length']}{' beyond' if row['beyond'] else ''}", cell(value(row, "bits_per_byte"), ".4f"),
             cell(value(row, "change"), ".4f", n > 0), cell(value(row, "change_error"), ".4f", n > 0), cell(value(row, "likelihood"), ".0%"),
             cell(value(row, "greedy"), ".0%"), cell(value(row, "mean_rank"), ".1f")]
            for n, row in enumerate(scheme["rows"])
        ]  # fmt: skip
        yield head, rows


def notes(found: dict[str, Any]) -> Iterator[str]:
    """What must be known to read the tables."""
    text = found["text"]
    longest = max(found["lengths"])
    if text["windows"]:
        yield (
            f"Bits per byte: the same {text['target_tokens']:,} tokens ({text['windows']} stretches, from {text['long_documents']:,} documents of "
            f"at least {longest} tokens; {text['documents']:,} read) with more or less before them; change: against the shortest."
        )
    elif text["documents"]:
        yield (
            f"No bits per byte: the longest of {text['documents']} documents has {text['longest_document']} tokens, and all must see "
            f"{longest}; give longer documents or shorter lengths."
        )
    else:
        yield "No bits per byte: the model belongs to no run whose documents could be read; give some with --data."
    passkey = found["passkey"]
    yield (
        f"Passkey: {passkey['trials']} prompts at each of {', '.join(f'{depth} %' for depth in passkey['depths'])}; guessing one of ten is right in "
        f"{passkey['chance']:.0%}. Trained length: {found['trained_length']} tokens."
    )


# ---------------------------------------------------------------------------------------------------------- page


def chart(found: dict[str, Any], key: str, title: Words, size: tuple[int, int], from_zero: bool) -> str:
    """A curve of each of the first schemes; empty where there is nothing to draw."""
    series, told = [], []
    for place, scheme in enumerate(schemes(found)[: len(COLOURS)]):
        points = [(float(row["length"]), value(row, key)) for row in scheme["rows"]]
        if ys := [y for _, y in points if y is not None]:
            series.append(Series(None, points, "marks", place))
            told.append(f"{scheme['name']} {ys[0]:.3f} - {ys[-1]:.3f}")
    if not series:
        return ""
    spoken = Words("; ".join(told), "; ".join(told))
    marks = [(float(found["trained_length"]), TRAINED)] if found["trained_length"] <= max(found["lengths"]) else []
    identity = f"{key.replace('_', '-')}-{size[0]}"
    return line_chart(series, identity, title, spoken, LENGTH, size, from_zero, human_count, marks)


def figures(found: dict[str, Any], key: str, title: Words, from_zero: bool) -> str:
    """The curve for wide and for narrow screens."""
    drawn = [
        f'<figure class="{kind}">{svg}</figure>\n'
        for kind, size in (("wide", SIZE), ("narrow", NARROW))
        if (svg := chart(found, key, title, size, from_zero))
    ]
    named = [
        f'<li><i class="l{n}"></i>{data(one["name"]).html}</li>' for n, one in enumerate(schemes(found)[: len(COLOURS)])
    ]
    return "".join(drawn) + (f'<ul class="key">{"".join(named)}</ul>\n' if drawn and len(named) > 1 else "")


def cells(scheme: dict[str, Any]) -> list[list[Piece]]:
    """A scheme's rows, for a table of the page."""
    rows = []
    for row in scheme["rows"]:
        place = say(f"{row['length']:,}")
        if row["beyond"]:
            place += say(" beyond", "（超出）")
        change, error = value(row, "change"), value(row, "change_error")
        told = (
            say("–")
            if change is None or row["length"] == scheme["rows"][0]["length"]
            else say(f"{change:+.4f}" + ("" if error is None else f" ± {error:.4f}"))
        )
        bits = exact(row["bits_per_byte"], ".4f") if row["bits_per_byte"] is not None else say("–")
        shares = [say("–") if (share := value(row, key)) is None else say(f"{share:.0%}") for key, _, _ in PASSKEYS]
        rank = value(row, "mean_rank")
        rows.append([place, bits, told, *shares, say("–") if rank is None else say(f"{rank:.1f}")])
    return rows


def depth_cells(scheme: dict[str, Any], depths: list[int]) -> list[list[Piece]]:
    """Likelihood accuracy by length and depth."""
    rows = []
    for row in scheme["rows"]:
        if (passkey := row["passkey"]) is not None:
            shares = [say(f"{passkey['by_depth'][str(depth)]['likelihood']:.0%}") for depth in depths]
            rows.append([say(f"{row['length']:,}"), *shares])
    return rows


def compose(found: dict[str, Any], name: str) -> str:
    """The page's body."""
    lengths, text, passkey = found["lengths"], found["text"], found["passkey"]
    body = f"<h1>{say('Context lengths', '上下文长度').html}</h1>\n"
    en = f" was trained at {found['trained_length']:,} tokens; measured at {lengths[0]:,} to {lengths[-1]:,}."
    zh = f" 以 {found['trained_length']:,} 词元训练，在 {lengths[0]:,} 至 {lengths[-1]:,} 词元上测量。"
    body += f'<p class="lede">{data(name).html}{say(en, zh).html}</p>\n'
    head = [say(*LENGTH), say("bits per byte", "比特/字节"), say("change", "变化"), *(say(*short) for _, _, short in PASSKEYS),
            say("mean rank", "平均名次")]  # fmt: skip
    body += f'<section id="bits">\n<h2>{say("What is before a token", "前文的用处").html}</h2>\n'
    body += figures(found, "bits_per_byte", Words("Bits per byte of the same tokens", "同一批词元的每字节比特"), False)
    for scheme in schemes(found):
        body += f"<h3>{data(scheme['name']).html}</h3>\n{table(head, cells(scheme)).html}"
    if text["windows"]:
        body += paragraph(
            f"Every length predicts the same {text['target_tokens']:,} tokens ({text['windows']} stretches, from {text['long_documents']:,} "
            f"documents of at least {lengths[-1]:,} tokens; {text['documents']:,} were read), from as many tokens before their end as "
            "the length says. Change: against the shortest length, with its standard error over the stretches.",
            f"各长度都预测同一批 {text['target_tokens']:,} 个词元（取自 {text['long_documents']:,} 篇不短于 {lengths[-1]:,} 词元的文档，"
            f"共 {text['windows']} 段；读入 {text['documents']:,} 篇），只是所见前文长短不同。变化：相对最短长度，± 为各段的标准误差。",
            "note",
        ).html
    elif text["documents"]:
        body += paragraph(
            f"No bits per byte: no document has {lengths[-1]:,} tokens; the longest of {text['documents']:,} has {text['longest_document']:,}.",
            f"没有每字节比特：没有文档达到 {lengths[-1]:,} 词元；读入 {text['documents']:,} 篇，最长 {text['longest_document']:,}。",
            "note",
        ).html
    else:
        body += paragraph(
            "No bits per byte: the model belongs to no run, and no documents were given.",
            "没有每字节比特：模型不属于任何运行，也没有给出文档。",
            "note",
        ).html
    body += f'</section>\n<section id="passkey">\n<h2>{say("Finding a number again", "找回口令").html}</h2>\n'
    for key, title, _ in PASSKEYS:
        body += figures(found, key, title, True)
    depths = [say(f"at {depth} %", f"位于 {depth}%") for depth in passkey["depths"]]
    for scheme in schemes(found):
        if rows := depth_cells(scheme, passkey["depths"]):
            body += f"<h3>{data(scheme['name']).html}</h3>\n{table([say(*LENGTH), *depths], rows).html}"
    body += paragraph(
        f"A number told once in filler text is asked for at its end: {passkey['trials']} prompts at each place. The table: how often the "
        f"right one is the most likely of {passkey['candidates']}; guessing gives {passkey['chance']:.0%}.",
        f"在填充文字中说出一次口令，文末再问：每个位置 {passkey['trials']} 题。表中为正确口令在 {passkey['candidates']} 个候选中最可能的比例，"
        f"乱猜为 {passkey['chance']:.0%}。",
        "note",
    ).html
    if len(schemes(found)) > len(COLOURS):
        body += paragraph(
            f"The curves are those of the first {len(COLOURS)}.", f"曲线只画前 {len(COLOURS)} 个。", "note"
        ).html
    return body + "</section>\n"


def write_page(found: dict[str, Any], path: Path, name: str) -> None:
    """Write the page. name: the model's, as the user gave it."""
    html = page(f"{name} · jielong", compose(found, name), ABOUT)
    write_text(path, html.replace("</style>", f"{STYLE}\n</style>", 1))
