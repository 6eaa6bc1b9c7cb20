"""The section on balance: how often the corpus mentions the members of each group, and which words stand near them.

It is written from `balance` and `sources` of the report's dictionary (measuring/associations.py makes the first). A group
reads from the whole to the single text: shares, the same by source, the words that tell the members apart side by
side, the words near each one, and at last mentions chosen by chance, because a surprising share is most often a term that
means something else. Up to COLOURED members have a colour of their own, which stays theirs through the whole group; more
are bars in one colour.

The sources' licence notes and weights stand beside their shares at the end: what one may use, what was wished, what is there.
"""

from __future__ import annotations

from typing import Any

from jielong.charts import count, finite
from jielong.data.reporting import pictures
from jielong.data.reporting.evidence import heading, note
from jielong.data.reporting.flow import number, percent, rows
from jielong.pieces import NOTHING, Piece, data, exact, parts, say, spoken, table

COLOURS = ("keep", "out1", "out3", "out2", "out0", "out4")  # classes of the page
COLOURED = len(COLOURS)
COLUMNS = 8  # members with a column in the table by source

Row = dict[str, Any]


def section(report: dict[str, Any]) -> str:
    """The section as HTML; empty without groups."""
    found = report.get("balance")
    balance: Row = found if isinstance(found, dict) else {}
    groups = rows(balance, "groups")
    body = "".join(_group(group, balance) for group in groups)
    if not body:
        return ""
    reach = number(balance.get("reach"))
    about = note(
        f"Counted in the kept text. Words are pairs of Chinese characters within {reach} characters of a mention, joined where "
        "they always come together. A difference is something to read, not a verdict.",
        f"统计对象为保留的文本。词取自提及前后 {reach} 字内的相邻两字，总是相连的合为一词。差异是阅读的线索，不是结论。",
    )
    return about + body + _licences(report)


def _group(group: Row, balance: Row) -> str:
    members = rows(group, "members")
    amounts = [_sum(member.get("mentions")) for member in members]
    if not members:
        return ""
    title = f"<h3>{data(group.get('name') or '—').html}</h3>\n"
    if not sum(amounts):
        return title + note("None of its terms occurs.", "其中的词均未出现。")
    names = [data(member.get("name") or "—") for member in members]
    shares = [(name, float(n)) for name, n in zip(names, amounts, strict=True)]
    if len(members) <= COLOURED:
        coloured = [(*share, kind) for share, kind in zip(shares, _colours(members), strict=True)]
        body = parts("Mentions", "提及次数", coloured).html
    else:
        body = pictures.bars(sorted(shares, key=lambda share: -share[1]))
    body += _members(members, balance) + _sources(members, amounts, balance)
    return title + body + _apart(members) + _near(members) + _samples(group, members)


def _colours(members: list[Row]) -> list[str]:
    return list(COLOURS[: len(members)]) if len(members) <= COLOURED else [COLOURS[0]] * len(members)


def _sum(counts: Any) -> int:
    return sum(number(n) for n in counts.values()) if isinstance(counts, dict) else 0


def _part(counts: Any, source: str) -> int:
    return number(counts.get(source)) if isinstance(counts, dict) else 0


def _rate(mentions: int, chars: int) -> Piece:
    """Mentions per million characters."""
    return say(f"{pictures.short(round(mentions / chars * 1e6, 1))}") if chars else NOTHING


def _members(members: list[Row], balance: Row) -> str:
    chars, documents = _sum(balance.get("chars")), _sum(balance.get("documents"))
    listed = []
    for member in members:
        mentions, held = _sum(member.get("mentions")), _sum(member.get("documents"))
        terms = member.get("terms")
        words = Piece(
            " ".join(data(term).html for term in terms if isinstance(term, str)) if isinstance(terms, list) else "", ""
        )
        share = say(percent(held / documents)) if documents else NOTHING
        listed.append(
            [data(member.get("name") or "—"), words, exact(mentions), _rate(mentions, chars), exact(held), share]
        )
    head = [
        say("member", "成员"), say("terms", "词"), say("mentions", "提及"), say("per million characters", "每百万字"),
        say("documents", "文档"), say("of all documents", "占全部文档"),
    ]  # fmt: skip
    return _wide(table(head, listed, 2))


def _sources(members: list[Row], amounts: list[int], balance: Row) -> str:
    """Rows are sources, by characters; the bar shows the members' shares of the mentions there."""
    chars = balance.get("chars")
    known = chars if isinstance(chars, dict) else {}
    names = sorted((str(name) for name in known), key=lambda name: -number(known[name]))
    shown = sorted(sorted(range(len(members)), key=lambda n: -amounts[n])[:COLUMNS])
    colours = _colours(members)
    listed = []
    for source in names:
        counts = [_part(member.get("mentions"), source) for member in members]
        if not sum(counts):
            continue
        cells = [_rate(counts[n], number(known[source])) for n in shown]
        bar = _stack([(float(counts[n]), colours[n]) for n in range(len(members))])
        row = [data(source), *([bar] if len(members) <= COLOURED else []), spoken(count(known[source])), *cells]
        listed.append(row)
    if len(listed) < 2:
        return ""
    heads = [data(members[n].get("name") or "—") for n in shown]
    bar_head = [say("shares of the mentions", "提及占比")] if len(members) <= COLOURED else []
    head = [say("source", "来源"), *bar_head, say("characters", "字符"), *heads]
    title = say("By source, mentions per million characters", "各来源每百万字的提及").html
    return f"<h4>{title}</h4>\n{_wide(table(head, listed, 1 + len(bar_head)))}"


def _wide(made: Piece) -> str:
    """A table whose first columns keep their width, so that a phone scrolls it and breaks no name."""
    return f'<div class="sources">{made.html}</div>\n'


def _stack(shares: list[tuple[float, str]]) -> Piece:
    """A small bar cut into shares."""
    inner = "".join(f'<i class="{kind}" style="flex:{amount:g}"></i>' for amount, kind in shares if amount > 0)
    return Piece(
        f'<div class="stack" aria-hidden="true" style="height:.72rem;margin:0;min-width:7rem">{inner}</div>', ""
    )


# ----------------------------------------------------------------------------------------------------------- words


def _columns(cells: list[str]) -> str:
    """Two cells side by side, on a phone one below the other."""
    pairs = [cells[n : n + 2] for n in range(0, len(cells), 2)]
    return "".join(f'<div class="two">{"".join(f"<div>{cell}</div>" for cell in pair)}</div>\n' for pair in pairs)


def _bars(words: list[tuple[Row, str, str]], heads: tuple[Piece, Piece, Piece], key: str, kind: str) -> str:
    """Word, bar of a score, two numbers as text."""
    most = max((finite(row.get(key)) or 0.0 for row, _, _ in words), default=0.0)
    if most <= 0:
        return ""
    word, first, second = (head.html for head in heads)
    lines = (
        f'<div><span class="share">{word}</span><span></span>'
        f'<span class="n share">{first}</span><span class="n share">{second}</span></div>\n'
    )
    for row, left, right in words:
        width = max(finite(row.get(key)) or 0.0, 0.0) / most
        lines += (
            f'<div><span>{data(row.get("word") or "").html}</span><span class="rail"><i class="{kind}" '
            f'style="width:{width:.1%}"></i></span><span class="n">{left}</span><span class="n share">{right}</span></div>\n'
        )
    return f'<div class="bars">\n{lines}</div>\n'


def _times(row: Row) -> str:
    found = finite(row.get("times"))
    return "—" if found is None else f"× {pictures.short(float(f'{found:.3g}'))}"


def _named_cell(member: Row, inner: str) -> str:
    nothing = note("Nothing stands out.", "没有突出的词。")
    return f'<p class="side-head">{data(member.get("name") or "—").html}</p>\n{inner or nothing}'


def _apart(members: list[Row]) -> str:
    """What stands near one member rather than near the others."""
    cells, colours = [], _colours(members)
    heads = (say("near it rather", "更近此者"), say("here : rest", "此 : 余"), say("rate", "倍数"))
    for member, kind in zip(members, colours, strict=True):
        words = [
            (row, f"{number(row.get('count')):,} : {number(row.get('others')):,}", _times(row))
            for row in rows(member, "distinct")
        ]
        cells.append(_named_cell(member, _bars(words, heads, "z", kind)))
    if not any(rows(member, "distinct") for member in members):
        return ""
    return (
        f"<h4>{say('Words that tell the members apart', '区分各成员的词').html}</h4>\n"
        + _columns(cells)
        + note(
            "Bars: z-score of the log-odds ratio with an informative Dirichlet prior (Monroe et al. 2008), against all other "
            "members together. Rate: how many times as often as near the others; — where it never stands there.",
            "条形为带信息 Dirichlet 先验的对数优势比 z 值（Monroe 等，2008），与其余成员合并比较。倍数：出现率为在其余成员附近的几倍；— 表示在那里从未出现。",
        )
    )


def _near(members: list[Row]) -> str:
    """What stands near each member more often than in all text."""
    cells, colours = [], _colours(members)
    heads = (say("word", "词"), say("times", "次数"), say("rate", "倍数"))
    for member, kind in zip(members, colours, strict=True):
        words = [(row, f"{number(row.get('count')):,}", _times(row)) for row in rows(member, "neighbours")]
        cells.append(_named_cell(member, _bars(words, heads, "score", kind)))
    if not any(rows(member, "neighbours") for member in members):
        return ""
    about = note(
        "Bars: log-likelihood ratio (Dunning 1993). Rate: how many times as often as in all text.",
        "条形为对数似然比（Dunning，1993）。倍数：出现率为全部文本的几倍。",
    )
    summary = f"<b>{say('Words near each member', '各成员附近的词').html}</b>"
    return f'<details class="fold"><summary>{summary}</summary>\n{about}{_columns(cells)}</details>\n'


def _samples(group: Row, members: list[Row]) -> str:
    inner = ""
    for member in members:
        lines = ""
        for row in rows(member, "samples"):
            before, mention, after = (data(row.get(key) or "").html for key in ("before", "mention", "after"))
            origin = f'<p class="origin">{data(row.get("source") or "—").html}</p>'
            lines += f'<li>{origin}<p class="sample">{before}<b>{mention}</b>{after}</p></li>\n'
        if lines:
            inner += (
                f'<p class="side-head">{data(member.get("name") or "—").html}</p>\n<ul class="samples">\n{lines}</ul>\n'
            )
    if not inner:
        return ""
    words = group.get("no_mentions") or []
    if isinstance(words, list) and words:
        label = say("Words that are no mention: ", "不算提及的词：").html
        inner += f'<p class="note">{label}{" ".join(data(word).html for word in words if isinstance(word, str))}</p>\n'
    summary = f"<b>{say('Mentions chosen by chance', '随机抽取的提及').html}</b>"
    return f'<details class="fold"><summary>{summary}</summary>\n{inner}</details>\n'


# --------------------------------------------------------------------------------------------------------- sources


def _licences(report: dict[str, Any]) -> str:
    """Licence notes and weights beside the shares."""
    found = rows(report, "sources")
    if not found:
        return ""
    chars = [number(row.get("chars")) for row in found]
    weights = [finite(row.get("weight")) or 0.0 for row in found]
    listed = []
    for row, n, weight in zip(found, chars, weights, strict=True):
        licence = data(row["licence"]) if row.get("licence") else say("not stated", "未注明")
        actual = n / sum(chars) if sum(chars) else None
        wished = weight / sum(weights) if sum(weights) else None
        relation = say(f"× {actual / wished:.2g}") if actual is not None and wished else NOTHING
        listed.append([
            data(row.get("name") or "—"), licence, exact(row.get("weight"), "g"),
            NOTHING if wished is None else say(percent(wished)), NOTHING if actual is None else say(percent(actual)), relation,
        ])  # fmt: skip
    head = [
        say("source", "来源"), say("licence", "许可"), say("weight", "权重"), say("share wished", "期望占比"),
        say("share of the characters", "字符占比"), say("actual : wished", "实际 : 期望"),
    ]  # fmt: skip
    return heading("Sources: licence and share", "来源的许可与占比") + _wide(table(head, listed, 2))
