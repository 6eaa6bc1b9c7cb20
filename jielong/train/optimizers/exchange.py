"""How ranks divide a list of matrices, so that each is worked on once, and exchange what they have made.

Every matrix has an owner; costs are balanced (the largest first, each to the rank with least so far). Two ways:

    all have everything (DDP)      each works on its own, then all give each other their results: one all_gather
    each has some rows (FSDP2)     rows go to their owner, and results back: two all_to_all_single

What travels are bytes, in the type of the work, so that gloo, which knows few types, carries them as NCCL does. All ranks call in the same
order, with the same shapes. A list is cut into `buckets` first, so that a rank holds about 16 MB of what others made (and,
with DDP, as much from each of them) at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

BUCKET = 1 << 23  # elements for each rank
Shape = tuple[int, int]
T = TypeVar("T")


class Ranks(NamedTuple):
    """This process among those that share the work."""

    rank: int = 0
    size: int = 1
    group: Any = None  # torch's ProcessGroup; None: the one of all processes


def rows_of(high: int, ranks: Ranks, rank: int) -> int:
    """How many of `high` rows lie on a rank: torch.chunk's way, which FSDP2 divides by. The last ones may have none."""
    each = -(-high // ranks.size)
    return max(0, min(high, (rank + 1) * each) - rank * each)


def owners(shapes: Sequence[Shape], size: int) -> list[int]:
    """Who works on which: the costs of ranks differ by one matrix at most."""
    loads, found = [0] * size, [0] * len(shapes)
    for number in sorted(range(len(shapes)), key=lambda n: (-_cost(shapes[n]), n)):
        found[number] = rank = loads.index(min(loads))
        loads[rank] += _cost(shapes[number])
    return found


def _cost(shape: Shape) -> int:
    """Proportional to the operations of Newton-Schulz, nearly: min^2 x max."""
    return min(shape) ** 2 * max(shape)


def buckets(shapes: Sequence[Shape], size: int) -> Iterator[list[int]]:
    """Numbers of matrices that are exchanged together, those of one shape beside each other."""
    found: list[int] = []
    filled = 0
    for number in sorted(range(len(shapes)), key=lambda n: (shapes[n], n)):
        elements = shapes[number][0] * shapes[number][1]
        if found and filled + elements > BUCKET * size:
            yield found
            found, filled = [], 0
        found.append(number)
        filled += elements
    if found:
        yield found


def gathered(
    made: Sequence[Tensor], shapes: Sequence[Shape], owned: Sequence[int], ranks: Ranks, like: Tensor
) -> list[Tensor]:
    """All matrices, from each rank's own in `made` (in the order of the list). like: of the type and device of them."""
    import torch.distributed as dist

    sizes = [sum(a * b for a, b in _of(shapes, owned, rank)) for rank in range(ranks.size)]
    mine = like.new_zeros(max(sizes))
    if made:
        torch.cat([matrix.reshape(-1) for matrix in made], out=mine[: sizes[ranks.rank]])
    all_of_them = like.new_empty(ranks.size, len(mine))
    dist.all_gather(list(_bytes(all_of_them).unbind(0)), _bytes(mine), group=ranks.group)
    parts = [iter(cut(row, [a * b for a, b in _of(shapes, owned, rank)])) for rank, row in enumerate(all_of_them)]
    return [next(parts[owner]).view(shape) for shape, owner in zip(shapes, owned, strict=True)]


def brought(
    rows: Sequence[Tensor], shapes: Sequence[Shape], owned: Sequence[int], ranks: Ranks, like: Tensor
) -> list[Tensor]:
    """The whole matrices that this rank owns (in the order of the list), from the `rows` of each matrix on each rank."""
    mine = _of(shapes, owned, ranks.rank)
    outgoing = [_of(rows, owned, rank) for rank in range(ranks.size)]
    incoming = [[rows_of(high, ranks, rank) * wide for high, wide in mine] for rank in range(ranks.size)]
    parts = _swapped(outgoing, incoming, ranks, like)
    return [torch.cat([part[number] for part in parts]).view(shape) for number, shape in enumerate(mine)]


def sent_back(
    made: Sequence[Tensor], shapes: Sequence[Shape], owned: Sequence[int], ranks: Ranks, like: Tensor
) -> list[Tensor]:
    """This rank's rows of every matrix, from the whole ones that each rank owns: the way back of `brought`."""
    pieces = [cut(matrix, [rows_of(len(matrix), ranks, rank) for rank in range(ranks.size)]) for matrix in made]
    outgoing = [[piece[rank] for piece in pieces] for rank in range(ranks.size)]
    local = [(rows_of(high, ranks, ranks.rank), wide) for high, wide in shapes]
    incoming = [[a * b for a, b in _of(local, owned, rank)] for rank in range(ranks.size)]
    parts = [iter(part) for part in _swapped(outgoing, incoming, ranks, like)]
    return [next(parts[owner]).view(shape) for shape, owner in zip(local, owned, strict=True)]


def _swapped(
    outgoing: Sequence[Sequence[Tensor]], incoming: Sequence[Sequence[int]], ranks: Ranks, like: Tensor
) -> list[list[Tensor]]:
    """What each rank sent to this one, flat tensors. outgoing: tensors for each rank; incoming: how large those from each are."""
    import torch.distributed as dist

    item = like.element_size()
    leaving = [sum(tensor.numel() for tensor in tensors) for tensors in outgoing]
    coming = [sum(sizes) for sizes in incoming]
    sent, received = like.new_empty(sum(leaving)), like.new_empty(sum(coming))
    flat = [tensor.reshape(-1) for tensors in outgoing for tensor in tensors]
    if flat:
        torch.cat(flat, out=sent)
    dist.all_to_all_single(
        _bytes(received), _bytes(sent), [item * n for n in coming], [item * n for n in leaving], group=ranks.group
    )
    return [cut(part, sizes) for part, sizes in zip(cut(received, coming), incoming, strict=True)]


def _of(things: Sequence[T], owned: Sequence[int], rank: int) -> list[T]:
    return [thing for thing, owner in zip(things, owned, strict=True) if owner == rank]


def cut(tensor: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Pieces of these lengths, one after the other, along the first dimension; what is left is left out."""
    ends = [0, *itertools.accumulate(sizes)]
    return [tensor[start:end] for start, end in itertools.pairwise(ends)]


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)
