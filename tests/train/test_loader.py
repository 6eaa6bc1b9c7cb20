"""Packed rows against rows laid by hand, the shuffle, the state, and the evaluation batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from jielong.errors import ShardError
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.loader import IGNORE, LoaderState, PackedLoader, evaluation_batches, shuffled

END = 0


def make(folder: Path, documents: list[list[int]], vocab: int = 50) -> Shards:
    """Documents of given ids (an end-of-text is added to each); document n has 10 x (n + 1) bytes of text."""
    with ShardWriter(folder, "train", Scheme(vocab, END), 7) as writer:
        for number, ids in enumerate(documents):
            writer.add(["x" * 10 * (number + 1)], [ids])
    write_manifest(folder, Scheme(vocab, END), {"train": writer.summary()})
    return Shards(folder, "train")


def test_rows_by_hand(tmp_path: Path) -> None:
    """One document [11, 12, 13] read for ever in rows of 5: stream 11 12 13 0 | 11 12 13 0 | 11 ...

    Row 0 predicts 11 12 13 0 11; row 1 goes on with 12 13 0 11 12, its first input the 11 that row 0 ended with.
    """
    loader = PackedLoader(make(tmp_path, [[11, 12, 13]]), 5, seed=1)
    batch = loader.next_batch(2)
    assert batch.labels.tolist() == [[11, 12, 13, 0, 11], [12, 13, 0, 11, 12]]
    assert batch.inputs.tolist() == [[0, 11, 12, 13, 0], [11, 12, 13, 0, 11]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]
    assert batch.documents.tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert loader.state == LoaderState(epoch=2, place=0, offset=2)


def test_rows_by_hand_with_a_start_id(tmp_path: Path) -> None:
    """Documents are stored as 9 11 12 0; the 9 is the first input and never a label."""
    scheme = Scheme(50, END, 9)
    with ShardWriter(tmp_path, "train", scheme, 7) as writer:
        writer.add(["x"], [[11, 12]])
    write_manifest(tmp_path, scheme, {"train": writer.summary()})
    shards = Shards(tmp_path, "train")
    batch = PackedLoader(shards, 5, seed=1).next_batch(1)
    assert batch.labels.tolist() == [[11, 12, 0, 11, 12]]
    assert batch.inputs.tolist() == [[9, 11, 12, 9, 11]]
    [(batch, _)] = list(evaluation_batches(shards, 5, 1, None))
    assert batch.inputs.tolist() == [[9, 11, 12]] and batch.labels.tolist() == [[11, 12, 0]]
    assert shards.available() == {"text": 3} and shards.tokens == 4


def test_an_epoch_predicts_every_token_once(tmp_path: Path) -> None:
    documents = [[n * 3 + 1, n * 3 + 2, n * 3 + 3][: n % 4] for n in range(16)]
    shards = make(tmp_path, documents)
    loader = PackedLoader(shards, shards.tokens, seed=4)
    expected = Counter(token for ids in documents for token in [*ids, END])
    first, second = (loader.next_batch(1).labels[0].tolist() for _ in range(2))
    assert Counter(first) == Counter(second) == expected
    assert first != second  # another order every epoch
    assert loader.state == LoaderState(epoch=2)


def test_row_length_does_not_change_the_stream(tmp_path: Path) -> None:
    shards = make(tmp_path, [[n + 1] * (n + 1) for n in range(9)])
    streams = []
    for length, rows in ((3, 28), (7, 12), (84, 1)):
        streams.append(PackedLoader(shards, length, seed=2).next_batch(rows).labels.ravel().tolist())
    assert streams[0] == streams[1] == streams[2]


def test_state_goes_on_exactly(tmp_path: Path) -> None:
    shards = make(tmp_path, [[n + 1] * (n % 5 + 1) for n in range(20)])
    unbroken = PackedLoader(shards, 6, seed=3)
    whole = [unbroken.next_batch(2) for _ in range(12)]
    loader = PackedLoader(shards, 6, seed=3)
    for step in range(12):
        batch = loader.next_batch(2)
        for ours, theirs in zip(
            (batch.inputs, batch.labels, batch.positions, batch.documents),
            (whole[step].inputs, whole[step].labels, whole[step].positions, whole[step].documents),
            strict=True,
        ):
            assert np.array_equal(ours, theirs)
        loader = PackedLoader(
            shards, 6, seed=3, state=LoaderState.from_json(loader.state.to_json())
        )  # stopped and started


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 17, 1000])
def test_shuffle_is_a_permutation(size: int) -> None:
    order = [shuffled(n, size, seed=1, epoch=0) for n in range(size)]
    assert sorted(order) == list(range(size))
    if size >= 16:
        assert order != [shuffled(n, size, seed=1, epoch=1) for n in range(size)]
        assert order != [shuffled(n, size, seed=2, epoch=0) for n in range(size)]


def test_shuffle_looks_random() -> None:
    """Neighbours do not stay neighbours, and the order is not correlated with the old one (|r| < 4/sqrt(n))."""
    order = np.array([shuffled(n, 4000, seed=7, epoch=3) for n in range(4000)])
    assert abs(np.corrcoef(order, np.arange(4000))[0, 1]) < 4 / np.sqrt(4000)
    assert (np.abs(np.diff(order)) == 1).mean() < 0.01


def test_evaluation_by_hand(tmp_path: Path) -> None:
    """Documents [1 2] and [3], 10 and 20 bytes, rows of 4: 1 2 0 3 | 0, the rest of the last row ignored, no third row."""
    shards = make(tmp_path, [[1, 2], [3]])
    [(batch, text_bytes)] = list(evaluation_batches(shards, 4, 3, None))
    assert batch.labels.tolist() == [[1, 2, 0, 3], [0, IGNORE, IGNORE, IGNORE]]
    assert batch.inputs.tolist() == [[0, 1, 2, 0], [3, 0, 0, 0]]
    assert batch.documents.tolist()[0] == [0, 0, 0, 1]
    assert batch.documents[1, 0] != batch.documents[1, 1]
    assert text_bytes == 30


def test_evaluation_of_a_short_text_is_small(tmp_path: Path) -> None:
    """Two tokens and an end in a context of a million: one row of three columns."""
    [(batch, _)] = list(evaluation_batches(make(tmp_path, [[1, 2]]), 1_000_000, 8, None, start_id=7))
    assert batch.inputs.tolist() == [[7, 1, 2]] and batch.labels.tolist() == [[1, 2, 0]]


def test_evaluation_covers_whole_documents_only(tmp_path: Path) -> None:
    shards = make(tmp_path, [[n + 1] * 4 for n in range(6)])  # 5 tokens a document, 10, 20, ... bytes
    for rows in (1, 2, 5):
        for limit, documents in ((1, 1), (5, 1), (6, 2), (None, 6), (10_000, 6)):
            parts = list(evaluation_batches(shards, 3, rows, limit))
            assert sum(int((batch.labels != IGNORE).sum()) for batch, _ in parts) == 5 * documents
            assert sum(count for _, count in parts) == sum(10 * (n + 1) for n in range(documents))


def test_packed_loss_equals_separate_documents(tmp_path: Path) -> None:
    """The slow twin of packing: each document alone in a row of its own."""
    documents = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [10, 11]]
    shards = make(tmp_path, documents)
    model = CausalLM(Config(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                            num_key_value_heads=2, max_position_embeddings=32)).eval()  # fmt: skip
    initialise(model, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        batch = PackedLoader(shards, shards.tokens, seed=1).next_batch(1)
        parts = (batch.inputs, batch.labels, batch.positions, batch.documents)
        packed = float(model.loss_sum(*(torch.from_numpy(part) for part in parts)))
        separate = sum(
            float(model.loss_sum(torch.tensor([[END, *ids]]), torch.tensor([[*ids, END]]), None, None))
            for ids in documents
        )
        unmasked = float(model.loss_sum(torch.from_numpy(batch.inputs), torch.from_numpy(batch.labels), None, None))
    assert packed == pytest.approx(separate, rel=1e-5)
    assert abs(unmasked - separate) > 1e-3  # the mask does something


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, Scheme(50, END), {"train": ShardWriter(tmp_path, "train", Scheme(50, END), 5).summary()})
    with pytest.raises(ShardError, match="holds no document"):
        PackedLoader(Shards(tmp_path, "train"), 4, 1)
