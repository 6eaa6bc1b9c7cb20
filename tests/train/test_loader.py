"""Rows against rows laid by hand, their division among processes, the state, and the evaluation batches."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from jielong.errors import ShardError
from jielong.model.config import Config
from jielong.model.transformer import CausalLM, initialise
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import TruncatedRows
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.loader import (
    IGNORE,
    PACKINGS,
    Batch,
    Loader,
    LoaderState,
    Mixed,
    PackedLoader,
    Span,
    TruncatedLoader,
    evaluation_batches,
    open_loader,
)
from jielong.train.mixing import Mix
from tests.tokenizer.shards.documents import SCHEMES
from tests.tokenizer.shards.documents import make as make_of
from tests.train.loaders import LOADERS, same

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


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("world", "micro"), [(1, 12), (1, 5), (2, 1), (3, 2), (4, 3), (12, 1)])
def test_every_division_reads_the_same_rows(tmp_path: Path, kind: type[Loader], world: int, micro: int) -> None:
    """Twelve rows of one process, in the same order for any number of processes and any size of a micro-batch."""
    shards = make(tmp_path, [[n + 1] * (n % 7) for n in range(40)])
    loaders = [kind(shards, 5, seed=3) for _ in range(world)]
    whole, left_out = kind(shards, 5, seed=3), 0
    for _ in range(6):
        expected, state = whole.next_batch(12), whole.state
        steps = [loader.step(12, micro, rank, world) for rank, loader in enumerate(loaders)]
        parts = [batch for step in steps for batch in step.batches]
        assert [len(step.batches) for step in steps] == [-(-12 // world // micro)] * world
        assert all(len(batch.inputs) <= micro for batch in parts)
        same(Batch(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Batch))), expected)
        assert {step.labels for step in steps} == {int((expected.labels != IGNORE).sum())}
        assert len({step.left_out for step in steps}) == 1
        assert all(loader.state == state for loader in loaders)
        left_out += steps[0].left_out
    assert (left_out > 0) == (kind is TruncatedLoader)


@pytest.mark.parametrize("kind", LOADERS)
def test_another_number_of_processes_goes_on_with_the_same_rows(tmp_path: Path, kind: type[Loader]) -> None:
    shards = make(tmp_path, [[n + 1] * (n % 7) for n in range(40)])
    whole, old = kind(shards, 5, seed=3), kind(shards, 5, seed=3)
    old.step(8, 2, rank=1, world=4)
    news = [kind(shards, 5, 3, LoaderState.from_json(old.state.to_json())) for _ in range(2)]
    whole.skip(8)
    assert whole.state == old.state
    parts = [loader.step(8, 4, rank, 2).batches[0].labels for rank, loader in enumerate(news)]
    assert np.array_equal(np.concatenate(parts), whole.next_batch(8).labels)


@pytest.mark.parametrize("name", SCHEMES)
def test_truncated_rows_are_those_of_the_view(tmp_path: Path, name: str) -> None:
    """One document a row, each once in an epoch, as `TruncatedRows` lays it; one without a token has no row."""
    rows = [[10 + n] * (n % 7) for n in range(21)]
    shards = make_of(tmp_path, rows, SCHEMES[name])
    loader, view = TruncatedLoader(shards, 4, seed=2), TruncatedRows(shards, 4)
    there = [number for number in range(shards.documents) if shards.length(number)]
    spans = loader.spans(loader.state, len(there))
    assert sorted(span.document for span in spans) == there and [span.row for span in spans] == [*range(len(there))]
    step = loader.step(len(there), len(there))
    for number, span in enumerate(spans):
        for field in fields(Batch):
            found = getattr(step.batches[0], field.name)[number]
            assert found.tolist() == getattr(view[span.document], field.name).tolist(), field.name
    assert (step.labels, step.left_out) == (view.supervised, view.left_out)
    again = loader.spans(loader.state, len(there))
    assert sorted(span.document for span in again) == there and [s.document for s in again] != [
        s.document for s in spans
    ]


def test_truncated_by_hand(tmp_path: Path) -> None:
    """[11 12 13 14] and its end in rows of 3: the end stands where 13 was, and 13 and 14 are left out. [21] is filled up."""
    loader = TruncatedLoader(make(tmp_path, [[11, 12, 13, 14], [21]]), 3, seed=1)
    step = loader.step(2, 2)
    [batch] = step.batches
    long, short = np.argsort(batch.labels[:, 0]).tolist()
    assert batch.labels[long].tolist() == [11, 12, 0] and batch.labels[short].tolist() == [21, 0, IGNORE]
    assert batch.inputs[long].tolist() == [0, 11, 12] and batch.inputs[short].tolist() == [0, 21, 0]
    assert batch.positions[long].tolist() == [0, 1, 2] and batch.positions[short].tolist() == [0, 1, 0]
    assert batch.documents[long].tolist() == [0, 0, 0] and batch.documents[short].tolist() == [0, 0, 1]
    assert (step.labels, step.left_out, loader.state) == (5, 2, LoaderState(1))


def test_truncated_shares_are_those_of_the_labels(tmp_path: Path) -> None:
    """Half of the labels from short documents, half from long ones that are cut, in rows that are as many as it takes."""
    with ShardWriter(tmp_path, "train", Scheme(50, END), 900, ("short", "long")) as writer:
        for n in range(300):
            writer.add(["x"], [[1] * 4 if n % 3 else [2] * 60], ["short" if n % 3 else "long"])
    write_manifest(tmp_path, Scheme(50, END), {"train": writer.summary()})
    loader = TruncatedLoader(Shards(tmp_path, "train"), 20, 1, mix=Mix(weights={"short": 1, "long": 1}))
    labels = loader.next_batch(200).labels
    assert (labels[:, 0] == 1).sum() * 5 == pytest.approx((labels[:, 0] == 2).sum() * 20, abs=20)
    assert isinstance(loader.order, Mixed)
    assert loader.order.report(loader.state)["long"]["share"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("kind", LOADERS)
def test_spans_say_what_stood_in_the_rows(tmp_path: Path, kind: type[Loader]) -> None:
    """Read again from a state that was kept: the labels of the rows are those of the pieces, and nothing is moved."""
    shards = make(tmp_path, [[n + 1] * (n % 7) for n in range(40)])
    loader = kind(shards, 5, seed=3)
    loader.skip(7)
    kept = loader.state
    batch, after = loader.next_batch(9), loader.state
    spans = loader.spans(kept, 9)
    assert loader.state == after and {span.row for span in spans} == set(range(9))
    for row in range(9):
        texts = [shards.targets(span.document)[span.begin : span.end].tolist() for span in spans if span.row == row]
        found = batch.labels[row][batch.labels[row] != IGNORE].tolist()
        expected = [token for text in texts for token in text]
        assert found[:-1] == expected[:-1] and (found[-1] == expected[-1] or kind is TruncatedLoader)


def test_spans_by_hand(tmp_path: Path) -> None:
    """[11 12 13] and its end, for ever, in rows of 5."""
    loader = PackedLoader(make(tmp_path, [[11, 12, 13]]), 5, seed=1)
    expected = [Span(0, 0, 0, 4), Span(0, 0, 0, 1), Span(1, 0, 1, 4), Span(1, 0, 0, 2)]
    assert loader.spans(loader.state, 2) == expected


def test_a_copy_for_another_process_goes_on(tmp_path: Path) -> None:
    shards = make(tmp_path, [[n + 1] * (n % 7) for n in range(40)])
    for loader in (PackedLoader(shards, 5, 3), TruncatedLoader(shards, 5, 3, mix=Mix(temperature=1))):
        loader.skip(3)
        other = copy.copy(loader)
        same(other.next_batch(4), loader.next_batch(4))
        assert other.state == loader.state


def test_the_packing_is_chosen(tmp_path: Path) -> None:
    shards = make(tmp_path, [[1, 2]])
    assert type(open_loader("packed", shards, 4, 1)) is PackedLoader
    assert type(open_loader("truncated", shards, 4, 1)) is TruncatedLoader
    assert PACKINGS == ("packed", "whole", "truncated")


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


@pytest.mark.parametrize("mix", [None, Mix(temperature=1)])
def test_growing_rows_lose_no_token_and_read_none_twice(corpus: Path, mix: Mix | None) -> None:
    """Rows of 8, then 16, then 32 over an epoch: laid end to end, the labels are those of an epoch in rows of 8, and those are
    every token of every document once.
    """
    shards = Shards(corpus / "shards", "train")
    whole, loader = PackedLoader(shards, 8, seed=3, mix=mix), PackedLoader(shards, 8, seed=3, mix=mix)
    found, cut, size = list[int](), 0, shards.target_tokens
    for length in (8, 16, 32):
        loader, state = loader.at_length(length), loader.state
        assert loader.state == state and loader.length == length
        cut += state.offset > 0
        rows = size // 3 // length if length < 32 else -(-(size - len(found)) // length)  # the last: what is left
        found += loader.next_batch(rows).labels.ravel().tolist()
    assert cut > 0, "no document was cut at a border"
    expected = whole.next_batch(-(-size // 8)).labels.ravel().tolist()
    assert found[:size] == expected[:size]
    documents = [shards.targets(number).tolist() for number in range(shards.documents)]
    assert sorted(found[:size]) == sorted(token for document in documents for token in document)
