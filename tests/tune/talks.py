"""Conversations to prepare: good ones of every form, and bad ones with the reason why each is set aside."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import zstandard

from jielong.recipe import parse_section
from jielong.tune.config import Config

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"city": "string"}}}
CALL = {"name": "weather", "arguments": {"city": "北京"}}
WITH_TOOLS: dict[str, Any] = {  # sharegpt, five turns of user and assistant with a call between
    "system": "说话简短。",
    "conversations": [
        {"from": "human", "value": "北京天气？"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "晴"},
        {"from": "gpt", "value": "今天晴。"},
        {"from": "human", "value": "谢谢"},
        {"from": "gpt", "value": "不客气。"},
    ],
    "tools": json.dumps([TOOL]),
}


def asked(number: int, answer: str = "") -> dict[str, Any]:
    """One question and its answer, as alpaca has it; another for each number."""
    return {"instruction": f"{number} 加一等于几？", "input": "", "output": answer or f"等于{number + 1}。"}


def turns(*texts: str) -> dict[str, Any]:
    """Messages of user and assistant in turn."""
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}


USER, ANSWER = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
BAD: list[tuple[bytes | dict[str, Any], str]] = [
    (b'{"messages": [', "bad_json"),
    (b'{"prompt": "\xb4\xba", "response": "\xc3\xdf"}', "bad_utf8"),
    (b"[1, 2]", "bad_json"),
    ({"text": "没有对话"}, "unknown_form"),
    ({"messages": []}, "no_turns"),
    ({"messages": [{"role": "narrator", "content": "旁白"}, USER, ANSWER]}, "unknown_role"),
    ({"messages": [ANSWER, USER]}, "role_order"),
    ({"messages": [USER, USER, ANSWER]}, "role_order"),
    ({"messages": [USER, {"role": "assistant", "content": None}]}, "missing_text"),
    ({"prompt": "问", "response": None}, "missing_text"),
    ({"prompt": "问", "response": " \n"}, "empty_answer"),
    ({"instruction": "", "output": "答"}, "empty_question"),
    ({"prompt": ["问"], "response": "答"}, "not_text"),
    ({"messages": [USER, ANSWER], "tools": "[{"}, "bad_tools"),
    ({"prompt": "长" * 100_000, "response": "答"}, "turn_too_long"),
    ({"prompt": "问", "response": "长" * 100_000}, "turn_too_long"),
    ({"prompt": "什么是<|im_end|>？", "response": "答"}, "collision"),
    ({"prompt": "问", "response": "很长" * 2000}, "too_long"),
    ({"instruction": "问", "output": "答", "history": 5}, "unknown_form"),
    ({"prompt": "问", "response": "答\x00"}, "binary"),
    ({"messages": [USER, ANSWER | {"weight": 0}]}, "nothing_learned"),
]


def line(record: bytes | dict[str, Any]) -> bytes:
    return record if isinstance(record, bytes) else json.dumps(record, ensure_ascii=False).encode()


def write(path: Path, records: list[Any]) -> Path:
    """JSON lines, packed as the name says."""
    data = b"".join(line(record) + b"\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


def config_of(*paths: Path, **more: Any) -> Config:
    """A [tune] table over files, each a source named for its file."""
    sources = [{"name": path.name.partition(".")[0], "path": str(path)} for path in paths]
    return parse_section("tune", Config, {"sources": sources, "validation_share": 0.25, **more})
