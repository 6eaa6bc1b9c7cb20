"""The sections of the data report that show documents: edits, thresholds, duplicates, repeated lines, and every rule.

A count says that a rule rejected 4,000 documents; only the documents say whether it should have. So every number here stands
beside a sample of what is behind it: what an edit removed, what lies on both sides of a threshold, which two texts were held
to be the same. Samples fold away, because a reader looks into the few rules that surprise.

The functions return HTML only: this page has no Markdown twin, whose marks could not show a difference.
"""

from __future__ import annotations

from typing import Any

from jielong.charts import Words, finite
from jielong.data.reporting import excerpts, pictures
from jielong.data.reporting.flow import number, percent, rows
from jielong.data.reporting.glossary import EDITS, STEPS, as_is, named, rule_words, step_words
from jielong.pieces import Piece, code, data, exact, paragraph, say, table

SAMPLES = 4  # of one kind of edit
GROUPS_SHOWN, LINES_SHOWN = 10, 20
GROUP_CHARS = 150  # of one group
PAIR = 420  # characters of each of two texts that are nearly the same
SAMPLE_BUDGET = 300_000  # characters of all rules' samples: about 1 MB
MEASURED = (Words("measured", "统计时"), Words("kept", "保留"))


def column_words(report: dict[str, Any]) -> dict[str, Words]:
    """What the columns are called."""
    found = {}
    for column in rows(report, "columns"):
        name = str(column.get("name"))
        found[name] = Words(str(column.get("en") or name), str(column.get("zh") or name))
    return found


def wording(words: Words) -> Piece:
    """Words that may come from a recipe: one text for both languages is not ours."""
    return data(words.en) if words.en == words.zh and words not in STEPS.values() else say(*words)


def heading(en: str, zh: str) -> str:
    """A heading inside a section."""
    return f"<h3>{say(en, zh).html}</h3>\n"


FRAGMENT_CHARS, FRAGMENT_CONTEXT = 200, 160  # of a mined fragment, shown


def note(en: str, zh: str) -> str:
    """A sentence that explains."""
    return f'<p class="note">{say(en, zh).html}</p>\n'


# -------------------------------------------------------------------------------------------------------- edits


def edits(report: dict[str, Any]) -> str:
    """What each step changed: counts by kind, and samples."""
    body = ""
    for step in rows(report, "steps"):
        counts = {str(kind): number(n) for kind, n in (step.get("edits") or {}).items() if number(n)}
        samples = excerpts.by_kind([row for row in step.get("samples") or [] if isinstance(row, dict)])
        shown = {
            kind: changed
            for kind, listed in samples.items()
            if (changed := _differences(listed, step.get("kind") == "personal_data"))
        }
        if not counts and not shown:
            continue
        title = wording(step_words(step.get("name"), step.get("kind"))).html
        edited = say(f"{number(step.get('edited')):,} documents", f"{number(step.get('edited')):,} 篇").html
        inner = _options(step.get("options"))
        for kind in sorted({*counts, *shown}, key=lambda kind: (-counts.get(kind, 0), kind)):
            inner += f'<h4>{named(EDITS, kind).html} <span class="n">{counts.get(kind, 0):,}</span></h4>\n'
            inner += f'<ul class="samples">\n{shown[kind]}</ul>\n' if kind in shown else ""
        body += f'<details class="fold"><summary><b>{title}</b><span class="side">{edited}</span></summary>\n{inner}</details>\n'
    if not body:
        return ""
    about = note(
        "Removed parts are crossed out, added parts underlined; invisible characters are named.",
        "删去的部分带删除线，添加的部分带下划线；不可见字符写出其编号。",
    )
    return about + body


def fragments(report: dict[str, Any]) -> str:
    """Long fragments that stand in many documents: those that left, and those that a person may look at."""
    body = ""
    for step in rows(report, "fragments"):
        marked, listed = number(step.get("marked")), number(step.get("listed"))
        body += note(
            f"{marked:,} of {listed:,} fragments are taken for adverts and leave. The whole list is data/fragments.tsv: change "
            "the first column to remove or keep, and give it back as listing.",
            f"{listed:,} 个片段中有 {marked:,} 个判为广告并删去。完整清单在 data/fragments.tsv：把第一列改成 remove 或 keep，再用 listing 交回。",
        )
        shown = rows(step, "rows")
        leave = "".join(map(_fragment, (row for row in shown if row.get("action") == "remove")))
        stay = "".join(map(_fragment, (row for row in shown if row.get("action") != "remove")))
        if leave:
            body += f'<h4>{say("Taken for adverts", "判为广告").html}</h4>\n<ul class="samples">\n{leave}</ul>\n'
        if stay:
            title = f"<b>{say('Listed, and they stay', '列出而保留').html}</b>"
            body += f'<details class="fold"><summary>{title}</summary>\n<ul class="samples">\n{stay}</ul>\n</details>\n'
    return body


def _fragment(row: dict[str, Any]) -> str:
    documents = str(row.get("documents") or "?")
    count = say(f"{documents} documents", f"{documents} 篇").html
    context = data(str(row.get("context") or "")[:FRAGMENT_CONTEXT]).html
    return (
        f'<li><p class="note">{count} · {data(row.get("evidence") or "").html}</p>'
        f"<b>{data(str(row.get('example') or '')[:FRAGMENT_CHARS]).html}</b>"
        f'<p class="note">{context}</p></li>\n'
    )


def evaluation(report: dict[str, Any]) -> str:
    """Of each evaluation file: what was looked for, and what was found."""
    found = rows(report, "evaluation")
    if not found:
        return ""
    head = [
        say("file", "文件"), say("items", "题数"), say("documents that held one", "含有其中题目的文档"),
        say("looked for with their choices", "连同选项查找"), say("too short to look for", "太短、无法查找"),
    ]  # fmt: skip
    body = [
        [data(row.get("file") or ""), exact(row.get("items")), exact(row.get("documents")), exact(row.get("joined")),
         exact(row.get("too_short"))]
        for row in found
    ]  # fmt: skip
    about = note(
        "Documents that hold an item of an evaluation file left; the rejects name the item.",
        "含有评测题的文档已剔除；剔除记录里写明是哪一题。",
    )
    return about + table(head, body).html


def _differences(samples: list[dict[str, Any]], hide: bool) -> str:
    found = ""
    for row in samples[:SAMPLES]:
        if changed := excerpts.difference(str(row.get("before") or ""), str(row.get("after") or ""), hide):
            found += f"<li>{excerpts.origin(row)}{changed}</li>\n"
    return found


def _options(options: Any) -> str:
    if not isinstance(options, dict) or not options:
        return ""
    parts = " ".join(code(f"{key} = {value}").html for key, value in options.items() if value not in (None, [], ()))
    return f'<p class="note options">{parts}</p>\n'


# ------------------------------------------------------------------------------------------------ distributions


def distributions(report: dict[str, Any]) -> str:
    """Every column as a small picture; those with a threshold first."""
    ruled, plain = "", ""
    for column in rows(report, "columns"):
        if made := _column(column):
            if column.get("thresholds"):
                ruled += made
            else:
                plain += made
    if not ruled and not plain:
        return ""
    key = "".join(f'<li><i class="{kind}"></i>{text.html}</li>' for kind, text in (
        ("hold light", say("all documents when measured", "统计时的全部文档")),
        ("keep", say("documents kept at the end", "最终保留的文档")),
        ("out0", say("a threshold, and what lies outside", "阈值与界外的部分")),
    ))  # fmt: skip
    body = f'<ul class="key">{key}</ul>\n' + note(
        "Heights are square roots of the counts, so that tails show. Rest the pointer on a bar for its counts.",
        "柱高为数量的平方根，以便看清尾部；指针停在柱上可见数量。",
    )
    body += f'<div class="few columns">\n{ruled}</div>\n' if ruled else ""
    if plain and ruled:
        summary = say("Columns without a threshold", "没有阈值的统计量").html
        return (
            body
            + f'<details class="fold"><summary>{summary}</summary><div class="few columns">\n{plain}</div></details>\n'
        )
    return body + (f'<div class="few columns">\n{plain}</div>\n' if plain else "")


def _column(column: dict[str, Any]) -> str:
    name = str(column.get("name") or "")
    words = Words(str(column.get("en") or name), str(column.get("zh") or name))
    picture = pictures.histogram(column, words, MEASURED)
    if not picture:
        return ""
    total = sum(pictures.numbers(column.get("measured")))
    unit = f' <span class="unit">{data(column["unit"]).html}</span>' if column.get("unit") else ""
    quantiles = column.get("quantiles") or {}
    parts = [
        f"{int(key[1:])}%\u2002{pictures.short(quantiles[key])}"
        for key in ("p05", "p50", "p95")
        if pictures.short(quantiles.get(key))
    ]
    body = f"<figcaption><b>{wording(words).html}</b> {code(name or None).html}{unit}</figcaption>\n{picture}"
    body += f'<p class="quantiles">{"".join(f"<span>{part}</span>" for part in parts)}</p>' if parts else ""
    for threshold in rows(column, "thresholds"):
        lost = number(threshold.get("rejected"))
        share = f" ({percent(lost / total, 2)})" if total else ""
        gone = say(f"{lost:,} rejected{share}", f"剔除 {lost:,}{share}").html
        because = (
            f'<br><span class="because">{data(threshold["because"]).html}</span>' if threshold.get("because") else ""
        )
        body += f'<p class="bound-note">{bounds(threshold)} {gone}{because}</p>\n'
    return f"<figure>{body}</figure>\n"


def bounds(rule: dict[str, Any]) -> str:
    """What stays under a rule: the interval of its values."""
    low, high = (pictures.short(rule.get(key)) for key in ("min", "max"))
    return code(" ".join([*([f"≥ {low}"] if low else []), *([f"≤ {high}"] if high else [])]) or None).html


# --------------------------------------------------------------------------------------------------- duplicates


def duplicates(report: dict[str, Any]) -> str:
    """Near duplicates: how the search was set, the largest groups, pairs."""
    body = ""
    for n, near in enumerate(rows(report, "near")):
        similarity = finite(near.get("similarity"))
        mark = None if similarity is None else (similarity, Words(f"chosen: {similarity:g}", f"所选：{similarity:g}"))
        picture = pictures.curve(
            near.get("curve"),
            f"near-{n}",
            Words("Share of pairs that become candidates", "成为候选的文本对所占比例"),
            Words("Jaccard similarity of the two texts", "两文的 Jaccard 相似度"),
            mark,
        )
        facts = [
            (say("documents compared", "比较的文档"), exact(near.get("documents"))),
            (say("rejected as near duplicates", "因近似重复剔除"), exact(near.get("rejected"))),
            (say("groups", "重复组"), exact(near.get("groups"))),
            (say("similarity", "相似度"), exact(near.get("similarity"), ".2f")),
            (say("a pair is confirmed from", "成对确认的下限"), exact(near.get("verify"), ".2f")),
            (say("characters in an n-gram", "n 元字符数"), exact(near.get("ngram"))),
            (say("hash functions", "哈希函数"), exact(near.get("permutations"))),
            (say("bands × rows", "分段 × 行"), code(_product(near))),
        ]
        lines = "".join(
            f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in facts if value.html
        )
        drawn = f"<figure>{picture}</figure>" if picture else ""
        body += f'<div class="beside">{drawn}<dl class="facts one">\n{lines}</dl></div>\n'
        groups = [
            [exact(row.get("size")), data(" ".join(str(row.get("text") or "").split())[:GROUP_CHARS])]
            for row in rows(near, "largest")[:GROUPS_SHOWN]
        ]
        if groups:
            listed = "".join(f'<li><span class="size">{size.html}</span>{text.html}</li>\n' for size, text in groups)
            body += heading("The largest groups", "最大的重复组") + f'<ul class="groups">\n{listed}</ul>\n'
    return body + _pairs(report)


def _product(near: dict[str, Any]) -> str | None:
    bands, lines = number(near.get("bands")), number(near.get("rows"))
    return f"{bands} × {lines}" if bands and lines else None


def is_pairs(report: dict[str, Any], rule: dict[str, Any]) -> bool:
    """Whether a rule's samples are pairs: what left, and the document that stayed for it."""
    kinds = {str(step.get("name")): step.get("kind") for step in rows(report, "steps")}
    return kinds.get(str(rule.get("step")), rule.get("step")) in ("exact", "near")


def _pairs(report: dict[str, Any]) -> str:
    body = ""
    kinds = {str(step.get("name")): step.get("kind") for step in rows(report, "steps")}
    for rule in rows(report, "rules"):
        if not is_pairs(report, rule):
            continue
        gone, stayed = rule.get("rejected") or [], rule.get("kept") or []
        inner = ""
        for n, row in enumerate(gone):
            if not isinstance(row, dict):
                continue
            other = stayed[n] if n < len(stayed) and isinstance(stayed[n], dict) else None
            inner += f'<div class="two">{_pair(row, other)}</div>\n'
        if inner:
            words = wording(step_words(rule.get("step"), kinds.get(str(rule.get("step")))))
            body += _fold(words.html, "", number(rule.get("count")), _two_heads() + inner)
    return heading("Pairs", "成对比较") + body if body else ""


def _pair(row: dict[str, Any], other: dict[str, Any] | None) -> str:
    text = str(row.get("text") or "")
    if other is None:
        return f"<div>{excerpts.origin(row)}{excerpts.excerpt(text, excerpts.HEAD)}</div><div></div>"
    if text == other.get("text"):
        same = say("the same text", "文字完全相同").html
        left, right = excerpts.excerpt(text, excerpts.HEAD), f'<p class="note">{same}</p>'
        return f"<div>{excerpts.origin(row)}{left}</div><div>{excerpts.origin(other)}{right}</div>"
    left, right = excerpts.sides(text, str(other.get("text") or ""), PAIR)
    return (
        f'<div>{excerpts.origin(row)}<p class="sample diff">{left}</p></div>'
        f'<div>{excerpts.origin(other)}<p class="sample diff">{right}</p></div>'
    )


# -------------------------------------------------------------------------------------------------------- lines


def shown(row: dict[str, Any]) -> Piece:
    """A fragment of text; one of blanks only with their names."""
    text = str(row.get("text") or "")
    return data(text if text.strip() else excerpts.shape(text))


def lines(report: dict[str, Any]) -> str:
    """Lines that left because many documents hold them, and what still repeats."""
    body = ""
    for step in rows(report, "lines"):
        least, gone = number(step.get("min_documents")), number(step.get("lines_removed"))
        unit = ("sentences", "句") if step.get("unit") == "sentence" else ("lines", "行")
        if gone:
            en = f"{gone:,} {unit[0]} left because at least {least:,} documents of one source hold them."
            body += paragraph(en, f"共删去 {gone:,} {unit[1]}：同一来源中至少 {least:,} 篇文档含有它们。").html
        listed = [[shown(row), exact(row.get("documents"))] for row in rows(step, "removed")[:LINES_SHOWN]]
        if listed:
            body += table([say("removed", "已删去"), say("documents", "文档数")], listed).html
    left = [[shown(row), exact(row.get("count"))] for row in rows(report, "repeated")[:LINES_SHOWN]]
    if left:
        body += heading("What still repeats in the kept text", "保留文本中仍多次重复的片段")
        body += table([say("fragment", "片段"), say("times", "次数")], left).html
    return body


# -------------------------------------------------------------------------------------------------------- rules


def rules(report: dict[str, Any]) -> str:
    """Every rule: documents that it rejected beside documents that stayed, nearest to the threshold."""
    columns = column_words(report)
    found = [
        rule
        for rule in rows(report, "rules")
        if not is_pairs(report, rule) and (rule.get("rejected") or rule.get("kept"))
    ]
    if not found:
        return ""
    samples = [
        row for rule in found for key in ("rejected", "kept") for row in rule.get(key) or [] if isinstance(row, dict)
    ]
    limit = excerpts.fair_limit((len(str(row.get("text") or "")) for row in samples), SAMPLE_BUDGET)
    body = note(
        "The nearest to the threshold first. A document counts for the first rule that rejects it, and is shown for all.",
        "离阈值最近的在前。一篇文档只计入最先剔除它的规则，但会在所有相关规则下列出。",
    )
    for n, rule in enumerate(sorted(found, key=lambda rule: -number(rule.get("count")))):
        words = rule_words(rule.get("column") or rule.get("rule"), columns)
        step = wording(step_words(rule.get("step"))).html
        title = f"{wording(words).html} {bounds(rule)}"
        because = f'<p class="note">{data(rule["because"]).html}</p>\n' if rule.get("because") else ""
        gone, kept = (excerpts.listed(rule.get(key) or [], limit) for key in ("rejected", "kept"))
        both = f'<ul class="samples">\n{gone}</ul>', f'<ul class="samples">\n{kept}</ul>'
        names = (
            ('<p class="side-head lost">', say("rejected", "剔除")),
            ('<p class="side-head stay">', say("kept", "保留")),
        )
        cells = [f"<div>{tag}{name.html}</p>\n{inner}</div>\n" for (tag, name), inner in zip(names, both, strict=True)]
        two = f'<div class="two">{cells[0]}{cells[1] if kept else ""}</div>\n'
        body += _fold(title, step, number(rule.get("count")), because + two, opened=n == 0)
    return body


def _two_heads() -> str:
    gone, kept = say("rejected", "剔除").html, say("kept in its place", "留下的一篇").html
    return f'<div class="two heads"><p class="side-head lost">{gone}</p><p class="side-head stay">{kept}</p></div>\n'


def _fold(title: str, step: str, gone: int, inner: str, opened: bool = False) -> str:
    side = say(f"{gone:,} rejected", f"剔除 {gone:,}").html
    where = f'<span class="where">{step}</span>' if step else ""
    state = " open" if opened else ""
    summary = f'<summary><b>{title}</b>{where}<span class="side">{side}</span></summary>'
    return f'<details class="fold"{state}>{summary}\n{inner}</details>\n'


def reasons(report: dict[str, Any], most: int = 3) -> list[tuple[Words, int]]:
    """The rules that rejected most documents, over all steps."""
    columns = column_words(report)
    total: dict[Words, int] = {}
    for step in rows(report, "steps"):
        for rule, n in (step.get("rejected") or {}).items():
            words = rule_words(rule, columns)
            if rule == "empty":
                own = step_words(step.get("name"), step.get("kind"))
                words = Words(f"nothing left after {own.en}", f"{own.zh}后为空")
            total[words] = total.get(words, 0) + number(n)
    ranked = sorted(total.items(), key=lambda item: -item[1])
    return [(as_is(words.en) if words.en == words.zh else words, n) for words, n in ranked[:most] if n > 0]
