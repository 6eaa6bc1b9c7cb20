"""The report's page: tokenizers side by side, in numbers, in bars, and in coloured cuts.

The template is that of the other reports (see pieces.py): one file that loads nothing, in two languages, light, dark and printed.
Its own style is STYLE, put behind the template's. Every tokenizer has one colour on the whole page; in the cuts, colours only
part neighbours. A token that is not whole characters shows its bytes, as <E4><B8>; resting on a token shows its id.

Text from files and vocabularies enters by `pieces.data` or `escape(visible(...))` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from jielong.charts import COLOURS, DARK_COLOURS, Series, Words, count, finite, line_chart
from jielong.pieces import Piece, code, data, exact, page, paragraph, say, spoken, table, visible
from jielong.progress import human_bytes, human_count
from jielong.runs import write_text
from jielong.tokenizer.reporting.examples import KINDS as EXAMPLE_KINDS

ABOUT = Words("jielong, the report of tokenizers", "jielong 分词器报告")
KIND_WORDS = {
    "han1": Words("one Han character", "单个汉字"), "han2": Words("2 Han", "2 个汉字"), "han3": Words("3 Han", "3 个汉字"),
    "han4": Words("4 Han or more", "4 个及以上汉字"), "latin": Words("Latin", "拉丁字母"), "digits": Words("digits", "数字"),
    "symbols": Words("punctuation and symbols", "标点与符号"), "space": Words("white space", "空白"),
    "other": Words("other scripts", "其他文字"), "mixed": Words("mixed", "混合"),
    "byte": Words("single bytes", "单字节"), "part": Words("parts of characters", "残缺字符"),
    "special": Words("special tokens", "特殊词元"), "hole": Words("no token", "空号"),
}  # fmt: skip
WHY = {
    "advert": Words("an advert?", "像广告"),
    "repeated": Words("repeats itself", "重复"),
    "long": Words("long", "过长"),
}
ROLES = {
    "end": Words("end of text", "文本结尾"), "start": Words("beginning of text", "文本开头"),
    "turn_end": Words("end of a turn", "一轮结束"), "padding": Words("padding", "填充"), "unknown": Words("unknown", "未知"),
}  # fmt: skip
CURVES = len(COLOURS)  # lines of a chart; the bars have as many colours again: violet, teal, rose, slate
BAR_COLOURS = (*COLOURS, "#7a5195", "#2a8c99", "#c2688f", "#6b7280")
DARK_BAR_COLOURS = (*DARK_COLOURS, "#bc9ad6", "#6fc3cf", "#eaa3c0", "#aab2bf")
STYLE = (
    "".join(f".t{n}{{background:{colour}}}" for n, colour in enumerate(BAR_COLOURS))
    + "@media screen and (prefers-color-scheme:dark){"
    + "".join(f".t{n}{{background:{colour}}}" for n, colour in enumerate(DARK_BAR_COLOURS))
    + "}"
    ".vs{display:grid;grid-template-columns:minmax(5rem,10rem) 1fr;column-gap:1rem;row-gap:.7rem;font-size:.86rem;align-items:center}"
    ".vs>span{overflow-wrap:anywhere;line-height:1.35}"
    ".vs div div{display:flex;align-items:center;gap:.5rem;line-height:1.25}.vs i{height:.62rem;border-radius:.2rem;min-width:2px}"
    ".vs small{font-variant-numeric:tabular-nums;color:var(--muted);white-space:nowrap}"
    ".legend{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.3rem;padding:0;font-size:.88rem}"
    ".legend i,.who i{display:inline-block;width:.7rem;height:.7rem;border-radius:.2rem;margin-right:.45rem}"
    ".kinds{margin-bottom:.9rem}.kinds div.stack{display:flex;height:1.15rem;margin:0;gap:1px}.kinds .stack i{height:100%;border-radius:0;min-width:1px}.k-han1{background:#2c6550}.k-han2{background:#3d8168}.k-han3{background:#6aa68f}"
    ".k-han4{background:#9cc9b7}.k-latin{background:#2f6690}.k-digits{background:#6d97b8}.k-symbols{background:#d9a441}"
    ".k-space{background:#e8cb8f}.k-other{background:#9a6a9f}.k-mixed{background:#a8a198}.k-byte{background:#7d2219}"
    ".k-part{background:#b23a2e}.k-special{background:#6b7f99}.k-hole{background:#c9c3b9}"
    ".who{display:flex;justify-content:space-between;gap:1rem;font-size:.8rem;color:var(--muted);margin:.55rem 0 0;line-height:1.5}"
    ".who b{font-weight:600;color:var(--ink);font-variant-numeric:tabular-nums}"
    ".example{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.5rem 1.1rem .8rem;margin:.8rem 0;break-inside:avoid}"
    ".example .cuts{line-height:1.95;margin:.1rem 0 0;overflow-wrap:anywhere}.example .cuts span{padding:.14rem .2rem}"
    ".tokens{list-style:none;display:flex;flex-wrap:wrap;gap:.35rem;padding:0;margin:.5rem 0 1rem}"
    ".tokens li{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.12rem .5rem;font-size:.92rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    ".tokens small{color:var(--muted);margin-left:.4rem;font-variant-numeric:tabular-nums}"
    ".outset th{white-space:normal!important;vertical-align:bottom;line-height:1.35}.outset th,.outset td{padding-right:1rem}td .data,th .data{overflow-wrap:normal}table .tint{padding-right:.7rem}@media(max-width:40rem){.example{padding:.4rem .7rem .6rem}}"
)


def rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokenizers."""
    found: list[dict[str, Any]] = report["tokenizers"]
    return found


def name(place: int, one: dict[str, Any]) -> Piece:
    """A tokenizer's name behind its colour."""
    return Piece(f'<i class="t{place % len(BAR_COLOURS)}"></i>{data(one["name"]).html}', "")


def head(report: dict[str, Any]) -> str:
    """The comparison in one sentence."""
    found, texts = rows(report), report["texts"]
    size = human_bytes(sum(text["bytes"] for text in texts))
    en = f"{len(found)} tokenizer{'s' if len(found) > 1 else ''} on {size} of text from {len(texts)} source{'s' if len(texts) > 1 else ''}."
    zh = f"{len(found)} 个分词器，{len(texts)} 个来源共 {size} 的文本。"
    ratios = {one["name"]: finite(one["total"]["chars_per_token"]) or 0.0 for one in found}
    best = max(ratios, key=lambda key: ratios[key])
    html = say(f"{en} ", zh).html
    if len(found) > 1:
        html += say("Most text in a token: ", "每词元承载文本最多的是 ").html + data(best).html
        html += say(f", {ratios[best]:.2f} characters.", f"，{ratios[best]:.2f} 个字符。").html
    return f'<p class="lede">{html}</p>\n'


def note(en: str, zh: str) -> str:
    """A remark below a picture or table."""
    return paragraph(en, zh, "note").html


def legend(report: dict[str, Any]) -> str:
    """Which colour is which tokenizer."""
    items = "".join(f"<li>{name(place, one).html}</li>" for place, one in enumerate(rows(report)))
    return f'<ul class="legend">{items}</ul>\n'


def overview_section(report: dict[str, Any]) -> str:
    """The main table."""
    columns: list[tuple[Piece, Callable[[dict[str, Any]], Piece]]] = [
        (say("vocabulary", "词表"), lambda one: exact(one["vocab_size"])),
        (say("characters a token", "字符/词元"), lambda one: exact(one["total"]["chars_per_token"], ".3f")),
        (say("bytes a token", "字节/词元"), lambda one: exact(one["total"]["bytes_per_token"], ".3f")),
        (say("tokens a Han character", "词元/汉字"), lambda one: exact(one["total"]["tokens_per_han"], ".3f")),
        (say("vocabulary used", "用到的词表"), lambda one: exact(one["total"]["used_share"], ".1%")),
        (say("cut characters", "残缺词元"), lambda one: exact(one["total"]["broken_share"], ".2%")),
        (say("single bytes", "单字节"), lambda one: exact(one["total"]["byte_share"], ".2%")),
        (say("unknown", "未知"), lambda one: exact(one["total"]["unknown_share"], ".2%")),
        (say("not identical", "还原有异"), lambda one: exact(one["total"]["different"])),
        (say("MB/s", "MB/秒"), lambda one: exact((one["speed"] or {}).get("megabytes_per_second"), ".1f")),
    ]
    listed = [[data(one["name"]), *(cell(one) for _, cell in columns)] for one in rows(report)]
    titles = [say("tokenizer", "分词器"), *(title for title, _ in columns)]
    body = f'<div class="outset">{table(titles, listed).html}</div>\n'
    return body + note(
        "Over all texts, in proportion to their length. Cut characters: tokens whose bytes are no whole UTF-8. Single bytes: "
        "tokens of one byte of a character. Unknown: tokens that stand for text without a token. Not identical: documents that "
        "decoding does not give back.",
        "按全部文本的长度合计。残缺词元：字节不成完整 UTF-8 的词元；单字节：只含字符一个字节的词元；未知：代表词表中没有的文字；还原有异：解码后与原文不同的文档数。",
    )


def bars(report: dict[str, Any], key: str, form: str = ".2f") -> str:
    """For every text, a bar of each tokenizer."""
    found = rows(report)
    texts = [text["name"] for text in report["texts"]]
    values = {text: [finite(one["texts"].get(text, {}).get(key)) or 0.0 for one in found] for text in texts}
    most = max((value for line in values.values() for value in line), default=0.0) or 1.0
    lines = ""
    for text, line in values.items():
        rails = "".join(
            f'<div><i class="t{place % len(BAR_COLOURS)}" style="width:{value / most * 85:.1f}%"></i><small>{value:{form}}</small></div>'
            for place, value in enumerate(line)
        )
        lines += f"<span>{data(text).html}</span><div>{rails}</div>\n"
    return f'<div class="vs">\n{lines}</div>\n'


def compression_section(report: dict[str, Any]) -> str:
    """Characters per token by text, and the sizes of the texts."""
    listed = [
        [data(text["name"]), exact(text["documents"]), spoken(count(text["chars"])), say(human_bytes(text["bytes"])),
         exact(text["bad"] or None), *(exact(one["texts"].get(text["name"], {}).get("bytes_per_token"), ".3f") for one in rows(report))]
        for text in report["texts"]
    ]  # fmt: skip
    titles = [say("text", "文本"), say("documents", "文档"), say("characters", "字符"), say("size", "大小"),
              say("bad records", "坏记录"), *(data(one["name"]) for one in rows(report))]  # fmt: skip
    body = legend(report) + bars(report, "chars_per_token")
    if any(text["more"] for text in report["texts"]):
        limit = f"{report['limit_megabytes']:g}"
        body += note(f"Of each text the first {limit} MB were read.", f"每个文本只读前 {limit} MB。")
    made = table(titles, listed).html
    return (
        body
        + f"<details><summary>{say('The texts, and bytes a token', '文本一览与每词元字节数').html}</summary>{made}</details>\n"
    )


def kinds_section(report: dict[str, Any]) -> str:
    """What the vocabularies are made of."""
    lines = ""
    for one in rows(report):
        shares = {kind: number for kind, number in one["kinds"].items() if number}
        stack = "".join(f'<i class="k-{kind}" style="flex:{number}"></i>' for kind, number in shares.items())
        lines += f'<span>{data(one["name"]).html}</span><div class="stack" aria-hidden="true">{stack}</div>\n'
    there = [kind for kind in KIND_WORDS if any(one["kinds"].get(kind) for one in rows(report))]
    key = "".join(f'<li><i class="k-{kind}"></i>{say(*KIND_WORDS[kind]).html}</li>' for kind in there)
    listed = [
        [say(*KIND_WORDS[kind]), *(exact(one["kinds"].get(kind) or None) for one in rows(report))] for kind in there
    ]
    titles = [say("entries", "词条"), *(data(one["name"]) for one in rows(report))]
    return f'<div class="vs kinds">\n{lines}</div>\n<ul class="key">{key}</ul>\n' + table(titles, listed).html


def use_section(report: dict[str, Any]) -> str:
    """How much of the vocabularies the text uses, growing with the text."""
    series, last = [], []
    for place, one in enumerate(rows(report)[:CURVES]):
        points = [(float(read), float(used)) for read, used in one["growth"]]
        series.append(Series(None, [(0.0, 0.0), *points], "line", place))
        last.append(f"{points[-1][1]:,.0f}")
    title = Words("Distinct tokens used, by bytes of text read", "用到的不同词元数（随读入字节）")
    said = Words(f"at the end {', '.join(last)}", f"最后 {'、'.join(last)}")
    drawn = [
        line_chart(series, f"use-{kind}", title, said, Words("bytes read", "已读字节"), size, True, human_count)
        for kind, size in (("wide", (860, 340)), ("narrow", (360, 280)))
    ]
    body = legend(report) if len(rows(report)) > 1 else ""
    if len(rows(report)) > CURVES:
        body += note(f"The curves are those of the first {CURVES}.", f"曲线只画前 {CURVES} 个。")
    body += f'<figure><div class="wide">{drawn[0]}</div><div class="narrow">{drawn[1]}</div></figure>\n'
    body += note(
        "A row of the embedding that no text uses is never trained. The curve still rises where there is too little text to tell.",
        "没有文本用到的词嵌入行得不到训练。曲线仍在上升，说明文本还不足以下结论。",
    )
    for one in rows(report):
        chips = "".join(token(entry, f"{entry['share']:.1%}") for entry in one["common"])
        body += f'<h4>{data(one["name"]).html} <span class="n">{say("most used", "最常用").html}</span></h4><ul class="tokens">{chips}</ul>\n'
    return body


def token(entry: dict[str, Any], more: str = "") -> str:
    """A token in a list, its id on hover."""
    extra = f"<small>{escape(more)}</small>" if more else ""
    return f'<li title="{int(entry["id"])}">{data(seen(entry["text"])).html}{extra}</li>'


def seen(text: str) -> str:
    """White space that one could not see, and controls, as signs."""
    made = visible(text).replace("\n", "↵").replace("\t", "→")
    return made if made.strip() else made.replace(" ", "␣")


def entries_section(report: dict[str, Any]) -> str:
    """The longest entries and those that look like rubbish."""
    body = ""
    for one in rows(report):
        if not one["longest"] and not one["junk"]:
            continue
        body += f"<h3>{data(one['name']).html}</h3>\n"
        if one["longest"]:
            body += f"<h4>{say('Longest Chinese entries', '最长的中文词条').html}</h4>"
            body += f'<ul class="tokens">{"".join(token(entry) for entry in one["longest"])}</ul>\n'
        if one["junk"]:
            total = f'<span class="n">{one["junk_entries"]:,}</span>'
            body += f"<h4>{say('Worth a look', '值得留意').html} {total}</h4>"
            chips = "".join(
                f'<li title="{int(entry["id"])}">{data(seen(entry["text"])).html}<small>{say(*WHY[entry["why"]]).html} ×{entry["count"]:,}</small></li>'
                for entry in one["junk"]
            )
            body += f'<ul class="tokens">{chips}</ul>\n'
    return body and body + note(
        "Worth a look: eight Han characters or more, fragments that repeat themselves, words that adverts use; × how often the "
        "texts used it. A vocabulary shows what its corpus was not cleaned of.",
        "值得留意：八个及以上汉字、自我重复的片段、广告常用语；× 后为文本中出现的次数。词表会暴露语料没有清洗掉的东西。",
    )


def embeddings_section(report: dict[str, Any]) -> str:
    """The share of the parameters that the vocabulary takes in models of some sizes."""
    heads = "".join(f'<th class="n">{data(one["name"]).html}</th>' for one in rows(report))
    lines = ""
    for place, shape in enumerate(rows(report)[0]["embeddings"]):
        for key, words in (("tied", say("shared", "共享")), ("untied", say("not shared", "不共享"))):
            cells = ""
            for one in rows(report):
                share = one["embeddings"][place][key]
                cells += f'<td class="n tint" style="--depth:{share * 0.75:.2f}">{share:.1%}</td>'
            size = count(shape["body"]) or Words("", "")
            about = say(f"width {shape['hidden']:,}, {shape['layers']} layers, {size.en} besides",
                        f"宽 {shape['hidden']:,}，{shape['layers']} 层，其余 {size.zh}参数").html  # fmt: skip
            first = f'{escape(shape["name"])} <span class="note">{about}</span>' if key == "tied" else ""
            lines += f"<tr><td>{first}</td><td>{words.html}</td>{cells}</tr>\n"
    titles = f"<tr><th>{say('model', '模型').html}</th><th>{say('output layer', '输出层').html}</th>{heads}</tr>\n"
    body = f'<div class="scroll"><table class="heat">\n{titles}{lines}</table></div>\n'
    return body + note(
        "Share of all parameters in the embedding, and in an output layer of its own where it does not share the embedding's weights.",
        "词嵌入（及不共享权重时的输出层）占全部参数的比例。",
    )


def speed_section(report: dict[str, Any]) -> str:
    """Encoding speed, side by side."""
    listed = []
    for one in rows(report):
        if not (speed := one["speed"]):
            continue
        listed.append([data(one["name"]), exact(speed["megabytes_per_second"], ".2f"),
                       say(f"{speed['low']:.2f} – {speed['high']:.2f}"), exact(speed["ratio"], ".2f"), exact(speed["batches"])])  # fmt: skip
    if not listed:
        return ""
    titles = [say("tokenizer", "分词器"), say("MB/s", "MB/秒"), say("middle half of the batches", "中间一半批次"),
              say("times the first", "相对第一个"), say("batches", "批次")]  # fmt: skip
    return table(titles, listed).html + note(
        "On all cores of this machine, each batch by all tokenizers in turn before the next. Noisy: trust the ratio, the median over "
        "the batches, more than the speeds.",
        "使用本机全部核心，每批文本由各分词器轮流编码。数值有噪声：倍数（各批的中位数）比速度本身可靠。",
    )


def identity_section(report: dict[str, Any]) -> str:
    """Documents that decoding does not give back, with the first differences."""
    body = ""
    for one in rows(report):
        total = one["total"]
        words = say(
            f"{total['different']:,} of {total['documents']:,} documents differ",
            f"{total['documents']:,} 篇中有 {total['different']:,} 篇不同",
        )
        if not total["different"]:
            words = say("every document comes back", "每一篇都能还原")
        body += f'<h4>{data(one["name"]).html} <span class="n">{words.html}</span></h4>\n'
        items = ""
        for row in one["differences"]:
            where = say(f", character {row['at']:,}", f"，第 {row['at']:,} 字").html
            was, now = (data(seen(row[key])).html or "" for key in ("text", "back"))
            before = data(row["before"].replace("\n", "↵")).html
            items += f'<li><p class="origin">{data(row["domain"]).html}{where}</p><p class="sample">{before}<del>{was}</del><ins>{now}</ins></p></li>\n'
        body += f'<ul class="samples">{items}</ul>\n' if items else ""
    if any(one["differences"] for one in rows(report)):
        body += note("Struck out: the text; underlined: what decoding gives.", "删除线为原文，下划线为解码结果。")
    return body


def specials_section(report: dict[str, Any]) -> str:
    """Roles and special tokens."""
    listed = []
    for role, words in ROLES.items():
        cells = []
        for one in rows(report):
            token_of = one["special"]["roles"].get(role)
            cells.append(code(f"{token_of['text']} ({token_of['id']})") if token_of else say("none", "无"))
        listed.append([say(*words), *cells])
    listed.append(
        [say("special tokens in all", "特殊词元总数"), *(exact(one["special"]["count"]) for one in rows(report))]
    )
    titles = [say("role", "角色"), *(data(one["name"]) for one in rows(report))]
    body = table(titles, listed, len(titles)).html
    for one in rows(report):
        if one["special"]["tokens"]:
            chips = "".join(token(entry, str(entry["id"])) for entry in one["special"]["tokens"])
            body += f'<details><summary>{data(one["name"]).html}</summary><ul class="tokens">{chips}</ul></details>\n'
    return body


def cuts(tokens: list[dict[str, Any]]) -> str:
    """A text in its tokens, one colour after another; the id on hover."""
    spans = ""
    for place, one in enumerate(tokens):
        kind = f"cut{place % 4}{' byte' if one['broken'] else ''}"
        spans += f'<span class="{kind}" title="{int(one["id"])}">{escape(visible(one["text"]).replace(chr(10), "↵").replace(chr(9), "→"))}</span>'
    return f'<p class="cuts data">{spans}</p>'


def cuts_section(report: dict[str, Any]) -> str:
    """The fixed examples, cut by every tokenizer."""
    body = note("Rest on a token to see its id. Bytes that are no whole character are shown as <E4>.",
                "停在词元上可见其编号。不成完整字符的字节写作 <E4>。")  # fmt: skip
    for kind, words in EXAMPLE_KINDS.items():
        found = [example for example in report["examples"] if example["kind"] == kind]
        if not found:
            continue
        body += f"<h3>{say(*words).html}</h3>\n"
        for example in found:
            inner = ""
            for place, (one, tokens) in enumerate(zip(rows(report), example["cuts"], strict=True)):
                total = say(f"{len(tokens)} tokens", f"{len(tokens)} 个词元").html
                inner += f'<p class="who"><span>{name(place, one).html}</span><b>{total}</b></p>{cuts(tokens)}\n'
            body += f'<div class="example">{inner}</div>\n'
    return body


SECTIONS = {
    "overview": (Words("All texts together", "总览"), overview_section),
    "compression": (Words("Characters a token", "每词元字符数"), compression_section),
    "cuts": (Words("How they cut", "切分实例"), cuts_section),
    "embeddings": (Words("What the vocabulary costs", "词表的参数代价"), embeddings_section),
    "kinds": (Words("What the vocabulary is made of", "词表的构成"), kinds_section),
    "use": (Words("How much of it is used", "词表的使用"), use_section),
    "entries": (Words("Longest and strangest entries", "最长与可疑的词条"), entries_section),
    "identity": (Words("Whether the text comes back", "能否还原"), identity_section),
    "speed": (Words("Speed of encoding", "编码速度"), speed_section),
    "special": (Words("Special tokens", "特殊词元"), specials_section),
}


def compose(report: dict[str, Any]) -> str:
    """The whole report as HTML, without the page around it."""
    made = [(key, say(*title).html, section(report)) for key, (title, section) in SECTIONS.items()]
    shown = [(key, title, inner) for key, title, inner in made if inner]
    links = "".join(f'<a href="#{key}">{title}</a>\n' for key, title, _ in shown)
    body = f"<h1>{say('Tokenizers', '分词器').html}</h1>\n{head(report)}<nav>\n{links}</nav>\n"
    return body + "".join(f'<section id="{key}">\n<h2>{title}</h2>\n{inner}</section>\n' for key, title, inner in shown)


def write_page(report: dict[str, Any], path: Path) -> None:
    """Write the page of a report that `comparing.compare` made."""
    title = f"{', '.join(one['name'] for one in rows(report))} · jielong"
    write_text(path, page(title, compose(report), ABOUT).replace("</style>", f"{STYLE}\n</style>", 1))
