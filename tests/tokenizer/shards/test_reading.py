"""Reading: every document comes back, every flipped byte is found."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from jielong.errors import ShardError
from jielong.tokenizer.shards.manifest import PARTS, Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import Documents, ShardWriter
from tests.tokenizer.shards.documents import DOCUMENTS, END, SCHEMES, START, stored, write


@pytest.mark.parametrize("chunks", [1, 2, 5])
@pytest.mark.parametrize("shard_tokens", [1, 5, 1000])
@pytest.mark.parametrize("name", SCHEMES)
def test_every_document_comes_back(tmp_path: Path, name: str, chunks: int, shard_tokens: int) -> None:
    scheme = SCHEMES[name]
    shards = Shards(write(tmp_path, scheme, shard_tokens, chunks), "train")
    shards.verify()
    rows = [stored(ids, scheme) for _, ids in DOCUMENTS]
    assert [document.tolist() for document in shards] == rows
    targets = [row[1:] if scheme.start_id == START else row for row in rows]
    assert [shards.targets(n).tolist() for n in range(5)] == targets
    assert [shards.length(n) for n in range(5)] == [len(row) for row in targets]
    mapped = [(first + n, ids[start:end].tolist()) for first, ids, starts in shards.maps()
              for n, (start, end) in enumerate(pairwise(starts.tolist()))]  # fmt: skip
    assert mapped == list(enumerate(rows))
    assert shards.target_tokens == sum(map(len, targets)) == shards.available()["text"]
    assert shards.start_id == (START if scheme.start_id == START else scheme.end_id)
    assert [shards.document_bytes(n) for n in range(5)] == [len(text.encode()) for text, _ in DOCUMENTS]
    assert (shards.documents, shards.tokens) == (5, sum(map(len, rows)))
    assert (shards.text_bytes, shards.characters) == (21, 7)
    flat = [(n, at) for n, row in enumerate(targets) for at in range(len(row))]
    assert [shards.locate(position) for position in range(len(flat))] == flat
    whole = [token for row in rows for token in row]
    for start in range(len(whole) + 1):
        for end in range(start, len(whole) + 2):
            assert shards.stream(start, end).tolist() == whole[start:end]
    assert np.concatenate(list(shards.lengths())).tolist() == [len(row) for row in rows]


def test_a_copy_for_another_process_maps_the_files_again(tmp_path: Path) -> None:
    shards = Shards(write(tmp_path), "train")
    kind, arguments = shards.__reduce__()
    assert kind is Shards and arguments == (tmp_path, "train")
    assert [row.tolist() for row in copy.copy(shards)] == [row.tolist() for row in shards]


@pytest.mark.parametrize("part", PARTS)
def test_every_flipped_byte_is_found(tmp_path: Path, part: str) -> None:
    folder = write(tmp_path, shard_tokens=1000)
    path = folder / f"train-00000.{part}"
    clean = path.read_bytes()
    chance = np.random.default_rng(1)
    for place in range(len(clean)):
        damaged = bytearray(clean)
        damaged[place] = (damaged[place] + int(chance.integers(1, 256))) % 256
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"checksum differs"):
            Shards(folder, "train").verify()


def test_truncated_missing_and_foreign_folders(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", shard_tokens=1000)
    path = folder / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ShardError, match="damaged shard, got 23 bytes, must be 24"):
        Shards(folder, "train")
    path.unlink()
    with pytest.raises(ShardError, match="no such file"):
        Shards(folder, "train")
    with pytest.raises(ShardError, match="no split 'validation'; it has train"):
        Shards(folder, "validation")
    with pytest.raises(ShardError, match="not a readable shards folder"):
        Shards(tmp_path, "train")


def test_what_is_learned(tmp_path: Path) -> None:
    """A mask lies beside the tokens, through the cut into files; it is checked; without one all targets are learned."""
    rows = [[START, 5, 6, 7], [START, 8], [START], [START, 9, 10]]
    marks = [[0, 0, 1, 1], [0, 1], [0], [0, 1, 0]]
    scheme = Scheme(100, END, START, closes=False, masked=True)
    sizes = np.array([len(row) for row in rows])
    given = Documents(np.concatenate(rows), sizes, sizes, sizes, sizes * 0, np.concatenate(marks).astype(bool))
    with ShardWriter(tmp_path, "train", scheme, 5) as writer:
        writer.append(given.part(0, 1))
        writer.append(given.part(1, 4))
    write_manifest(tmp_path, scheme, {"train": writer.summary()})
    shards = Shards(tmp_path, "train")
    shards.verify()
    assert shards.scheme == scheme and len(shards.files) == 2
    assert [shards.targets(n).tolist() for n in range(4)] == [row[1:] for row in rows]
    assert [shards.learned(n).tolist() for n in range(4)] == [[bool(mark) for mark in row[1:]] for row in marks]
    assert shards.learned_counts().tolist() == [2, 1, 0, 1]
    path = tmp_path / "train-00001.use"
    path.write_bytes(bytes([1]) + path.read_bytes()[1:])
    with pytest.raises(ShardError, match=r"train-00001\.use: damaged shard"):
        shards.verify()
    path.unlink()
    with pytest.raises(ShardError, match=r"train-00001\.use: damaged shard, no such file"):
        Shards(tmp_path, "train")


def test_without_a_mask_all_is_learned(tmp_path: Path) -> None:
    for name, scheme in SCHEMES.items():
        shards = Shards(write(tmp_path / name, scheme), "train")
        assert not shards.scheme.masked and not (tmp_path / name / "train-00000.use").exists()
        assert [shards.learned(n).tolist() for n in range(5)] == [[True] * shards.length(n) for n in range(5)]
        assert shards.learned_counts().tolist() == [shards.length(n) for n in range(5)]
