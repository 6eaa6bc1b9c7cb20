"""What is counted while conversations are prepared, and the few of them that are shown: `conversations.json`, which the page is made of.

Everything that was read is training, validation or a reject with a reason, of each source and in all; `report` refuses to say anything
else. Examples are those with the smallest hash of each source, so that they are a sample, and the same one each time.
"""

from __future__ import annotations

import bisect
from collections import Counter
from typing import Any

import xxhash

from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.shards.inspecting import piece
from jielong.tune.checking import REASONS
from jielong.tune.config import Source
from jielong.tune.cutting import Cut

SPLITS = ("train", "validation")
EXAMPLES, EXAMPLE_TOKENS = 12, 600  # conversations shown in all, and tokens of each
REJECTS, REJECT_CHARS = 4, 400  # records shown of each reason, and characters of each
TURN_EDGES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 25, 33, 49, 65, 129, 257, 1 << 16)
COUNTED = ("tokens", "learned_tokens", "learned_bytes", "learned_characters")


def token_edges(length: int) -> list[int]:
    """Borders of a histogram of tokens: two to a doubling, up to above `length`."""
    edges, halves = [1, 2], 2
    while edges[-1] <= length:
        halves += 1
        edges.append(round(2 ** (halves / 2)))
    return edges


class Tally:
    """The counts of one source."""

    def __init__(self) -> None:
        self.read = self.shortened = self.left_out = 0
        self.kept = dict.fromkeys(SPLITS, 0)
        self.rejected: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()

    def report(self) -> dict[str, Any]:
        """For JSON. Nothing has vanished."""
        assert self.read == sum(self.kept.values()) + self.rejected.total(), "conversations are missing"
        return {
            "read": self.read,
            **self.kept,
            "rejected": {reason: self.rejected[reason] for reason in REASONS if self.rejected[reason]},
            "shortened": self.shortened,
            "exchanges_left_out": self.left_out,
            **{key: self.sizes[key] for key in COUNTED},
        }


class Summary:
    """The counts of all sources, and what is shown."""

    def __init__(self, sources: tuple[Source, ...], length: int) -> None:
        self.by_source = {source.name: Tally() for source in sources}
        self._histograms = {"lengths": token_edges(length), "turns": list(TURN_EDGES)}
        self._bins = {
            (name, split): [0] * (len(edges) - 1) for name, edges in self._histograms.items() for split in SPLITS
        }
        self._each = max(1, EXAMPLES // len(sources))
        self._examples: dict[str, list[tuple[int, dict[str, Any], Cut]]] = {name: [] for name in self.by_source}
        self.rejects: dict[str, list[dict[str, Any]]] = {}

    # --------------------------------------------------------------------------------------------- counting

    def keep(self, source: str, split: str, cut: Cut, left_out: int, place: tuple[str, int]) -> None:
        """Count a conversation that is kept. left_out: its exchanges that did not fit; place: file and line."""
        tally = self.by_source[source]
        tally.kept[split] += 1
        tally.shortened += left_out > 0
        tally.left_out += left_out
        counted = (len(cut.ids), int(cut.learned.sum()), cut.text_bytes, cut.characters)
        tally.sizes.update(dict(zip(COUNTED, counted, strict=True)))
        turns = len(cut.conversation.questions)
        for name, value in (("lengths", len(cut.ids)), ("turns", turns)):
            edges = self._histograms[name]
            self._bins[name, split][min(bisect.bisect_right(edges, value), len(edges) - 1) - 1] += 1
        chance = xxhash.xxh3_64_intdigest(cut.ids.tobytes())
        listed = self._examples[source]
        if len(listed) < self._each or chance < listed[-1][0]:
            known = {
                "source": source,
                "split": split,
                "file": place[0],
                "line": place[1],
                "turns": turns,
                "left_out": left_out,
            }
            listed.append((chance, known, cut))
            listed.sort(key=lambda item: item[0])
            del listed[self._each :]

    def reject(self, source: str, reason: str, detail: str, place: tuple[str, int], text: str) -> None:
        """Count a record that is set aside."""
        self.by_source[source].rejected[reason] += 1
        shown = self.rejects.setdefault(reason, [])
        if len(shown) < REJECTS:
            shown.append(
                {"source": source, "file": place[0], "line": place[1], "detail": detail, "text": text[:REJECT_CHARS]}
            )

    # ------------------------------------------------------------------------------------------------ asked

    @property
    def read(self) -> int:
        """Records that were read."""
        return sum(tally.read for tally in self.by_source.values())

    def kept(self, split: str) -> int:
        """Conversations of a split."""
        return sum(tally.kept[split] for tally in self.by_source.values())

    @property
    def rejected(self) -> Counter[str]:
        """Records that were set aside, by reason."""
        return sum((tally.rejected for tally in self.by_source.values()), Counter[str]())

    def report(self, tokenizer: TokenizerFolder) -> dict[str, Any]:
        """Everything, for JSON and the page."""
        whole = Tally()
        for tally in self.by_source.values():
            whole.read += tally.read
            whole.shortened += tally.shortened
            whole.left_out += tally.left_out
            whole.kept = {split: whole.kept[split] + tally.kept[split] for split in SPLITS}
            whole.rejected += tally.rejected
            whole.sizes += tally.sizes
        return {
            **whole.report(),
            "by_source": {name: tally.report() for name, tally in self.by_source.items()},
            **{
                name: {"edges": edges, **{split: self._bins[name, split] for split in SPLITS}}
                for name, edges in self._histograms.items()
            },
            "examples": [
                {**known, **_tokens(cut, tokenizer)} for listed in self._examples.values() for _, known, cut in listed
            ],
            "rejects": {reason: self.rejects[reason] for reason in REASONS if reason in self.rejects},
        }


def _tokens(cut: Cut, tokenizer: TokenizerFolder) -> dict[str, Any]:
    """The tokens of a conversation that is shown, and how many there are in all."""
    ids = cut.ids[:EXAMPLE_TOKENS].tolist()
    return {
        "tokens": len(cut.ids),
        "learned_tokens": int(cut.learned.sum()),
        "shown": [
            [number, piece(tokenizer, number), int(mark)]
            for number, mark in zip(ids, cut.learned.tolist(), strict=False)
        ],
    }
