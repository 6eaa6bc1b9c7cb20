from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jielong.data.pipeline import chunks
from jielong.data.pipeline.chunks import Publishing, Reject
from jielong.data.pipeline.docs import PLACE, Docs
from jielong.errors import DataError


def docs(*texts: str) -> Docs:
    places = np.array([(0, 0, n + 1, 0) for n in range(len(texts))], PLACE)
    columns = {"text_len": np.array([len(t) for t in texts], np.int32), "lang": np.array(["zh"] * len(texts), object)}
    return Docs(list(texts), places, columns)


def test_a_chunk_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="in the middle"), Publishing(tmp_path, 3, 1) as folder:
        (folder / chunks.COUNTS).write_text("{}")
        raise ValueError("in the middle")
    assert not chunks.is_done(tmp_path, 3) and list(tmp_path.iterdir()) == []
    for _ in range(2):  # the same chunk made twice, by two processes
        with Publishing(tmp_path, 3, 1) as folder:
            (folder / chunks.COUNTS).write_text("{}")
            assert not chunks.is_done(tmp_path, 3) or _
    assert chunks.is_done(tmp_path, 3) and chunks.finished(tmp_path) == [3]


def test_documents_come_back(tmp_path: Path) -> None:
    some = docs("床前明月光", "疑是地上霜", "")
    folder = chunks.chunk_folder(tmp_path, 0)
    folder.mkdir()
    chunks.write_documents(folder / chunks.DOCUMENTS, some)
    back = chunks.read_documents(tmp_path, 0)
    assert back.texts == some.texts and (back.places == some.places).all()
    assert back.columns["text_len"].tolist() == [5, 5, 0] and back.columns["lang"].tolist() == ["zh"] * 3
    assert chunks.read_columns(tmp_path, 0, ["text_len"])["text_len"].dtype == np.int32
    assert back.take(np.array([2, 0])).texts == ["", "床前明月光"]


def test_row_groups_are_bounded_and_bytes_repeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROW_GROUP_BYTES", 40)
    table = chunks.pa.table({"text": ["床前明月光"] * 10, "line": list(range(10))})
    for name in ("a", "b"):
        chunks.write_table(tmp_path / name, table, 3)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    file = chunks.pa.parquet.ParquetFile(tmp_path / "a")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [2, 3, 2, 3]
    assert file.read().num_rows == 10
    chunks.write_table(tmp_path / "empty", table.slice(0, 0), 3)
    assert chunks.read_parquet(tmp_path / "empty").num_rows == 0


def test_rank_prefers_the_longer_and_not_the_first(tmp_path: Path) -> None:
    names = [("甲", "a.txt"), ("甲", "b.txt")]
    some = docs("短文", "长一些的文", "短文", "短汶")
    ranks = chunks.ranks(some, names)
    assert ranks[1] == ranks.min() and len(set(ranks.tolist())) == 4
    order = np.array([3, 2, 1, 0])
    assert (chunks.ranks(some.take(order), names) == ranks[order]).all()


def test_of_different_texts_the_same_one_stays_wherever_they_stand() -> None:
    """Same length, different text: the place has no part in it."""
    names = [("甲", f"{n}.txt") for n in range(6)]
    orders = []
    for file in range(6):
        some = docs("今天很好。", "今天很好，")
        some.places["file"] = [file, 5 - file]
        some.places["line"] = [file + 7, 3]
        ranks = chunks.ranks(some, names)
        orders.append(bool(ranks[0] < ranks[1]))
    assert len(set(orders)) == 1


def test_damage_is_named(tmp_path: Path) -> None:
    folder = chunks.chunk_folder(tmp_path, 0)
    folder.mkdir()
    (folder / chunks.DOCUMENTS).write_bytes(b"ARROW1 nothing")
    (folder / "rank.npy").write_bytes(b"nothing")
    (folder / chunks.COUNTS).write_text("{")
    for read in (
        lambda: chunks.read_documents(tmp_path, 0),
        lambda: chunks.array(tmp_path, 0, "rank"),
        lambda: chunks.read_counts(tmp_path, 0),
    ):
        with pytest.raises(DataError, match=r"delete .* and run the data stage again"):
            read()


@pytest.mark.parametrize("shape", [(5, 3), (7,), (0, 4), (0,), (1, 1)])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_stored_arrays_are_those_that_numpy_loads(tmp_path: Path, shape: tuple[int, ...], order: Any) -> None:
    values = np.random.default_rng(1).integers(0, 1 << 60, shape, np.uint64)
    chunks.chunk_folder(tmp_path, 2).mkdir()
    np.save(chunks.chunk_folder(tmp_path, 2) / "keys.npy", order(values), allow_pickle=False)
    stored = chunks.Stored(tmp_path, "keys")
    for _ in range(2):  # the head is read once
        found = stored[2]
        assert found.dtype == values.dtype and found.shape == shape and (found == values).all()
        assert (found == chunks.array(tmp_path, 2, "keys")).all()
    (chunks.chunk_folder(tmp_path, 2) / "keys.npy").unlink()
    if values.size:
        with pytest.raises(DataError, match=r"delete .* and run the data stage again"):
            stored[2]


def test_rejects_table() -> None:
    place = np.array([(0, 1, 7, 0)], PLACE)[0]
    table = chunks.rejects_table([Reject("短", place, "filter", "text_len", "1; min is 20")])
    assert table.to_pylist() == [
        {
            "text": "短",
            "source": 0,
            "file": 1,
            "line": 7,
            "part": 0,
            "step": "filter",
            "rule": "text_len",
            "detail": "1; min is 20",
        }
    ]
    assert chunks.rejects_table([]).schema == chunks.REJECT_SCHEMA
