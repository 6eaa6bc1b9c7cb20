from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from jielong.metrics import JsonLines, keep_until, read_jsonl


def test_write_append_and_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    for start in (1, 3):
        with JsonLines(path) as file:
            for step in (start, start + 1):
                file.write({"step": step, "text": "中国", "loss": float("nan") if step == 2 else 1.5})
                assert read_jsonl(path)[-1]["step"] == step  # there at once
    assert [row["step"] for row in read_jsonl(path)] == [1, 2, 3, 4]
    assert read_jsonl(path)[1]["loss"] is None


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step":1}\n{"step":2}\n{"st')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}]
    keep_until(path, 1)
    assert path.read_bytes() == b'{"step":1}\n'


def test_a_missing_file_is_empty(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "none") == []
    keep_until(tmp_path / "none", 3)
    assert not (tmp_path / "none").exists()


def test_a_full_disk_keeps_records_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is written with the next record; only `sync` says that it is not on disk."""

    class Disk(io.FileIO):
        full = True

        def write(self, data: Any) -> int:
            if Disk.full:
                raise OSError(28, "No space left on device")
            return super().write(data)

    log = JsonLines(tmp_path / "metrics.jsonl")
    log._file.close()
    log._file = io.BufferedWriter(Disk(str(tmp_path / "metrics.jsonl"), "ab"), 1 << 16)
    log.write({"step": 1})
    log.write({"step": 2})
    with pytest.raises(OSError, match="No space left"):
        log.sync()
    Disk.full = False
    log.write({"step": 3})
    log.sync()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    log.__exit__()
