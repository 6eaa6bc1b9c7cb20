"""The compiled walk against the plain one, over every kind of shards and order; a damaged index."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.errors import ShardError
from jielong.tokenizer.shards.flat import open_flat
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.loader import Batch, Loader, PackedLoader, plain_rows
from jielong.train.mixing import Mix
from jielong.train.orders import LoaderState, Natural
from jielong.train.walking import Walk
from tests.tokenizer.shards.documents import SCHEMES, make
from tests.train.loaders import LOADERS, same

ROWS = st.lists(st.lists(st.integers(4, 99), max_size=9), min_size=1, max_size=12).filter(any)
MIXES: dict[str, dict[str, Any]] = {
    "weights": {"weights": {"web": 5, "law": 1}},
    "temperature": {"temperature": 3},
    "bounded": {"weights": {"web": 1, "books": 1, "law": 1}, "max_epochs": 2},
    "phases": {
        "phases": [
            {"share": 2, "weights": {"web": 5, "books": 3, "law": 2}},
            {"share": 1, "temperature": 2},
            {"share": 1, "weights": {"law": 1}},
        ]
    },
}


def agree(loader: Loader, rows: int, steps: int) -> None:
    for _ in range(steps):
        expected, after = plain_rows(loader, loader.state, rows)
        labels = int((expected.labels >= 0).sum())
        step = loader.step(rows, rows)
        same(step.batches[0], expected)
        assert (step.labels, loader.state) == (labels, after)


@settings(deadline=None, max_examples=80)
@given(ROWS, st.integers(1, 12), st.sampled_from(sorted(SCHEMES)), st.sampled_from(LOADERS), st.integers(1, 9))
def test_compiled_is_plain(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[int]],
    length: int,
    name: str,
    kind: type[Loader],
    count: int,
) -> None:
    """Any documents, empty ones too, over several files, uint16 and uint32, with start and end ids and without."""
    agree(kind(make(tmp_path_factory.mktemp("s"), rows, SCHEMES[name]), length, seed=3), count, 4)


def sources(folder: Path) -> Shards:
    """Three sources, of documents of different lengths, over several files."""
    generator = random.Random(2)
    with ShardWriter(folder, "train", Scheme(50, 0), 700, ("web", "books", "law")) as writer:
        for _ in range(400):
            name = generator.choices(("web", "books", "law"), (8, 2, 1))[0]
            size = generator.randint(0, {"web": 20, "books": 60, "law": 6}[name])
            writer.add(["文"], [[generator.randint(1, 49) for _ in range(size)]], [name])
    write_manifest(folder, Scheme(50, 0), {"train": writer.summary()})
    return Shards(folder, "train")


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("name", MIXES)
def test_compiled_is_plain_with_a_mix(tmp_path: Path, name: str, kind: type[Loader]) -> None:
    shards = sources(tmp_path)
    steps, rows, length = 60, 8, 24
    whole = steps * rows * length
    loader = kind(shards, length, 1, mix=Mix.model_validate(MIXES[name]), tokens=whole)
    agree(loader, rows, steps)  # more than `bounded` allows, too


def test_a_flat_file_is_walked_through(tmp_path: Path) -> None:
    np.array([5, 6, 3, 7, 3, 3, 8, 9, 3], "<u4").tofile(tmp_path / "x.bin")
    agree(PackedLoader(open_flat(tmp_path / "x.bin", "uint32", 3, 50), 4, 1), 3, 5)


def test_ids_of_all_32_bits(tmp_path: Path) -> None:
    """The largest ids are not taken for negative ones."""
    scheme = Scheme(4_000_000_000, 0)
    shards = make(tmp_path, [[3_999_999_999, 65_536]], scheme)
    assert PackedLoader(shards, 3, 1).next_batch(1).labels.tolist() == [[3_999_999_999, 65_536, 0]]


def test_reading_moves_nothing(tmp_path: Path) -> None:
    """The same call twice gives the same rows; rows that are not ours are not laid."""
    shards = make(tmp_path, [[n + 4] * (n % 5 + 1) for n in range(20)])
    walk, state = Walk(shards, Natural(shards, 1), 6, False), LoaderState(2, 3, 1)
    (all_rows, behind, labels, _), (part, *rest) = walk.read(state, 8, 0, 8), walk.read(state, 8, 3, 2)
    assert state == LoaderState(2, 3, 1) and rest[:2] == [behind, labels]
    assert part.shape == (4, 2, 6) and np.array_equal(part, all_rows[:, 3:5])
    assert walk.read(state, 0, 0, 0)[1] == state
    same(Batch(*all_rows), plain_rows(PackedLoader(shards, 6, 1), state, 8)[0])


@pytest.mark.parametrize(("place", "value"), [(0, -5), (1, 10_000), (1, 0)])
def test_an_index_that_leads_outside_is_an_error(tmp_path: Path, place: int, value: int) -> None:
    """Opening looks at sizes only. A document before the file, behind its end, or of a negative length ends no process."""
    make(tmp_path, [[4, 5], [6, 7, 8]], shard_tokens=100)
    path = tmp_path / "train-00000.idx"
    starts = np.fromfile(path, "<i8")
    starts[place] = value
    starts[:place] += 1
    starts.tofile(path)
    with pytest.raises(ShardError, match=r"damaged shard, the index puts document \d outside of its file"):
        PackedLoader(Shards(tmp_path, "train"), 40, 1).next_batch(4)
