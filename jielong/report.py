"""The report of a run: `report.html`, and its twin `report.md` with the loss curve beside it as `loss.svg`.

A run leaves a folder of manifests and jsonl files; the report is that folder told to somebody who was not there. It reads
nothing else and computes nothing that a stage has not measured, so it can be written again at any time, and a run that
stopped early simply has fewer sections.

The page is one file without an outside address: no network, no fonts, no library. A policy in its head forbids the browser
to load anything and to run any script but the one whose hash it names. That is the second fence around text that came from
the internet; the first is that such text enters by `data`, `code`, `cuts` and `folded` alone, which escape it.

Everything on the page is a `Piece`, the same content as HTML and as Markdown, so that the twins cannot drift apart. Our own
words exist in English and Chinese: the HTML page shows one and has a button, the Markdown shows both.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import orjson

from jielong import STAGES, charts
from jielong.charts import Words, count, duration, finite
from jielong.data.measuring.columns import COLUMNS
from jielong.data.reporting.glossary import rule_words, step_words
from jielong.metrics import read_jsonl
from jielong.pieces import (
    NOTHING,
    Piece,
    code,
    data,
    exact,
    link,
    markdown,
    page,
    paragraph,
    parts,
    properties,
    say,
    spoken,
    table,
    visible,
    written,
)
from jielong.progress import human_bytes
from jielong.report_training import WIDE, compared_section, judged, measured, training_section
from jielong.runs import TRAINED, Run, write_text

RULE_COLOURS = 5  # .out0 to .out4 in the page's style
MAIN_RULES = 3  # named of each step
PLACES = ("documents/", "shards/", "checkpoints/", "metrics.jsonl", "samples.jsonl", "results.json")  # worth a link
STOPPED_WORDS = {
    "end_of_text": Words("ended by itself", "自行收尾"),
    "length": Words("cut at the limit", "到上限为止"),
    "context": Words("the context was full", "上下文已满"),
    "stop": Words("met a stop string", "遇到停止串"),
}


@dataclass(frozen=True)
class Contents:
    """What the run folder holds, read once."""

    run: Run
    recipe: str  # TOML
    manifests: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, Any]]]  # of each stage that trains, a row a step
    results: dict[str, Any]  # of the evaluation

    def counts(self, stage: str) -> dict[str, Any]:
        """A stage's counts; empty when it has not finished."""
        return dict(self.manifests.get(stage, {}).get("counts") or {})


def read(run: Run) -> Contents:
    """Read the run folder; stages that have not finished are left out."""
    recipe = run.root / "recipe.toml"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else ""
    manifests = {stage: manifest for stage in STAGES if (manifest := run.manifest(stage)) is not None}
    results = read_json(run.stage("evaluate") / "results.json")
    results = results if isinstance(results, dict) else {}
    metrics = {stage: read_jsonl(run.stage(stage) / "metrics.jsonl") for stage in TRAINED}
    return Contents(run, text, manifests, metrics, results)


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None when there is none or it is damaged."""
    try:
        return orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None


# ----------------------------------------------------------------------------------------------------- sections


def infer_section(found: Contents) -> Piece:
    """The final continuations."""
    body = NOTHING
    for row in read_jsonl(found.run.stage("infer") / "samples.jsonl"):
        text = written(str(row.get("prompt") or ""), str(row.get("text") or ""))
        number, stopped = count(row.get("tokens")) or Words("?", "?"), row.get("stopped")
        how = STOPPED_WORDS.get(str(stopped), Words(f"stopped: {stopped}", f"停止：{stopped}"))
        note = say(f"{number.en} tokens, {how.en}", f"{number.zh}个词元，{how.zh}")
        html = f'<div class="written">{text.html}<p class="note">{note.html}</p></div>\n'
        body += Piece(html, f"> {text.markdown}\n>\n> {note.markdown}\n\n")
    return body


def reconcile(counts: dict[str, Any]) -> Piece:
    """Whether every document read is kept or set aside, in total, over the sources and from step to step."""
    total, kept, train, validation = (counts.get(key, 0) for key in ("read", "kept", "train", "validation"))
    added, rejected = counts.get("added", 0), sum((counts.get("rejected") or {}).values())
    adds_up = total + added == kept + rejected and kept == train + validation
    if sources := (counts.get("by_source") or {}).values():
        adds_up &= all(counts.get(key, 0) == sum(row.get(key, 0) for row in sources) for key in ("read", "kept"))
    adds_up &= all(row["in"] == row["kept"] + row["rejected"] for row in counts.get("steps") or [])
    more_en, more_zh = (f" + {added:,} by splitting", f" + 拆分所得 {added:,}") if added else ("", "")
    en = f"{total:,} read{more_en} = {train:,} for training + {validation:,} for validation + {rejected:,} set aside"
    zh = f"读入 {total:,}{more_zh} = 训练 {train:,} + 验证 {validation:,} + 剔除 {rejected:,}"
    if adds_up:
        return paragraph(f"{en}. Every document is accounted for.", f"{zh}。每一篇都有去处。")
    return paragraph(
        f"The counts do not add up: {en}. Find out why before using it.", f"数目对不上：{zh}。请先查明原因。", "warn"
    )


def data_section(found: Contents) -> Piece:
    """Read, kept and rejected, per step and source; the stage's own report has the rest."""
    counts = found.counts("data")
    steps: list[dict[str, Any]] = counts.get("steps") or []
    names = {row["step"]: named(row["step"], step_words(row["step"])) for row in steps}
    left = [(names[row["step"]], row["rejected"]) for row in steps if row["rejected"]]
    flow = [
        (say("training", "训练"), counts.get("train", 0), "keep"),
        (say("validation", "验证"), counts.get("validation", 0), "hold"),
        *((name, number, f"out{n % RULE_COLOURS}") for n, (name, number) in enumerate(left)),
    ]
    body = reconcile(counts) + parts("Where the documents went", "文档的去向", flow)
    raw, kept, chars = finite(counts.get("raw_bytes")), finite(counts.get("bytes")), count(counts.get("chars"))
    if raw and kept and chars:
        en = f"{human_bytes(raw)} of raw files became {human_bytes(kept)} of text, {chars.en} characters."
        body += paragraph(en, f"{human_bytes(raw)} 的原始文件成为 {human_bytes(kept)} 的文本，共 {chars.zh}字。")
    if (found.run.stage("data") / "report.html").is_file():
        words = say("Every step, rule and distribution, with samples: ", "每一步、每条规则与分布，附样例：")
        place = link("data/report.html")
        body += Piece(f"<p>{words.html}{place.html}</p>\n", f"{words.markdown}{place.markdown}\n\n")
    rows = [
        [names[row["step"]], *(exact(row.get(key)) for key in ("in", "edited", "rejected", "added")), main_rules(row)]
        for row in steps
    ]
    head = [say("step", "步骤"), say("in", "进入"), say("edited", "改动"), say("rejected", "剔除"), say("added", "增加"),
            say("most of them", "主要原因")]  # fmt: skip
    body += table(head, rows) if rows else NOTHING
    rows = []
    for name, row in [*(counts.get("by_source") or {}).items(), (None, counts)]:
        numbers = [row.get("read"), sum((row.get("rejected") or {}).values()), row.get("kept"), row.get("chars")]
        rows.append([say("all", "合计") if name is None else data(name), *map(exact, numbers)])
    head = [say("source", "来源"), say("read", "读入"), say("rejected", "剔除"), say("kept", "保留"),
            say("characters kept", "保留字符")]  # fmt: skip
    return body + table(head, rows)


def named(name: str, words: Words) -> Piece:
    """The words for a name, or the name itself where it comes from the recipe."""
    return data(name) if words.en == words.zh else say(*words)


def main_rules(row: dict[str, Any]) -> Piece:
    """The rules that rejected most, with their numbers."""
    known = {name: Words(column.en, column.zh) for name, column in COLUMNS.items()}
    most = sorted((row.get("rules") or {}).items(), key=lambda item: (-item[1], item[0]))[:MAIN_RULES]
    body = NOTHING
    for rule, number in most:
        body += (
            (say("; ", "；") if body != NOTHING else NOTHING)
            + named(rule, rule_words(rule, known))
            + say(f" {number:,}")
        )
    return body


def cuts(text: str, tokens: list[str]) -> Piece:
    """How the tokenizer cuts a phrase, one colour after another."""
    html, pieces = "", []
    for n, token in enumerate(tokens):
        kind = " byte" if re.fullmatch(r"(<[0-9A-F]{2}>)+", token) else ""
        shape = visible(token).replace("\n", "↵").replace("\t", "→")
        html += f'<span class="cut{n % 4}{kind}">{escape(shape)}</span>'
        pieces.append(markdown(shape))
    total = say(f"{len(text)} characters, {len(tokens)} tokens", f"{len(text)} 字，{len(tokens)} 个词元")
    html = f'<p class="cuts data">{html}</p><p class="note">{total.html}</p>\n'
    return Piece(html, f"- {' ▏'.join(pieces)} ({total.markdown})\n")


def tokenizer_section(found: Contents) -> Piece:
    """Size, compression and examples."""
    counts = found.counts("tokenizer")
    origins = {"bpe": say("trained on this corpus", "由本语料训练"), "folder": say("imported", "外部导入")}
    per_token = [exact(counts.get(f"{unit}_per_token"), ".3f") for unit in ("chars", "bytes")]
    body = properties(
        ("origin", "来历", origins.get(str(counts.get("kind")), NOTHING)),
        ("vocabulary", "词表大小", exact(counts.get("vocab_size"))),
        ("characters per token, validation text", "每词元字符数（验证文本）", per_token[0]),
        ("bytes per token, validation text", "每词元字节数（验证文本）", per_token[1]),
        ("token type on disk", "词元存储类型", code(counts.get("dtype"))),
    )
    splits = [(say("training", "训练"), counts.get("train")), (say("validation", "验证"), counts.get("validation"))]
    keys = ("documents", "tokens", "chars", "bytes")
    if rows := [[name, *(exact(row.get(key)) for key in keys)] for name, row in splits if row]:
        head = [say("documents", "文档"), say("tokens", "词元"), say("characters", "字符"), say("bytes", "字节")]
        body += table([say("split", "部分"), *head], rows)
    if examples := read_json(found.run.stage("tokenizer") / "examples.json"):
        body += paragraph("How it cuts some phrases:", "一些短句的切法：")
        for row in examples:
            body += cuts(str(row.get("text", "")), [str(token) for token in row.get("tokens", [])])
    return body + Piece("", "\n")


def model_section(found: Contents) -> Piece:
    """Size and shape."""
    counts, shape = found.counts("model"), found.manifests["model"].get("section") or {}
    total, embedding = finite(counts.get("parameters")), finite(counts.get("embedding_parameters"))
    body = NOTHING
    if total and embedding is not None:
        table_share = (say("embeddings", "词嵌入"), embedding, "hold")
        blocks_share = (say("transformer blocks", "Transformer 各层"), total - embedding, "keep")
        body += parts("Where the parameters are", "参数的分布", [table_share, blocks_share])
    shared = say("shares the embedding's weights", "与词嵌入共享权重")
    output = {"True": shared, "False": say("weights of its own", "独立权重")}.get(str(counts.get("tied")), NOTHING)
    return body + properties(
        ("layers", "层数", exact(shape.get("num_hidden_layers"))),
        ("width", "宽度", exact(shape.get("hidden_size"))),
        ("attention heads", "注意力头", exact(shape.get("num_attention_heads"))),
        ("key-value heads", "键值头", exact(shape.get("num_key_value_heads"))),
        ("longest context, tokens", "最长上下文（词元）", exact(shape.get("max_position_embeddings"))),
        ("parameters", "参数量", exact(total)),
        ("training FLOPs per token", "训练每词元的浮点运算", spoken(count(counts.get("flops_per_token")))),
        ("output layer", "输出层", output),
        ("Hugging Face class", "Hugging Face 类", code(counts.get("hf_class"))),
    )


def tune_section(found: Contents) -> Piece:
    """The conversations, and training on them."""
    rows, body = found.counts("tune").get("conversations") or {}, NOTHING
    if rows:
        body = properties(
            ("conversations read", "读入对话", exact(rows.get("read"))),
            ("learned from", "用于训练", exact(rows.get("train"))),
            ("held out", "留出验证", exact(rows.get("validation"))),
            ("set aside, with a reason", "剔除（均有原因）", exact(sum((rows.get("rejected") or {}).values()))),
        )
    if (found.run.stage("tune") / "data" / "report.html").is_file():
        body += Piece(f"<p>{link('tune/data/report.html').html}</p>\n", f"{link('tune/data/report.html').markdown}\n\n")
    return body + training_section(found, "tune")


def align_section(found: Contents) -> Piece:
    """The examples, the reward model, training on them, and what a judge says of it."""
    counts, body = found.counts("align"), NOTHING
    prepared = counts.get("examples_prepared") or {}
    if prepared:
        body = properties(
            ("method", "方法", code(counts.get("method"))),
            ("examples read", "读入样例", exact(prepared.get("read"))),
            ("learned from", "用于训练", exact(prepared.get("train"))),
            ("held out", "留出验证", exact(prepared.get("validation"))),
            ("set aside, with a reason", "剔除（均有原因）", exact(sum((prepared.get("rejected") or {}).values()))),
            *measured(counts, "validation_"),
            *measured(counts.get("reward") or {}, "validation_", "reward model: ", "奖励模型："),
            *judged(counts.get("judged") or {}),
        )
    for place in ("align/data/report.html", "align/reward/data/report.html"):
        if (found.run.root / place).is_file():
            body += Piece(f"<p>{link(place).html}</p>\n", f"{link(place).markdown}\n\n")
    return body + training_section(found, "align")


def quantize_section(found: Contents) -> Piece:
    """What the small model costs beside the full one."""
    counts = found.counts("quantize")
    body = properties(
        ("method", "方法", code(counts.get("method"))),
        ("bits a weight", "每权重比特", exact(counts.get("bits"), "g")),
        ("matrices", "矩阵", exact(counts.get("layers"))),
        ("weights on disk, full → small", "磁盘权重，之前 → 之后", code(
            " → ".join(human_bytes(counts[key]) for key in ("bytes_before", "bytes") if isinstance(counts.get(key), int)) or "–"
        )),
    )  # fmt: skip
    rows = (counts.get("compared") or {}).get("models") or []
    if rows:
        head = [say("model", "模型"), say("bits per byte", "每字节比特"), say("KL, nats a token", "KL（奈特/词元）"),
                say("same first choice", "首选相同"), say("tokens/s", "词元/秒")]  # fmt: skip
        cells = [
            [data(str(row.get("name"))), exact(row.get("bits_per_byte"), ".4f"), exact(row.get("divergence"), ".4f"),
             exact(row.get("same_first"), ".1%"), exact(row.get("tokens_per_second"), ".0f")]
            for row in rows
        ]  # fmt: skip
        body += table(head, cells)
    place = "quantize/compare/compare.html"
    if (found.run.root / place).is_file():
        body += Piece(f"<p>{link(place).html}</p>\n", f"{link(place).markdown}\n\n")
    return body


def evaluate_section(found: Contents) -> Piece:
    """The measures on the validation documents."""
    measures = properties(
        ("bits per byte", "每字节比特", exact(found.results.get("bits_per_byte"), ".4f")),
        ("bits per character", "每字符比特", exact(found.results.get("bits_per_character"), ".4f")),
        ("loss, nats per token", "损失（奈特/词元）", exact(found.results.get("loss"), ".4f")),
        ("documents", "文档", exact(found.results.get("documents"))),
        ("tokens", "词元", exact(found.results.get("tokens"))),
        ("characters", "字符", exact(found.results.get("characters"))),
        ("bytes", "字节", exact(found.results.get("bytes"))),
    )
    if len(by_source := found.results.get("by_source") or {}) > 1:
        head = [say("source", "来源"), say("bits per byte", "每字节比特"), say("documents", "文档")]
        rows = [
            [code(name), exact(row.get("bits_per_byte"), ".4f"), exact(row.get("documents"))]
            for name, row in by_source.items()
        ]
        measures += table(head, rows)
    measures += compared_section(found.results.get("compared") or {})
    return measures + paragraph(
        "Bits the model would need to store one byte of the validation text, which it never saw. The number does not depend on "
        "the tokenizer; lower is better, and guessing bytes at random gives 8.",
        "每字节比特：用该模型存储它从未见过的验证文本，平均每个字节需要的比特数。它与分词器无关，越低越好；随机猜测字节时为 8。",
        "note",
    )


def files_section(found: Contents) -> Piece:
    """What is where, and how long it took."""
    rows = []
    for stage, manifest in found.manifests.items():
        files = [f"{stage}/{name}" for name in PLACES if (found.run.stage(stage) / name.rstrip("/")).exists()]
        links = [link(path) for path in [f"{stage}/", *files]]
        places = Piece(" ".join(one.html for one in links), " ".join(one.markdown for one in links))
        rows.append([say(*SECTIONS[stage][0]), places, spoken(duration(manifest.get("wall_seconds")))])
    environment = (list(found.manifests.values()) or [{}])[-1].get("environment") or {}
    flat = {**environment, **(environment.get("packages") or {})}
    facts = "".join(f"{key}: {value}\n" for key, value in flat.items() if key != "packages" and value is not None)
    body = table([say("stage", "阶段"), say("files", "文件"), say("time", "用时")], rows, 2)
    body += folded("Environment", "运行环境", facts)
    return body + folded("Recipe, every key written out", "完整配方", found.recipe)


def folded(en: str, zh: str, text: str) -> Piece:
    """Plain text behind a line to click on; open in the Markdown."""
    if not text:
        return NOTHING
    text = visible(text).strip("\n")
    html = f"<details><summary>{say(en, zh).html}</summary><pre>{escape(text)}</pre></details>\n"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Piece(html, f"{say(en, zh).markdown}:\n\n{fence}\n{text}\n{fence}\n\n")


SECTIONS: dict[str, tuple[Words, Callable[[Contents], Piece]]] = {
    "infer": (Words("What it writes", "它写的文字"), infer_section),  # first: it is what the run was for
    "data": (Words("Corpus", "语料"), data_section),
    "tokenizer": (Words("Tokenizer", "分词器"), tokenizer_section),
    "model": (Words("Model", "模型"), model_section),
    "train": (Words("Training", "训练"), lambda found: training_section(found, "train")),
    "tune": (Words("Tuning", "微调"), tune_section),
    "align": (Words("Alignment", "对齐"), align_section),
    "quantize": (Words("Fewer bits", "量化"), quantize_section),
    "evaluate": (Words("Evaluation", "评测"), evaluate_section),
    "files": (Words("Where everything is", "文件所在"), files_section),
}


# ----------------------------------------------------------------------------------------------------- the page


def cards(found: Contents) -> Piece:
    """The key figures: name and value."""
    counts = {stage: found.counts(stage) for stage in STAGES}
    bits = found.results.get("bits_per_byte", (counts["tune"] or counts["train"]).get("validation_bits_per_byte"))
    seconds = sum(finite(manifest.get("wall_seconds")) or 0.0 for manifest in found.manifests.values())
    figures = [
        (say("documents kept", "保留文档"), spoken(count(counts["data"].get("kept")))),
        (say("characters per token", "每词元字符数"), exact(counts["tokenizer"].get("chars_per_token"), ".2f")),
        (say("parameters", "参数量"), spoken(count(counts["model"].get("parameters")))),
        (say("tokens trained", "训练词元"), spoken(count(counts["train"].get("tokens")))),
        (say("bits per byte, validation text", "每字节比特（验证文本）"), exact(bits, ".3f")),
        (say("time, all stages", "全程用时"), spoken(duration(seconds or None))),
    ]
    known = [(name, value) for name, value in figures if value != NOTHING]
    html = "".join(f"<div><dt>{name.html}</dt><dd>{value.html}</dd></div>\n" for name, value in known)
    lines = "".join(f"- {name.markdown}: <b>{value.markdown}</b>\n" for name, value in known)
    return Piece(f'<dl class="cards">\n{html}</dl>\n', lines + "\n")


def summary(found: Contents) -> Piece:
    """The run in one sentence, as far as it went."""
    kept, vocabulary = count(found.counts("data").get("kept")), count(found.counts("tokenizer").get("vocab_size"))
    size, tokens = count(found.counts("model").get("parameters")), count(found.counts("train").get("tokens"))
    en = f"{kept.en} documents of Chinese text" if kept else "A run that has not finished a stage yet"
    zh = f"{kept.zh}篇中文文档" if kept else "尚无完成的阶段"
    if vocabulary:
        en, zh = f"{en}, cut by a tokenizer of {vocabulary.en} tokens", f"{zh}，用 {vocabulary.zh}词的分词器切分"
    if size and tokens:
        en = f"A language model of {size.en} parameters, trained on {tokens.en} tokens from {en[0].lower()}{en[1:]}"
        zh = f"{zh}，由此训练出 {size.zh}参数的语言模型，共学习 {tokens.zh}词元"
    later = further(found)
    if later and not kept and not vocabulary:
        en, zh = f"A model, {later[0].en}", f"一个模型，{later[0].zh}"
        later = later[1:]
    return paragraph(
        ", ".join((en, *(one.en for one in later))) + ".", "，".join((zh, *(one.zh for one in later))) + "。", "lede"
    )


def further(found: Contents) -> list[Words]:
    """What came after a base was there."""
    tuned, aligned = found.counts("tune"), found.counts("align")
    talks = count((tuned.get("conversations") or {}).get("train"))
    examples = count((aligned.get("examples_prepared") or {}).get("train"))
    rows = []
    if talks:
        rows.append(Words(f"fine-tuned on {talks.en} conversations", f"在 {talks.zh}段对话上微调"))
    if examples:
        method = escape(str(aligned.get("method")))
        rows.append(
            Words(f"aligned by {method} with {examples.en} examples", f"用 {examples.zh}条样例以 {method} 对齐")
        )
    return rows


def compose(found: Contents) -> Piece:
    """The whole report, without the page around it."""
    name, about = data(found.run.name), tomllib.loads(found.recipe).get("description")
    body = Piece(f"<h1>{name.html}</h1>\n", f"# {name.markdown}\n\n")
    if about:
        body += Piece(f'<p class="about">{data(about).html}</p>\n', f"{data(about).markdown}\n\n")
    started = {*found.manifests, "files", *(stage for stage, metrics in found.metrics.items() if metrics)}
    shown = [(key, say(*title), section) for key, (title, section) in SECTIONS.items() if key in started]
    links = "".join(f'<a href="#{key}">{title.html}</a>\n' for key, title, _ in shown)
    body += summary(found) + cards(found) + Piece(f"<nav>\n{links}</nav>\n", "")
    for key, title, section in shown:
        inner = section(found)
        html = f'<section id="{key}">\n<h2>{title.html}</h2>\n{inner.html}</section>\n'
        body += Piece(html, f"## {title.markdown}\n\n{inner.markdown}")
    return body


def write_report(run: Run) -> Path:
    """Write report.html, report.md and (once there is a finite loss) loss.svg into the run folder; return the page's path."""
    found = read(run)
    report = compose(found)
    if picture := charts.loss_chart(found.metrics["train"] or found.metrics["tune"], "loss", WIDE):
        write_text(run.root / "loss.svg", charts.standalone(picture))
    write_text(run.root / "report.md", report.markdown.rstrip("\n") + "\n")
    write_text(run.root / "report.html", page(f"{run.name} · jielong", report.html))
    return run.root / "report.html"
