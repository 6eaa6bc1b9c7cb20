"""The listing: written, edited, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.data.mining.grams import fold_plain, hashes_plain
from jielong.data.mining.listing import COLUMNS, Row, read_listing, write_listing
from jielong.errors import InputError

ROWS = [
    Row(
        "remove",
        4.5,
        90,
        95,
        ("+1.0 contact: 微信", "+1.0 numbers vary"),
        "第一行\n加微信\t12345 领取",
        (("前文\n", "后文"),),
    ),
    Row("keep", -1.0, 50, 50, (), "随着社会的不断发展", ()),
]


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "fragments.tsv"
    write_listing(path, ROWS)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == list(COLUMNS) and len(lines) == 3
    assert all(len(line.split("\t")) == len(COLUMNS) for line in lines)
    assert lines[1].split("\t")[5:] == ["第一行\u23ce加微信 12345 领取", "…前文\u23ce【】后文…"]
    marks = read_listing(path, 6)
    assert [mark.action for mark in marks] == ["remove", "keep"]
    for mark, row in zip(marks, ROWS, strict=True):
        assert list(mark.grams) == hashes_plain([letter[0] for letter in fold_plain(row.example)], 6)


def test_what_people_and_spreadsheets_do(tmp_path: Path) -> None:
    path = tmp_path / "own.tsv"
    path.write_bytes(
        '\ufeffexample\taction\r\n"加微信领取""资料""一份"\tREMOVE \r\n\r\n某某老师的公开课程\tkeep\r\n'.encode()
    )
    marks = read_listing(path, 6)
    assert [(mark.action, len(mark.grams)) for mark in marks] == [("remove", 4), ("keep", 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (
            "\t".join(COLUMNS) + "\ndelete\t1\t2\t3\t\t一段足够长的文字\t\n",
            r"unknown action in .*list\.tsv:2, got 'delete'",
        ),
        ("keep\n", r"no fragment in .*list\.tsv:1"),
        ("action\texample\nkeep\t很短\n", r"no fragment in .*list\.tsv:2, got '很短'; at least 6"),
        (
            "action\texample\nkeep\t一段足够长的文字\nremove\t一段，足够长的文字\n",
            r"both remove and keep .*list\.tsv:3",
        ),
    ],
)
def test_what_can_not_be_read(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "list.tsv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    with pytest.raises(InputError, match=r"data\.steps\.fragments\.listing: " + message):
        read_listing(path, 6)
