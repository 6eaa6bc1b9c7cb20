"""What stands near the members of a group: from counts of pairs to the words that a report shows.

Two questions are answered for every member.

*What stands near it more often than in all text?* Words are ranked by the log-likelihood ratio (Dunning, "Accurate Methods
for the Statistics of Surprise and Coincidence", Computational Linguistics 19(1), 1993) of the table (in the member's windows or
not) x (this pair or another), and shown with how many times as often as in all text they stand there. Pointwise mutual
information would rank the rarest first (Manning and Schütze, Foundations of Statistical Natural Language Processing, 1999,
section 5.4) and wants a floor that is a free choice; the ratio weighs evidence by itself. In a large corpus everything is
significant, so a word must also stand there MIN_TIMES as often, at least MIN_COUNT times, in MIN_DOCUMENTS documents.

*What stands near it more often than near the other members together?* The z-score of the log-odds ratio with an informative
Dirichlet prior (Monroe, Colaresi and Quinn, "Fightin' Words", Political Analysis 16(4), 2008): plain log odds rank the
rarest words, differences of frequency the most common ones. The prior is the pairs of all text, with the weight of
PRIOR_SHARE of the smaller side. With two members this is one comparison seen from both sides; with more it stays one a member,
where comparing all with all would be hundreds of tables.

A pair that is a part of a longer word (员会 of 委员会) is shown as that word: a pair grows by a character as long as at least
JOINED of its occurrences continue with the same one, by the triples of the same windows. It keeps the numbers of the pair.

None of this says that a corpus is biased; it says what to read. Scores are statistics of places, not of documents, and a
series of similar documents (statutes, forms) weighs as much as it is long; MIN_DOCUMENTS is the only guard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jielong.data.measuring.balance import HAN_FIRST, PLACE_BITS, REACH, Counts, Json, Longs, unpack
from jielong.data.measuring.terms import Group

MIN_COUNT, MIN_DOCUMENTS, MIN_TIMES = 5, 3, 2.0
MIN_Z = 1.96  # below it a difference is not told from chance (5 %, one word by itself)
PRIOR_SHARE = 0.1
JOINED = 0.8
LONGEST = 8  # characters of a joined word
NEIGHBOURS, DISTINCT = 24, 16  # words shown of a member
TRIED = 4  # candidates for each word shown: joining makes one of several

Floats = NDArray[np.float64]
Members = list[Json]


def summary(merged: Json, groups: list[Group], chars_by_source: dict[str, int]) -> Json:
    """What report.json holds. `merged`: balance.merge; chars_by_source: name -> characters, by the sources' numbers."""
    names = list(chars_by_source)
    documents = _named(merged["documents"], names)
    everywhere, total = unpack(merged["pairs"]), int(merged["pairs"]["total"])
    found = []
    for group, counts in zip(groups, merged["groups"], strict=True):
        near = [(unpack(row["pairs"]), int(row["total"])) for row in counts["members"]]
        triples = [unpack(row["triples"]) for row in counts["members"]]
        members: Members = []
        for number, (title, row) in enumerate(zip(group.members, counts["members"], strict=True)):
            parts = Triples(triples[number])
            members.append({
                "name": title,
                "terms": [term for term in group.terms[title] if not term.startswith("-")],
                "mentions": _named(row["mentions"], names),
                "documents": _named(row["documents"], names),
                "neighbours": neighbours(*near[number], everywhere, total, parts),
                "distinct": distinct(near, number, everywhere, total, parts),
                "samples": [
                    {**{key: sample[key] for key in ("before", "mention", "after")}, "source": names[sample["source"]]}
                    for sample in row["samples"]
                ],
            })  # fmt: skip
        found.append({
            "name": group.name, "documents": _named(counts["documents"], names), "no_mentions": group.no_mentions(),
            "members": members,
        })  # fmt: skip
    return {"reach": REACH, "documents": documents, "chars": dict(chars_by_source), "groups": found}


def _named(counts: dict[str, int], names: list[str]) -> dict[str, int]:
    return {names[int(number)]: n for number, n in counts.items()}


# ---------------------------------------------------------------------------------------------------------- scores


def log_likelihood(here: Floats, everywhere: Floats, size: float, total: float) -> Floats:
    """Dunning's ratio G2 of pairs that stand `here` times among `size`, and `everywhere` times among `total` that hold these.

    Negative where a pair stands here less often than in all text, so that it ranks last.
    """
    cells = (here, everywhere - here, size - here, total - size - (everywhere - here))
    rows, columns = (size, total - size), (everywhere, total - everywhere)
    result = np.zeros(len(here))
    for n, observed in enumerate(cells):
        expected = rows[n % 2] * columns[n // 2] / total
        with np.errstate(divide="ignore", invalid="ignore"):
            result += np.where(observed > 0, observed * np.log(observed / expected), 0.0)
    return 2 * result * np.sign(here / size - everywhere / total)


def log_odds(here: Floats, there: Floats, prior: Floats, sizes: tuple[float, float], prior_size: float) -> Floats:
    """The z-score of the log-odds ratio of `here` among sizes[0] to `there` among sizes[1], both with the prior."""
    first, second = here + prior, there + prior
    odds = [side / (size + prior_size - side) for side, size in zip((first, second), sizes, strict=True)]
    result: Floats = (np.log(odds[0]) - np.log(odds[1])) / np.sqrt(1 / first + 1 / second)
    return result


def neighbours(near: Counts, size: int, everywhere: Counts, total: int, triples: Triples) -> list[Json]:
    """The words that stand near a member most notably: word, count, documents (at least), times, score."""
    if not len(near.keys):
        return []
    here = near.counts.astype(np.float64)
    whole = np.maximum(looked_up(everywhere, near.keys), here)  # what was cut away of all text was there at least here
    times = (here / size) / (whole / total)
    score = log_likelihood(here, whole, float(size), float(total))
    enough = (near.counts >= MIN_COUNT) & (near.documents >= MIN_DOCUMENTS) & (times >= MIN_TIMES)
    return [
        {"word": word, "count": int(here[n]), "documents": int(near.documents[n]), "times": round(float(times[n]), 2),
         "score": round(float(score[n]), 1)}
        for word, n in _words(near, score, np.flatnonzero(enough & (score > 0)), triples, NEIGHBOURS)
    ]  # fmt: skip


def distinct(
    near: list[tuple[Counts, int]], number: int, everywhere: Counts, total: int, triples: Triples
) -> list[Json]:
    """The words that stand near a member rather than near the others: word, count, others, times, z.

    `others` is the count near all other members; `times` compares the two shares, None where there is nothing to compare.
    """
    own, size = near[number]
    rest = [one for n, one in enumerate(near) if n != number]
    other_size = sum(one[1] for one in rest)
    if not len(own.keys) or not other_size:
        return []
    here = own.counts.astype(np.float64)
    there = sum((looked_up(counts, own.keys) for counts, _ in rest), np.zeros(len(here)))
    weight = max(1.0, PRIOR_SHARE * min(size, other_size))
    whole = np.maximum(looked_up(everywhere, own.keys), here + there)
    z = log_odds(here, there, weight * whole / total, (float(size), float(other_size)), weight)
    enough = (own.counts >= MIN_COUNT) & (own.documents >= MIN_DOCUMENTS) & (z >= MIN_Z)
    return [
        {"word": word, "count": int(here[n]), "documents": int(own.documents[n]), "others": int(there[n]),
         "times": round(float(here[n] / size / (there[n] / other_size)), 2) if there[n] else None, "z": round(float(z[n]), 2)}
        for word, n in _words(own, z, np.flatnonzero(enough), triples, DISTINCT)
    ]  # fmt: skip


def looked_up(counts: Counts, keys: Longs) -> Floats:
    """The counts of some keys; 0 for those that are not there."""
    if not len(counts.keys):
        return np.zeros(len(keys))
    place = np.minimum(np.searchsorted(counts.keys, keys), len(counts.keys) - 1)
    return np.where(counts.keys[place] == keys, counts.counts[place], 0).astype(np.float64)


# ----------------------------------------------------------------------------------------------------------- words


class Triples:
    """The triples of a member's windows, by the pair that they begin and end with: how a pair goes on."""

    def __init__(self, counts: Counts) -> None:
        self._after: dict[int, tuple[int, int]] = {}  # pair -> (count, character) of its most frequent triple
        self._before: dict[int, tuple[int, int]] = {}
        low = (1 << PLACE_BITS) - 1
        for key, n in zip(counts.keys.tolist(), counts.counts.tolist(), strict=True):
            head, tail = key >> PLACE_BITS, key & ((1 << 2 * PLACE_BITS) - 1)
            self._after[head] = max(self._after.get(head, (0, 0)), (n, key & low))
            self._before[tail] = max(self._before.get(tail, (0, 0)), (n, key >> 2 * PLACE_BITS))

    def grown(self, pair: int, count: int) -> str:
        """The longest word that nearly always stands around a pair."""
        word = [pair >> PLACE_BITS, pair & ((1 << PLACE_BITS) - 1)]
        while len(word) < LONGEST:
            n, char = self._after.get(word[-2] << PLACE_BITS | word[-1], (0, 0))
            if JOINED <= n / count <= 1 / JOINED:
                word.append(char)
                continue
            n, char = self._before.get(word[0] << PLACE_BITS | word[1], (0, 0))
            if not JOINED <= n / count <= 1 / JOINED:
                break
            word.insert(0, char)
        return "".join(chr(HAN_FIRST + char) for char in word)


def _words(near: Counts, score: Floats, rows: Longs, triples: Triples, limit: int) -> list[tuple[str, int]]:
    """The words of the best rows; one that is part of another with about the same count is left out."""
    ranked = rows[np.lexsort((near.keys[rows], -score[rows]))][: TRIED * limit]
    shown: list[tuple[str, int]] = []
    for row in ranked.tolist():
        count = int(near.counts[row])
        word = triples.grown(int(near.keys[row]), count)
        same = [known for known, n in shown if JOINED <= near.counts[n] / count <= 1 / JOINED]
        if not any(word in known or known in word for known in same):
            shown.append((word, row))
    return shown[:limit]
