"""The manifest: it says what is there, and a flipped byte in it is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orjson
import pytest

from jielong.errors import ShardError, TokenizerError
from jielong.tokenizer.shards.manifest import Scheme, is_shards, read_manifest
from tests.tokenizer.shards.documents import SCHEMES, write


def test_the_dtype_follows_from_the_vocabulary() -> None:
    assert Scheme(6400, 0).id_type == Scheme(65_536, 0).id_type == np.dtype("<u2")
    assert Scheme(65_537, 0).id_type == np.dtype("<u4") and Scheme(10, 0, dtype="uint32").id_type == np.dtype("<u4")
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.dtype: uint16 does not hold .*, got 65,537 ids; at most 65,536"
    ):
        Scheme(65_537, 0, dtype="uint16")


@pytest.mark.parametrize("name", SCHEMES)
def test_it_comes_back(tmp_path: Path, name: str) -> None:
    scheme, splits = read_manifest(write(tmp_path, SCHEMES[name]))
    assert scheme == SCHEMES[name] and list(splits) == ["train"]
    assert splits["train"]["documents"] == 5 and is_shards(tmp_path)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Any byte, to any other value; 0x20 to 0x09 (a blank to a tab) leaves the JSON as it was."""
    path = write(tmp_path) / "manifest.json"
    clean = path.read_bytes()
    chance = np.random.default_rng(1)
    for place in range(len(clean)):
        damaged = bytearray(clean)
        damaged[place] = 9 if damaged[place] == 32 else (damaged[place] + int(chance.integers(1, 256))) % 256
        path.write_bytes(damaged)
        with pytest.raises(ShardError):
            read_manifest(tmp_path)


def test_old_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="not a readable shards folder"):
        read_manifest(tmp_path)
    path = write(tmp_path) / "manifest.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | {"format": 2}))
    with pytest.raises(
        ShardError, match="shards of another format, got 2; this version reads 3; make the shards again"
    ):
        read_manifest(tmp_path)
    path.write_bytes(b"[]")
    with pytest.raises(ShardError, match="not a readable shards folder"):
        read_manifest(tmp_path)
