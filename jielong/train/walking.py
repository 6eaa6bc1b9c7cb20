"""From document to document and from row to row, compiled: the loader's work, one call for all rows of a step.

The kernel reads ids and indexes where the memory maps lie: it is given their addresses, so that one call walks through
documents of many files without a copy and without Python between them. It walks through the rows of the whole step, of all ranks:
the documents of rows that are not ours are passed over by their lengths, which costs a look into the index, and no token of them is
read. Everything it needs is in arrays of numbers (orders.py, `Table`), and it takes part in nothing else: a state goes in, a state comes
out, so a call that is broken off or repeated changes nothing.

It does not hold the interpreter's lock. What an index says is checked before it is followed, for an address outside of a map
would end the process without a word.

The slow twin is `plain_rows` in loader.py. Measured by benchmarks/loader.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]  # the package has no types
from numba import carray, types  # type: ignore[attr-defined]  # numba names no exports
from numba.core import cgutils
from numba.extending import intrinsic

from jielong.data.compiled import kernel
from jielong.errors import ShardError
from jielong.tokenizer.shards.manifest import AGAIN
from jielong.tokenizer.shards.reading import Shards
from jielong.tokenizer.shards.views import IGNORE
from jielong.train.orders import LoaderState, Mixed, Natural
from jielong.train.shuffling import shuffle

INPUTS, LABELS, POSITIONS, DOCUMENTS = range(4)  # planes of what is laid
FIRST, IDS, STARTS, TOKENS = range(4)  # columns of the files: first document, two addresses, ids in the file
NUMBERS, SIZE, MOST = range(3)  # columns of the sources: an address (0: all documents), documents, bound (-1: none)


class Walk:
    """Rows of `length` tokens of shards in an order, of either packing."""

    def __init__(self, shards: Shards, order: Natural | Mixed, length: int, truncated: bool) -> None:
        assert shards.scheme.id_type.isnative
        self._shards, self._order, self._length, self._truncated = shards, order, length, truncated
        self._maps, self._table = list(shards.maps()), order.table()  # held for as long as their addresses are
        files = [(first, _address(ids), _address(starts), len(ids)) for first, ids, starts in self._maps]
        self._files = np.array(files, np.int64)
        table = self._table
        sources = [0 if numbers is None else _address(numbers) for numbers in table.numbers]
        self._sources = np.stack([np.array(sources), table.sizes, table.most], axis=1).astype(np.int64)
        skipped = (shards.tokens - shards.target_tokens) // shards.documents
        scheme = shards.scheme
        self._scheme = (scheme.id_type.itemsize, skipped, shards.start_id, shards.end_id, scheme.closes)

    def read(
        self, state: LoaderState, rows: int, first: int, count: int
    ) -> tuple[npt.NDArray[np.int64], LoaderState, int, int]:
        """Walk through `rows` rows from a state, and lay `count` of them from number `first` on.

        Returns an int64 array of shape (4, count, length) with inputs, labels, positions and documents; the state behind all
        the rows; the labels that count in all the rows; and the tokens of their documents that are in no row.
        """
        table, counts = self._table, self._order.counts(state)
        laid = np.empty((4, count, self._length), np.int64)
        offset, labels, left_out = walk(
            self._files, *self._scheme, self._sources, table.seeds, table.begins, table.wanted, table.due,
            counts, state.offset, self._length, self._truncated, rows, first, laid,
        )  # fmt: skip
        if offset < 0:
            raise ShardError(
                f"{self._shards.folder}: damaged shard, the index puts document {labels} outside of its file; {AGAIN}"
            )
        return laid, self._order.state(counts, offset), labels, left_out


def _address(array: npt.NDArray[Any]) -> int:
    assert array.flags.c_contiguous
    return int(array.ctypes.data)


def inlined(function: Any) -> Any:
    """A function that kernels call, whose body is written for the compiler: numba's `intrinsic`."""
    return intrinsic(function)


@inlined
def pointer(context: Any, address: Any) -> Any:
    """An address as what `carray` makes an array of."""

    def emit(target: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return build.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), emit


@kernel
def turn(sources: np.ndarray, begins: np.ndarray, wanted: np.ndarray, due: np.ndarray, counts: np.ndarray) -> int:
    """The number of the source whose turn it is: `Mixed.source`."""
    size = sources.shape[0]
    if size == 1:
        return 0
    phase = begins.shape[0] - 1
    if phase > 0:
        read = 0
        for s in range(size):
            read += counts[s, 1]
        while begins[phase] > read:
            phase -= 1
    shares, before = wanted[phase], due[phase]
    best, least = -1, np.inf
    for anyway in range(2):  # the bounds do not count when every source is at its own
        for s in range(size):
            if shares[s] > 0 and (anyway == 1 or sources[s, MOST] < 0 or counts[s, 0] < sources[s, MOST]):
                behind = (counts[s, 1] - before[s]) / shares[s]
                if behind < least:
                    best, least = s, behind
        if best >= 0:
            break
    return best


@kernel
def document_of(sources: np.ndarray, seeds: np.ndarray, source: int, taken: int) -> int:
    """The number of the document that a source gives when `taken` of its documents were read."""
    size = sources[source, SIZE]
    number: int = shuffle(taken % size, size, seeds[source], taken // size)
    if sources[source, NUMBERS] != 0:
        number = carray(pointer(sources[source, NUMBERS]), (size,), np.int64)[number]
    return number


@kernel
def file_of(files: np.ndarray, number: int) -> int:
    """The file that a document is in: the last one that begins at it or before it."""
    low, high = 0, files.shape[0]
    while high - low > 1:
        middle = (low + high) // 2
        if files[middle, FIRST] <= number:
            low = middle
        else:
            high = middle
    return low


@kernel
def token(address: int, width: int) -> int:
    """The id at an address."""
    found: int = carray(pointer(address), (1,), np.uint16)[0]
    if width == 4:
        found = carray(pointer(address), (1,), np.uint32)[0]
    return found


@kernel
def lay(
    laid: np.ndarray, row: int, column: int, address: int, width: int, count: int, before: int, number: int
) -> None:
    """Lay `count` tokens from an address into a row from a column on. before: the input of the first of them."""
    inputs, labels = laid[INPUTS, row, column : column + count], laid[LABELS, row, column : column + count]
    positions, documents = laid[POSITIONS, row, column : column + count], laid[DOCUMENTS, row, column : column + count]
    if width == 2:
        narrow = carray(pointer(address), (count,), np.uint16)
        for i in range(count):
            labels[i] = narrow[i]
    else:
        wide = carray(pointer(address), (count,), np.uint32)
        for i in range(count):
            labels[i] = wide[i]
    inputs[0] = before
    for i in range(1, count):
        inputs[i] = labels[i - 1]
    for i in range(count):
        positions[i] = i
        documents[i] = number


@kernel
def pad(laid: np.ndarray, row: int, column: int, end_id: int) -> None:
    """Fill a row up from a column on: end-of-text that nothing attends to and nothing is asked of."""
    for i in range(column, laid.shape[2]):
        laid[INPUTS, row, i] = end_id
        laid[LABELS, row, i] = IGNORE
        laid[POSITIONS, row, i] = i - column
        laid[DOCUMENTS, row, i] = 1


@kernel
def walk(
    files: np.ndarray, width: int, skipped: int, start_id: int, end_id: int, closes: bool,
    sources: np.ndarray, seeds: np.ndarray, begins: np.ndarray, wanted: np.ndarray, due: np.ndarray,
    counts: np.ndarray, offset: int, length: int, truncated: bool, rows: int, first: int, laid: np.ndarray,
) -> tuple[int, int, int]:  # fmt: skip
    """See `Walk.read`. `counts` is changed. Returns offset, labels, tokens left out; (-1, number, 0) for a document that can
    not be where the index puts it.
    """
    row, column, piece, labels, left_out, source, begin, size, base, fresh = 0, 0, 0, 0, 0, 0, 0, 0, 0, True
    while row < rows:
        if fresh:
            source = turn(sources, begins, wanted, due, counts)
            number = document_of(sources, seeds, source, counts[source, 0])
            file = file_of(files, number)
            local = number - files[file, FIRST]
            starts = carray(pointer(files[file, STARTS]), (local + 2,), np.int64)
            begin, size, base = starts[local] + skipped, starts[local + 1] - starts[local] - skipped, files[file, IDS]
            if begin < skipped or size < 0 or begin + size > files[file, TOKENS] or offset > size:
                return -1, number, 0
            fresh = False
        count = min(size - offset, length - column)
        ours = first <= row < first + laid.shape[1]
        if ours and count > 0:
            address = base + width * (begin + offset)
            before = token(address - width, width) if offset > 0 else start_id
            lay(laid, row - first, column, address, width, count, before, piece)
        if count > 0:
            labels, column, offset, piece = labels + count, column + count, offset + count, piece + 1
        read = size
        if truncated and count > 0:
            if ours:
                if offset < size and closes:
                    laid[LABELS, row - first, column - 1] = end_id
                pad(laid, row - first, column, end_id)
            left_out += size - offset
            read, offset, column = count, size, length
        if offset == size:
            counts[source, 0] += 1
            counts[source, 1] += read
            offset, fresh = 0, True
        if column == length:
            row, column, piece = row + 1, 0, 0
    return offset, labels, left_out
