"""Examples on disk and the steps that are made of them: Arrow files that are mapped, not read, and a place in them that is two numbers.

    pairs       prompt_ids, chosen_ids, rejected_ids, margin (null: not known), source, messages, chosen, rejected
    unpaired    prompt_ids, completion_ids, label (true: good), source, messages, completion
    prompts     prompt_ids, source, messages, columns

`*_ids` are tokens: of the prompt up to where the assistant is to speak, and of an answer with its end. `messages` is the prompt as JSON, a list
of {"role", "content"}; `columns` is a JSON object, whatever else the record holds; the other texts are as they were given.

An epoch is all examples once, in an order shuffled by seed and epoch (train/shuffling.py), and a step takes the next ones: of its rows
each process gets its part, and all stand at the same place afterwards, so that a run can go on with another number of processes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import pyarrow
import pyarrow.ipc

from jielong.align.config import Kind
from jielong.errors import DataError
from jielong.runs import hash_file
from jielong.tokenizer.folder import TokenizerFolder
from jielong.train.orders import LoaderState
from jielong.train.shuffling import shuffled

pa: Any = pyarrow  # it has no types of its own

SPLITS = ("train", "validation")
REPORT = "preferences.json"
BATCH_ROWS = 256  # of a record batch: what is kept in memory before it is written
_IDS, _TEXT = pa.list_(pa.int32()), pa.string()
COLUMNS: dict[Kind, dict[str, Any]] = {
    "pairs": {
        "prompt_ids": _IDS, "chosen_ids": _IDS, "rejected_ids": _IDS, "margin": pa.float32(), "source": _TEXT, "messages": _TEXT,
        "chosen": _TEXT, "rejected": _TEXT,
    },
    "unpaired": {
        "prompt_ids": _IDS, "completion_ids": _IDS, "label": pa.bool_(), "source": _TEXT, "messages": _TEXT, "completion": _TEXT,
    },
    "prompts": {"prompt_ids": _IDS, "source": _TEXT, "messages": _TEXT, "columns": _TEXT},
}  # fmt: skip
PARTS: dict[Kind, tuple[str, ...]] = {"pairs": ("chosen", "rejected"), "unpaired": ("completion",), "prompts": ()}
Row = dict[str, Any]


class ExampleWriter:
    """Writes one split of examples, a batch at a time. Use as a context manager. The same rows give the same bytes."""

    def __init__(self, folder: Path, split: str, kind: Kind) -> None:
        self._schema = pa.schema(list(COLUMNS[kind].items()), metadata={"kind": kind})
        self._file = pa.OSFile(str(folder / f"{split}.arrow"), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._rows = list[Row]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
        finally:
            self._file.close()

    def add(self, row: Row) -> None:
        """Write an example, or keep it until there are enough."""
        self._rows.append(row)
        if len(self._rows) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows = []


class Examples:
    """One split of a folder that `preparing.prepare` has made."""

    def __init__(self, folder: Path, split: str) -> None:
        """Raises DataError for a file that cannot be used."""
        assert split in SPLITS, split
        self.folder, self.split, self.path = folder, split, folder / f"{split}.arrow"
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.path)))
            schema = self._file.schema
            self._batches = [self._file.get_batch(number) for number in range(self._file.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: {_cannot(error)}; {_remedy(folder)}") from None
        found = (schema.metadata or {}).get(b"kind", b"").decode("utf-8", "replace")
        known = {name: kind for name, kind in COLUMNS.items() if name == found}
        if not known or dict(zip(schema.names, schema.types, strict=True)) != known[next(iter(known))]:
            raise DataError(
                f"{self.path}: no examples of this version, got {found or 'something else'}; {_remedy(folder)}"
            )
        self.kind: Kind = next(iter(known))
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def row(self, number: int) -> Row:
        """An example: its columns as Python's own lists, texts and numbers, and `number`."""
        batch, place = self._place(number)
        found: Row = self._batches[batch].slice(place, 1).to_pylist()[0]
        return found | {"number": number}

    def source_of(self, number: int) -> str:
        """The name of the source that an example came from."""
        batch, place = self._place(number)
        return str(self._batches[batch].column("source")[place].as_py())

    def questions(self, count: int) -> list[str]:
        """What users say last in the first `count` different prompts."""
        found = dict[str, None]()
        for number in range(len(self)):
            if len(found) == count:
                break
            found[str(orjson.loads(self.row(number)["messages"])[-1]["content"])] = None
        return list(found)

    def order(self, seed: int, epoch: int) -> Iterator[int]:
        """The numbers of all examples, in the order of an epoch."""
        return (shuffled(place, len(self), seed, epoch) for place in range(len(self)))

    def verify(self) -> None:
        """Compare the file with its checksum. Raises DataError."""
        try:
            wanted = orjson.loads((self.folder / REPORT).read_bytes())["checksums"][self.split]
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder / REPORT}: {_cannot(error)}; {_remedy(self.folder)}") from None
        if hash_file(self.path) != wanted:
            raise DataError(f"{self.path}: damaged, its checksum differs from that in {REPORT}; {_remedy(self.folder)}")

    def _place(self, number: int) -> tuple[int, int]:
        assert 0 <= number < len(self), number
        batch = bisect_right(self._ends, number)
        return batch, number - (self._ends[batch - 1] if batch else 0)


def _cannot(error: Exception) -> str:
    return f"cannot be used ({type(error).__name__}: {str(error)[:200]})"


def _remedy(folder: Path) -> str:
    return f"delete {folder} and run the same command again"


# ---------------------------------------------------------------------------------------------------------- steps


@dataclass(frozen=True)
class ExampleStep:
    """What one process reads in a step."""

    batches: list[list[Row]]  # micro-batches, of its own rows
    labels: int  # examples, in the rows of all processes
    left_out: int = 0


class ExampleLoader:
    """An endless source of examples, with what the loop asks of a `train.loader.Loader`; a row is an example.

    `state` may be read, stored as JSON and set at any time; of it, `place` is one of the epoch's order.
    """

    order = None  # of sources: there is no mix

    def __init__(self, examples: Examples, seed: int, state: LoaderState | None = None) -> None:
        """Raises DataError for a split without an example."""
        if not len(examples):
            raise DataError(f"{examples.path}: it holds no example; give more")
        self.examples, self.seed, self.state = examples, seed, state or LoaderState()

    def step(self, rows: int, micro: int, rank: int = 0, world: int = 1) -> ExampleStep:
        """The rows of one step: `rows` in all, of which process `rank` of `world` gets its part, `micro` at a time.

        The parts are equal and one behind the other (`world` divides `rows`); the last micro-batch is smaller where `micro`
        does not divide a part. The state is that behind all the rows, for every process.
        """
        assert rows % world == 0 and 0 <= rank < world and micro > 0
        own = rows // world
        mine = [self.examples.row(number) for number in self._numbers(self.state, rank * own, own)]
        self.skip(rows)
        return ExampleStep([mine[at : at + micro] for at in range(0, own, micro)], rows)

    def skip(self, rows: int) -> None:
        """Pass over the next `rows` examples."""
        self.state = self._behind(self.state, rows)

    def at_length(self, sequence_length: int) -> ExampleLoader:
        """One that reads on where this one stands: itself, as examples have no common length."""
        return self

    def texts(self, state: LoaderState, rows: int, tokenizer: TokenizerFolder) -> list[dict[str, Any]]:
        """The `rows` examples behind a state as text, a prompt and each of its answers by itself, with place and source. Nothing is moved.

        `begin` and `end` are tokens from the prompt's first one on; `part` says what it is, of marked answers whether it is good.
        """
        found = list[dict[str, Any]]()
        for row, number in enumerate(self._numbers(state, 0, rows)):
            example = self.examples.row(number)
            size = len(example["prompt_ids"])
            pieces = [("prompt", 0, example["prompt_ids"])]
            for part in PARTS[self.examples.kind]:
                name = part if part != "completion" else "good" if example["label"] else "bad"
                pieces.append((name, size, example[f"{part}_ids"]))
            found += [
                {"row": row, "document": number, "source": example["source"], "begin": begin, "end": begin + len(ids),
                 "text": tokenizer.decode(ids), "part": name}
                for name, begin, ids in pieces
            ]  # fmt: skip
        return found

    def _behind(self, state: LoaderState, rows: int) -> LoaderState:
        return LoaderState(*divmod(state.epoch * len(self.examples) + state.place + rows, len(self.examples)))

    def _numbers(self, state: LoaderState, begin: int, count: int) -> list[int]:
        """The examples at the places `begin` to `begin + count` behind a state."""
        found, size = list[int](), len(self.examples)
        for ahead in range(begin, begin + count):
            here = self._behind(state, ahead)
            found.append(shuffled(here.place, size, self.seed, here.epoch))
        return found
