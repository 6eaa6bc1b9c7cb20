"""The report as a dictionary: names, contents, errors, the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from jielong.errors import InputError, TokenizerError
from jielong.tokenizer.reporting.comparing import compare, find, label, labels
from tests.tokenizer.reporting.folders import TEXTS, both, byte_level, report


def without_speed(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value | {"tokenizers": [one | {"speed": None} for one in value["tokenizers"]]})


def test_the_report_is_whole_and_the_same_again(tmp_path: Path) -> None:
    found = report(tmp_path)
    assert [one["name"] for one in found["tokenizers"]] == ["bytes", "pieces"]
    assert [(text["name"], text["documents"]) for text in found["texts"]] == [("新闻<b>", len(TEXTS) + 1)]
    one, other = found["tokenizers"]
    assert one["total"]["different"] == 0 and other["total"]["different"] == 1
    assert other["differences"][0]["text"] == " 中国"
    end = one["special"]["roles"]["end"]
    assert (end["id"], end["text"]) == (0, "<|endoftext|>") and one["special"]["count"] == 1
    assert set(one["special"]["missing"]) == {"turn_end", "padding", "unknown"}
    assert sum(one["kinds"].values()) == one["vocab_size"]
    assert one["speed"] is None, "too little text"
    assert {entry["text"]: entry["why"] for entry in other["junk"]}["点击免费下载"] == "advert"
    assert len(one["embeddings"]) == 4
    assert without_speed(found) == without_speed(report(tmp_path))


def test_names_of_tokenizers(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mini"
    byte_level(run / "tokenizer")
    (run / "recipe.toml").write_text("", encoding="utf-8")
    assert find("mini", tmp_path / "runs") == find(str(run), tmp_path) == run / "tokenizer"
    assert label(run / "tokenizer") == "mini"
    folder = byte_level(tmp_path / "a" / "x")
    assert find(str(folder), tmp_path) == folder
    file = folder / "tokenizer.json"
    assert find(str(file), tmp_path) == file and label(file) == "x"
    assert label(tmp_path / "qwen.tiktoken") == "qwen.tiktoken", "no such file: a folder's name"
    (tmp_path / "qwen.tiktoken").write_bytes(b"")
    assert label(tmp_path / "qwen.tiktoken") == "qwen"
    paths = [tmp_path / "a" / "x", tmp_path / "b" / "x", tmp_path / "y", tmp_path / "y"]
    top = "/".join(tmp_path.absolute().parts[1:][-6:])
    assert labels(paths)[:2] == ["a/x", "b/x"]
    assert labels(paths)[2:] == [f"{top}/y", f"{top}/y (2)"]


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder or file nor a run"):
        find("nowhere", tmp_path)
    with pytest.raises(InputError, match="an empty name"):
        find(" ", tmp_path)
    (tmp_path / "young").mkdir()
    (tmp_path / "young" / "recipe.toml").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="has no tokenizer yet"):
        find("young", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError):
        compare([str(tmp_path / "empty")], [], tmp_path, 1, None)
    names = both(tmp_path)
    with pytest.raises(InputError, match="--hidden: not a width"):
        compare(names, [], tmp_path, 1, "wide")
    for size in (float("nan"), float("inf"), 0.0):
        with pytest.raises(InputError, match="--max-megabytes: not a size"):
            compare(names, [], tmp_path, size, None)
    (tmp_path / "bad.jsonl").write_bytes(b"{\n")
    with pytest.raises(InputError, match="--text: no text was found"):
        compare(names, [str(tmp_path / "bad.jsonl")], tmp_path, 1, None)


def test_speed_where_there_is_text_enough(tmp_path: Path) -> None:
    line = orjson.dumps({"text": "中国人民很高兴，" * 6000}) + b"\n"
    (tmp_path / "long.jsonl").write_bytes(line * 16)
    found = compare(both(tmp_path), [str(tmp_path / "long.jsonl")], tmp_path, 20, "512")
    assert all(one["speed"]["batches"] >= 3 for one in found["tokenizers"])
    assert found["tokenizers"][0]["speed"]["ratio"] == 1.0
    assert [row["hidden"] for row in found["tokenizers"][0]["embeddings"]] == [512]
