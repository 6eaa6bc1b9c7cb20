"""From the documents of a corpus to what is removed: fragments found, judged, marked by a person, turned into n-grams.

    keys       gram_hashes of each chunk, distinct in each document                    grams.py
    frequent   those of at least min_documents documents                             the pipeline
    mine       fragments, their points, what the listing says, the n-grams that go   fragments.py, judging.py, here
    remove     the n-grams cut out of each document that holds one                    removing.py

An n-gram goes if its fragment does, unless more than twice as many documents hold it as the middle one of the
fragment's: then it is a phrase that the fragment shares with others (the n-grams around it cover its letters all the
same).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jielong.data.mining.counting import Chunk
from jielong.data.mining.fragments import Fragment, find_fragments
from jielong.data.mining.grams import Hashes
from jielong.data.mining.judging import Verdict, judge
from jielong.data.mining.listing import Mark, Row
from jielong.data.mining.removing import entries, merge
from jielong.data.steps import Fragments

BESIDE = 0.7  # share of a fragment's occurrences beside an advert in one line, from which it is a part of it
SHARED = 2  # times the middle count of a fragment, above which an n-gram is not its own


@dataclass(frozen=True)
class Judged:
    """A fragment and what happens to it."""

    fragment: Fragment
    verdict: Verdict
    action: str  # remove or keep
    by: str  # judge or listing

    def row(self) -> Row:
        """Its line in the listing."""
        fragment, evidence = self.fragment, self.verdict.evidence
        evidence += (f"{fragment.sources} sources",) if fragment.sources > 1 else ()
        evidence += ("marked by hand",) if self.by == "listing" else ()
        return Row(
            self.action, self.verdict.score, fragment.documents, fragment.occurrences, evidence, fragment.example,
            fragment.contexts,
        )  # fmt: skip


@dataclass(frozen=True)
class Mined:
    """All fragments, the most frequent first, and the sorted n-grams that `remove` cuts."""

    fragments: tuple[Judged, ...]
    gone: Hashes

    def rows(self) -> list[Row]:
        """The lines of the listing."""
        return [one.row() for one in self.fragments]


def mine(chunks: Iterable[Chunk], frequent: Hashes, options: Fragments, listing: Sequence[Mark] = ()) -> Mined:
    """Find and judge the fragments of some documents.

    chunks: gone through three times or more (a list, or an object whose __iter__ begins anew); documents without a frequent
    key may be left out. frequent: sorted keys that stand in at least min_documents documents. listing: what a person
    marked (listing.read_listing), which wins over the judge.
    """
    speakers: dict[int, list[int]] = {}  # n-gram -> lines of the listing
    for number, mark in enumerate(listing):
        for gram in set(mark.grams):
            speakers.setdefault(gram, []).append(number)
    judged, parts = [], []
    heard: set[int] = set()
    fragments = find_fragments(chunks, frequent, options.min_chars, options.min_documents)
    for fragment, verdict in zip(fragments, verdicts(fragments), strict=True):
        says = _said(fragment, listing, speakers) if speakers else []
        heard.update(says)
        if says:
            action, by = listing[says[0]].action, "listing"
        else:
            action, by = "remove" if verdict.advert and options.remove == "adverts" else "keep", "judge"
        if options.remove == "none":
            action = "keep"
        judged.append(Judged(fragment, verdict, action, by))
        if action == "remove":
            own = fragment.counts <= SHARED * np.median(fragment.counts)
            parts.append(entries(fragment.grams[own & fragment.wide], _half(fragment.typical * fragment.wide.mean())))
            parts.append(entries(fragment.grams[own & ~fragment.wide], 0))
    if options.remove != "none":
        for number, mark in enumerate(listing):
            if mark.action == "remove" and number not in heard:
                parts.append(entries(np.array(mark.grams, np.uint64), _half(len(mark.grams))))
    return Mined(tuple(judged), merge(parts))


def verdicts(fragments: Sequence[Fragment]) -> list[Verdict]:
    """What each is taken for; what stands beside an advert nearly always, with a name between them, is a part of it."""
    found = [judge(fragment) for fragment in fragments]
    changed = True
    while changed:
        changed = False
        for number, (fragment, verdict) in enumerate(zip(fragments, found, strict=True)):
            if verdict.advert or verdict.score < 0:
                continue
            shares = {-1: 0.0, 1: 0.0}
            for other, side, share in fragment.neighbours:
                shares[side] += share if found[other].advert else 0.0
            if max(shares.values()) >= BESIDE:
                reason = f"beside an advert in {min(1.0, max(shares.values())):.2f} of its places"
                found[number] = replace(verdict, evidence=(*verdict.evidence, reason), advert=True)
                changed = True
    return found


def _half(grams: float) -> int:
    return max(1, int(np.ceil(grams / 2)))


def _said(fragment: Fragment, listing: Sequence[Mark], speakers: dict[int, list[int]]) -> list[int]:
    """The lines of the listing of which at least half lies in the fragment, the one with the most first."""
    shared: dict[int, int] = {}
    for gram in fragment.grams.tolist():
        for number in speakers.get(gram, ()):
            shared[number] = shared.get(number, 0) + 1
    found = [number for number, count in shared.items() if 2 * count >= len(set(listing[number].grams))]
    return sorted(found, key=lambda number: (-shared[number], number))
