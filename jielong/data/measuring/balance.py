"""How often the corpus mentions the members of a group, and which words stand near them: the counting of a bias check.

Terms and mentions are terms.py's. Around every mention, REACH characters to each side and never over a line feed, the pairs
of neighbouring Chinese characters are counted (U+4E00 to U+9FFF), because most Chinese words are two characters and a pair
needs no dictionary. Windows that overlap are joined, so a place counts once for a member; no pair touches a mention of the
group itself (女's neighbours would be 男X wherever both are named); pairs with a grammatical character (GRAMMAR: 的, 了, ...)
are counted only in the totals, since they are hardly ever words and would lead every list. Triples of the windows are
counted too, only to see that a pair is part of a longer word (associations.py).

A chunk is counted by itself and cut to what can matter before it is written beside the chunk. The cut is threshold sampling
(Duffield, Lund and Thorup, "Priority sampling for estimation of arbitrary subset sums", J. ACM 54(6), 2007): for a bound t
every count c >= t is kept as it is and a smaller one is kept, as t, with the chance c / t, so sums over chunks are
unbiased whatever is summed. The error of a sum S is at most sqrt(t S), one standard deviation; t is the smallest whole
number that leaves about LIMIT counts of a member and PAIRS_LIMIT of all text, and is 1 (nothing is lost) where a chunk has no
more (16 MB of real text: t was 8 for all text, 1 near 他). Chance is a hash of the pair, the member and the chunk's
documents, so the same chunk is cut the same way everywhere, whatever the order of its documents. Merging adds up and cuts
nothing: order has no part in it, and the result grows only with the different pairs of the language, a few million at most.

The same chunk keeps SAMPLES mentions of each member, chosen by hash: a list of terms is right only if they are mentions.

Cost: 16 MB take 0.3 s of one core with two groups, a third of it the pairs of all text; 0.75 MB of JSON beside the chunk.
Limits: places are counted, not documents; characters beyond U+9FFF, letters and digits are no neighbours.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets, count_chars
from jielong.data.compiled import kernel
from jielong.data.measuring.terms import Group

REACH = 12  # characters on each side of a mention
LIMIT = 1 << 15  # counts kept of the pairs near one member in a chunk, and as many of the triples
PAIRS_LIMIT = 1 << 17  # and of the pairs of all text
SAMPLES, SAMPLE_REACH = 5, 24  # mentions kept of a member; characters on each side
GRAMMAR = "的了是在不我他她它你您们这那就也都着而与及或把被又还很但吗呢吧么"
HAN_FIRST, HAN_COUNT = 0x4E00, 0x5200
PLACE_BITS = 15  # of a character in a key: a pair has 30 bits, a triple 45
FEED = 10

Longs = NDArray[np.int64]
Json = dict[str, Any]


class Counts(NamedTuple):
    """Keys (pairs or triples, ascending), how often each occurs, and in how many documents at least."""

    keys: Longs
    counts: Longs
    documents: Longs


class Counter:
    """Counts the groups in one chunk after another; what it gives for a chunk depends on that chunk alone."""

    def __init__(self, groups: Sequence[Group], limit: int = LIMIT, pairs_limit: int = PAIRS_LIMIT) -> None:
        self._groups = [(group.name, group.members, Words(group.words())) for group in groups]
        self._limit, self._pairs_limit = limit, pairs_limit
        self._kinds = np.zeros(0x10000, np.uint8)  # of a character: 0 not Chinese, 1 part of words, 2 grammatical
        self._kinds[HAN_FIRST : HAN_FIRST + HAN_COUNT] = 1
        self._kinds[[ord(char) for char in GRAMMAR]] = 2

    def count(self, data: Bytes, offsets: Offsets, sources: Sequence[int] | NDArray[Any]) -> Json:
        """Count one chunk. data, offsets: UTF-8 as scan.encode gives it; sources: the number of each document's source.

        The result can be written as JSON and goes to `merge`.
        """
        number = np.asarray(sources, np.int64)
        text = Text(data, offsets, self._kinds)
        found: Json = {"documents": _by_source(number), "pairs": self._all_pairs(text), "groups": []}
        for name, members, words in self._groups:
            mentions = text.mentions(words)
            group: Json = {"documents": _by_source(number[np.unique(mentions.docs)]), "members": []}
            for member, title in enumerate(members):
                chosen = mentions.of(member)
                pairs, triples, total = text.near(mentions.label, chosen)
                salt = text.salt ^ xxhash.xxh3_64_intdigest(f"{name}\0{title}".encode())
                group["members"].append({
                    "mentions": _by_source(number[chosen.docs]),
                    "documents": _by_source(number[np.unique(chosen.docs)]),
                    "total": total,
                    "pairs": pack(thinned(pairs, self._limit, salt)),
                    "triples": pack(thinned(triples, self._limit, salt)),
                    "samples": text.samples(chosen, number),
                })  # fmt: skip
            found["groups"].append(group)
        return found

    def _all_pairs(self, text: Text) -> Json:
        pairs, total = text.pairs()
        return {"total": total, **pack(thinned(pairs, self._pairs_limit, text.salt))}


class Words:
    """Terms and words that are no mention, as arrays for the search: by first character, the longest first."""

    def __init__(self, words: list[tuple[str, int]]) -> None:
        ordered = sorted(words, key=lambda word: (min(ord(word[0][0]), 0xFFFF), -len(word[0]), word))
        first = [min(ord(word[0]), 0xFFFF) for word, _ in ordered]
        self.begin = np.searchsorted(first, np.arange(0x10001)).astype(np.int64)
        self.starts = np.cumsum([0, *(len(word) for word, _ in ordered)])
        self.codes = np.frombuffer("".join(word for word, _ in ordered).encode("utf-32-le"), np.uint32)
        self.members = np.array([member for _, member in ordered], np.int64)


class Mentions(NamedTuple):
    """Mentions in order: first character, the one behind the last, member, document. `label`: 1 where one stands."""

    starts: Longs
    ends: Longs
    members: Longs
    docs: Longs
    label: NDArray[np.uint8]

    def of(self, member: int) -> Mentions:
        """Those of one member."""
        rows = self.members == member
        return Mentions(self.starts[rows], self.ends[rows], self.members[rows], self.docs[rows], self.label)


class Text:
    """A chunk as code points, uint32 [characters], with its documents' bounds."""

    def __init__(self, data: Bytes, offsets: Offsets, kinds: NDArray[np.uint8]) -> None:
        raw = data.tobytes()
        self.codes = np.frombuffer(raw.decode("utf-8").encode("utf-32-le"), np.uint32)
        self.bounds = np.zeros(len(offsets), np.int64)
        np.cumsum(count_chars(data, offsets), out=self.bounds[1:])
        view, ends = memoryview(raw), offsets.tolist()
        hashes = [xxhash.xxh3_64_intdigest(view[a:b]) for a, b in pairwise(ends)]
        self.hashes = np.array(hashes, np.uint64)
        self.salt = sum(hashes) & 0xFFFFFFFFFFFFFFFF  # a sum: the order of the documents has no part in it
        self.kinds = kinds

    def mentions(self, words: Words) -> Mentions:
        """Where the members of one group are mentioned."""
        size = len(self.codes)
        starts, ends, members, docs = (np.empty(size, np.int64) for _ in range(4))
        label = np.zeros(size, np.uint8)
        tables = (words.begin, words.starts, words.codes, words.members)
        used = _mentions(self.codes, self.bounds, *tables, label, starts, ends, members, docs)
        starts, ends, members, docs = (column[:used].copy() for column in (starts, ends, members, docs))
        return Mentions(starts, ends, members, docs, label)

    def near(self, label: NDArray[np.uint8], chosen: Mentions) -> tuple[Counts, Counts, int]:
        """Pairs and triples near some mentions, and how many pairs there are with the grammatical ones."""
        size = len(chosen.starts) * 2 * REACH
        pairs, triples = np.empty(size, np.int64), np.empty(size, np.int64)
        places = (chosen.starts, chosen.ends, chosen.docs)
        used, more, total = _near(
            self.codes, self.bounds, self.kinds, label, *places, REACH, HAN_FIRST, PLACE_BITS, pairs, triples
        )
        return counted(pairs[:used]), counted(triples[:more], with_documents=False), int(total)

    def pairs(self) -> tuple[Counts, int]:
        """The pairs of the whole chunk, and how many there are with the grammatical ones."""
        found = np.empty(max(len(self.codes), 1), np.int32)
        used, total = _pairs(self.codes, self.bounds, self.kinds, HAN_FIRST, PLACE_BITS, found)
        keys, counts = np.unique(found[:used], return_counts=True)
        return Counts(keys.astype(np.int64), counts.astype(np.int64), np.zeros(len(keys), np.int64)), int(total)

    def samples(self, chosen: Mentions, sources: Longs) -> list[Json]:
        """SAMPLES mentions, of different documents as far as there are so many, with the text around them."""
        begins = self.bounds[chosen.docs]
        keys = mixed((chosen.starts - begins).astype(np.uint64) ^ self.hashes[chosen.docs]) >> np.uint64(11)
        rows: dict[int, int] = {}
        order = np.lexsort((sources[chosen.docs], keys))
        for row in order[: SAMPLES * SAMPLES].tolist():
            rows.setdefault(int(chosen.docs[row]), row)
        found = []
        for doc, row in list(rows.items())[:SAMPLES]:
            start, end = int(chosen.starts[row]), int(chosen.ends[row])
            low, high = (
                max(start - SAMPLE_REACH, int(self.bounds[doc])),
                min(end + SAMPLE_REACH, int(self.bounds[doc + 1])),
            )
            before, mention, after = (self._string(a, b) for a, b in ((low, start), (start, end), (end, high)))
            before, after = before.rpartition("\n")[2], after.partition("\n")[0]
            sample = {"before": before, "mention": mention, "after": after}
            found.append({"key": int(keys[row]), "source": int(sources[doc]), **sample})
        return found

    def _string(self, start: int, end: int) -> str:
        return self.codes[start:end].tobytes().decode("utf-32-le")


def merge(parts: list[Json]) -> Json:
    """The counts of several chunks as those of one; parts may be merged ones. The order of parts has no part in it."""
    assert parts
    first = parts[0]["groups"]
    groups = [
        {
            "documents": _added([part["groups"][g]["documents"] for part in parts]),
            "members": [
                _merged_member([part["groups"][g]["members"][m] for part in parts])
                for m in range(len(first[g]["members"]))
            ],
        }
        for g in range(len(first))
    ]
    pairs = {"total": sum(part["pairs"]["total"] for part in parts), **_merged([part["pairs"] for part in parts])}
    return {"documents": _added([part["documents"] for part in parts]), "pairs": pairs, "groups": groups}


def _merged_member(rows: list[Json]) -> Json:
    samples = sorted((row for each in rows for row in each["samples"]), key=lambda row: (row["key"], row["before"]))
    return {
        "mentions": _added([row["mentions"] for row in rows]),
        "documents": _added([row["documents"] for row in rows]),
        "total": sum(row["total"] for row in rows),
        "pairs": _merged([row["pairs"] for row in rows]),
        "triples": _merged([row["triples"] for row in rows]),
        "samples": samples[:SAMPLES],
    }


def _merged(packed: list[Json]) -> Json:
    """A few at a time, so that memory holds the sum and a few parts."""
    joined = Counts(*(np.zeros(0, np.int64) for _ in range(3)))
    for at in range(0, len(packed), 16):
        some = [joined, *(unpack(part) for part in packed[at : at + 16])]
        keys, place = np.unique(np.concatenate([one.keys for one in some]), return_inverse=True)
        sums = [np.zeros(len(keys), np.int64) for _ in range(2)]
        np.add.at(sums[0], place, np.concatenate([one.counts for one in some]))
        np.add.at(sums[1], place, np.concatenate([one.documents for one in some]))
        joined = Counts(keys, *sums)
    return pack(joined)


def _added(rows: list[dict[str, int]]) -> dict[str, int]:
    return {key: sum(row.get(key, 0) for row in rows) for key in sorted({key for row in rows for key in row}, key=int)}


def _by_source(numbers: Longs) -> dict[str, int]:
    """How often each source's number occurs."""
    keys, counts = np.unique(numbers, return_counts=True)
    return {str(key): int(n) for key, n in zip(keys.tolist(), counts.tolist(), strict=True)}


# -------------------------------------------------------------------------------------------------- counts as data


def counted(keys: Longs, with_documents: bool = True) -> Counts:
    """Count keys. With documents, the low 32 bits of a key number its document and are taken off."""
    keys, counts = np.unique(keys, return_counts=True)
    if not with_documents or not len(keys):
        return Counts(keys, counts.astype(np.int64), np.zeros(len(keys), np.int64))
    bare = keys >> 32
    first = np.flatnonzero(np.diff(bare, prepend=-1))
    documents = np.diff(first, append=len(bare))
    return Counts(bare[first], np.add.reduceat(counts, first).astype(np.int64), documents.astype(np.int64))


def thinned(found: Counts, limit: int, salt: int) -> Counts:
    """About `limit` of the counts, by threshold sampling; all of them where there are no more."""
    if len(found.keys) <= limit:
        return found
    low, high = 1, int(found.counts.max()) * 2 + len(found.keys)
    while low < high:  # the smallest bound that leaves so few
        middle = (low + high) // 2
        if int(np.minimum(found.counts, middle).sum()) <= limit * middle:
            high = middle
        else:
            low = middle + 1
    chance = mixed(found.keys.astype(np.uint64) ^ np.uint64(salt)) % np.uint64(low)
    kept = chance.astype(np.int64) < found.counts
    return Counts(found.keys[kept], np.maximum(found.counts[kept], low), found.documents[kept])


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of whole numbers: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def pack(found: Counts) -> Json:
    """Counts as three strings: differences of keys, counts, documents; byte planes of 64-bit numbers, zlib, base64."""
    columns = (np.diff(found.keys, prepend=0), found.counts, found.documents)
    names = ("keys", "counts", "documents")
    return {name: _packed(column) for name, column in zip(names, columns, strict=True)}


def unpack(packed: Json) -> Counts:
    """The inverse of `pack`."""
    keys, counts, documents = (_unpacked(packed[name]) for name in ("keys", "counts", "documents"))
    return Counts(np.cumsum(keys), counts, documents)


def _packed(column: Longs) -> str:
    planes = np.ascontiguousarray(column.astype("<i8").view(np.uint8).reshape(-1, 8).T)  # the high bytes are all 0
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def _unpacked(text: str) -> Longs:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(8, -1)
    return np.ascontiguousarray(planes.T).view("<i8").ravel().astype(np.int64)


# --------------------------------------------------------------------------------------------------------- kernels


@kernel
def _is_word(code):  # type: ignore[no-untyped-def]
    """Whether a code point is an ASCII letter or digit: a term that ends in one must end its word."""
    return 48 <= code <= 57 or 65 <= code <= 90 or 97 <= code <= 122


@kernel
def _mentions(codes, bounds, begin, word_starts, words, word_members, label, starts, ends, members, docs):  # type: ignore[no-untyped-def]
    """Leftmost longest matches; those of members below 0 swallow their place and are not written down."""
    used = 0
    for doc in range(len(bounds) - 1):
        at, last = bounds[doc], bounds[doc + 1]
        while at < last:
            code = min(np.int64(codes[at]), np.int64(0xFFFF))
            size = np.int64(0)
            for word in range(begin[code], begin[code + 1]):
                long = word_starts[word + 1] - word_starts[word]
                if at + long > last:
                    continue
                same = True
                for n in range(long):
                    if codes[at + n] != words[word_starts[word] + n]:
                        same = False
                        break
                if not same:
                    continue
                if at > bounds[doc] and _is_word(codes[at]) and _is_word(codes[at - 1]):
                    continue
                if at + long < last and _is_word(codes[at + long - 1]) and _is_word(codes[at + long]):
                    continue
                size = long
                if word_members[word] >= 0:
                    starts[used], ends[used], docs[used] = at, at + long, doc
                    members[used] = word_members[word]
                    used += 1
                    label[at : at + long] = 1
                break
            at += max(size, np.int64(1))
    return used


@kernel
def _near(codes, bounds, kinds, label, starts, ends, docs, reach, han, bits, pairs, triples):  # type: ignore[no-untyped-def]
    """Pairs (with their document below) and triples of the joined windows. Returns their numbers, and all pairs'."""
    used, more, total = 0, 0, 0
    before = np.int64(-1)  # where the window before ended
    doc_before = np.int64(-1)
    run = 0  # Chinese characters up to here that stand together in the windows
    for n in range(len(starts)):
        doc = docs[n]
        low, high = starts[n], ends[n]
        while low > bounds[doc] and starts[n] - low < reach and codes[low - 1] != 10:
            low -= 1
        while high < bounds[doc + 1] and high - ends[n] < reach and codes[high] != 10:
            high += 1
        if doc != doc_before or low > before:
            run = 0
        else:
            low = before
        for at in range(low, high):
            code = np.int64(codes[at])
            if code > 0xFFFF or label[at] or not kinds[code]:
                run = 0
                continue
            run += 1
            if run < 2:
                continue
            total += 1
            second = np.int64(codes[at - 1])
            if kinds[code] != 1 or kinds[second] != 1:
                continue
            pair = (second - han) << bits | (code - han)
            pairs[used] = pair << 32 | doc
            used += 1
            if run > 2 and kinds[np.int64(codes[at - 2])] == 1:
                triples[more] = (np.int64(codes[at - 2]) - han) << (2 * bits) | pair
                more += 1
        before, doc_before = high, doc
    return used, more, total


@kernel
def _pairs(codes, bounds, kinds, han, bits, found):  # type: ignore[no-untyped-def]
    used, total = 0, 0
    for doc in range(len(bounds) - 1):
        first, kind = np.int64(0), 0
        for at in range(bounds[doc], bounds[doc + 1]):
            code = np.int64(codes[at])
            here = kinds[code] if code <= 0xFFFF else 0
            if kind and here:
                total += 1
                if kind == 1 and here == 1:
                    found[used] = (first - han) << bits | (code - han)
                    used += 1
            first, kind = code, here
    return used, total
