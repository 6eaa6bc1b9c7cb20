"""Conversations as lines that can be tuned on."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jielong.errors import InputError
from jielong.infer.chat.saving import append_lines, check_place
from jielong.tokenizer.chat.conversations import parse

ROW = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}


def test_lines_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    assert append_lines(path, [ROW]) == []
    path.write_bytes(path.read_bytes().rstrip())  # an editor took the last line end away
    assert append_lines(path, [ROW, ROW]) == []
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert rows == [ROW] * 3 and parse(rows[0]).to_json() == ROW


def test_what_tuning_would_set_aside_is_said(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": ""}]}
    [warning] = append_lines(tmp_path / "chat.jsonl", [row])
    assert warning.endswith("tuning will set this conversation aside, turn 2 says nothing")


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--save: a folder, got .*; give the name of a file"):
        check_place(tmp_path)
    with pytest.raises(InputError, match=r"--save: its folder does not exist, got .*chat.jsonl; make .*nowhere first"):
        append_lines(tmp_path / "nowhere" / "chat.jsonl", [ROW])
