"""The data stage's own report, `data/report.html`: what came in, what every step did to it, what stayed, on one page.

Cleaning decides more about a small model than most of its other numbers, and it is decided blind when all one sees is a
count of documents. This page shows the decision: the whole flow as one picture, every threshold on its distribution, and
texts from both sides of each. It is written from one dictionary that the stage keeps as `report.json`, computes nothing but
shares, and leaves out whatever the dictionary does not hold.

The page is the template of the run report (see pieces.py): one file that loads nothing, in two languages, with a policy as
the second fence around text from the internet. There is no Markdown twin: pictures, marked differences and columns side by
side are the content here, and Markdown has none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jielong.charts import Words, count, finite
from jielong.data.reporting import balance, evidence, pictures
from jielong.data.reporting.evidence import column_words, heading, note, wording
from jielong.data.reporting.flow import flow, number, percent, rows
from jielong.data.reporting.glossary import LANGUAGES, named, step_words
from jielong.data.reporting.river import river
from jielong.pieces import NOTHING, Piece, code, data, exact, page, paragraph, say, spoken, table
from jielong.progress import human_bytes
from jielong.runs import write_text

ABOUT = Words("jielong, the report of the data", "jielong 数据报告")
LIST_WORDS = Words(", ", "、")


def share_of(part: Any, whole: Any) -> Piece:
    """A share; NOTHING when it is not known."""
    above, below = finite(part), finite(whole)
    return say(percent(above / below)) if above is not None and below else NOTHING


# --------------------------------------------------------------------------------------------------------- head


def summary(report: dict[str, Any]) -> str:
    """The data in one sentence: what came in, what stayed, why the rest left."""
    totals = report.get("totals") or {}
    read, kept, chars = count(totals.get("read")), count(totals.get("kept")), count(totals.get("chars"))
    if read is None or kept is None:
        return paragraph("Nothing has been counted yet.", "尚无统计。", "lede").html
    sources = len(rows(report, "sources"))
    stayed = number(totals.get("read")) - number(totals.get("rejected"))
    share = f" ({percent(stayed / number(totals.get('read')))})" if number(totals.get("read")) else ""
    share_zh = share.replace(" (", "（").replace(")", "）")
    left = count(stayed) or kept
    en = (
        f"{read.en} documents"
        + (f" from {sources} sources" if sources > 1 else "")
        + f" came in, {left.en} stayed{share}"
    )
    zh = (f"{sources} 个来源共" if sources > 1 else "") + f"读入 {read.zh}篇文档，保留 {left.zh}篇{share_zh}"
    if number(totals.get("added")):
        en, zh = f"{en}, and cutting long ones made them {kept.en}", f"{zh}，切分长文后为 {kept.zh}篇"
    en, zh = (f"{en}: {chars.en} characters.", f"{zh}，共 {chars.zh}字。") if chars else (f"{en}.", f"{zh}。")
    if why := evidence.reasons(report):
        en += f" The rules that rejected most: {LIST_WORDS.en.join(f'{words.en} ({n:,})' for words, n in why)}."
        zh += f"剔除最多的规则：{LIST_WORDS.zh.join(f'{words.zh}（{n:,}）' for words, n in why)}。"
    return paragraph(en, zh, "lede").html


def cards(report: dict[str, Any]) -> str:
    """The key figures."""
    totals, characters = report.get("totals") or {}, report.get("characters") or {}
    steps = rows(report, "steps")
    first, last = (steps[0].get("chars_in"), steps[-1].get("chars_out")) if steps else (None, None)
    figures = [
        (say("documents read", "读入文档"), spoken(count(totals.get("read")))),
        (say("documents kept", "保留文档"), spoken(count(totals.get("kept")))),
        (say("of all characters kept", "字符保留比例"), share_of(last, first)),
        (say("characters kept", "保留字符"), spoken(count(totals.get("chars")))),
        (say("sources", "来源"), exact(len(rows(report, "sources")) or None)),
        (say("distinct Chinese characters", "不同汉字"), exact(characters.get("distinct"))),
    ]
    known = [(name, value) for name, value in figures if value != NOTHING]
    html = "".join(f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in known)
    return f'<dl class="cards">\n{html}</dl>\n' if known else ""


# ----------------------------------------------------------------------------------------------------- sections


def flow_section(report: dict[str, Any]) -> str:
    """The picture, and which source lost how much to which step."""
    picture = flow(report, column_words(report))
    body = f'<figure class="outset wide"><div class="scroll">{picture}</div></figure>\n' if picture else ""
    if tall := river(report, column_words(report)):
        body += f'<figure class="narrow">{tall}</figure>\n'
    return body + losses(report)


def losses(report: dict[str, Any]) -> str:
    """Rows are sources, columns the steps that rejected something, cells the share of the source that left there."""
    steps = [step for step in rows(report, "steps") if any(number(n) for n in (step.get("rejected") or {}).values())]
    sources = [source for source in rows(report, "sources") if number(source.get("read"))]
    if not steps or not sources:
        return ""
    heads = "".join(f'<th class="n">{wording(step_words(one.get("name"), one.get("kind"))).html}</th>' for one in steps)
    lines = ""
    for source in sources:
        name, read = str(source.get("name") or "—"), number(source.get("read"))
        lost = [number((((step.get("by_source") or {}).get(name)) or {}).get("rejected")) for step in steps]
        cells = "".join(pictures.tinted(n / read) for n in lost)
        lines += f'<tr><td>{data(name).html}</td>{cells}<td class="n">{percent(sum(lost) / read).replace("<", "&lt;")}</td></tr>\n'
    head = f'<tr><th>{say("source", "来源").html}</th>{heads}<th class="n">{say("all steps", "合计").html}</th></tr>\n'
    return (
        heading("What each source lost", "各来源的损失")
        + note("Share of the documents read from the source.", "占该来源读入文档的比例。")
        + f'<div class="scroll"><table class="heat">\n{head}{lines}</table></div>\n'
    )


def steps_section(report: dict[str, Any]) -> str:
    """In, rejected, added, out, edited, and characters changed: step by step."""
    listed, odd = [], []
    for step in rows(report, "steps"):
        words = step_words(step.get("name"), step.get("kind"))
        came, left, added = number(step.get("in")), number(step.get("out")), number(step.get("added"))
        lost = sum(number(n) for n in (step.get("rejected") or {}).values())
        if came + added - lost != left:
            odd.append(words)
        before, after = finite(step.get("chars_in")), finite(step.get("chars_out"))
        change = (
            say(f"{after - before:+,.0f}".replace("-", "\u2212"))
            if before and after is not None and after != before
            else NOTHING
        )
        relative = NOTHING
        if before and after is not None and after != before:
            text = percent(abs(after / before - 1), 2)
            relative = say(text if "<" in text else ("+" if after > before else "\u2212") + text)
        counts = [exact(n or None) for n in (lost, added)]
        edited = number(step.get("edited"))
        share = share_of(edited, came) if edited else NOTHING
        listed.append(
            [wording(words), exact(came), *counts, exact(left), exact(edited or None), share, change, relative]
        )
    if not listed:
        return ""
    head = [
        say("step", "步骤"), say("in", "进入"), say("rejected", "剔除"), say("added", "增加"), say("out", "离开"),
        say("edited", "修改"), say("of them", "占比"), say("characters", "字符变化"), say("relative", "比例"),
    ]  # fmt: skip
    body = table(head, listed).html
    if odd:
        en, zh = ", ".join(words.en for words in odd), "、".join(words.zh for words in odd)
        warning = paragraph(
            f"The counts of these steps do not add up: {en}. Find out why before using the data.",
            f"下列步骤的数目对不上：{zh}。请先查明原因。",
            "warn",
        )
        return body + warning.html
    return body + note(
        "In, less rejected, plus added, is out, in every step: every document is accounted for.",
        "每一步中，进入减去剔除加上增加等于离开：每一篇都有去处。",
    )


def sources_section(report: dict[str, Any]) -> str:
    """Where the text comes from and how much of each remains."""
    found = rows(report, "sources")
    weighted = [number(row.get("chars")) * (finite(row.get("weight")) or 0.0) for row in found]
    total = sum(weighted)
    listed = []
    for row, part in zip(found, weighted, strict=True):
        encodings = " ".join(
            f"{name} ×{number(n)}" if number(n) > 1 else str(name) for name, n in (row.get("encodings") or {}).items()
        )
        languages = row.get("languages") or {}
        main = max(languages, key=lambda key: number(languages[key])) if languages else None
        raw = finite(row.get("raw_bytes"))
        stayed = number(row.get("read")) - sum(number(n) for n in (row.get("rejected") or {}).values())
        licence = data(row["licence"]) if row.get("licence") else say("not stated", "未注明")
        listed.append([
            data(row.get("name") or "—"), licence, code(encodings or None), exact(row.get("files")),
            say(human_bytes(raw)) if raw is not None else NOTHING, exact(row.get("read")), exact(row.get("kept")),
            share_of(stayed, row.get("read")), spoken(count(row.get("chars"))),
            exact(row.get("weight"), "g"), share_of(part, total), named(LANGUAGES, main) if main else NOTHING,
        ])  # fmt: skip
    head = [
        say("source", "来源"), say("licence", "许可"), say("encodings", "编码"), say("files", "文件"), say("size", "大小"),
        say("read", "读入"), say("kept", "保留"), say("kept, %", "保留率"), say("characters", "字符"), say("weight", "权重"),
        say("share, weighted", "加权占比"), say("main language", "主要语言"),
    ]  # fmt: skip
    return f'<div class="outset sources">{table(head, listed, 3).html}</div>\n' if listed else ""


def shares_section(report: dict[str, Any]) -> str:
    """Lengths, languages and sources of what stayed."""
    body, lengths = "", report.get("lengths") or {}
    words = Words("Length of the documents, characters", "文档长度（字符）")
    drawn = {
        "edges": lengths.get("edges"),
        "log": True,
        "measured": lengths.get("train"),
        "kept": lengths.get("validation"),
    }
    picture = pictures.histogram(drawn, words, (Words("training", "训练"), Words("validation", "验证")))
    if picture:
        key = f'<li><i class="hold light"></i>{say("training", "训练").html}</li><li><i class="keep"></i>{say("validation", "验证").html}</li>'
        body += f'<figure class="half"><figcaption><b>{say(*words).html}</b></figcaption>{picture}<ul class="key">{key}</ul></figure>\n'
    languages = sorted((report.get("languages") or {}).items(), key=lambda item: -number(item[1]))
    if made := pictures.bars([(named(LANGUAGES, key), number(n)) for key, n in languages]):
        body += f"<div>{heading('Languages, documents', '语言（文档数）')}{made}</div>\n"
    sources = sorted(rows(report, "sources"), key=lambda row: -number(row.get("chars")))
    if made := pictures.bars([(data(row.get("name") or "—"), number(row.get("chars"))) for row in sources], "hold"):
        body += f"<div>{heading('Sources, characters kept', '来源（保留字符）')}{made}</div>\n"
    return f'<div class="halves">\n{body}</div>\n' if body else ""


def characters_section(report: dict[str, Any]) -> str:
    """Which Chinese characters occur, and how many of them make up how much of the text."""
    found = report.get("characters") or {}
    picture = pictures.curve(
        found.get("coverage"), "coverage", Words("Share of the text covered", "覆盖文本的比例"),
        Words("most frequent characters", "最常用的字数"), by_rank=True,
    )  # fmt: skip
    seen, common = number(found.get("common_seen")), number(found.get("common_of"))
    facts = [
        (say("Chinese characters in the text", "文本中的汉字"), spoken(count(found.get("total")))),
        (say("distinct", "不同的汉字"), exact(found.get("distinct"))),
        (
            say("common characters seen (GB 2312, level 1)", "见到的常用字（GB 2312 一级）"),
            say(f"{seen:,} / {common:,}") if common else NOTHING,
        ),
        (say("of the text outside GB 2312", "GB 2312 以外的字占文本"), exact(found.get("outside"), ".3%")),
    ]
    lines = "".join(
        f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in facts if value != NOTHING
    )
    body = f"<figure>{picture}</figure>\n" if picture else ""
    if lines:
        body += f'<dl class="facts one">\n{lines}</dl>\n'
    body = f'<div class="beside">{body}</div>\n' if body else ""
    top = [pair for pair in found.get("top") or [] if isinstance(pair, (list, tuple)) and len(pair) == 2 and pair[0]]
    if top:
        chips = "".join(f"<li>{data(char).html}<small>{number(n):,}</small></li>" for char, n in top)
        body += heading("The most frequent", "最常见的字") + f'<ol class="chars">{chips}</ol>\n'
    if missing := str(found.get("common_missing") or ""):
        body += heading("Common characters that never occur", "从未出现的常用字")
        rest = common - seen - len(missing)
        more = note(f"and {rest:,} more", f"另有 {rest:,} 个") if rest > 0 else ""
        body += f'<p class="missing">{data(missing).html}</p>\n{more}'
    return body


SECTIONS: dict[str, tuple[Words, Callable[[dict[str, Any]], str]]] = {
    "flow": (Words("Where the documents went", "文档的去向"), flow_section),
    "steps": (Words("Step by step", "逐步统计"), steps_section),
    "sources": (Words("Sources", "来源"), sources_section),
    "edits": (Words("What each step changed", "各步的修改"), evidence.edits),
    "distributions": (Words("Distributions and thresholds", "分布与阈值"), evidence.distributions),
    "rules": (Words("On both sides of each rule", "规则两侧的文本"), evidence.rules),
    "duplicates": (Words("Duplicates", "重复文档"), evidence.duplicates),
    "lines": (Words("Repeated lines", "重复的行"), evidence.lines),
    "fragments": (Words("Fragments of many documents", "多篇共有的片段"), evidence.fragments),
    "shares": (Words("What stayed", "保留的语料"), shares_section),
    "characters": (Words("Characters", "汉字覆盖"), characters_section),
    "balance": (Words("Balance", "均衡性"), balance.section),
    "evaluation": (Words("Evaluation items", "评测题"), evidence.evaluation),
}


def compose(report: dict[str, Any]) -> str:
    """The whole report as HTML, without the page around it."""
    made = [(key, say(*title).html, section(report)) for key, (title, section) in SECTIONS.items()]
    shown = [(key, title, inner) for key, title, inner in made if inner]
    links = "".join(f'<a href="#{key}">{title}</a>\n' for key, title, _ in shown)
    name = data(report.get("run") or "").html or say("Data", "数据").html
    head = f"<h1>{name}</h1>\n{summary(report)}{cards(report)}<nav>\n{links}</nav>\n"
    return head + "".join(f'<section id="{key}">\n<h2>{title}</h2>\n{inner}</section>\n' for key, title, inner in shown)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write the page of a report dictionary (report.json) to `path`; sections without content are left out."""
    write_text(path, page(f"{report.get('run') or ''} · jielong", compose(report), ABOUT))
