"""What a vocabulary costs in parameters: the embedding's share of models of the usual sizes.

A row of the embedding is as long as the model is wide, so a vocabulary that a 7B model does not feel takes half of a small
one: 151,936 rows of 896 are 136 million parameters, more than a quarter of a model of half a billion. This is the first thing
that a small team should look at when it takes over somebody's tokenizer.

The body of a model is counted as in jielong/model/cost.py (a Llama: attention with grouped keys, a gated feed-forward layer, two
norms a block and one at the end; the tests compare both). USUAL are widely used shapes of their size; a width that is not
among them gets GUESS: a block for every 64 of width, heads of 64, keys and values shared by 4, the Llama feed-forward.
That is an assumption, right within a factor of two for models up to about 1B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jielong.errors import InputError

WIDTHS = (16, 65_536)  # of --hidden


@dataclass(frozen=True)
class Shape:
    """A Llama-class transformer without its vocabulary."""

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    feed_forward: int

    def body(self) -> int:
        """All weights but the embedding and the output layer."""
        size = self.hidden // self.heads
        attention = 2 * self.hidden * self.heads * size + 2 * self.hidden * self.key_heads * size
        block = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        return self.layers * block + self.hidden


USUAL = (
    Shape("26M", 512, 8, 8, 2, 1408),
    Shape("0.1B", 768, 16, 8, 2, 2048),
    Shape("0.5B", 896, 24, 14, 2, 4864),
    Shape("1B", 2048, 16, 32, 8, 8192),
)


def guess(hidden: int) -> Shape:
    """The assumed shape of a model of some width."""
    blocks = max(1, hidden // 64)
    heads = next(heads for heads in range(blocks, 0, -1) if hidden % heads == 0)
    key_heads = heads // 4 if heads % 4 == 0 else heads
    return Shape(f"hidden {hidden:,}", hidden, blocks, heads, key_heads, -(-int(8 * hidden / 3) // 64) * 64)


def shapes(hidden: str | None) -> tuple[Shape, ...]:
    """The shapes of "512,768": usual ones where there is one of that width; None: all usual ones. Raises InputError."""
    if hidden is None:
        return USUAL
    known = {shape.hidden: shape for shape in USUAL}
    found = []
    for part in hidden.replace("，", ",").split(","):
        word = part.strip()
        if not (word.isascii() and word.isdigit()) or not WIDTHS[0] <= int(word) <= WIDTHS[1]:
            raise InputError(
                f"--hidden: not a width, got {word!r}; whole numbers from {WIDTHS[0]} to {WIDTHS[1]} with commas "
                "between; for example --hidden 512,768"
            )
        found.append(known.get(int(word)) or guess(int(word)))
    return tuple(dict.fromkeys(found))


def shares(vocab_size: int, wanted: tuple[Shape, ...]) -> list[dict[str, Any]]:
    """For each shape: `body` and `table` (one embedding) in parameters, and the share of embeddings in the whole, with the
    output layer sharing them (`tied`) and with one of its own (`untied`)."""
    rows = []
    for shape in wanted:
        body, table = shape.body(), vocab_size * shape.hidden
        rows.append({"name": shape.name, "hidden": shape.hidden, "layers": shape.layers, "body": body, "table": table,
                     "tied": table / (body + table), "untied": 2 * table / (body + 2 * table)})  # fmt: skip
    return rows
