"""The page of `jielong judge`: how often A wins and how sure that is, and all prompts with both answers side by side.

A win rate says who is better and not in what; only the answers do. So they all stand here, the most decisive first, the first
ones open and the others folded. The template is that of the other reports (pieces.py); text from files and models enters by `data`.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from jielong.charts import COLOURS, FONT, GRID, INK, MUTED, PAPER, Words, both
from jielong.pieces import Piece, code, data, page, paragraph, parts, say, table
from jielong.runs import write_text

ABOUT = Words("jielong, two models compared", "jielong 模型对比报告")
OPEN = 20  # prompts that are not folded away
SHOWN = 4_000  # characters of a prompt or an answer
SIDES = ("a", "b")
WINNERS = {
    "a": Words("A is better", "A 较好"),
    "b": Words("B is better", "B 较好"),
    "tie": Words("tie", "平局"),
}
KINDS = {"a": "keep", "tie": "out4", "b": "out1"}  # their colours in the bar of shares
STOPPED = {
    "length": Words("cut off at its longest", "达到长度上限而截断"),
    "context": Words("cut off at the end of the context", "上下文已满而截断"),
}
STYLE = (
    ".duel{border-top:1px solid var(--line);padding:1.1rem 0 .6rem}.duel .question{margin:.2rem 0 .8rem;font-weight:600;white-space:pre-wrap}"
    ".duel .two>div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem .8rem}"
    ".duel .two>.won{border-color:var(--keep);box-shadow:inset 3px 0 0 var(--keep)}.duel .side-head{margin:0 0 .3rem}"
    ".duel .two>.won:last-child{border-color:var(--out1);box-shadow:inset 3px 0 0 var(--out1)}.duel .two{gap:.8rem 1.3rem}"
    ".duel .sample{font-size:1rem;line-height:1.75}.duel .side-head .note{font-weight:400}"
)


def head(found: dict[str, Any]) -> str:
    """The result in a sentence or two."""
    low, high, rate, count = found["interval"]["low"], found["interval"]["high"], found["win_rate"], found["prompts"]
    en, zh = "no difference is shown", "未见差别"
    if low > 0.5 or high < 0.5:
        en, zh = (f"{'A' if low > 0.5 else 'B'} is better", f"{'A' if low > 0.5 else 'B'} 较好")
    names = "".join(
        f'<p class="note">{say(label.upper()).html}: {data(found[label]["name"]).html} {_way(found[label]).html}</p>\n'
        for label in SIDES
    )
    lede = paragraph(
        f"Of {count:,} prompt{'s' if count > 1 else ''} A wins {rate:.1%}, a tie being half a win; 95 % confidence: {low:.1%} to {high:.1%}. "
        f"{en[0].upper()}{en[1:]}.",
        f"共 {count:,} 题，A 的胜率为 {rate:.1%}（平局记半胜），95% 置信区间 {low:.1%} 至 {high:.1%}：{zh}。",
        "lede",
    )
    return lede.html + names


def _way(side: dict[str, Any]) -> Piece:
    return say("(takes turns)", "（对话）") if side["turns"] else say("(continues the text)", "（续写）")


def picture(found: dict[str, Any], size: tuple[int, int] = (760, 132)) -> str:
    """The win rate of A with its interval, on a line from 0 to 100 %, as `<svg>`."""
    width, height = size
    left, right, line = 14.0, 14.0, height - 58.0
    rate, low, high = found["win_rate"], found["interval"]["low"], found["interval"]["high"]

    def px(share: float) -> float:
        return left + share * (width - left - right)

    title = Words("Win rate of A, with its 95 % interval", "A 的胜率及 95% 置信区间")
    told = Words(f"{rate:.1%}, from {low:.1%} to {high:.1%}", f"{rate:.1%}，区间 {low:.1%} 至 {high:.1%}")
    out = [
        f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="rate-{width}-title rate-{width}-desc" font-family="{escape(FONT)}" font-size="12">',
        f'<title id="rate-{width}-title">{escape(" · ".join(title))}</title>',
        f'<desc id="rate-{width}-desc">{escape(" · ".join(told))}</desc>',
        f'<text class="ink" x="0" y="15" font-size="13" font-weight="600" fill="{INK}">{both(title)}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        anchor = {0.0: "start", 1.0: "end"}.get(share, "middle")
        out.append(f'<path class="grid" d="M{px(share):.1f} 34V{height - 36}" stroke="{GRID}"/>')
        out.append(_text(px(share), height - 20, anchor, f"{share:.0%}"))
    out.append(f'<path class="axis" d="M{px(0.5):.1f} 30V{height - 36}" stroke="{MUTED}" stroke-dasharray="4 4"/>')
    out.append(_text(left, height - 4, "start", both(Words("B is better", "B 较好"))))
    out.append(_text(width - right, height - 4, "end", both(Words("A is better", "A 较好"))))
    out.append(
        f'<path class="s0" d="M{px(low):.1f} {line - 6:.1f}v12M{px(low):.1f} {line:.1f}H{px(high):.1f}M{px(high):.1f} {line - 6:.1f}v12" '
        f'fill="none" stroke="{COLOURS[0]}" stroke-width="2.4" stroke-linecap="round"/>'
    )
    out.append(
        f'<circle class="d0" cx="{px(rate):.1f}" cy="{line:.1f}" r="6" fill="{COLOURS[0]}" stroke="{PAPER}" stroke-width="1.5"/>'
    )
    out.append(
        f'<text class="ink" x="{min(max(px(rate), left + 22), width - right - 22):.1f}" y="{line - 13:.1f}" text-anchor="middle" '
        f'font-size="13" font-weight="600" fill="{INK}">{rate:.1%}</text>'
    )
    return "".join(out) + "</svg>"


def _text(x: float, y: float, anchor: str, inner: str) -> str:
    return f'<text class="muted" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{MUTED}">{inner}</text>'


def verdicts_section(found: dict[str, Any]) -> str:
    """The picture, the shares, the counts and what they mean."""
    wins, count = found["wins"], found["prompts"]
    body = f'<figure class="wide">{picture(found)}</figure>\n<figure class="narrow">{picture(found, (400, 132))}</figure>\n'
    body += parts("Verdicts", "裁决", [(say(*WINNERS[key]), wins[key], KINDS[key]) for key in ("a", "tie", "b")]).html
    rows = [[say(*WINNERS[key]), say(f"{wins[key]:,}"), say(f"{wins[key] / count:.1%}")] for key in ("a", "b", "tie")]
    if found["position_bias"] is not None:
        changed = say("of the ties, because the verdict changed with the order", "其中因调换顺序而改变、记为平局的")
        rows.append([changed, say(f"{found['changed']:,}"), say(f"{found['position_bias']:.1%}")])
    body += table([say("verdict", "裁决"), say("prompts", "题数"), say("share", "占比")], rows).html
    sampling = found["sampling"]
    body += (
        f'<p class="note">{say("Judged by ", "裁判：").html}{code(found["by"]).html}{say(". ", "。").html}'
        f"{say('Prompts: ', '题目：').html}{code(found['prompts_file']).html}{say('. ', '。').html}"
        + say(
            f"At most {sampling['max_new_tokens']:,} tokens an answer, temperature {sampling['temperature']:g}, repetition penalty "
            f"{sampling['repetition_penalty']:g}, seed {sampling['seed']}.",
            f"回答至多 {sampling['max_new_tokens']:,} 词元，温度 {sampling['temperature']:g}，重复惩罚 {sampling['repetition_penalty']:g}，"
            f"随机种子 {sampling['seed']}。",
        ).html
        + "</p>\n"
    )
    en, zh = (
        "The interval is Wilson's, with half a tie as half a win: how much the win rate may be owed to the choice of prompts.",
        "区间为 Wilson 区间，平局记半胜：表示胜率可能因选题而变动的范围。",
    )
    worth = found.get("mean_worth")
    if worth is not None:
        en += f" An answer of A is worth {worth['a']:.4g} on average, one of B {worth['b']:.4g}."
        zh += f"A 的回答平均值 {worth['a']:.4g}，B 的 {worth['b']:.4g}。"
    if found["position_bias"] is not None:
        en += " The judge saw both orders of the answers, and a verdict that changed with the order is a tie."
        zh += "裁判看过两种先后顺序，随顺序改变的裁决记为平局。"
    return body + paragraph(en, zh, "note").html


def answers_section(found: dict[str, Any]) -> str:
    """The prompts with both answers, the most decisive first."""
    rows = sorted(found["rows"], key=lambda row: -abs(row["margin"] or 0.0))
    body = paragraph("The most decisive verdicts come first.", "差距最大的排在前面。", "note").html
    shown = [_duel(row) for row in rows]
    body += "".join(shown[:OPEN])
    if rest := shown[OPEN:]:
        more = say(f"{len(rest):,} more", f"其余 {len(rest):,} 题").html
        body += f'<details class="fold"><summary>{more}</summary>\n{"".join(rest)}</details>\n'
    return body


def _duel(row: dict[str, Any]) -> str:
    """A prompt and both answers."""
    said = say(*WINNERS[row["winner"]])
    if row["changed"]:
        said += say(", as the verdict changed with the order", "（裁决随顺序改变）")
    elif row["margin"]:
        said += say(f", by {abs(row['margin']):.4g}", f"，差距 {abs(row['margin']):.4g}")
    asked = "".join(f'<p class="question">{data(_cut(text)).html}</p>\n' for text in _turns(row["messages"]))
    sides = ""
    for side in SIDES:
        won = ' class="won"' if row["winner"] == side else ""
        sides += f'<div{won}><p class="side-head">{side.upper()}{_end(row, side)}</p>\n{_answer(row[side])}</div>\n'
    place = say(f"line {row['line']:,}: ", f"第 {row['line']:,} 行：")
    return f'<div class="duel"><p class="note">{place.html}{said.html}</p>\n{asked}<div class="two">\n{sides}</div></div>\n'


def _turns(messages: list[dict[str, Any]]) -> list[str]:
    """What a prompt says, turn by turn; with roles where it is more than a question."""
    if len(messages) == 1:
        return [messages[0]["content"]]
    return [f"{message['role']}: {message['content']}" for message in messages]


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _answer(text: str) -> str:
    shown = data(_cut(text)) if text.strip() else say("(nothing)", "（无）")
    return f'<p class="sample">{shown.html}</p>'


def _end(row: dict[str, Any], side: str) -> str:
    words = STOPPED.get(row["stopped"][side])
    return "" if words is None else f' <span class="note">{say(*words).html}</span>'


SECTIONS = {
    "verdicts": (Words("Who is better", "谁更好"), verdicts_section),
    "answers": (Words("The answers", "回答"), answers_section),
}


def compose(found: dict[str, Any]) -> str:
    """The page's body, of what `judging.judge_models` returns with the file's name."""
    body = f"<h1>{say('Two models compared', '模型对比').html}</h1>\n{head(found)}"
    for key, (title, section) in SECTIONS.items():
        body += f'<section id="{key}">\n<h2>{say(*title).html}</h2>\n{section(found)}</section>\n'
    return body


def write_page(found: dict[str, Any], path: Path) -> None:
    """Write the page."""
    title = f"{found['a']['name']} / {found['b']['name']} · jielong"
    write_text(path, page(title, compose(found), ABOUT).replace("</style>", f"{STYLE}\n</style>", 1))
