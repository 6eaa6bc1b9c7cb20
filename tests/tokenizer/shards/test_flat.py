"""Flat files of other projects: read as they are, and made into shards."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

from jielong.errors import ShardError
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import TokenizerFolder, open_folder
from jielong.tokenizer.shards import flat
from jielong.tokenizer.shards.flat import import_flat, open_flat
from jielong.tokenizer.shards.reading import Shards
from jielong.train.loader import PackedLoader

TEXTS = ["中国人民", "", "很高兴", "a1"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> TokenizerFolder:
    bpe.save(bpe.train(["中国人民很高兴"] * 5, 300, Config().specials, 2, True), tmp_path / "tokenizer")
    return open_folder(tmp_path / "tokenizer")


def write(path: Path, tokenizer: TokenizerFolder, dtype: str = "<u2", closed: bool = True) -> list[list[int]]:
    rows = [[*ids, tokenizer.end_id] for ids in tokenizer.encode(TEXTS)]
    if not closed:
        rows[-1].pop()
    np.array([token for row in rows for token in row], dtype).tofile(path)
    return rows


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("closed", [True, False])
def test_documents_are_found(tokenizer: TokenizerFolder, tmp_path: Path, dtype: str, closed: bool) -> None:
    rows = write(tmp_path / "x.bin", tokenizer, np.dtype(dtype).newbyteorder("<").str, closed)
    found = open_flat(tmp_path / "x.bin", dtype, tokenizer.end_id, tokenizer.size)
    for view in (found, copy.copy(found)):
        assert [document.tolist() for document in view] == rows
        assert (view.documents, view.tokens) == (4, sum(map(len, rows)))
    assert found.numbers_of("text").tolist() == [0, 1, 2, 3] and found.source_of(2) == "text"
    found.verify()
    loader = PackedLoader(found, found.tokens, seed=1)
    assert sorted(loader.next_batch(1).labels[0].tolist()) == sorted(token for row in rows for token in row)
    with pytest.raises(ShardError, match="does not say how long its texts are"):
        found.document_bytes(0)


def test_blocks_do_not_show(tokenizer: TokenizerFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(tmp_path / "x.bin", tokenizer)
    monkeypatch.setattr(flat, "LOOK", 3)
    monkeypatch.setattr(flat, "BATCH_TOKENS", 3)
    found = open_flat(tmp_path / "x.bin", "uint16", tokenizer.end_id, tokenizer.size)
    assert [document.tolist() for document in found] == rows
    import_flat(tmp_path / "x.bin", "uint16", None, tokenizer, tmp_path / "s", "train", 4)
    assert [document.tolist() for document in Shards(tmp_path / "s", "train")] == rows


@pytest.mark.parametrize("closed", [True, False])
def test_import(tokenizer: TokenizerFolder, tmp_path: Path, closed: bool) -> None:
    write(tmp_path / "x.bin", tokenizer, closed=closed)
    summary = import_flat(tmp_path / "x.bin", "uint16", None, tokenizer, tmp_path / "s", "train", 6)
    shards = Shards(tmp_path / "s", "train")
    shards.verify()
    assert [tokenizer.decode(document[:-1].tolist()) for document in shards] == TEXTS
    assert all(document[-1] == tokenizer.end_id for document in shards)  # the last one too
    assert [shards.document_bytes(n) for n in range(4)] == [len(text.encode()) for text in TEXTS]
    assert summary["chars"] == sum(map(len, TEXTS)) and len(summary["files"]) > 1
    import_flat(tmp_path / "x.bin", "uint16", None, tokenizer, tmp_path / "s", "validation", 6)  # another split joins
    assert Shards(tmp_path / "s", "validation").documents == Shards(tmp_path / "s", "train").documents == 4
    with pytest.raises(ShardError, match="already have the split 'train'"):
        import_flat(tmp_path / "x.bin", "uint16", None, tokenizer, tmp_path / "s", "train", 6)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "train-00000.bin").write_bytes(b"broken off")  # a kill, and once more
    assert import_flat(tmp_path / "x.bin", "uint16", None, tokenizer, tmp_path / "t", "train", 6) == summary


def test_what_is_refused(tokenizer: TokenizerFolder, tmp_path: Path) -> None:
    path, out = tmp_path / "x.bin", tmp_path / "s"

    def refused(message: str, dtype: str = "uint16", end_id: int | None = None, split: str = "train") -> None:
        with pytest.raises(ShardError, match=message):
            import_flat(path, dtype, end_id, tokenizer, out, split, 6)
        assert not (out / "manifest.json").exists()

    refused("FILE: no such file")
    path.write_bytes(b"")
    refused("not a file of uint16 ids, got 0 bytes")
    path.write_bytes(b"123")
    refused("not a file of uint16 ids, got 3 bytes; must be a multiple of 2")
    np.array([1, 2, 999, 0], "<u2").tofile(path)
    refused("outside the vocabulary, got 999 at place 2; must be below 279")
    np.array([5, 6, 7], "<u2").tofile(path)
    refused("no document ends, got not one id 0 in 3; correct --end-id")
    refused("--end-id: not an id of the tokenizer, got 279; must be below 279", end_id=279)
    refused("--dtype: not a type of ids, got 'int8'", dtype="int8")
    refused("--split: not a split, got 'test'", split="test")
    write(path, tokenizer)
    out.mkdir()
    (out / "notes.txt").write_text("x", encoding="utf-8")
    refused("--out: neither empty nor a shards folder")
