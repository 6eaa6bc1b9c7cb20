"""Mixes: the arithmetic by hand, the shares to within a document, the state, the refusals."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from jielong.errors import RecipeError
from jielong.tokenizer.shards.manifest import Scheme, write_manifest
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.writing import ShardWriter
from jielong.train.config import Config, check_together
from jielong.train.job import plan
from jielong.train.loader import LoaderState, Mixed, PackedLoader
from jielong.train.mixing import Mix, budget, furthest_behind, most, phase_shares, shares

AVAILABLE = {"web": 800, "books": 100, "law": 100}
PHASES = {
    "phases": [
        {"share": 3, "weights": {"web": 5, "books": 3, "law": 2}},
        {"share": 1, "weights": {"law": 1, "books": 3}},
    ]
}


def make(folder: Path, sizes: dict[str, list[int]], shard_tokens: int = 500) -> Shards:
    """Documents of given lengths (their end-of-text included), those of a source all of one token, sources taking turns."""
    rows = [(name, number, size) for name, row in sizes.items() for number, size in enumerate(row)]
    random.Random(1).shuffle(rows)
    with ShardWriter(folder, "train", Scheme(50, 0), shard_tokens, tuple(sizes)) as writer:
        for name, _, size in rows:
            writer.add(["文"], [[list(sizes).index(name) + 1] * (size - 1)], [name])
    write_manifest(folder, Scheme(50, 0), {"train": writer.summary()})
    return Shards(folder, "train")


def corpus(folder: Path) -> Shards:
    generator = random.Random(2)
    return make(folder, {name: [generator.randint(2, 60) for _ in range(n)] for name, n in
                         (("web", 900), ("books", 150), ("law", 120))}, 5000)  # fmt: skip


def test_shares_by_hand() -> None:
    """temperature 2: square roots of 800, 100, 100 = 28.28, 10, 10; their sum 48.28."""
    assert shares(Mix(weights={"web": 5, "law": 3}), AVAILABLE) == {"web": 0.625, "law": 0.375}
    assert shares(Mix(tokens={"web": 300, "books": 100}), AVAILABLE) == {"web": 0.75, "books": 0.25}
    assert shares(Mix(epochs={"web": 0.5, "books": 4}), AVAILABLE) == {"web": 0.5, "books": 0.5}
    assert shares(Mix(temperature=1), AVAILABLE) == {"web": 0.8, "books": 0.1, "law": 0.1}
    assert shares(Mix(temperature=2), AVAILABLE) == pytest.approx(
        {"web": 0.5858, "books": 0.2071, "law": 0.2071}, abs=1e-4
    )
    assert shares(Mix(temperature=1e9), AVAILABLE) == pytest.approx(dict.fromkeys(AVAILABLE, 1 / 3))


def test_shares_of_phases_by_hand() -> None:
    """Three quarters of the run at 0.5, 0.3, 0.2, the last one at 0, 0.75, 0.25: books 0.225 + 0.1875."""
    mix = Mix.model_validate(PHASES)
    assert phase_shares(mix, AVAILABLE) == [
        (0.75, {"web": 0.5, "books": 0.3, "law": 0.2}),
        (0.25, {"law": 0.25, "books": 0.75}),
    ]
    assert shares(mix, AVAILABLE) == pytest.approx({"web": 0.375, "books": 0.4125, "law": 0.2125})
    assert phase_shares(Mix(temperature=1), AVAILABLE) == [(1.0, {"web": 0.8, "books": 0.1, "law": 0.1})]


def test_budgets_by_hand() -> None:
    assert budget(Mix(tokens={"web": 300, "books": 100}), AVAILABLE) == 400
    assert budget(Mix(epochs={"web": 0.5, "books": 4}), AVAILABLE) == 800
    assert budget(Mix(weights={"web": 1}), AVAILABLE) is None
    assert most(Mix(weights={"web": 1, "law": 1}, max_epochs=2), AVAILABLE) == 1800
    assert plan(Config(tokens_per_step=100, micro_batch_tokens=100, sequence_length=10,
                       mix=Mix(epochs={"web": 0.5, "books": 4})), 16, AVAILABLE).total_steps == 8  # fmt: skip
    assert plan(Config(tokens_per_step=100, micro_batch_tokens=100, sequence_length=10, epochs=2,
                       mix=Mix(weights={"web": 1, "law": 1})), 16, AVAILABLE).total_steps == 18  # fmt: skip


def test_the_source_furthest_behind_has_its_turn() -> None:
    assert furthest_behind([0, 0], [0.5, 0.5], [True, True]) == 0
    assert furthest_behind([10, 3], [0.75, 0.25], [True, True]) == 1  # 13.3 and 12
    assert furthest_behind([10, 3], [0.75, 0.25], [True, False]) == 0


def test_five_to_three_to_two_within_one_percent(tmp_path: Path) -> None:
    """Half of the tokens from web, down-sampled; law is read several times, each time in another order."""
    shards = corpus(tmp_path)
    loader = PackedLoader(shards, 64, seed=3, mix=Mix(weights={"web": 5, "books": 3, "law": 2}))
    labels = np.concatenate([loader.next_batch(8).labels.ravel() for _ in range(60)])
    counts = np.bincount(labels, minlength=4)[1:4]  # without the end-of-text
    assert counts / counts.sum() == pytest.approx([0.5, 0.3, 0.2], abs=0.01)
    assert isinstance(loader.order, Mixed)
    report = loader.order.report(loader.state)
    assert [report[name]["share"] for name in ("web", "books", "law")] == pytest.approx([0.5, 0.3, 0.2], abs=0.005)
    assert report["web"]["epochs"] < 1 < 1.5 < report["law"]["epochs"]
    early = np.bincount(labels[:6000], minlength=4)[1:4]  # at every moment, not only in the end
    assert early / early.sum() == pytest.approx([0.5, 0.3, 0.2], abs=0.02)


def test_each_phase_has_its_own_mix_within_one_percent(tmp_path: Path) -> None:
    shards, mix = corpus(tmp_path), Mix.model_validate(PHASES)
    steps, tokens = 60, 8 * 64 * 60
    loader = PackedLoader(shards, 64, seed=3, mix=mix, tokens=tokens)
    labels = np.concatenate([loader.next_batch(8).labels.ravel() for _ in range(steps)])
    assert isinstance(loader.order, Mixed)
    parts = [labels[: tokens * 3 // 4 - 60], labels[tokens * 3 // 4 + 60 :]]  # but for a document at the border
    for part, wanted in zip(parts, ([0.5, 0.3, 0.2], [0, 0.75, 0.25]), strict=True):
        counts = np.bincount(part, minlength=4)[1:4]
        assert counts / counts.sum() == pytest.approx(wanted, abs=0.01)
    report = loader.order.report(loader.state)
    assert all(row["share"] == pytest.approx(row["wanted"], abs=0.01) for row in report.values())


def test_an_epoch_of_a_source_reads_each_document_once(tmp_path: Path) -> None:
    shards = make(tmp_path, {"a": [3, 4, 5, 6], "b": [7, 8]})
    mixed = Mixed(shards, 1, Mix(weights={"a": 1, "b": 1}))
    state, seen = mixed.first(), list[tuple[int, int]]()
    for _ in range(40):
        number = mixed.document(state)
        seen.append((mixed.source(state), number))
        state = mixed.after(state, len(shards.document(number)))
    for source, name in enumerate(mixed.names):
        numbers = [number for of, number in seen if of == source]
        size = len(shards.numbers_of(name))
        epochs = [numbers[at : at + size] for at in range(0, len(numbers) - size + 1, size)]
        assert len(epochs) > 2 and all(sorted(epoch) == shards.numbers_of(name).tolist() for epoch in epochs)
    firsts = [number for of, number in seen if of == 0]
    assert len({tuple(firsts[at : at + 4]) for at in range(0, 16, 4)}) > 1  # another order each time


@pytest.mark.parametrize("table", [{"temperature": 3}, PHASES])
def test_deterministic_and_resumable(tmp_path: Path, table: dict[str, Any]) -> None:
    shards = corpus(tmp_path)
    mix = Mix.model_validate(table)

    def rows(seed: int, broken: bool) -> list[Any]:
        loader, found = PackedLoader(shards, 30, seed=seed, mix=mix, tokens=40 * 60), []
        for _ in range(40):
            found.append(loader.next_batch(2).labels.tolist())
            if broken:  # stopped and started after every step
                state = LoaderState.from_json(loader.state.to_json())
                loader = PackedLoader(shards, 30, seed=seed, state=state, mix=mix, tokens=40 * 60)
        return found

    assert rows(1, broken=False) == rows(1, broken=True)
    assert rows(1, broken=False) != rows(2, broken=False)


def test_a_bound_on_passes_is_kept_and_the_others_give_more(tmp_path: Path) -> None:
    shards = make(tmp_path, {"small": [5] * 10, "large": [5] * 1000})
    mix = Mix(weights={"small": 1, "large": 1}, max_epochs=2)
    mixed = Mixed(shards, 1, mix)
    state = mixed.first()
    for _ in range(200):
        state = mixed.after(state, 5)
    assert [documents for documents, _ in state.taken] == [20, 180]


def test_more_than_the_bound_allows_is_refused() -> None:
    config = Config(tokens=3000, tokens_per_step=100, micro_batch_tokens=100, sequence_length=10,
                    mix=Mix(weights={"web": 1, "law": 1}, max_epochs=2))  # fmt: skip
    with pytest.raises(
        RecipeError, match=r"max_epochs: too small for the budget, got 2 passes, which are 1,800 tokens"
    ):
        plan(config, 16, AVAILABLE)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "give exactly one"),
        ({"weights": {"a": 1}, "temperature": 2}, "got weights, temperature"),
        ({"weights": {"a": 0}}, r"mix.weights.a: must be above 0, got 0"),
        ({"epochs": {"a": -1}}, r"mix.epochs.a: must be above 0"),
        ({"epochs": {"a": 1}, "max_epochs": 2}, "max_epochs: given together with epochs"),
        (PHASES | {"max_epochs": 2}, "max_epochs: given together with phases"),
        (PHASES | {"temperature": 2}, "got temperature, phases"),
        ({"phases": [{"share": 1}]}, "either weights or a temperature, got none"),
        (
            {"phases": [{"share": 1, "weights": {"a": 1}, "temperature": 2}]},
            "either weights or a temperature, got both",
        ),
        ({"phases": [{"share": 0, "weights": {"a": 1}}]}, "greater than 0"),
        ({"phases": [{"share": 1, "weights": {"a": -1}}]}, "weights.a: must be above 0"),
    ],
)
def test_what_a_mix_cannot_say(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Mix.model_validate(table)


def test_a_budget_said_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="says the budget by tokens or epochs"):
        Config(epochs=1, mix=Mix(tokens={"a": 100}))


def test_a_source_that_is_not_there() -> None:
    from jielong.data.config import Config as DataConfig
    from jielong.data.config import Source

    with pytest.raises(RecipeError, match="a source without training text, got poems; there are web, books, law"):
        shares(Mix(weights={"poems": 1}), AVAILABLE)
    sections = {
        "data": DataConfig(sources=(Source(name="web", path="x"),)),
        "train": Config(mix=Mix(weights={"wep": 1})),
    }
    assert "train.mix: unknown source, got wep; the sources are web; correct it" in check_together(sections)
