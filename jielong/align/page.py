"""The page of prepared examples: what was read and set aside, what answers are told apart by, how long they are, and some side by side.

A loss says that a model tells chosen answers from rejected ones, and not by what. Length is the first thing to look at, and the answers
themselves the second. The template is that of the other reports (see pieces.py), with STYLE put behind its own; text from files enters
by `pieces.data` or `escape(visible(...))` alone.
"""

from __future__ import annotations

import math
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from jielong.align.checking import REASONS
from jielong.align.summary import length_bias
from jielong.charts import Series, Words, count, line_chart
from jielong.data.reporting import pictures
from jielong.data.reporting.evidence import heading, note
from jielong.data.reporting.excerpts import listed
from jielong.data.reporting.flow import percent
from jielong.pieces import Piece, data, exact, page, paragraph, parts, say, spoken, table, visible
from jielong.runs import write_text
from jielong.tune import page as tune_page
from jielong.tune.page import SPLIT_WORDS

ABOUT = Words("jielong, the report of the preferences", "jielong 偏好数据报告")
OWN_WORDS = {
    "with_tools": Words("uses tools", "含有工具调用"),
    "diverging": Words("conversations that part early", "两段对话提前分岔"),
    "bad_label": Words("neither good nor bad", "标记无法识别"),
    "bad_margin": Words("no margin", "分差有误"),
    "too_long": Words("too long", "超出长度"),
    "equal": Words("both answers the same", "两个回答相同"),
    "contradiction": Words("the opposite is there already", "与前面的样本相反"),
}
REASON_WORDS = {reason: OWN_WORDS.get(reason) or tune_page.REASON_WORDS[reason] for reason in REASONS}
KIND_WORDS = {
    "pairs": Words("pairs of answers", "对回答"),
    "unpaired": Words("marked answers", "个带标记的回答"),
    "prompts": Words("prompts", "条提示"),
}
SIDE_WORDS = {
    "chosen": Words("chosen", "选中"),
    "rejected": Words("rejected", "未选"),
    "good": Words("good", "好"),
    "bad": Words("bad", "差"),
}
ROLE_WORDS = {
    "system": Words("system", "系统"),
    "user": Words("user", "用户"),
    "assistant": Words("assistant", "助手"),
}
PICTURE = (430, 250)
STYLE = (
    ".pair{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.7rem 1.1rem .9rem;margin:.9rem 0}"
    ".pair .origin{margin-bottom:.45rem}.pair .turn{font-size:.76rem;color:var(--muted);margin:.35rem 0 0}"
    ".pair .sample{font-size:.95rem;line-height:1.75;max-height:22rem;overflow-y:auto}"
    ".pair .two{border-top:1px dashed var(--line);margin-top:.7rem;padding-top:.55rem}"
    "#answers td:first-child{min-width:9.5rem}.few figure:only-child{max-width:29rem}"
    "@media (max-width:40rem){.pair .two{grid-template-columns:1fr}}"
)


def head(report: dict[str, Any]) -> str:
    """The examples in one sentence, and in another one what a person should know of them."""
    read, train, held = (count(report[key]) or Words("", "") for key in ("read", "train", "validation"))
    gone, sources, kind = sum(report["rejected"].values()), len(report["by_source"]), KIND_WORDS[report["kind"]]
    of_en, of_zh = (f" from {sources} sources", f"{sources} 个来源") if sources > 1 else ("", "")
    en = (
        f"{read.en} {kind.en}{of_en} were read: {train.en} to learn from, {held.en} to validate on, {gone:,} set aside."
    )
    zh = f"{of_zh}共读入 {read.zh}{kind.zh}：训练 {train.zh}，验证 {held.zh}，剔除 {gone:,}。"
    return paragraph(en, zh, "lede").html + _bias(report)


def _bias(report: dict[str, Any]) -> str:
    """A warning where the length of an answer tells which one was chosen."""
    statistics = report["statistics"]
    bias = length_bias(statistics)
    if bias is None:
        return ""
    share = percent(statistics["chosen_longer" if bias == "longer" else "rejected_longer"])
    en = (
        f"In {share} of the pairs the chosen answer is the {bias} one. A model can tell them apart by length alone, and may learn to write "
        f"{'more' if bias == 'longer' else 'less'} rather than better."
    )
    zh = (
        f"{share} 的样本中，选中的回答{'更长' if bias == 'longer' else '更短'}。模型单凭长度就能区分，可能只学会写得"
        f"{'更多' if bias == 'longer' else '更少'}，而不是更好。"
    )
    return paragraph(en, zh, "warn").html


def cards(report: dict[str, Any]) -> str:
    """The key figures."""
    statistics = report["statistics"]
    figures = [
        (say("for training", "训练"), spoken(count(report["train"]))),
        (say("for validation", "验证"), spoken(count(report["validation"]))),
        (say("set aside", "剔除"), spoken(count(sum(report["rejected"].values())))),
    ]
    if report["kind"] != "prompts":
        figures.append((say("tokens of a prompt", "提示的平均词元数"), _number(statistics["prompt_tokens"])))
    if report["kind"] == "pairs":
        figures += [
            (say("chosen is longer", "选中的更长"), _share(statistics["chosen_longer"])),
            (say("rejected is longer", "未选的更长"), _share(statistics["rejected_longer"])),
        ]
    elif report["kind"] == "unpaired":
        lengths = [_number(statistics[f"{side}_characters"]) for side in ("good", "bad")]
        figures += [
            (say("good answers", "好的回答占比"), _share(statistics["good"])),
            (say("characters, good and bad", "字数：好与差"), lengths[0] + say(" / ") + lengths[1]),
        ]
    html = "".join(f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in figures)
    return f'<dl class="cards">\n{html}</dl>\n'


def _share(share: float | None) -> Piece:
    return say("—") if share is None else say(percent(share))


def _number(value: float | None, form: str = ",.0f") -> Piece:
    return say("—") if value is None else exact(value, form)


def _rows(report: dict[str, Any]) -> list[tuple[Piece, dict[str, Any]]]:
    """Each source, and all together."""
    return [*((data(name), row) for name, row in report["by_source"].items()), (say("all", "合计"), report)]


def sources_section(report: dict[str, Any]) -> str:
    """What of each source was read, kept and set aside."""
    rows, several = [], report["records"] != report["read"]
    for name, row in _rows(report):
        gone = sum(row["rejected"].values())
        numbers = [*([row["records"]] if several else []), row["read"], row["train"], row["validation"], gone]
        rows.append([name, *map(exact, numbers), _share(gone / row["read"] if row["read"] else None)])
    titles = [say("source", "来源"), *([say("records", "记录")] if several else []), say("read", "读入"), say("training", "训练"),
              say("validation", "验证"), say("set aside", "剔除"), say("share", "占比")]  # fmt: skip
    return table(titles, rows).html + note(
        "Read is training plus validation plus set aside, of each source: every example is accounted for.",
        "每个来源中，读入等于训练加验证加剔除：每一条都有去处。",
    )


def rejects_section(report: dict[str, Any]) -> str:
    """Every reason with its number and some records; which source has how many."""
    reasons = sorted(report["rejected"], key=lambda reason: (-report["rejected"][reason], reason))
    if not reasons:
        return note("Nothing was set aside.", "没有剔除任何记录。")
    body = ""
    for reason in reasons:
        title = f"<b>{say(*REASON_WORDS[reason]).html}</b> <code>{escape(reason)}</code>"
        number = report["rejected"][reason]
        side = f'<span class="side">{number:,} · {escape(percent(number / report["read"]))}</span>'
        inner = f'<ul class="samples">\n{listed(report["rejects"].get(reason, []), 2_000)}</ul>\n'
        body += f'<details class="fold"><summary>{title}{side}</summary>\n{inner}</details>\n'
    sources = {name: row["rejected"] for name, row in report["by_source"].items() if row["rejected"]}
    rows = [
        [say(*REASON_WORDS[reason]), *(exact(found.get(reason)) for found in sources.values())] for reason in reasons
    ]
    body += heading("By source", "按来源") + table([say("reason", "原因"), *map(data, sources)], rows).html
    return body + note(
        "All of them, as they stand in their files, are in rejects/, with source, file and line.",
        "全部剔除的记录连同来源、文件与行号保存在 rejects/ 中。",
    )


def answers_section(report: dict[str, Any]) -> str:
    """What tells the answers of each source apart; of prompts, which columns there are."""
    if report["kind"] == "prompts":
        return _columns(report)
    return _pairs(report) if report["kind"] == "pairs" else _marks(report)


def _pairs(report: dict[str, Any]) -> str:
    rows, margins = [], bool(report["statistics"]["margins"])
    for name, row in _rows(report):
        found = row["statistics"]
        numbers = [_number(found["chosen_characters"]), _number(found["rejected_characters"])]
        numbers += [_share(found[key]) for key in ("chosen_longer", "rejected_longer")]
        rows.append([name, *numbers, *([exact(found["margins"]), _number(found["margin"], ".3g")] if margins else [])])
    titles = [say("source", "来源"), say("characters, chosen", "字数（选中）"), say("rejected", "字数（未选）"),
              say("chosen is longer", "选中的更长"), say("rejected is longer", "未选的更长")]  # fmt: skip
    titles += [say("margins", "有分差"), say("mean margin", "平均分差")] if margins else []
    found, kept = report["statistics"], report["train"] + report["validation"]
    shares = [
        (title, (found[key] or 0) * kept, kind)
        for title, key, kind in (
            (say("chosen is longer", "选中的更长"), "chosen_longer", "keep"),
            (say("same length", "等长"), "equal_length", "out4"),
            (say("rejected is longer", "未选的更长"), "rejected_longer", "out1"),
        )
    ]
    return parts("Pairs by the longer answer", "哪个回答更长", shares).html + table(titles, rows).html


def _marks(report: dict[str, Any]) -> str:
    rows = []
    for name, row in _rows(report):
        found = row["statistics"]
        numbers = [_share(found["good"]), _number(found["good_characters"]), _number(found["bad_characters"])]
        rows.append([name, *numbers])
    titles = [say("source", "来源"), say("good", "好的占比"), say("characters, good", "字数（好）"),
              say("bad", "字数（差）")]  # fmt: skip
    return table(titles, rows).html


def _columns(report: dict[str, Any]) -> str:
    columns, kept = report["statistics"]["columns"], report["train"] + report["validation"]
    if not columns:
        return note(
            "The records hold nothing but prompts: rewards see the prompt and the answer.",
            "记录中只有提示：奖励函数只能看到提示和回答。",
        )
    rows = [[data(name), exact(number), _share(number / kept)] for name, number in columns.items()]
    return table([say("column", "字段"), say("prompts", "提示"), say("share", "占比")], rows).html + note(
        "What else the records hold is given to the functions that say what answers are worth.",
        "记录中的其他字段会传给奖励函数。",
    )


def sizes_section(report: dict[str, Any]) -> str:
    """Tokens of examples, by split, and of answers, by side: those as lines, because neither may hide the other."""
    title, row = Words("An example, tokens", "样本长度（词元）"), report["lengths"]
    marks = (SPLIT_WORDS["train"], SPLIT_WORDS["validation"])
    column = {"edges": row["edges"], "log": True, "measured": row["train"], "kept": row["validation"]}
    body = ""
    if picture := pictures.histogram(column, title, marks):
        key = f'<li><i class="hold light"></i>{say(*marks[0]).html}</li><li><i class="keep"></i>{say(*marks[1]).html}</li>'
        body += f'<figure class="half"><figcaption><b>{say(*title).html}</b></figcaption>{picture}<ul class="key">{key}</ul></figure>\n'
    body += _answer_lengths(report.get("answers", {"edges": []}))
    return f'<div class="few columns">\n{body}</div>\n' + note(
        "Heights of the bars are square roots of the counts. An example is a prompt with its longest answer.",
        "柱高为数量的平方根。样本长度为提示加最长的回答。",
    )


def _answer_lengths(row: dict[str, Any]) -> str:
    """Of each side, which share of its answers is in each bin of tokens."""
    title = Words("Answers by length, % of each side", "回答长度分布（各自的百分比）")
    lines, key, peaks = list[Series](), "", list[Words]()
    for (side, counts), (colour, kind) in zip(_sides(row), ((2, "keep"), (1, "out0")), strict=False):
        total, last = sum(counts), max((n for n, number in enumerate(counts) if number), default=0)
        if total:
            middles = [math.log2(low * high) / 2 for low, high in pairwise(row["edges"][: last + 2])]
            lines.append(
                Series(None, [(x, 100 * n / total) for x, n in zip(middles, counts, strict=False)], "line", colour)
            )
            key += f'<li><i class="{kind}"></i>{say(*SIDE_WORDS[side]).html}</li>'
            peak = 2 ** middles[counts.index(max(counts))]
            peaks.append(Words(*(f"{word} {peak:,.0f}" for word in SIDE_WORDS[side])))
    if not lines:
        return ""
    about = Words(
        f"most often about {', '.join(peak.en for peak in peaks)}", f"最常见约{'，'.join(peak.zh for peak in peaks)}"
    )
    picture = line_chart(
        lines, "answers-length", title, about, Words("tokens", "词元"), PICTURE, True, lambda x: f"{2**x:,.0f}"
    )
    return f'<figure class="half">{picture}<ul class="key">{key}</ul></figure>\n'


def _sides(row: dict[str, Any]) -> list[tuple[str, list[int]]]:
    return [(side, counts) for side, counts in row.items() if side != "edges"]


def examples_section(report: dict[str, Any]) -> str:
    """Some examples, answers side by side."""
    body = ""
    for one in report["examples"]:
        words = SPLIT_WORDS[one["split"]]
        en, zh = (
            f"{words.en}, prompt of {one['prompt_tokens']:,} tokens",
            f"{words.zh}，提示 {one['prompt_tokens']:,} 词元",
        )
        if one.get("margin") is not None:
            en, zh = f"{en}, margin {one['margin']:.3g}", f"{zh}，分差 {one['margin']:.3g}"
        origin = f"{data(one['source']).html} <code>{escape(visible(one['file']))}:{one['line']}</code>"
        body += f'<div class="pair"><p class="note origin">{origin} {say(en, zh).html}</p>\n'
        body += "".join(
            f'<p class="turn">{say(*ROLE_WORDS[turn["role"]]).html}</p>{_text(turn)}' for turn in one["prompt"]
        )
        columns = "".join(f"<div>{_side(side, answer)}{_text(answer)}</div>" for side, answer in one["answers"].items())
        if columns:
            body += f'<div class="two">{columns}</div>' if len(one["answers"]) > 1 else columns
        if one.get("columns", {}).get("text", "{}") != "{}":
            body += f'<p class="turn">{say("columns", "其他字段").html}</p>{_text(one["columns"])}'
        body += "</div>\n"
    return body


def _side(side: str, answer: dict[str, Any]) -> str:
    words, kind = SIDE_WORDS[side], "stay" if side in ("chosen", "good") else "lost"
    en = f"{words.en}, {answer['characters']:,} characters, {answer['tokens']:,} tokens"
    zh = f"{words.zh}，{answer['characters']:,} 字，{answer['tokens']:,} 词元"
    return f'<p class="side-head {kind}">{say(en, zh).html}</p>'


def _text(text: dict[str, Any]) -> str:
    more = "…" if text["characters"] > len(text["text"]) else ""
    return f'<p class="sample">{data(text["text"].strip() + more).html}</p>\n'


SECTIONS = {
    "sources": (Words("Sources", "来源"), sources_section),
    "rejects": (Words("What was set aside", "剔除的记录"), rejects_section),
    "answers": (Words("What tells them apart", "样本的差别"), answers_section),
    "sizes": (Words("How long they are", "长度"), sizes_section),
    "examples": (Words("Some of them", "样本"), examples_section),
}


def compose(report: dict[str, Any]) -> str:
    """The whole report as HTML, without the page around it."""
    titles = {key: title for key, (title, _) in SECTIONS.items()}
    if report["kind"] == "prompts":
        titles["answers"] = Words("What else the records hold", "其他字段")
    made = [(key, say(*titles[key]).html, section(report)) for key, (_, section) in SECTIONS.items()]
    shown = [(key, title, inner) for key, title, inner in made if inner]
    links = "".join(f'<a href="#{key}">{title}</a>\n' for key, title, _ in shown)
    body = f"<h1>{say('Preferences', '偏好').html}</h1>\n{head(report)}{cards(report)}<nav>\n{links}</nav>\n"
    return body + "".join(f'<section id="{key}">\n<h2>{title}</h2>\n{inner}</section>\n' for key, title, inner in shown)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write the page of what `preparing.prepare` returns."""
    write_text(path, page("Preferences · jielong", compose(report), ABOUT).replace("</style>", f"{STYLE}\n</style>", 1))
