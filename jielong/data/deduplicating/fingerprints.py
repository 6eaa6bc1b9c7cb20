"""What two documents are compared by: letters and digits only, their digest, MinHash signatures, and hashes of lines.

Comparison leaves out what editions of one text differ in: case, full and half width, spaces, punctuation. `normalise` keeps
letters, marks and digits as code points in one array; the digest (xxh3_128) of a document's part of it is what exact
deduplication compares, its character n-grams are what near-deduplication compares.

Signatures are MinHash (Broder 1997): for each of `permutations` hash functions the least hash over the n-grams. An n-gram's
64-bit rolling hash is mixed (the finaliser of MurmurHash3), and function k is the upper half of (x XOR s_k) * a_k with a_k
odd: one exclusive or and one multiplication, which the compiler turns into vector instructions. Two things are kept of
it: one byte a function (Li & Koenig 2010, b-bit minwise hashing), from which the similarity of a pair is estimated, and one 64-bit hash
a band of functions, by which candidates meet.

A document shorter than an n-gram is one n-gram. One without any letter or digit is compared by its raw characters.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import pairwise

import numpy as np
import xxhash
from numpy.typing import NDArray

from jielong.data.cleaning.scan import Bytes, Offsets
from jielong.data.compiled import kernel

Codes = NDArray[np.uint32]
PAD = 32  # n-grams are compared in groups of this size, the last filled up with its last: what is left over would cost more
KEPT_CATEGORIES = ("L", "M", "N")  # letters, marks, numbers
_1, _2, _3, _4 = map(np.uint64, (1, 2, 3, 4))
SEED = 20_240_229  # of the hash functions; part of the format: signatures of two corpora can be compared


@cache
def folding() -> NDArray[np.uint32]:
    """For each code point of the basic plane, the code point it is compared as; 0 for what is left out."""
    table = np.zeros(0x10000, np.uint32)
    for code in range(1, 0x10000):
        char = chr(code)
        if unicodedata.category(char)[0] not in KEPT_CATEGORIES:
            continue
        if 0xFF10 <= code <= 0xFF5A:  # full-width digits and letters
            char = unicodedata.normalize("NFKC", char)
        lower = char.lower()
        table[code] = ord(lower) if len(lower) == 1 else ord(char)
    return table


@cache
def _small_folding() -> NDArray[np.uint16]:
    """The same in half the room: more of it stays in the first-level cache."""
    return folding().astype(np.uint16)


def normalise(data: Bytes, offsets: Offsets) -> tuple[Codes, Offsets]:
    """What documents are compared by: code points one after the other, and where each document begins."""
    codes = np.empty(len(data), np.uint32)
    starts = np.empty(len(offsets), np.int64)
    used = _normalise(data, offsets, _small_folding(), codes, starts)
    return codes[:used], starts


def normalise_plain(text: str) -> list[int]:
    """The twin of `normalise` for one text."""
    table = folding()
    folded = [int(table[ord(char)]) if ord(char) < 0x10000 else ord(char) for char in text]
    return [code for code in folded if code] or [ord(char) for char in text]


@kernel
def _code_at(data, at):  # type: ignore[no-untyped-def]
    """The code point whose UTF-8 begins at a place, and where the next begins. Places are unsigned: no look at their sign."""
    byte = np.uint32(data[at])
    if byte < 0x80:
        return byte, at + _1
    if byte < 0xE0:
        return np.uint32((byte & 0x1F) << 6 | np.uint32(data[at + _1]) & 0x3F), at + _2
    if byte < 0xF0:
        code = (byte & 0x0F) << 12 | (np.uint32(data[at + _1]) & 0x3F) << 6 | np.uint32(data[at + _2]) & 0x3F
        return np.uint32(code), at + _3
    code = (byte & 0x07) << 18 | (np.uint32(data[at + _1]) & 0x3F) << 12
    code |= (np.uint32(data[at + _2]) & 0x3F) << 6 | np.uint32(data[at + _3]) & 0x3F
    return np.uint32(code), at + _4


@kernel
def _normalise(data, offsets, table, codes, starts):  # type: ignore[no-untyped-def]
    used = np.uint64(0)
    starts[0] = 0
    for doc in range(len(offsets) - 1):
        for keep_all in (False, True):
            at, end = np.uint64(offsets[doc]), np.uint64(offsets[doc + 1])
            while at < end:
                code, at = _code_at(data, at)
                folded = code if keep_all or code >= 0x10000 else np.uint32(table[code])
                codes[used] = folded  # no branch, since what is left out cannot be foreseen: it is written over
                used += np.uint64(keep_all or folded != 0)  # NUL itself is 0
            if np.int64(used) > starts[doc]:
                break
        starts[doc + 1] = used
    return np.int64(used)


def digests(codes: Codes, starts: Offsets) -> NDArray[np.uint64]:
    """The xxh3_128 of each document's code points (little-endian uint32), [documents, 2] uint64."""
    view, width = codes.astype("<u4", copy=False).data.cast("B"), 4
    parts = [xxhash.xxh3_128_digest(view[width * start : width * end]) for start, end in pairwise(starts.tolist())]
    return np.frombuffer(b"".join(parts), "<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def raw_digests(texts: list[str]) -> NDArray[np.uint64]:
    """The xxh3_128 of each text as it is, in the form of `digests`."""
    parts = [xxhash.xxh3_128_digest(text.encode("utf-8")) for text in texts]
    return np.frombuffer(b"".join(parts), "<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def functions(permutations: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """The constants s and a of the hash functions, uint32 each; the first k are the same whatever the number."""
    random = np.random.Generator(np.random.PCG64(SEED))
    pairs = random.integers(0, 1 << 32, (permutations, 2), np.uint32)
    return np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1] | 1)


def signatures(
    codes: Codes, starts: Offsets, ngram: int, permutations: int, bands: int, rows: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Of each document, one byte a hash function [documents, permutations] and one hash a band [documents, bands]."""
    documents = len(starts) - 1
    lows = np.empty((documents, permutations), np.uint8)
    hashes = np.empty((documents, bands), np.uint64)
    s, a = functions(permutations)
    _signatures(codes, starts, ngram, s, a, bands, rows, lows, hashes)
    return lows, hashes


@kernel
def mix(x):  # type: ignore[no-untyped-def]
    """The 64-bit finaliser of MurmurHash3: every bit of the result depends on every bit of x."""
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xFF51AFD7ED558CCD)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


@kernel
def _signatures(codes, starts, ngram, s, a, bands, rows, lows, hashes):  # type: ignore[no-untyped-def]
    functions = len(s)
    least = np.empty(functions, np.uint32)
    block = 1024  # n-grams hashed at a time: the inner loops run over them with the functions' constants in registers
    grams, sums = np.empty(block, np.uint32), np.empty(block, np.uint64)
    for doc in range(len(starts) - 1):
        begin, end = starts[doc], starts[doc + 1]
        count = max(end - begin - ngram + 1, 1 if end > begin else 0)
        least[:] = np.uint32(0xFFFFFFFF)
        done = 0
        while done < count:
            size = min(block, count - done)
            sums[:size] = np.uint64(0)
            for first in range(begin + done, min(begin + done + ngram, end - size + 1)):  # vector instructions
                part = codes[first : first + size]
                for n in range(size):
                    sums[n] = (sums[n] + np.uint64(part[n]) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
            for n in range(size):
                grams[n] = np.uint32(mix(sums[n]) >> np.uint64(32))
            padded = (size + PAD - 1) // PAD * PAD
            grams[size:padded] = grams[size - 1]
            for k in range(0, functions - 3, 4):  # four at a time: each n-gram is read once for all of them
                low0, low1, low2, low3 = least[k], least[k + 1], least[k + 2], least[k + 3]
                s0, s1, s2, s3 = s[k], s[k + 1], s[k + 2], s[k + 3]
                a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                for n in range(padded):
                    gram = grams[n]
                    low0 = min(low0, np.uint32((gram ^ s0) * a0))
                    low1 = min(low1, np.uint32((gram ^ s1) * a1))
                    low2 = min(low2, np.uint32((gram ^ s2) * a2))
                    low3 = min(low3, np.uint32((gram ^ s3) * a3))
                least[k], least[k + 1], least[k + 2], least[k + 3] = low0, low1, low2, low3
            for k in range(functions - functions % 4, functions):
                low, s_k, a_k = least[k], s[k], a[k]
                for n in range(padded):
                    low = min(low, np.uint32((grams[n] ^ s_k) * a_k))
                least[k] = low
            done += size
        for k in range(functions):
            lows[doc, k] = np.uint8(mix(np.uint64(least[k])) & np.uint64(0xFF))
        for band in range(bands):
            x = np.uint64(band)
            for k in range(band * rows, (band + 1) * rows):
                x = mix(x ^ np.uint64(least[k])) + np.uint64(k)
            hashes[doc, band] = x


def signature_plain(codes: list[int], ngram: int, permutations: int) -> list[int]:
    """The least hash of each function for one document: the twin of what `signatures` keeps bytes and bands of."""
    s, a = (values.tolist() for values in functions(permutations))
    shingles = [codes[n : n + ngram] for n in range(max(len(codes) - ngram + 1, 1 if codes else 0))]
    grams = []
    for shingle in shingles:
        x = 0
        for code in shingle:
            x = (x + code + 1) * 0x9E3779B97F4A7C15 % (1 << 64)
        grams.append(mix_plain(x) >> 32)
    return [
        min((((gram ^ s_k) * a_k) % (1 << 32) for gram in grams), default=0xFFFFFFFF)
        for s_k, a_k in zip(s, a, strict=True)
    ]


def mix_plain(x: int) -> int:
    """The twin of `mix`."""
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD % (1 << 64)
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 % (1 << 64)
    return x ^ x >> 33


# --------------------------------------------------------------------------------------------------------- lines


def unit_hashes(
    data: Bytes, offsets: Offsets, min_han: int, salt: NDArray[np.int64], counts: NDArray[np.int32] | None = None
) -> tuple[NDArray[np.uint64], Offsets]:
    """Of each line of each document a 64-bit hash of its letters and digits, 0 for lines with fewer Han characters.

    `salt` holds a number for each document: lines are told apart by it. Returns the hashes of all lines one after the
    other, and where each document's begin. A document has one line more than it has line feeds.
    With `counts`, one for each code point [0x110000], how often each occurs is added to them: it costs little on the way.
    """
    lines = np.empty(int(np.count_nonzero(data == 10)) + len(offsets) - 1, np.uint64)
    starts = np.empty(len(offsets), np.int64)
    _unit_hashes(
        data,
        offsets,
        _small_folding(),
        min_han,
        salt,
        lines,
        starts,
        np.zeros(0, np.int32) if counts is None else counts,
    )
    return lines, starts


@kernel
def _unit_hashes(data, offsets, table, min_han, salt, lines, starts, counts):  # type: ignore[no-untyped-def]
    used, counting = 0, len(counts) > 0
    for doc in range(len(offsets) - 1):
        starts[doc] = used
        first = mix(np.uint64(salt[doc]) + np.uint64(1))
        x, han = first, 0
        at, end = np.uint64(offsets[doc]), np.uint64(offsets[doc + 1])
        while at < end:
            code, at = _code_at(data, at)
            if counting:
                counts[code] += 1
            if code == 10:
                lines[used] = mix(x) if han >= min_han else np.uint64(0)
                used += 1
                x, han = first, 0
                continue
            han += ((code >= 0x4E00) & (code <= 0x9FFF)) | ((code >= 0x3400) & (code <= 0x4DBF))
            folded = code if code >= 0x10000 else np.uint32(table[code])
            after = (x ^ np.uint64(folded)) * np.uint64(0x9E3779B97F4A7C15)
            after ^= after >> np.uint64(29)
            x = after if folded != 0 else x
        lines[used] = mix(x) if han >= min_han else np.uint64(0)
        used += 1
    starts[len(offsets) - 1] = used


def unit_hashes_plain(text: str, min_han: int, salt: int) -> list[int]:
    """The twin of `unit_hashes` for one text."""
    table, found = folding(), []
    for line in text.split("\n"):
        x = mix_plain(salt + 1)
        for char in line:
            folded = int(table[ord(char)]) if ord(char) < 0x10000 else ord(char)
            if folded:
                x = (x ^ folded) * 0x9E3779B97F4A7C15 % (1 << 64)
                x ^= x >> 29
        han = sum(0x4E00 <= ord(char) <= 0x9FFF or 0x3400 <= ord(char) <= 0x4DBF for char in line)
        found.append(mix_plain(x) if han >= min_han else 0)
    return found


def distinct(hashes: NDArray[np.uint64], starts: Offsets) -> tuple[NDArray[np.uint64], Offsets]:
    """Of each document the different hashes but 0, sorted: what it counts for."""
    documents = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[hashes != 0]
    values = hashes[hashes != 0]
    order = np.lexsort((values, documents))
    documents, values = documents[order], values[order]
    first = np.ones(len(values), np.bool_)
    first[1:] = (values[1:] != values[:-1]) | (documents[1:] != documents[:-1])
    return values[first], np.searchsorted(documents[first], np.arange(len(starts)))
