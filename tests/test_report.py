"""The report: nothing from the data is executed, nothing is fetched, both languages and both files say the same."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pytest

from jielong import STAGES
from jielong.pieces import markdown, say, visible
from jielong.report import SECTIONS, compose, read, reconcile, write_report
from jielong.runs import Run, environment, write_json, write_text

EVIL = "<script>alert('x')</script> | **粗** </span>\n- `甲`\u202e\x00"
DATA: dict[str, Any] = {
    "read": 12, "kept": 9, "train": 8, "validation": 1, "rejected": {"too_short": 2, "odd_rule": 1},
    "chars": 900, "bytes": 2700, "raw_bytes": 3000, "added": 0,
    "steps": [
        {"step": "read", "in": 12, "kept": 12, "rejected": 0, "added": 0, "edited": 0, "rules": {}},
        {"step": "a|b<i>", "in": 12, "kept": 9, "rejected": 3, "added": 0, "edited": 1, "rules": {"text_len": 2, "odd_rule": 1}},
    ],
    "by_source": {
        "新闻": {"read": 7, "kept": 6, "chars": 600, "bytes": 1800, "rejected": {"odd_rule": 1}},
        "a|b<i>": {"read": 5, "kept": 3, "chars": 300, "bytes": 900, "rejected": {"too_short": 2}},
    },
}  # fmt: skip
SPLIT = {"documents": 8, "tokens": 600, "bytes": 2400, "chars": 800}
COUNTS: dict[str, dict[str, Any]] = {
    "data": DATA,
    "tokenizer": {"kind": "bpe", "vocab_size": 512, "dtype": "uint16", "bytes_per_token": 4.0, "chars_per_token": 1.33,
                  "train": SPLIT, "validation": SPLIT},
    "model": {"parameters": 123_456, "embedding_parameters": 23_456, "flops_per_token": 7e5,
              "hf_class": "LlamaForCausalLM", "tied": True},
    "train": {"steps": 3, "tokens": 300, "final_loss": 4.0, "validation_bits_per_byte": 1.7, "device": "cpu",
              "precision": "float32", "tokens_per_second": 1000.0, "train_seconds": 3.5, "checkpoint": "step-3"},
    "tune": {"steps": 2, "tokens": 200, "final_loss": 1.0, "validation_bits_per_byte": 0.9, "device": "cpu",
             "precision": "float32", "checkpoint": "step-2",
             "conversations": {"read": 9, "train": 6, "validation": 1, "rejected": {"empty_answer": 2}}},
    "align": {"method": "ppo", "steps": 2, "examples": 16, "final_loss": 0.5, "validation_reward": 0.75, "device": "cpu",
              "precision": "float32", "checkpoint": "step-2",
              "examples_prepared": {"read": 8, "train": 6, "validation": 1, "rejected": {"equal": 1}},
              "reward": {"steps": 4, "validation_accuracy": 0.8},
              "judged": {"win_rate": 0.625, "interval": {"low": 0.4, "high": 0.8}, "prompts": 20}},
    "quantize": {"method": "int4", "bits": 4, "layers": 14, "bytes_before": 4_000_000, "bytes": 1_200_000,
                 "compared": {"models": [
                     {"name": "full", "bits_per_byte": 1.6543, "divergence": 0.0, "same_first": 1.0, "tokens_per_second": 500.0},
                     {"name": "int4<b>", "bits_per_byte": 1.6612, "divergence": 0.0123, "same_first": 0.95, "tokens_per_second": None}]}},
    "infer": {},
    "evaluate": {},
}  # fmt: skip
METRICS = (
    b'{"step":1,"tokens":100,"loss":6.0,"learning_rate":0.001,"grad_norm":1.0}\n'
    b'{"step":2,"tokens":200,"loss":null,"learning_rate":0.001,"grad_norm":null}\n'
    b'{"step":3,"tokens":300,"loss":4.0,"learning_rate":0.0005,"grad_norm":0.5,'
    b'"validation_loss":4.1,"validation_bits_per_byte":1.7}\n'
)


def make_run(folder: Path, *stages: str, name: str = "新闻-小") -> Run:
    """A run folder with the given stages finished."""
    run = Run(folder / name)
    write_text(run.root / "recipe.toml", 'name = "x"\ndescription = "描述 <img src=x onerror=alert(1)>"\n')
    for stage in stages:
        section: dict[str, Any] = (
            {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": None} if stage == "model" else {}
        )
        manifest: dict[str, Any] = {"fingerprint": "f", "section": section, "inputs": [], "counts": COUNTS[stage]}
        manifest |= {"environment": environment(), "started": "2025-01-01T00:00:00+0800", "wall_seconds": 1.5}
        write_json(run.stage(stage) / "manifest.json", manifest)
    if "tokenizer" in stages:
        examples = [{"text": "人工智能<b>", "tokens": ["人工", "智", "<E8>", "<83><BD>", "<b>"]}]
        write_json(run.stage("tokenizer") / "examples.json", examples)
    if "train" in stages:
        (run.checkpoints / "step-3").mkdir(parents=True)
        (run.stage("train") / "metrics.jsonl").write_bytes(METRICS)
        write_json_line(run.stage("train") / "samples.jsonl", {"step": 3, "prompt": "今天", "text": EVIL})
    if "tune" in stages:
        (run.stage("tune") / "checkpoints" / "step-2").mkdir(parents=True)
        (run.stage("tune") / "metrics.jsonl").write_bytes(METRICS)
    if "align" in stages:
        (run.stage("align") / "checkpoints" / "step-2").mkdir(parents=True)
        (run.stage("align") / "metrics.jsonl").write_bytes(METRICS.replace(b'"tokens"', b'"examples"'))
    if "infer" in stages:
        sample: dict[str, Any] = {"prompt": EVIL, "text": "天气很好。", "tokens": 5, "stopped": "end_of_text"}
        write_json_line(run.stage("infer") / "samples.jsonl", sample)
    if "evaluate" in stages:
        results: dict[str, Any] = {
            "bits_per_byte": 1.6543,
            "bits_per_character": 4.9,
            "loss": 4.1,
            "tokens": 30,
            "bytes": 90,
        }
        write_json(run.stage("evaluate") / "results.json", results)
    return run


def write_json_line(path: Path, value: dict[str, Any]) -> None:
    path.write_bytes(orjson.dumps(value) + b"\n")


class Page(HTMLParser):
    """Tags, attributes, and the text outside of marked data, with the language that each piece is in."""

    VOID = ("meta", "br", "img", "link", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[tuple[str, dict[str, str]]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.own: list[tuple[str, str]] = []  # (language or "", text)
        self.data: list[str] = []
        self.feed(html)
        self.close()
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append((tag, values))
        if tag not in self.VOID:
            self.stack.append((tag, values))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tags = [tag for tag, _ in self.stack]
        classes = {name for _, values in self.stack for name in values.get("class", "").split()}
        if "data" in classes or {"code", "pre"} & set(tags):
            self.data.append(data)
        elif not {"style", "script", "title", "desc", "button"} & set(tags) and classes.isdisjoint({"seal"}):
            language = [values["lang"] for _, values in self.stack if "t" in values.get("class", "").split()]
            self.own.append((language[-1] if language else "", data))


@pytest.fixture
def full(tmp_path: Path) -> Run:
    run = make_run(tmp_path, *STAGES)
    write_report(run)
    return run


def test_every_stage_has_a_section() -> None:
    assert set(STAGES) | {"files"} == set(SECTIONS)


def test_writes_three_files_and_returns_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, *STAGES)
    assert write_report(run) == run.root / "report.html"
    assert {"report.html", "report.md", "loss.svg"} <= {path.name for path in run.root.iterdir()}
    before = (run.root / "report.html").read_bytes()
    write_report(run)
    assert (run.root / "report.html").read_bytes() == before, "the same folder gives the same report"


def test_text_from_the_data_is_shown_and_never_markup(full: Run) -> None:
    page = Page((full.root / "report.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not {"img", "iframe", "object", "link"} & {tag for tag, _ in page.tags}
    assert not [key for _, values in page.tags for key in values if key.startswith("on")]
    shown = visible(EVIL)
    assert page.data.count(shown) == 2, "as a prompt and as a text"
    assert "<U+202E><U+0000>" in shown
    assert "a|b<i>" in page.data and "描述 <img src=x onerror=alert(1)>" in page.data


def test_markdown_escapes_what_would_be_markup(full: Run) -> None:
    text = (full.root / "report.md").read_text(encoding="utf-8")
    text = re.sub(r"^```\n.*?^```\n", "", text, flags=re.DOTALL | re.MULTILINE)  # fenced: shown as it is
    assert "<script" not in text and "<img" not in text and "<i>" not in text
    assert set(re.findall(r"<(/?\w+)", text)) <= {"b", "/b", "br", "code", "/code"}
    header, rule, *rows = (line for line in text.splitlines() if line.startswith("|"))
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, f"rows of different width:\n{block}"
    assert rows and header and rule


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("# 标题", "\\# 标题"),
        ("- 项", "\\- 项"),
        ("1. 项", "1\\. 项"),
        ("1.52", "1.52"),
        ("-5 度", "-5 度"),
        ("甲\n乙", "甲<br>乙"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("$x$ `y` [z](w)", "\\$x\\$ \\`y\\` \\[z\\](w)"),
    ],
)
def test_markdown_of_a_text(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_headings_are_the_same_in_both_files(full: Run) -> None:
    html = (full.root / "report.html").read_text(encoding="utf-8")
    text = (full.root / "report.md").read_text(encoding="utf-8")
    headings = [re.sub(r"</span><span[^>]*>", " · ", inner) for inner in re.findall(r"<h2>(.*?)</h2>", html)]
    assert [re.sub(r"<[^>]+>", "", inner) for inner in headings] == re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert len(headings) == len(SECTIONS)


def test_own_words_are_in_both_languages(full: Run) -> None:
    page = Page((full.root / "report.html").read_text(encoding="utf-8"))
    neutral = {text.strip() for language, text in page.own if not language and re.search(r"[A-Za-z一-鿿]", text)}
    assert not {text for text in neutral if not re.fullmatch(r"[\d.]+[kMGT]", text)}, "words in one language only"
    spoken = [(language, text) for language, text in page.own if language]
    assert [language for language, _ in spoken] == ["en", "zh"] * (len(spoken) // 2)
    for (_, en), (_, zh) in zip(spoken[::2], spoken[1::2], strict=True):
        assert en.strip() and zh.strip()
        assert not re.search(r"[一-鿿]", en), en
    assert len(spoken) > 100


def test_nothing_is_fetched_and_links_are_relative(full: Run) -> None:
    html = (full.root / "report.html").read_text(encoding="utf-8")
    text = (full.root / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"'\s<]*", html + text)) == {"http://www.w3.org/2000/svg"}
    page = Page(html)
    assert not [values["src"] for _, values in page.tags if "src" in values]
    assert "url(" not in html and "@import" not in html
    ids = {values["id"] for _, values in page.tags if "id" in values}
    targets = [values["href"] for _, values in page.tags if "href" in values]
    targets += re.findall(r"\]\(([^)]*)\)", re.sub(r"\\.", "", text))
    for target in targets:
        assert not re.match(r"[a-z]+:|/", target), target
        assert target[1:] in ids if target.startswith("#") else (full.root / unquote(target)).exists(), target
    assert "train/checkpoints/step-3/" in targets and "loss.svg" in targets


def test_ids_are_unique(full: Run) -> None:
    page = Page((full.root / "report.html").read_text(encoding="utf-8"))
    ids = [values["id"] for _, values in page.tags if "id" in values]
    assert len(ids) == len(set(ids))


def test_the_policy_names_the_one_script(full: Run) -> None:
    html = (full.root / "report.html").read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html
    assert "$" not in script, "every placeholder of the template is filled"


def test_pictures_are_xml(full: Run) -> None:
    html = (full.root / "report.html").read_text(encoding="utf-8")
    pictures = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(pictures) == 2 * 5, (
        "loss for a page and for a phone, bits per byte, learning rate, gradient norm; of both stages"
    )
    for picture in pictures:
        ET.fromstring(picture)
    ET.parse(full.root / "loss.svg")


def test_key_figures(full: Run) -> None:
    text = (full.root / "report.md").read_text(encoding="utf-8")
    for figure in (
        "<b>9</b>",
        "<b>1.33</b>",
        "<b>123k · 12.3 万</b>",
        "<b>300</b>",
        "<b>1.654</b>",
        "<b>14 s · 14 秒</b>",
    ):
        assert figure in text
    assert "1 of 3 steps have no finite loss" in text


@pytest.mark.parametrize("finished", range(len(STAGES) + 1))
def test_a_run_that_stopped_early_has_a_shorter_report(tmp_path: Path, finished: int) -> None:
    stages = list(STAGES)[:finished]
    run = make_run(tmp_path, *stages)
    html = write_report(run).read_text(encoding="utf-8")
    page = Page(html)
    sections = [values["id"] for tag, values in page.tags if tag == "section"]
    assert set(sections) == {*stages, "files"}
    assert (run.root / "loss.svg").exists() == ("train" in stages)


def test_training_that_has_not_finished_is_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, *STAGES)
    for stage in ("train", "tune", "infer", "evaluate"):
        (run.stage(stage) / "manifest.json").unlink()
    (run.stage("evaluate") / "results.json").unlink()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "train" in [values.get("id") for tag, values in page.tags if tag == "section"]


def test_the_sentence_of_a_run_that_begins_with_a_model(tmp_path: Path) -> None:
    """One without data and a tokenizer of its own has finished stages, too."""
    run = Run(tmp_path / "later")
    write_json(run.stage("tune") / "manifest.json", {"counts": {"conversations": {"train": 12}}})
    text = write_report(run).read_text(encoding="utf-8")
    assert "A model, fine-tuned on 12 conversations." in text and "一个模型，在 12 段对话上微调。" in text
    write_json(run.stage("align") / "manifest.json", {"counts": {"method": "dpo", "examples_prepared": {"train": 7}}})
    text = write_report(run).read_text(encoding="utf-8")
    assert "A model, fine-tuned on 12 conversations, aligned by dpo with 7 examples." in text
    assert "has not finished a stage" not in text
    assert "has not finished a stage" in write_report(Run(tmp_path / "none")).read_text(encoding="utf-8")


def test_an_empty_folder_and_empty_manifests(tmp_path: Path) -> None:
    empty = Run(tmp_path / "empty")
    Page(write_report(empty).read_text(encoding="utf-8"))
    for stage in STAGES:
        write_json(empty.stage(stage) / "manifest.json", {})
    Page(write_report(empty).read_text(encoding="utf-8"))


def test_what_was_out_of_the_ordinary_is_listed(full: Run) -> None:
    """Skipped steps with a link to their text, going back, and only the newest of many events."""
    folder = full.stage("train")
    (folder / "spikes").mkdir()
    (folder / "spikes" / "step-00000007.jsonl").write_text("{}\n", encoding="utf-8")
    events: list[dict[str, Any]] = [{"step": n, "event": "overflow", "text": f"halved at {n}"} for n in range(40)]
    events += [{"step": 7, "event": "skipped", "text": "not taken, loss is nan <b>"},
               {"step": 9, "event": "rolled back", "text": "back to step-00000005"}]  # fmt: skip
    (folder / "history.jsonl").write_bytes(b"".join(orjson.dumps(event) + b"\n" for event in events))
    html = write_report(full).read_text(encoding="utf-8")
    assert 'href="train/spikes/step-00000007.jsonl"' in html and "loss is nan &lt;b&gt;" in html
    assert "42 events, the last 30 of them" in html and "halved at 11<" not in html and "halved at 12<" in html
    assert "回退" in html and "该步未采用" in html
    by_hand = {"step": 3, "event": "intervention", "text": "learning-rate times 0.5, by a person"}
    (folder / "history.jsonl").write_bytes(orjson.dumps(by_hand) + b"\n")
    html = write_report(full).read_text(encoding="utf-8")
    assert "Out of the ordinary: 1 event:" in html and "人工干预" in html


def test_only_null_losses(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train")
    (run.stage("train") / "metrics.jsonl").write_bytes(b'{"step":1,"tokens":100,"loss":null}\n')
    html = write_report(run).read_text(encoding="utf-8")
    assert "<svg" not in html and "loss.svg" not in (run.root / "report.md").read_text(encoding="utf-8")
    assert "1 of 1 steps have no finite loss" in html


def test_counts_that_do_not_add_up_are_said_so() -> None:
    assert "accounted for" in reconcile(DATA).html
    assert "do not add up" in reconcile(DATA | {"read": 13}).html
    assert "do not add up" in reconcile(DATA | {"validation": 0}).html
    wrong = {"新闻": DATA["by_source"]["新闻"]}
    assert "do not add up" in reconcile(DATA | {"by_source": wrong}).html


def test_a_name_with_markup_is_only_text(tmp_path: Path) -> None:
    run = make_run(tmp_path, "data", name="a&lt;b")
    html = write_report(run).read_text(encoding="utf-8")
    assert "<title>a&amp;lt;b · jielong</title>" in html
    assert compose(read(run)).markdown.startswith("# a&amp;lt;b\n")


def test_a_number_stands_apart_from_the_word_it_counts() -> None:
    assert "25 篇" in say("25 documents", "25篇").html and "12.3 万字" in say("x", "12.3 万字").html


def test_a_checkpoint_that_is_gone_is_named_without_a_link(tmp_path: Path) -> None:
    run = make_run(tmp_path, "train")
    (run.checkpoints / "step-3").rmdir()
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert "step-3" in page.data
    assert not [values for _, values in page.tags if "step-3" in values.get("href", "")]
