"""The page of prepared conversations: what was read and set aside, how long they are, and some of them with what is learned of them.

A wrong mask is the one error of tuning that no curve shows: the loss falls, and the model learns to ask. So conversations stand here as
the model sees them, token by token, what it learns in colour. The template is that of the other reports (see pieces.py), with STYLE put
behind its own; text from files enters by `pieces.data` or `escape(visible(...))` alone.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from jielong.charts import Words, count
from jielong.data.reporting import pictures
from jielong.data.reporting.evidence import heading, note
from jielong.data.reporting.excerpts import listed
from jielong.data.reporting.flow import percent
from jielong.pieces import Piece, data, exact, page, paragraph, parts, say, spoken, table, visible
from jielong.runs import write_text

ABOUT = Words("jielong, the report of the conversations", "jielong 对话数据报告")
REASON_WORDS = {
    "bad_utf8": Words("bytes that are not UTF-8", "非 UTF-8 字节"),
    "bad_encoding": Words("bytes that are not in the encoding", "与所述编码不符"),
    "bad_json": Words("no JSON object", "不是 JSON 对象"),
    "bad_csv": Words("a broken row of a table", "表格行有误"),
    "text_not_string": Words("a cell that cannot be read", "单元格无法读取"),
    "empty_text": Words("empty", "空白"),
    "binary": Words("binary content", "二进制内容"),
    "too_big": Words("a record that is too big", "单条过大"),
    "broken_file": Words("a file that breaks off", "文件损坏"),
    "unknown_form": Words("no form that is known", "格式无法识别"),
    "no_turns": Words("no turns", "没有对话轮次"),
    "unknown_role": Words("an unknown role", "角色未知"),
    "role_order": Words("roles that do not take turns", "角色顺序有误"),
    "missing_text": Words("a turn without content", "轮次缺少内容"),
    "empty_answer": Words("an empty answer", "回答为空"),
    "empty_question": Words("an empty question", "提问为空"),
    "not_text": Words("content that is no text", "内容不是文本"),
    "bad_tools": Words("broken tools or calls", "工具或调用有误"),
    "turn_too_long": Words("a turn that is too long", "单轮过长"),
    "collision": Words("a turn that spells a special token", "含特殊词元的字样"),
    "template": Words("does not go with the chat template", "与对话模板不符"),
    "too_long": Words("the first exchange does not fit", "首轮问答已超长"),
    "nothing_learned": Words("nothing to learn", "没有要学的回答"),
    "short_answer": Words("a short answer", "回答过短"),
    "duplicate": Words("there already", "重复"),
    "leaked": Words("asked in validation, too", "问题见于验证集"),
}
SPLIT_WORDS = {"train": Words("training", "训练"), "validation": Words("validation", "验证")}
HISTOGRAMS = {
    "lengths": (Words("Length, tokens", "长度（词元）"), True),
    "turns": (Words("Questions of a conversation", "每段对话的提问数"), False),
}
STYLE = (
    ".talk{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.7rem 1.1rem .9rem;margin:.9rem 0}"
    ".talk p{margin:0}.talk .origin{margin-bottom:.45rem}"
    ".tokens{font-size:.98rem;line-height:2;white-space:pre-wrap;overflow-wrap:anywhere;color:var(--muted)}"
    ".tokens span{border-right:1px solid color-mix(in srgb,var(--muted) 55%,transparent);padding:.12rem .06rem}"
    ".tokens .l{color:var(--ink);background:color-mix(in srgb,var(--keep) 30%,transparent);border-right-color:var(--keep)}"
    ".tokens .b{font:.76em var(--mono)}"
    ".swatch{list-style:none;display:flex;gap:1.3rem;padding:0;margin:.2rem 0 0;font-size:.88rem}"
    ".swatch .l,.swatch .g{padding:.1rem .5rem}.swatch .t{border:0;padding:0}"
)


def head(report: dict[str, Any]) -> str:
    """The conversations in one sentence."""
    read, train, held = (count(report[key]) or Words("", "") for key in ("read", "train", "validation"))
    gone, sources = sum(report["rejected"].values()), len(report["by_source"])
    of_en, of_zh = (f" from {sources} sources", f"{sources} 个来源") if sources > 1 else ("", "")
    en = f"{read.en} conversations{of_en} were read: {train.en} to learn from, {held.en} to validate on, {gone:,} set aside."
    zh = f"{of_zh}共读入 {read.zh}段对话：训练 {train.zh}段，验证 {held.zh}段，剔除 {gone:,} 段。"
    if report["shortened"]:
        en += f" {report['shortened']:,} lost exchanges at their end that do not fit into {report['length']:,} tokens."
        zh += f"{report['shortened']:,} 段因超出 {report['length']:,} 词元而略去末尾的问答。"
    return paragraph(en, zh, "lede").html


def cards(report: dict[str, Any]) -> str:
    """The key figures."""
    figures = [
        (say("for training", "训练"), spoken(count(report["train"]))),
        (say("for validation", "验证"), spoken(count(report["validation"]))),
        (say("set aside", "剔除"), spoken(count(sum(report["rejected"].values())))),
        (say("tokens", "词元"), spoken(count(report["tokens"]))),
        (say("tokens that are learned", "要学的词元"), spoken(count(report["learned_tokens"]))),
        (say("of all tokens learned", "要学的词元占比"), _share(report["learned_tokens"], report["tokens"])),
    ]
    html = "".join(f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in figures)
    return f'<dl class="cards">\n{html}</dl>\n'


def _share(part: float, whole: float) -> Piece:
    return say(percent(part / whole)) if whole else say("—")


def sources_section(report: dict[str, Any]) -> str:
    """What of each source was read, kept and set aside."""
    listed_rows = []
    for name, row in [*report["by_source"].items(), (None, report)]:
        gone = sum(row["rejected"].values())
        numbers = [
            exact(row["read"]),
            exact(row["train"]),
            exact(row["validation"]),
            exact(gone),
            _share(gone, row["read"]),
        ]
        numbers += [exact(row["shortened"]), exact(row["tokens"]), _share(row["learned_tokens"], row["tokens"])]
        listed_rows.append([say("all", "合计") if name is None else data(name), *numbers])
    titles = [say("source", "来源"), say("read", "读入"), say("training", "训练"), say("validation", "验证"), say("set aside", "剔除"),
              say("share", "占比"), say("shortened", "截短"), say("tokens", "词元"), say("learned", "要学的")]  # fmt: skip
    return table(titles, listed_rows).html + note(
        "Read is training plus validation plus set aside, of each source: every record is accounted for.",
        "每个来源中，读入等于训练加验证加剔除：每一条都有去处。",
    )


def rejects_section(report: dict[str, Any]) -> str:
    """Every reason with its number and some records; which source has how many."""
    body = ""
    for reason, number in sorted(report["rejected"].items(), key=lambda item: (-item[1], item[0])):
        title = f"<b>{say(*REASON_WORDS[reason]).html}</b> <code>{escape(reason)}</code>"
        side = f'<span class="side">{number:,} · {percent(number / report["read"]).replace("<", "&lt;")}</span>'
        inner = f'<ul class="samples">\n{listed(report["rejects"].get(reason, []), 2_000)}</ul>\n'
        body += f'<details class="fold"><summary>{title}{side}</summary>\n{inner}</details>\n'
    if not body:
        return note("Nothing was set aside.", "没有剔除任何记录。")
    reasons = sorted(report["rejected"], key=lambda reason: (-report["rejected"][reason], reason))
    sources = {name: row for name, row in report["by_source"].items() if row["rejected"]}
    heads = "".join(f'<th class="n">{data(name).html}</th>' for name in sources)
    lines = "".join(
        f"<tr><td>{say(*REASON_WORDS[reason]).html}</td>"
        + "".join(pictures.tinted(row["rejected"].get(reason, 0) / row["read"]) for row in sources.values())
        + "</tr>\n"
        for reason in reasons
    )
    body += heading("Share of each source", "占各来源的比例")
    body += f'<div class="scroll"><table class="heat">\n<tr><th>{say("reason", "原因").html}</th>{heads}</tr>\n{lines}</table></div>\n'
    return body + note(
        "All of them, as they stand in their files, are in rejects/, with source, file and line.",
        "全部剔除的记录连同来源、文件与行号保存在 rejects/ 中。",
    )


def sizes_section(report: dict[str, Any]) -> str:
    """Two histograms, and how much is learned."""
    marks = (SPLIT_WORDS["train"], SPLIT_WORDS["validation"])
    key = f'<li><i class="hold light"></i>{say(*marks[0]).html}</li><li><i class="keep"></i>{say(*marks[1]).html}</li>'
    body = ""
    for name, (words, logarithmic) in HISTOGRAMS.items():
        row = report[name]
        drawn = {"edges": row["edges"], "log": logarithmic, "measured": row["train"], "kept": row["validation"]}
        if picture := pictures.histogram(drawn, words, marks):
            body += f'<figure class="half"><figcaption><b>{say(*words).html}</b></figcaption>{picture}<ul class="key">{key}</ul></figure>\n'
    body = f'<div class="few columns">\n{body}</div>\n'
    body += note("Heights are square roots of the counts.", "柱高为数量的平方根。")
    given = report["tokens"] - report["learned_tokens"]
    shares = [
        (say("learned", "要学的"), report["learned_tokens"], "keep"),
        (say("only given", "只给出"), given, "out4"),
    ]
    return body + parts("Tokens", "词元", shares).html


def examples_section(report: dict[str, Any]) -> str:
    """Conversations in their tokens."""
    if not report["examples"]:
        return ""
    body = (
        f'<ul class="swatch"><li class="tokens"><span class="l">{say("learned", "要学的").html}</span></li>'
        f'<li class="tokens"><span class="g">{say("only given", "只给出").html}</span></li></ul>\n'
    )
    body += note(
        "One span a token, its id where the pointer rests; ↵ is a line end. The first token of a conversation is never predicted.",
        "每格一个词元，停留可见编号；↵ 为换行。每段对话的首个词元从不预测。",
    )
    for one in report["examples"]:
        words = SPLIT_WORDS[one["split"]]
        en = f"{words.en}, {one['turns']} question{'s' if one['turns'] > 1 else ''}, {one['tokens']:,} tokens, {one['learned_tokens']:,} learned"
        zh = f"{words.zh}，{one['turns']} 个提问，{one['tokens']:,} 词元，要学 {one['learned_tokens']:,}"
        if one["left_out"]:
            en, zh = (
                f"{en}, {one['left_out']} exchange{'s' if one['left_out'] > 1 else ''} left out",
                f"{zh}，略去 {one['left_out']} 轮",
            )
        origin = f"{data(one['source']).html} <code>{escape(visible(one['file']))}:{one['line']}</code>"
        spans = "".join(_token(number, text, bool(learned)) for number, text, learned in one["shown"])
        more = "…" if one["tokens"] > len(one["shown"]) else ""
        body += (
            f'<div class="talk"><p class="note origin">{origin} {say(en, zh).html}</p>\n'
            f'<p class="tokens data">{spans}{more}</p></div>\n'
        )
    return body


def _token(number: int, text: str, learned: bool) -> str:
    shown = visible(text).replace("\n", "↵\n").replace("\t", "→")
    kinds = " ".join([*(["l"] if learned else []), *(["b"] if text.startswith("<") and text.endswith(">") else [])])
    attribute = f' class="{kinds}"' if kinds else ""
    return f'<span{attribute} title="{number}">{escape(shown)}</span>'


SECTIONS = {
    "sources": (Words("Sources", "来源"), sources_section),
    "rejects": (Words("What was set aside", "剔除的记录"), rejects_section),
    "sizes": (Words("How long they are", "长度与轮次"), sizes_section),
    "examples": (Words("What is learned of them", "学习的部分"), examples_section),
}


def compose(report: dict[str, Any]) -> str:
    """The whole report as HTML, without the page around it."""
    made = [(key, say(*title).html, section(report)) for key, (title, section) in SECTIONS.items()]
    shown = [(key, title, inner) for key, title, inner in made if inner]
    links = "".join(f'<a href="#{key}">{title}</a>\n' for key, title, _ in shown)
    body = f"<h1>{say('Conversations', '对话').html}</h1>\n{head(report)}{cards(report)}<nav>\n{links}</nav>\n"
    return body + "".join(f'<section id="{key}">\n<h2>{title}</h2>\n{inner}</section>\n' for key, title, inner in shown)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write the page of what `preparing.prepare` returns."""
    write_text(
        path, page("Conversations · jielong", compose(report), ABOUT).replace("</style>", f"{STYLE}\n</style>", 1)
    )
