"""Examples on disk, and steps of them: everything once an epoch, at any place, with any number of processes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.ipc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jielong.align import examples
from jielong.align.config import Kind
from jielong.align.encoding import encode
from jielong.align.examples import COLUMNS, ExampleLoader, Examples, ExampleWriter
from jielong.align.parsing import parse
from jielong.errors import DataError
from jielong.runs import hash_file, write_json
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train.orders import LoaderState
from tests.align.preferences import marked, pair

pa: Any = pyarrow
RECORDS: dict[Kind, Any] = {
    "pairs": lambda n: pair(n, **({"margin": n / 2} if n % 2 else {})),
    "unpaired": lambda n: marked(n, n % 3 > 0),
    "prompts": lambda n: {"prompt": f"{n} 加一等于几？", "answer": n + 1},
}


def make(folder: Path, template: ChatTemplate, kind: Kind, count: int, split: str = "train") -> list[dict[str, Any]]:
    """Examples on disk; returns their rows."""
    folder.mkdir(exist_ok=True)
    rows = [encode(template, parse(RECORDS[kind](n), kind)[0], 1000).row("甲乙"[n % 2]) for n in range(count)]
    with ExampleWriter(folder, split, kind) as file:
        for row in rows:
            file.add(row)
    return rows


@pytest.mark.parametrize("kind", list(COLUMNS))
def test_what_is_written_is_read(
    tmp_path: Path, template: ChatTemplate, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "BATCH_ROWS", 4)
    rows = make(tmp_path, template, kind, 11)
    found = Examples(tmp_path, "train")
    assert len(found) == 11 and found.kind == kind and found.split == "train"
    for number in random.Random(1).sample(range(11), 11):
        assert found.row(number) == rows[number] | {"number": number}
        assert found.source_of(number) == "甲乙"[number % 2]
    assert type(found.row(3)["prompt_ids"]) is list and type(found.row(3)["prompt_ids"][0]) is int
    for number in (-1, 11):
        with pytest.raises(AssertionError):
            found.row(number)


def test_the_same_rows_give_the_same_bytes_whatever_is_kept_in_memory(
    tmp_path: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        make(tmp_path / name, template, "pairs", 9)
    assert (tmp_path / "a" / "train.arrow").read_bytes() == (tmp_path / "b" / "train.arrow").read_bytes()
    table = pa.ipc.open_file(pa.memory_map(str(tmp_path / "a" / "train.arrow"))).read_all()
    assert table.column("margin").null_count == 5 and table.schema.field("margin").type == pa.float32()


def test_none_is_a_file_without_rows(tmp_path: Path, template: ChatTemplate) -> None:
    make(tmp_path, template, "prompts", 0)
    assert len(Examples(tmp_path, "train")) == 0
    with pytest.raises(DataError, match=r"train\.arrow: it holds no example; give more"):
        ExampleLoader(Examples(tmp_path, "train"), 1)


def test_files_that_are_none_of_ours(tmp_path: Path, template: ChatTemplate) -> None:
    def said(start: str) -> None:
        with pytest.raises(DataError) as caught:
            Examples(tmp_path, "train")
        text = str(caught.value)
        assert text.startswith(f"{tmp_path / 'train.arrow'}: {start}") and text.endswith(
            f"; delete {tmp_path} and run the same command again"
        )

    said("cannot be used (FileNotFoundError")
    path = tmp_path / "train.arrow"
    path.write_bytes(b"ARROW1\x00\x00 and nothing more")
    said("cannot be used (Arrow")
    make(tmp_path, template, "pairs", 3)
    path.write_bytes(path.read_bytes()[:-60])
    said("cannot be used (Arrow")
    for metadata in ({"kind": "pairs"}, {"kind": "odd"}, {}):
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([("a", pa.int64())], metadata)):
            pass
        said("no examples of this version, got ")


def test_checksums(tmp_path: Path, template: ChatTemplate) -> None:
    make(tmp_path, template, "pairs", 3)
    stored, path = Examples(tmp_path, "train"), tmp_path / "train.arrow"
    with pytest.raises(DataError, match=r"preferences\.json: cannot be used"):
        stored.verify()
    write_json(tmp_path / "preferences.json", {"checksums": {"train": hash_file(path)}})
    stored.verify()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=r"train\.arrow: damaged, its checksum differs from that in preferences\.json; delete "
    ):
        stored.verify()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, template: ChatTemplate) -> Examples:
    folder = tmp_path_factory.mktemp("examples")
    make(folder, template, "pairs", 13)
    return Examples(folder, "train")


def numbers(step: Any) -> list[int]:
    return [row["number"] for batch in step.batches for row in batch]


def test_every_example_once_an_epoch_in_another_order(stored: Examples) -> None:
    loader = ExampleLoader(stored, 1)
    epochs = [numbers(loader.step(13, 5)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert (
        epochs == [list(stored.order(1, epoch)) for epoch in range(3)] != [list(stored.order(2, n)) for n in range(3)]
    )
    assert loader.state == LoaderState(3, 0)


def test_a_step_in_micro_batches(stored: Examples) -> None:
    loader = ExampleLoader(stored, 1)
    step = loader.step(8, 3)
    assert [len(batch) for batch in step.batches] == [3, 3, 2] and (step.labels, step.left_out) == (8, 0)
    assert step.batches[0][0] == stored.row(numbers(step)[0])
    assert loader.state == LoaderState(0, 8) and loader.at_length(512) is loader and loader.order is None
    for rows, rank, world in ((3, 0, 2), (4, 2, 2)):
        with pytest.raises(AssertionError):
            loader.step(rows, 1, rank, world)


@settings(max_examples=80)
@given(
    st.integers(0, 5), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4), st.booleans()), min_size=1, max_size=8)
)
def test_any_cut_and_any_number_of_processes_read_the_same(
    stored: Examples, seed: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Each step with another number of processes, each process from the JSON of the state; some steps are passed over."""
    whole = ExampleLoader(stored, seed)
    stream = numbers(whole.step(sum(own * world for own, world, _ in steps), 7))
    state, at = LoaderState(), 0
    for own, world, skipped in steps:
        parts, states = list[int](), list[LoaderState]()
        for rank in range(world):
            loader = ExampleLoader(stored, seed, LoaderState.from_json(orjson.loads(orjson.dumps(state.to_json()))))
            if skipped:
                loader.skip(own * world)
            else:
                parts += numbers(loader.step(own * world, 2, rank, world))
            states.append(loader.state)
        assert skipped or parts == stream[at : at + own * world]
        state, at = states[0], at + own * world
        assert all(other == state for other in states) and state.place < len(stored)
    assert state == whole.state


def test_a_state_may_be_set(stored: Examples) -> None:
    loader = ExampleLoader(stored, 3)
    loader.step(9, 9)
    before = loader.state
    first = numbers(loader.step(20, 20))
    loader.state = before
    assert numbers(loader.step(20, 20)) == first


def test_rows_as_text(stored: Examples, tokenizer: TokenizerFolder) -> None:
    loader = ExampleLoader(stored, 1)
    loader.skip(11)
    before = loader.state
    found = loader.texts(before, 3, tokenizer)
    assert loader.state == before
    step = loader.step(3, 3)
    assert [part["document"] for part in found[::3]] == numbers(step) and [part["row"] for part in found] == [
        0,
        0,
        0,
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    row = step.batches[0][0]
    size = len(row["prompt_ids"])
    assert found[0] == {
        "row": 0, "document": row["number"], "source": row["source"], "begin": 0, "end": size,
        "text": f"user\n{row['number']} 加一等于几？\nassistant\n", "part": "prompt",
    }  # fmt: skip
    assert (found[1]["text"], found[1]["part"], found[1]["begin"]) == (row["chosen"], "chosen", size)
    assert (found[2]["text"], found[2]["part"], found[2]["end"]) == (
        "不知道呢。",
        "rejected",
        size + len(row["rejected_ids"]),
    )


@pytest.mark.parametrize(("kind", "parts"), [("unpaired", {"prompt", "good", "bad"}), ("prompts", {"prompt"})])
def test_rows_of_other_kinds_as_text(
    tmp_path: Path, template: ChatTemplate, tokenizer: TokenizerFolder, kind: Kind, parts: set[str]
) -> None:
    make(tmp_path, template, kind, 6)
    stored = Examples(tmp_path, "train")
    found = ExampleLoader(stored, 1).texts(LoaderState(), 6, tokenizer)
    assert {part["part"] for part in found} == parts
    for part in found:
        assert part["part"] == "prompt" or (part["part"] == "good") == stored.row(part["document"])["label"]
