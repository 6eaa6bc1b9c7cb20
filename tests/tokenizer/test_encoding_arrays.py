"""Arrays against lists, on any text."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.tokenizer import bpe
from jielong.tokenizer.config import Config
from jielong.tokenizer.encoding_arrays import batches, bulk_encoder, encode_arrays, encode_bytes
from jielong.tokenizer.folder import TokenizerFolder, open_folder

# Han, Latin, digits, combining marks, emoji, rare planes, control characters, line ends
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text(
    "中国人民 ab12\u0301\U0001f600\n\x00", max_size=40
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TokenizerFolder:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    bpe.save(bpe.train(["中国人民很高兴 hello 2024"] * 5, 300, Config().specials, 2, True), folder)
    return open_folder(folder)


@settings(deadline=None)
@given(st.lists(TEXT, max_size=5))
def test_arrays_are_the_lists(tokenizer: TokenizerFolder, texts: list[str]) -> None:
    ids, offsets = encode_arrays(tokenizer, texts)
    assert ids.dtype == np.uint32 and offsets.dtype == np.int64 and len(offsets) == len(texts) + 1
    assert [ids[a:b].tolist() for a, b in pairwise(offsets.tolist())] == tokenizer.encode(texts)
    data = np.frombuffer("".join(texts).encode(), np.uint8)
    starts = np.cumsum([0, *(len(text.encode()) for text in texts)])
    for ours, theirs in zip(bulk_encoder(tokenizer, 1)(data, starts), (ids, offsets), strict=True):
        assert np.array_equal(ours, theirs) and ours.dtype == theirs.dtype


def test_a_slice_of_bytes_and_nothing(tokenizer: TokenizerFolder) -> None:
    data = np.frombuffer("中国人民".encode(), np.uint8)
    ids, offsets = encode_bytes(tokenizer, data, np.array([0, 6, 6, 12]))
    assert [tokenizer.decode(ids[a:b].tolist()) for a, b in pairwise(offsets.tolist())] == [
        "中国",
        "",
        "人民",
    ]
    ids, offsets = encode_bytes(tokenizer, data[:0], np.zeros(1, np.int64))
    assert ids.tolist() == [] and offsets.tolist() == [0]


def test_batches_are_bounded_in_bytes() -> None:
    groups = [[("一" * 10, "a")] * 5, [("二" * 100, "b")], [("三", "a")]]
    assert [sources for _, sources in batches(groups, most_bytes=90)] == [["a"] * 3, ["a"] * 2, ["b"], ["a"]]
    assert [len(batch) for batch, _ in batches(groups, most_bytes=90)] == [
        3,
        2,
        1,
        1,
    ]  # 90, 60, 300 (alone) and 3 bytes
    assert [len(batch) for batch, _ in batches([[("x", "a")] * 2500])] == [1000, 1000, 500]
