"""What a report reads: domains, limits, pieces."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from jielong.errors import InputError
from jielong.tokenizer.reporting import texts
from jielong.tokenizer.reporting.examples import EXAMPLES
from jielong.tokenizer.reporting.texts import DEMONSTRATION, Domain, batches, domains, stem


def write(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(orjson.dumps({"text": row}) + b"\n" for row in rows))
    return path


def read(domain: Domain, limit: int = 10**9) -> list[str]:
    return [text for batch in batches(domain, limit) for text in batch]


def test_a_file_is_a_domain(tmp_path: Path) -> None:
    write(tmp_path / "新闻.jsonl", "甲", "乙")
    write(tmp_path / "b" / "新闻.jsonl", "丙")
    (tmp_path / "b" / "c.txt").write_text("丁\n戊", encoding="utf-8")
    found = domains([str(tmp_path / "新闻.jsonl"), str(tmp_path / "b"), str(tmp_path / "*.jsonl")])
    assert [domain.name for domain in found] == ["新闻", "c", "新闻 (2)"], "a file given twice is read once"
    assert [read(domain) for domain in found] == [["甲", "乙"], ["丁\n戊"], ["丙"]]
    assert [domain.documents for domain in found] == [2, 1, 1]


def test_many_files_are_one_domain_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write(tmp_path / f"{number}.jsonl", str(number))
    monkeypatch.setattr(texts, "MOST_DOMAINS", 3)
    [domain] = domains([str(tmp_path)])
    assert domain.name == str(tmp_path) and read(domain) == ["0", "1", "2", "3"]


def test_without_paths_the_examples() -> None:
    [domain] = domains([])
    assert domain.name == DEMONSTRATION and read(domain) == [example.text for example in EXAMPLES]


def test_bad_records_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "好")
    path.write_bytes(path.read_bytes() + b"{broken\n" + b'{"text": ""}\n')
    [domain] = domains([str(path)])
    assert read(domain) == ["好"] and domain.bad == 2 and domain.documents == 1


def test_the_limit_cuts_between_characters(tmp_path: Path) -> None:
    [domain] = domains([str(write(tmp_path / "a.jsonl", "中国人", "民", "很好"))])
    assert read(domain, 8) == ["中国"] and domain.more and domain.documents == 1
    [domain] = domains([str(tmp_path / "a.jsonl")])
    assert read(domain, 9) == ["中国人"] and domain.more
    [domain] = domains([str(tmp_path / "a.jsonl")])
    assert read(domain, 18) == ["中国人", "民", "很好"] and not domain.more


@pytest.mark.parametrize("size", range(1, 14))
def test_long_documents_come_in_whole_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    text = "a中𠮷é👍b" * 3
    size = max(size, 4)  # the longest character
    monkeypatch.setattr(texts, "BATCH_BYTES", size)
    [domain] = domains([str(write(tmp_path / "a.jsonl", text, "好"))])
    pieces = read(domain)
    assert "".join(pieces) == text + "好" and domain.documents == 2
    assert all(0 < len(piece.encode()) <= size for piece in pieces)
    for batch in batches(domains([str(tmp_path / "a.jsonl")])[0], 10**9):
        assert sum(len(piece.encode()) for piece in batch) <= size


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--text: an empty path"):
        domains([" "])
    with pytest.raises(InputError, match="nothing found"):
        domains([str(tmp_path / "none.jsonl")])


def test_names_of_files() -> None:
    assert [stem(Path(name)) for name in ("新闻.v2.jsonl.gz", "a.txt", "b.zst")] == ["新闻.v2", "a", "b"]
