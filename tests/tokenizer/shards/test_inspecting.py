"""Documents and rows as text: what is shown is what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from jielong.errors import InputError, ShardError
from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.folder import open_folder
from jielong.tokenizer.shards.inspecting import describe, find_shards, inspect, piece, verify_all
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import IGNORE, PackedRows
from jielong.tokenizer.shards.writing import ShardWriter

TEXTS = ["中国人民", "很高兴，", "", "中国\U0001f600"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder of runs with one run, whose documents begin with <|im_start|>."""
    folder = tmp_path / "runs" / "one" / "tokenizer"
    bpe.save(bpe.train(["中国人民很高兴"] * 5, 300, Config().specials, 2, True), folder)
    tokenizer = open_folder(folder)
    scheme = Scheme(tokenizer.size, tokenizer.end_id, 1)
    with ShardWriter(folder / "shards", "train", scheme, 6, ("web", "books")) as writer:
        writer.add(TEXTS, tokenizer.encode(TEXTS), ["web", "books", "web", "web"])
    write_manifest(folder / "shards", scheme, {"train": writer.summary()})
    return tmp_path / "runs"


def test_runs_and_folders_are_found(run: Path) -> None:
    shards = run / "one" / "tokenizer" / "shards"
    for target in ("one", str(run / "one"), str(run / "one" / "tokenizer"), str(shards)):
        assert find_shards(target, run) == (shards, shards.parent)
    (run / "one" / "recipe.toml").write_text("", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"RUN: neither a run with shards nor a shards folder, got 'two'; .*: one; give one"
    ):
        find_shards("two", run)


def test_counts(run: Path) -> None:
    found = inspect("one", run)
    assert found == describe(run / "one" / "tokenizer" / "shards") and "parts" not in found
    assert found["splits"]["train"]["documents"] == 4 and found["start_id"] == 1
    assert found["splits"]["train"]["by_source"]["books"]["documents"] == 1


@pytest.mark.parametrize("number", range(4))
def test_a_document(run: Path, number: int) -> None:
    [part] = inspect("one", run, document=number)["parts"]
    assert part["text"] == TEXTS[number] and part["source"] == ("books" if number == 1 else "web")
    assert part["ids"][0] == 1 and part["ids"][-1] == 0 and part["pieces"][0] == "<|im_start|>"
    assert (part["from_token"], part["to_token"]) == (0, len(part["ids"]))


def test_rows_are_the_packed_rows(run: Path) -> None:
    shards = Shards(run / "one" / "tokenizer" / "shards", "train")
    for length in (1, 3, 5, 100):
        for number, row in enumerate(PackedRows(shards, length)):
            parts = inspect("one", run, row=number, length=length)["parts"]
            assert [token for part in parts for token in part["ids"]] == [t for t in row.labels.tolist() if t != IGNORE]
            for part in parts:
                stored = shards.document(part["document"]).tolist()
                assert part["ids"] == stored[part["from_token"] : part["to_token"]]


def test_a_piece_that_is_no_whole_character_shows_its_bytes(run: Path) -> None:
    tokenizer = open_folder(run / "one" / "tokenizer")
    ids = tokenizer.encode(["\U0001f600"])[0]
    assert "".join(piece(tokenizer, number) for number in ids) == "<F0><9F><98><80>"


def test_without_a_tokenizer_and_with_a_wrong_one(run: Path, tmp_path: Path) -> None:
    folder = run / "one" / "tokenizer"
    shards = (folder / "shards").rename(tmp_path / "shards")
    [part] = inspect(str(shards), run, document=0)["parts"]
    assert "text" not in part and part["ids"][-1] == 0
    assert inspect(str(shards), run, document=0, tokenizer=folder)["parts"][0]["text"] == TEXTS[0]
    bpe.save(bpe.train(["中国人民很高兴"] * 5, 270, Config().specials, 2, True), tmp_path / "other")
    with pytest.raises(InputError, match="not the one of these shards, got 270 ids; they were written with 279"):
        inspect(str(shards), run, document=0, tokenizer=tmp_path / "other")


def test_what_is_not_there(run: Path) -> None:
    with pytest.raises(InputError, match="--document: no such document, got 4; they are numbered from 0 to 3"):
        inspect("one", run, document=4)
    with pytest.raises(InputError, match="--row: no such row of 5 tokens, got 99"):
        inspect("one", run, row=99, length=5)
    with pytest.raises(InputError, match="given together"):
        inspect("one", run, row=1, document=1)
    with pytest.raises(InputError, match=r"no split 'validation' in .*; it has train"):
        inspect("one", run, "validation", document=1)


def test_verify(run: Path) -> None:
    assert verify_all("one", run)["verified"]
    path = run / "one" / "tokenizer" / "shards" / "train-00001.src"
    path.write_bytes(b"\x01" + path.read_bytes()[1:])
    with pytest.raises(ShardError, match=r"train-00001\.src: damaged shard, its checksum differs"):
        verify_all("one", run)
