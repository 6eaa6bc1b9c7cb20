"""The compiled steps of learning merges: counting pairs, merging them in pieces, the table of pairs, the heap.

`bpe_merges` holds the arrays and says what they mean. Here:

    keys, counts     an open hash table: a pair as left << 32 | right -> how often it occurs, weighted by its pieces
    heap             four rows: count, key, and where the pair's list of pieces begins and ends; the largest count first,
                     and of equal counts the smallest key
    beside, pieces, last, touched, noted
                     what one merge found left (row 0) and right (row 1) of the token that arose: indexed by the
                     neighbour's id its weight, the number of pieces and the last one; the neighbours; and all of it one
                     after the other as (neighbour, piece), where a right neighbour is written ~id

The twin of all of it is `bpe_merges.learn_merges_plain`.
"""

from __future__ import annotations

import numpy as np

from jielong.data.compiled import kernel

EMPTY = -1
PAIR_FACTOR = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
BYTE_PAIRS = 1 << 16


@kernel
def to_ids(raw, ids, symbols):  # type: ignore[no-untyped-def]
    """The id of each byte."""
    for at in range(len(symbols)):
        symbols[at] = ids[raw[at]]


@kernel
def count_byte_pairs(raw, starts, weights):  # type: ignore[no-untyped-def]
    """For each pair of bytes how often it occurs, and in how many pieces."""
    counts, listed = np.zeros(BYTE_PAIRS, np.int64), np.zeros(BYTE_PAIRS, np.int64)
    last = np.full(BYTE_PAIRS, EMPTY, np.int32)
    for piece in range(len(weights)):
        for at in range(starts[piece], starts[piece + 1] - 1):
            pair = np.int64(raw[at]) << 8 | np.int64(raw[at + 1])
            counts[pair] += weights[piece]
            if last[pair] != piece:
                last[pair] = piece
                listed[pair] += 1
    return counts, listed


@kernel
def list_byte_pairs(raw, starts, places, lists):  # type: ignore[no-untyped-def]
    """Write the pieces of each pair of bytes from its place on; EMPTY: not listed."""
    last = np.full(BYTE_PAIRS, EMPTY, np.int32)
    for piece in range(len(starts) - 1):
        for at in range(starts[piece], starts[piece + 1] - 1):
            pair = np.int64(raw[at]) << 8 | np.int64(raw[at + 1])
            if places[pair] != EMPTY and last[pair] != piece:
                last[pair] = piece
                lists[places[pair]] = piece
                places[pair] += 1


@kernel
def _place_of(keys, key):  # type: ignore[no-untyped-def]
    """Where a pair stands in the table, or could stand."""
    mask = np.uint64(len(keys) - 1)
    place = (np.uint64(key) * np.uint64(PAIR_FACTOR)) >> np.uint64(32) & mask
    while keys[place] != key and keys[place] != EMPTY:
        place = (place + np.uint64(1)) & mask
    return place


@kernel
def get(keys, counts, key):  # type: ignore[no-untyped-def]
    """The count of a pair, -1 if it is not in the table."""
    place = _place_of(keys, key)
    return counts[place] if keys[place] == key else np.int64(-1)


@kernel
def put(keys, counts, key, count):  # type: ignore[no-untyped-def]
    """Set a count; 1 if the pair is new."""
    place = _place_of(keys, key)
    new = keys[place] == EMPTY
    keys[place], counts[place] = key, count
    return np.int64(new)


@kernel
def _lower(keys, counts, key, change):  # type: ignore[no-untyped-def]
    place = _place_of(keys, key)
    if keys[place] == key:
        counts[place] -= change


@kernel
def move_pairs(old_keys, old_counts, keys, counts, least):  # type: ignore[no-untyped-def]
    """Fill a larger table with the pairs that are not too rare; their number."""
    used = 0
    for place in range(len(old_keys)):
        if old_keys[place] != EMPTY and old_counts[place] >= least:
            used += put(keys, counts, old_keys[place], old_counts[place])
    return used


@kernel
def _before(heap, one, other):  # type: ignore[no-untyped-def]
    """Whether an entry comes before another."""
    if heap[0, one] != heap[0, other]:
        return heap[0, one] > heap[0, other]
    return heap[1, one] < heap[1, other]


@kernel
def _swap(heap, one, other):  # type: ignore[no-untyped-def]
    for row in range(4):
        heap[row, one], heap[row, other] = heap[row, other], heap[row, one]


@kernel
def push_entry(heap, size, count, key, begin, end):  # type: ignore[no-untyped-def]
    """A new entry; the size of the heap."""
    heap[0, size], heap[1, size], heap[2, size], heap[3, size] = count, key, begin, end
    at = size
    while at > 0 and _before(heap, at, (at - 1) // 2):
        _swap(heap, at, (at - 1) // 2)
        at = (at - 1) // 2
    return size + 1


@kernel
def _sink(heap, size):  # type: ignore[no-untyped-def]
    """The first entry goes down to where it belongs."""
    at = 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, at):
            break
        _swap(heap, at, child)
        at = child


@kernel
def pop(heap, size):  # type: ignore[no-untyped-def]
    """Take the first entry away; the size of the heap."""
    _swap(heap, 0, size - 1)
    _sink(heap, size - 1)
    return size - 1


@kernel
def settle(heap, size, keys, counts, least):  # type: ignore[no-untyped-def]
    """Bring an entry to the top whose count is right; the size of the heap."""
    while size:
        count = get(keys, counts, heap[1, 0])
        if count < least:
            size = pop(heap, size)
        elif count == heap[0, 0]:
            break
        else:
            heap[0, 0] = count
            _sink(heap, size)
    return size


@kernel
def keep_alive(heap, size, keys, counts, least):  # type: ignore[no-untyped-def]
    """Only the entries whose pair is not too rare, with their right counts; the size of the heap."""
    kept = 0
    for at in range(size):
        count = get(keys, counts, heap[1, at])
        if count >= least:
            kept = push_entry(heap, kept, count, heap[1, at], heap[2, at], heap[3, at])
    return kept


@kernel
def close_gaps(heap, order, lists):  # type: ignore[no-untyped-def]
    """Move the lists of all entries together, in the order of their places; the places that are used."""
    used = 0
    for entry in order:
        begin, end = heap[2, entry], heap[3, entry]
        for at in range(begin, end):
            lists[used + at - begin] = lists[at]
        heap[2, entry], heap[3, entry] = used, used + end - begin
        used += end - begin
    return used


@kernel
def _note(side, other, piece, weight, found, notes, beside, pieces, last, touched, noted):  # type: ignore[no-untyped-def]
    """One neighbour, in one piece; how many different neighbours and notes there are."""
    if last[side, other] == EMPTY:
        touched[side, found] = other
        found += 1
    beside[side, other] += weight
    if last[side, other] != piece:
        last[side, other] = piece
        pieces[side, other] += 1
        noted[0, notes], noted[1, notes] = (~other if side else other), piece
        notes += 1
    return found, notes


@kernel
def merge_pieces(  # type: ignore[no-untyped-def]
    symbols, starts, lengths, weights, listed, left, right, number, beside, pieces, last, touched, noted
):
    """Merge a pair in the pieces of its list; the numbers of left neighbours, right neighbours and notes."""
    lefts = rights = notes = 0
    for piece in listed:
        start, length, weight = starts[piece], lengths[piece], weights[piece]
        read = write = start
        end = start + length
        while read < end:
            symbol = symbols[read]
            if symbol == left and read + 1 < end and symbols[read + 1] == right:
                if write > start:
                    other = np.int64(symbols[write - 1])
                    lefts, notes = _note(0, other, piece, weight, lefts, notes, beside, pieces, last, touched, noted)
                if read + 2 < end:
                    other = np.int64(symbols[read + 2])
                    rights, notes = _note(1, other, piece, weight, rights, notes, beside, pieces, last, touched, noted)
                symbols[write] = number
                read += 2
            else:
                symbols[write] = symbol
                read += 1
            write += 1
        lengths[piece] = write - start
    return lefts, rights, notes


@kernel
def look_around(  # type: ignore[no-untyped-def]
    symbols, starts, lengths, weights, number, beside, pieces, last, touched, noted
):
    """As merge_pieces, of all pieces and of a token that stands there already."""
    lefts = rights = notes = 0
    for piece in range(len(weights)):
        start, end, weight = starts[piece], starts[piece] + lengths[piece], weights[piece]
        for at in range(start, end):
            if symbols[at] == number:
                if at > start:
                    other = np.int64(symbols[at - 1])
                    lefts, notes = _note(0, other, piece, weight, lefts, notes, beside, pieces, last, touched, noted)
                if at + 1 < end:
                    other = np.int64(symbols[at + 1])
                    rights, notes = _note(1, other, piece, weight, rights, notes, beside, pieces, last, touched, noted)
    return lefts, rights, notes


@kernel
def introduce(  # type: ignore[no-untyped-def]
    left,
    right,
    number,
    lefts,
    rights,
    notes,
    least,
    beside,
    pieces,
    last,
    place,
    touched,
    noted,
    keys,
    counts,
    heap,
    lists,
    sizes,
):
    """The pairs around a token that is new: the pairs that were there lose, the new ones are entered with their lists, and
    the sums are cleared. `sizes`: pairs in the table, entries in the heap, places of the lists."""
    # a b a b: the second a, right of the first token, became part of the next one
    if last[0, number] != EMPTY:
        beside[1, left] -= beside[0, number]
    for side in range(2):
        for entry in range(lefts if side == 0 else rights):
            other = np.int64(touched[side, entry])
            weight = beside[side, other]
            if side == 0:
                _lower(keys, counts, other << 32 | left, weight)
            elif other == left and last[0, number] != EMPTY:
                _lower(keys, counts, right << 32 | other, weight + beside[0, number])
            else:
                _lower(keys, counts, right << 32 | other, weight)
    for side in range(2):
        for entry in range(lefts if side == 0 else rights):
            other = np.int64(touched[side, entry])
            count = beside[side, other]
            place[side, other] = EMPTY
            if count >= least:
                key = other << 32 | number if side == 0 else number << 32 | other
                begin = sizes[2]
                sizes[2] += pieces[side, other]
                sizes[0] += put(keys, counts, key, count)
                sizes[1] = push_entry(heap, sizes[1], count, key, begin, sizes[2])
                place[side, other] = begin
    for note in range(notes):
        other = np.int64(noted[0, note])
        side = 0
        if other < 0:
            side, other = 1, ~other
        if place[side, other] != EMPTY:
            lists[place[side, other]] = noted[1, note]
            place[side, other] += 1
    for side in range(2):
        for entry in range(lefts if side == 0 else rights):
            other = touched[side, entry]
            beside[side, other] = 0
            pieces[side, other] = 0
            last[side, other] = EMPTY
