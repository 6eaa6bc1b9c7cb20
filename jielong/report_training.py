"""What the report of a run tells of a stage that trains, and of a model beside what it was before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jielong import charts
from jielong.charts import Words, count, duration, finite
from jielong.metrics import read_jsonl
from jielong.pieces import (
    NOTHING,
    Piece,
    code,
    data,
    exact,
    link,
    paragraph,
    properties,
    say,
    spoken,
    table,
    written,
)

if TYPE_CHECKING:
    from jielong.report import Contents

WIDE, NARROW, SMALL = (860, 380), (360, 280), (330, 230)  # pictures: a page, a phone, three in a row
TIMELINE_STEPS, TIMELINE_CHARS = 9, 220  # texts shown of each prompt and their length; the rest is in samples.jsonl
EVENTS = 30  # of the history, in the report
EVENT_WORDS = {
    "stopped": Words("asked to stop", "按要求停下"),
    "resumed": Words("went on", "续训"),
    "skipped": Words("step not taken", "该步未采用"),
    "overflow": Words("float16 overflow", "float16 溢出"),
    "rolled back": Words("went back", "回退"),
    "phase": Words("next phase", "进入下一阶段"),
    "intervention": Words("by a person", "人工干预"),
    "replayed": Words("made again", "重做干预"),
    "refused": Words("not made", "未执行"),
}


def training_section(found: Contents, stage: str) -> Piece:
    """The curves, the facts, and the language as it emerges. stage: train or tune."""
    counts, metrics, body = found.counts(stage), found.metrics[stage], NOTHING
    name = "loss" if stage == "train" else f"loss-{stage}"
    if wide := charts.loss_chart(metrics, name, WIDE):
        narrow = charts.loss_chart(metrics, f"{name}-narrow", NARROW)
        html = f'<figure><div class="wide">{wide}</div><div class="narrow">{narrow}</div></figure>\n'
        small = "".join(
            f"<figure>{svg}</figure>\n"
            for svg in charts.small_charts(metrics, SMALL, "" if stage == "train" else f"{stage}-")
        )
        body += Piece(
            f'{html}<div class="few">{small}</div>\n',
            "![loss curve · 损失曲线](loss.svg)\n\n" if stage == "train" else "",
        )
    if missing := sum(finite(row.get("loss")) is None for row in metrics):
        en = f"{missing:,} of {len(metrics):,} steps have no finite loss; they are left out of the curve."
        body += paragraph(en, f"{len(metrics):,} 步中有 {missing:,} 步没有有限的损失值，曲线中略去。", "warn")
    where = [counts[key] for key in ("device", "precision") if counts.get(key)]
    speed = count(counts.get("tokens_per_second"))
    body += properties(
        ("steps", "步数", exact(counts.get("steps"))),
        ("tokens", "词元", exact(counts.get("tokens"))),
        ("final training loss", "最终训练损失", exact(counts.get("final_loss"), ".4f")),
        ("validation, bits per byte", "验证集每字节比特", exact(counts.get("validation_bits_per_byte"), ".4f"))
        if stage != "align"
        else ("examples", "样例", exact(counts.get("examples"))),
        ("device, precision", "设备与精度", code(" ".join(where) or None)),
        (
            "engine, processes",
            "引擎与进程数",
            code(" ".join(str(counts[key]) for key in ("engine", "processes") if key in counts) or None),
        ),
        ("steps not taken", "未采用的步", exact(counts.get("not_taken") or None)),
        ("times back to a checkpoint", "回退次数", exact(counts.get("rolled_back") or None)),
        ("speed", "速度", say(f"{speed.en} tokens/s", f"{speed.zh}词元/秒") if speed else NOTHING),
        ("time in training steps", "训练用时", spoken(duration(counts.get("train_seconds")))),
        ("checkpoint", "检查点", checkpoint(found, stage, counts.get("checkpoint"))),
    )
    return body + happened(found, stage) + mixture(counts.get("mix") or {}) + timelines(found, stage)


def measured(counts: dict[str, Any], prefix: str, en: str = "", zh: str = "") -> list[tuple[str, str, Piece]]:
    """Figures of held-out examples, under their names."""
    return [
        (
            f"{en}held out: {name.removeprefix(prefix).replace('_', ' ')}",
            f"{zh}留出：{name.removeprefix(prefix)}",
            exact(value, ".4f"),
        )
        for name, value in counts.items()
        if name.startswith(prefix) and not isinstance(value, str)
    ]


def judged(found: dict[str, Any]) -> list[tuple[str, str, Piece]]:
    """How often answers are better than those before, and how sure that is."""
    if "win_rate" not in found:
        return []
    low, high = found["interval"]["low"], found["interval"]["high"]
    text = f"{found['win_rate']:.1%} ({low:.1%} – {high:.1%})"
    worth = found.get("mean_worth")
    worths = (
        [
            (
                "what its answers to held-out prompts are worth, before → after",
                "对留出提问的回答值多少，之前 → 之后",
                code(f"{worth['b']:.4g} → {worth['a']:.4g}"),
            )
        ]
        if worth
        else []
    )
    return [
        *worths,
        (
            f"wins against the model before, of {found['prompts']}",
            f"对训练前模型的胜率，共 {found['prompts']} 题",
            code(text),
        ),
    ]


def happened(found: Contents, stage: str) -> Piece:
    """What was out of the ordinary: steps that were not taken, going back, going on after a stop; the newest events."""
    history = read_jsonl(found.run.stage(stage) / "history.jsonl")
    if not history:
        return NOTHING
    rows = []
    for event in history[-EVENTS:]:
        step, kind = event.get("step"), str(event.get("event") or "")
        place = f"{stage}/spikes/step-{step:08d}.jsonl" if isinstance(step, int) and kind == "skipped" else ""
        there = place and (found.run.root / place).is_file()
        words = EVENT_WORDS.get(kind, Words(kind, kind))
        text = str(event.get("text") or "").split("; its text is in")[0]
        rows.append([data(text), exact(step), spoken(words), link(place) if there else NOTHING])
    en = f"Out of the ordinary: {len(history):,} event{'' if len(history) == 1 else 's'}" + (
        f", the last {EVENTS} of them:" if len(history) > EVENTS else ":"
    )
    zh = f"不寻常的事件：{len(history):,} 件" + (f"，下面是最后 {EVENTS} 件：" if len(history) > EVENTS else "：")
    names = [say("what and why", "经过与原因"), say("step", "步"), say("event", "事件"), say("its text", "该步的文本")]
    return paragraph(en, zh) + table(names, rows)


def mixture(mix: dict[str, dict[str, Any]]) -> Piece:
    """What was read of each source, beside what was wanted."""
    if not mix:
        return NOTHING
    names = [
        say("source", "来源"),
        say("wanted", "目标占比"),
        say("read", "实际占比"),
        say("tokens", "词元"),
        say("passes", "遍数"),
    ]
    rows = [
        [code(name), exact(row.get("wanted"), ".2%"), exact(row.get("share"), ".2%"), exact(row.get("tokens")),
         exact(row.get("epochs"), ".2f")]
        for name, row in mix.items()
    ]  # fmt: skip
    return paragraph("The mix of the sources, by tokens:", "各来源的配比（按词元）：") + table(names, rows)


def checkpoint(found: Contents, stage: str, value: Any) -> Piece:
    """A link to the checkpoint that the manifest names; its bare name when it is no longer there."""
    name = Path(str(value or "")).name
    there = name and (found.run.stage(stage) / "checkpoints" / name).exists()
    return link(f"{stage}/checkpoints/{name}/") if there else code(name or None)


def timelines(found: Contents, stage: str) -> Piece:
    """Per prompt, what the model wrote after more and more steps."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in read_jsonl(found.run.stage(stage) / "samples.jsonl"):
        by_prompt.setdefault(str(row.get("prompt") or ""), []).append(row)
    tokens = {row.get("step"): count(row.get("tokens")) for row in found.metrics[stage]}
    body = paragraph("The same prompts, as it learns:", "同样的开头，随训练而变：") if by_prompt else NOTHING
    for prompt, rows in by_prompt.items():
        html, text = "", ""
        for row in charts.spread(rows, TIMELINE_STEPS):
            step, seen = row.get("step", "—"), tokens.get(row.get("step"))
            en, zh = (f", {seen.en} tokens", f"，{seen.zh}词元") if seen else ("", "")
            when = say(f"step {step}{en}", f"第 {step} 步{zh}")
            sample = written(prompt, str(row.get("text") or ""), TIMELINE_CHARS)
            html += f'<li><p class="note">{when.html}</p>{sample.html}</li>\n'
            text += f"- {when.markdown}<br>{sample.markdown}\n"
        body += Piece(f'<ol class="timeline">\n{html}</ol>\n', text + "\n")
    return body


def compared_section(compared: dict[str, Any]) -> Piece:
    """What a model that went on from another one gained and forgot, and what both say to the same prompts."""
    if not compared:
        return NOTHING
    head = [
        say("bits per byte on", "每字节比特，文本："),
        say("before", "之前"),
        say("after", "之后"),
        say("change", "变化"),
    ]
    rows = [
        [
            data(str(row.get("text"))),
            exact(row.get("before"), ".4f"),
            exact(row.get("after"), ".4f"),
            code(_change(row)),
        ]
        for row in compared.get("rows") or []
    ]
    body = paragraph("Before and after: what was gained, and what was forgotten.", "训练前后：学到了什么，忘掉了什么。")
    body += table(head, rows)
    for row in compared.get("prompts") or []:
        for key, words in (("before", Words("before", "之前")), ("after", Words("after", "之后"))):
            text = written(str(row.get("prompt") or ""), str(row.get(key) or ""), TIMELINE_CHARS)
            note = spoken(words)
            html = f'<div class="written">{text.html}<p class="note">{note.html}</p></div>\n'
            body += Piece(html, f"> {text.markdown}\n>\n> {note.markdown}\n\n")
    return body


def _change(row: dict[str, Any]) -> str | None:
    before, after = finite(row.get("before")), finite(row.get("after"))
    return f"{after / before - 1:+.1%}" if before and after is not None else None
