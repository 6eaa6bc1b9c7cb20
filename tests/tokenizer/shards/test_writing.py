"""Writing: framed as a loop would do it, cut where it should be, nothing overwritten, nothing overflows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.runs import hash_file
from jielong.tokenizer.shards.manifest import COUNTED, PARTS, Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter, frame, pack
from tests.tokenizer.shards.documents import DOCUMENTS, END, SCHEMES, stored, write


@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8), st.sampled_from(sorted(SCHEMES)))
def test_frames_are_those_of_a_loop(rows: list[list[int]], name: str) -> None:
    tokens, lengths = frame(*pack(rows), SCHEMES[name])
    expected = [stored(ids, SCHEMES[name]) for ids in rows]
    assert tokens.tolist() == [token for row in expected for token in row]
    assert lengths.tolist() == [len(row) for row in expected] and tokens.dtype == SCHEMES[name].id_type


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shard_tokens", [1, 5, 1000])
def test_the_cut_is_that_of_a_loop(tmp_path: Path, name: str, shard_tokens: int) -> None:
    expected, filled = [0], 0
    for _, ids in DOCUMENTS:
        expected[-1] += 1
        filled += len(stored(ids, SCHEMES[name]))
        if filled >= shard_tokens:
            expected.append(0)
            filled = 0
    found = Shards(write(tmp_path, SCHEMES[name], shard_tokens, 2), "train")
    assert [row["documents"] for row in found.files] == [count for count in expected if count]


def test_the_size_of_a_batch_does_not_change_a_byte(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", chunks=1), write(tmp_path / "two", chunks=5)
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_numpy_opens_it_with_one_line(tmp_path: Path) -> None:
    write(tmp_path, shard_tokens=1000)
    assert np.memmap(tmp_path / "train-00000.bin", dtype="<u2", mode="r").tolist()[:5] == [5, END, 6, 7, END]
    assert np.fromfile(tmp_path / "train-00000.idx", dtype="<i8").tolist() == [0, 2, 5, 6, 10, 12]
    assert np.fromfile(tmp_path / "train-00000.bytes", dtype="<i8").tolist() == [3, 6, 0, 9, 3]


def test_counts_are_sums_over_documents_and_checksums_those_of_the_files(tmp_path: Path) -> None:
    names = ["b", "a", "b", "c", "a"]
    with ShardWriter(tmp_path, "train", SCHEMES["end"], 5, ("a", "b", "c", "d")) as writer:
        writer.add([text for text, _ in DOCUMENTS], [ids for _, ids in DOCUMENTS], names)
    summary = writer.summary()
    for name in ("a", "b", "c", "d"):
        mine = [row for row, source in zip(DOCUMENTS, names, strict=True) if source == name]
        counts = (
            len(mine),
            sum(len(ids) + 1 for _, ids in mine),
            sum(len(t.encode()) for t, _ in mine),
            sum(len(t) for t, _ in mine),
        )
        assert summary["by_source"][name] == dict(zip(COUNTED, counts, strict=True))
    assert [summary[key] for key in COUNTED] == [5, 12, 21, 7] and len(summary["files"]) == 3
    for key in COUNTED:
        assert summary[key] == sum(row[key] for row in summary["files"])
    for row in summary["files"]:
        assert row["xxh3_128"] == {part: hash_file(tmp_path / f"{row['name']}.{part}") for part in PARTS}


def test_a_large_vocabulary(tmp_path: Path) -> None:
    scheme = Scheme(70_000, 0)
    with ShardWriter(tmp_path, "train", scheme, 100) as writer:
        writer.add(["x"], [[69_999, 65_536]])
    write_manifest(tmp_path, scheme, {"train": writer.summary()})
    assert Shards(tmp_path, "train").document(0).tolist() == [69_999, 65_536, 0]


def test_an_id_outside_the_vocabulary_is_never_written(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="outside its vocabulary"),
        ShardWriter(tmp_path, "train", Scheme(8, 3), 9) as writer,
    ):
        writer.add(["x"], [[8]])


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(FileExistsError):
        write(tmp_path)


def test_it_goes_on_behind_shards_that_are_done(tmp_path: Path) -> None:
    """The same bytes as written in one go; told again which shards are whole."""
    entries: list[dict[str, object]] = []
    whole = write(tmp_path / "whole")
    with ShardWriter(tmp_path / "parts", "train", SCHEMES["end"], 5, on_close=entries.append) as writer:
        writer.add([text for text, _ in DOCUMENTS[:2]], [ids for _, ids in DOCUMENTS[:2]])
    assert len(entries) == 1
    with ShardWriter(tmp_path / "parts", "train", SCHEMES["end"], 5, done=entries) as writer:
        writer.add([text for text, _ in DOCUMENTS[2:]], [ids for _, ids in DOCUMENTS[2:]])
    write_manifest(tmp_path / "parts", SCHEMES["end"], {"train": writer.summary()})
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "parts").iterdir()
    }
