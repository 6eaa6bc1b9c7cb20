"""Chunks: all documents in order, once; kept whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jielong.errors import DataError
from jielong.tokenizer.encoding_arrays import bulk_encoder
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards import chunks
from jielong.tokenizer.shards.chunks import bytes_of, chunks_of, encode_chunk, is_there, read_chunk, whole
from jielong.tokenizer.shards.manifest import Scheme
from tests.tokenizer.shards.corpus import SOURCES, texts, write_documents, write_tokenizer
from tests.tokenizer.shards.documents import stored

ROWS = texts(50)


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "documents", {"train": [ROWS[:30], ROWS[30:]], "validation": [["一"]]})


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerFolder:
    return open_folder(write_tokenizer(tmp_path / "tokenizer"))


@pytest.mark.parametrize("size", [1, 3000, 10**9])
def test_chunks_are_row_groups_of_one_file(documents: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 7: 30 documents are 5 of them, 20 are 3."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", size)
    found = chunks_of(documents, "train")
    assert [chunk.number for chunk in found] == list(range(len(found)))
    assert sum(chunk.documents for chunk in found) == 50
    groups = {file: [g for c in found if c.file == file for g in range(*c.groups)] for file in {c.file for c in found}}
    assert sorted(groups.values()) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert len(found) == {1: 8, 10**9: 2}.get(size, len(found)) and 2 <= len(found) <= 8


@pytest.mark.parametrize("size", [200, 4_000_000])
def test_a_chunk_is_what_a_loop_makes(
    documents: Path, tokenizer: TokenizerFolder, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "BATCH_BYTES", size)
    scheme = Scheme(tokenizer.size, tokenizer.end_id, 1)
    start = 0
    for chunk in chunks_of(documents, "train"):
        assert not is_there(chunk, tmp_path / "work")
        encode_chunk(chunk, tmp_path / "work", bulk_encoder(tokenizer), scheme, SOURCES)
        assert is_there(chunk, tmp_path / "work")
        found = read_chunk(chunk, tmp_path / "work", scheme)
        rows = ROWS[start : start + chunk.documents]
        expected = [stored(ids, scheme) for ids in tokenizer.encode(rows)]
        assert found.tokens.tolist() == [token for row in expected for token in row]
        assert found.lengths.tolist() == [len(row) for row in expected]
        assert found.text_bytes.tolist() == [len(text.encode()) for text in rows]
        assert found.characters.tolist() == [len(text) for text in rows]
        assert found.origins.tolist() == [n % 2 for n in range(len(rows))]
        part = found.part(2, 4)
        assert part.tokens.tolist() == [*expected[2], *expected[3]] and part.characters.tolist() == [
            len(t) for t in rows[2:4]
        ]
        start += chunk.documents


def test_bytes_of_a_slice() -> None:
    data, offsets = bytes_of(pa.array(["中", "ab", "", "国"]).slice(1, 3))
    assert data.tobytes() == "ab国".encode() and offsets.tolist() == [0, 2, 2, 5]
    data, offsets = bytes_of(pa.array([], pa.string()))
    assert len(data) == 0 and offsets.tolist() == [0]


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), whole(tmp_path / "x") as scratch:
        (scratch / "file").write_bytes(b"1")
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []
    with whole(tmp_path / "x") as scratch:
        np.save(scratch / "a.npy", np.zeros(1))
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["a.npy"]


def test_a_damaged_file_of_documents(documents: Path, tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    first = chunks_of(documents, "train")[0]
    data = bytearray(first.file.read_bytes())
    (documents / "train-00001.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"train-00001\.parquet: damaged documents file"):
        chunks_of(documents, "train")
    data[20:400] = bytes(380)
    first.file.write_bytes(data)
    with pytest.raises(DataError, match=r"train-00000\.parquet: damaged documents file"):
        encode_chunk(first, tmp_path / "work", bulk_encoder(tokenizer), Scheme(tokenizer.size, 0), SOURCES)
    assert not is_there(first, tmp_path / "work")
