"""Which files a source means, in which order, and what is no source of preferences."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.align.sources import files_of, inputs
from jielong.errors import InputError
from tests.align.preferences import config_of, pair
from tests.tune.talks import write


def test_sources_that_are_held_out_come_first(tmp_path: Path) -> None:
    for name in ("甲", "乙", "丙"):
        write(tmp_path / f"{name}.jsonl", [pair(1)])
    sources = [{"name": name, "path": f"{name}.jsonl", "validation": name == "乙"} for name in ("甲", "乙", "丙")]
    config = config_of(sources=sources)
    assert [source.name for source, _ in files_of(config, tmp_path)] == ["乙", "甲", "丙"]
    assert [label for label, _ in inputs(config, tmp_path)] == ["甲/甲.jsonl", "乙/乙.jsonl", "丙/丙.jsonl"]


def test_plain_text_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "all" / "a.jsonl", [pair(1)])
    write(tmp_path / "all" / "书.txt", [b"text"])
    with pytest.raises(
        InputError,
        match=r"^align\.sources: plain text holds no preferences, got .*书\.txt in the source all; give jsonl",
    ):
        files_of(config_of(tmp_path / "all"), tmp_path)


@pytest.mark.parametrize("table", ["align", "align.reward"])
def test_errors_name_the_table(tmp_path: Path, table: str) -> None:
    with pytest.raises(InputError, match=rf"^{table}\.sources: nothing found at "):
        files_of(config_of(tmp_path / "none.jsonl"), tmp_path, table)
