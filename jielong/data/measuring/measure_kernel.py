"""The compiled counting behind measure.py: one document at a time, decoded once, then counted into whole numbers.

Everything that leaves the kernel is a count, so the result is the same on every machine; the ratios are made outside. One
pass decodes, a second counts classes of code points (codepoints.py), notes the rare characters that need a look at their
neighbours, line feeds among them, a third finds words. Both keep prefix hashes: P[i+1] = P[i] * BASE + c[i] + 1 modulo 2^64, from which the hash of any stretch
follows by one multiplication. n-grams and lines are then counted in one open-addressing table of 8-byte entries, 40 bits
fingerprint and 24 bits count. Only the front of the table that a document needs (twice its n-grams, a power of two) is
used, and it is cleared for each count: a cleared kilobyte costs less than an epoch in every entry would, which would make
the entries twice as large, and tables of usual documents stay in the first two levels of cache.

Most n-grams occur once, so they are sifted first: each leaves a mark in a byte of a sieve, without a branch, and only those whose
byte was hit twice are counted. Their places are worked out in a loop of their own, which becomes vector instructions. A 10-gram of words repeats only where all its 4-grams do, and those have been sifted for
the top one anyway. Both together made the whole a third faster.

Two different n-grams are taken for one with a probability of 2^-40 for each comparison, about one in a million for a
document of a million characters; counts stop at 16 million.

`traits` of a class are passed in and not imported, as are the n-gram lengths: a cached compilation would not see a change
in another file.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jielong.data.compiled import kernel

TRAITS = ("word", "han", "stop", "space", "care", "terminal", "bullet", "gap")  # bit i of a class's traits
_WORD, _HAN, _STOP, _SPACE, _CARE, _TERMINAL, _BULLET, _GAP = (1 << bit for bit in range(8))
CARE_CHARACTERS = "\n:#….{}锟斤拷烫屯"

COUNTS = (
    "length", "feeds", "longest", "words", "word_chars", "stop", "symbols", "mojibake", "url", "curly", "lines", "line_chars",
    "bullets", "ellipses", "terminal", "short", "dup_lines", "dup_chars", "menu", "char_rep", "char_grams", "word_rep", "word_grams", "top",
)  # fmt: skip
(
    _LENGTH, _FEEDS, _LONGEST, _WORDS, _WORD_CHARS, _STOPS, _SYMBOLS, _MOJIBAKE, _URL, _CURLY, _LINES, _LINE_CHARS,
    _BULLETS, _ELLIPSES, _TERMINALS, _SHORT, _DUP_LINES, _DUP_CHARS, _MENU, _CHAR_REP, _CHAR_GRAMS, _WORD_REP, _WORD_GRAMS, _TOP,
) = range(len(COUNTS))  # fmt: skip

BASE = np.uint64(0x9E3779B97F4A7C15)  # odd; any large one does
MIX = np.uint64(0xD6E8FEB86659FD93)
_ONE, _TWO, _THREE, _FOUR = map(np.uint64, (1, 2, 3, 4))
_COUNT_BITS = np.uint64(24)
_COUNT_MASK = np.uint64((1 << 24) - 1)
_HALF = np.uint64(32)
_ONE_BYTE = np.uint8(1)
SIEVE_PLACES = 8  # bytes for each n-gram, at least
_WORD_HASH_PLACES = 1024  # of the stop words' table


@kernel
def count_documents(data, offsets, classes, traits, stop_words, lengths, counts, histogram):  # type: ignore[no-untyped-def]
    """Fill counts int64 [documents, len(COUNTS)] and histogram int32 [documents, classes].

    data uint8, offsets int64 [documents + 1]; classes uint8 [0x110000]; traits uint8 [classes]; stop_words uint64: hashes
    by place (stop_table); lengths int64: n of the n-grams of characters, of words, of the top one, of a short line,
    of a menu's item.
    """
    longest = 0
    for doc in range(len(offsets) - 1):
        longest = max(longest, offsets[doc + 1] - offsets[doc])
    chars = np.empty(longest + 1, np.int32)
    marks = np.empty(longest + 1, np.uint8)  # the traits of the characters
    notable = np.empty(longest + 1, np.int32)  # where those stand that are looked at once more
    tallies = np.empty((4, len(traits)), np.int32)
    prefix = np.empty(longest + 1, np.uint64)  # of characters
    words = np.empty(longest + 1, np.uint64)  # the same over the hashes of words
    ends = np.empty(longest + 1, np.int32)  # characters of the words so far
    line_hash = np.empty(longest + 1, np.uint64)
    line_size = np.empty(longest + 1, np.int32)
    table = np.empty(max(16, 4 * longest), np.uint64)
    sieve = np.empty(max(64, 2 * SIEVE_PLACES * longest), np.uint8)
    suspects = np.empty(longest + 1, np.int32)
    places = np.empty(longest + 1, np.uint32)  # in the sieve
    for doc in range(len(offsets) - 1):
        row = counts[doc]
        row[:] = 0
        size = decode_utf8(data, offsets[doc], offsets[doc + 1], chars)
        row[_LENGTH] = size
        found = notable[: _characters(chars, size, classes, traits, tallies, histogram[doc], marks, prefix, notable)]
        _words(chars, marks, size, stop_words, words, ends, row)
        row[_MENU] = _menu(marks, size, found, lengths[4])
        _look_closer(chars, marks, size, found, row)
        _lines(chars, marks, size, found, prefix, lengths[3], line_hash, line_size, row)
        _repeated_lines(line_hash, line_size, table, row)
        _repeated_characters(prefix, size, lengths[0], sieve, places, suspects, table, row)
        _repeated_words(words, ends, lengths[1], lengths[2], sieve, places, suspects, table, row)


@kernel
def word_hash(chars):  # type: ignore[no-untyped-def]
    """The hash of a word, given its code points, lower case."""
    value = np.uint64(0)
    for char in chars:
        value = value * BASE + np.uint64(char) + _ONE
    return _mixed(value)


def stop_table(stop_words: frozenset[str]) -> NDArray[np.uint64]:
    """The words' hashes by place; 0: none there."""
    table = np.zeros(_WORD_HASH_PLACES, np.uint64)
    for word in sorted(stop_words):
        value = word_hash(np.array([ord(char) for char in word], np.int32))
        place = int(value) & (_WORD_HASH_PLACES - 1)
        while table[place]:
            place = (place + 1) & (_WORD_HASH_PLACES - 1)
        table[place] = value
    return table


@kernel
def _mixed(value):  # type: ignore[no-untyped-def]
    value = (value ^ (value >> _HALF)) * MIX
    return value ^ (value >> _HALF)


@kernel
def _power(exponent):  # type: ignore[no-untyped-def]
    result, square = _ONE, BASE
    while exponent > 0:
        if exponent & 1:
            result = result * square
        square = square * square
        exponent >>= 1
    return result


@kernel
def decode_utf8(data, at, end, chars):  # type: ignore[no-untyped-def]
    """Code points of the valid UTF-8 in data[at:end] into chars; how many. Places are unsigned: no look at their sign."""
    at, end, size = np.uint64(at), np.uint64(end), np.uint64(0)
    while at < end:
        first = np.int32(data[at])
        if first < 0x80:
            chars[size] = first
            at += _ONE
        elif first >= 0xE0 and first < 0xF0:
            chars[size] = (
                ((first & 0x0F) << 12) | ((np.int32(data[at + _ONE]) & 0x3F) << 6) | (np.int32(data[at + _TWO]) & 0x3F)
            )
            at += _THREE
        elif first < 0xE0:
            chars[size] = ((first & 0x1F) << 6) | (np.int32(data[at + _ONE]) & 0x3F)
            at += _TWO
        else:
            high = ((first & 0x07) << 18) | ((np.int32(data[at + _ONE]) & 0x3F) << 12)
            chars[size] = high | ((np.int32(data[at + _TWO]) & 0x3F) << 6) | (np.int32(data[at + _THREE]) & 0x3F)
            at += _FOUR
        size += _ONE
    return np.int64(size)


@kernel
def _characters(chars, size, classes, traits, tallies, histogram, marks, prefix, notable):  # type: ignore[no-untyped-def]
    """Classes, prefix hashes, and where the characters stand that need care or end a piece of a menu; how many of those.

    Neighbours are mostly of one class, so they are counted in four tallies in turn: else each addition waits for the last.
    """
    tallies[:] = 0
    hashed = np.uint64(0)
    prefix[0] = hashed
    found = 0
    for at in range(size):
        char = chars[at]
        kind = classes[char]
        trait = traits[kind]
        tallies[at & 3, kind] += 1
        marks[at] = trait
        hashed = hashed * BASE + (np.uint64(char) + _ONE)
        prefix[at + 1] = hashed
        notable[found] = at
        found += (trait & (_CARE | _GAP)) != 0
    for kind in range(len(histogram)):
        histogram[kind] = tallies[0, kind] + tallies[1, kind] + tallies[2, kind] + tallies[3, kind]
    return found


@kernel
def _words(chars, marks, size, stop_words, words, ends, row):  # type: ignore[no-untyped-def]
    """Words with their prefix hashes, the characters they cover, and stop words."""
    words[0], ends[0] = np.uint64(0), 0
    count, covered, stops, at = 0, 0, 0, 0
    while at < size:
        trait = marks[at]
        if trait & _WORD:
            run, start = np.uint64(0), at
            while at < size and marks[at] & _WORD:
                char = chars[at]
                run = run * BASE + (np.uint64(char + 32 if 65 <= char <= 90 else char) + _ONE)
                at += 1
            run = _mixed(run)
            stops += _known(run, stop_words)
            covered += at - start
            count += 1
            words[count], ends[count] = run, covered
        else:  # Han or not: no branch, because it cannot be foreseen; what is no word is written over
            words[count + 1], ends[count + 1] = _mixed(np.uint64(chars[at]) + _ONE), covered + 1
            han = (trait & _HAN) != 0
            stops += (trait & (_HAN | _STOP)) == (_HAN | _STOP)
            covered += han
            count += han
            at += 1
    hashed = np.uint64(0)
    for word in range(1, count + 1):
        hashed = hashed * BASE + words[word]
        words[word] = hashed
    row[_WORDS], row[_WORD_CHARS], row[_STOPS] = count, covered, stops


@kernel
def _known(value, stop_words):  # type: ignore[no-untyped-def]
    place = np.int64(value & np.uint64(_WORD_HASH_PLACES - 1))
    while stop_words[place] != 0:
        if stop_words[place] == value:
            return 1
        place = (place + 1) & (_WORD_HASH_PLACES - 1)
    return 0


@kernel
def _menu(marks, size, notable, item):  # type: ignore[no-untyped-def]
    """Han characters in short pieces of letters and digits between gaps."""
    total, start = 0, 0
    for place in range(len(notable) + 1):
        end = int(notable[place]) if place < len(notable) else size
        if end < size and not marks[end] & _GAP:
            continue
        if end - start <= item:
            han, pure = 0, True
            for at in range(start, end):
                han += (marks[at] & _HAN) != 0
                pure = pure and (marks[at] & (_HAN | _WORD)) != 0
            total += han if pure else 0
        start = end + 1
    return total


@kernel
def _look_closer(chars, marks, size, notable, row):  # type: ignore[no-untyped-def]
    """Line feeds, addresses, ellipses, curly brackets and what broken encodings leave."""
    feeds = symbols = curly = url = mojibake = longest = 0
    line_start = url_end = bad_end = 0
    for place in range(len(notable)):
        at = int(notable[place])
        if not marks[at] & _CARE:
            continue
        char = chars[at]
        if char == 10:
            longest = max(longest, at - line_start)
            line_start = at + 1
            feeds += at < size - 1
        elif char == 123 or char == 125:  # { }
            curly += 1
        elif char == 35:  # #
            symbols += 1
        elif char == 0x2026:  # horizontal ellipsis
            symbols += at == 0 or chars[at - 1] != char
        elif char == 46:  # the third full stop of a run
            third = at >= 2 and chars[at - 1] == 46 and chars[at - 2] == 46
            symbols += third and (at == 2 or chars[at - 3] != 46)
        elif char == 58:  # :
            if at + 2 < size and chars[at + 1] == 47 and chars[at + 2] == 47 and at >= url_end:
                start = at
                while start > url_end and 97 <= (chars[start - 1] | 32) <= 122:
                    start -= 1
                if start < at:
                    url_end = at + 3
                    while url_end < size and _in_url(chars[url_end]):
                        url_end += 1
                    url += url_end - start
        else:
            reach = _broken(chars, at, size)
            if reach:
                mojibake += at + reach - max(at, bad_end)
                bad_end = at + reach
    row[_FEEDS], row[_LONGEST], row[_SYMBOLS], row[_CURLY] = feeds, max(longest, size - line_start), symbols, curly
    row[_URL], row[_MOJIBAKE] = url, mojibake


@kernel
def _in_url(char):  # type: ignore[no-untyped-def]
    """Printable ASCII but the quotation mark, < > and the grave accent."""
    return 33 <= char <= 126 and char != 34 and char != 60 and char != 62 and char != 96


@kernel
def _broken(chars, at, size):  # type: ignore[no-untyped-def]
    """How many characters from here are what a broken encoding leaves."""
    if at + 1 >= size:
        return 0
    char, after = chars[at], chars[at + 1]
    if (
        (char == 0x951F and after == 0x65A4)
        or (char == 0x65A4 and after == 0x62F7)
        or (char == 0x62F7 and after == 0x951F)
    ):
        return 2
    if (char == 0x70EB or char == 0x5C6F) and after == char and at + 2 < size and chars[at + 2] == char:
        return 3
    return 0


@kernel
def _lines(chars, marks, size, notable, prefix, short, line_hash, line_size, row):  # type: ignore[no-untyped-def]
    """What lines begin and end with; the hash and the length of each that is not blank."""
    count = line_chars = bullets = ellipses = terminal = shorts = start = 0
    for place in range(len(notable) + 1):
        stop = int(notable[place]) if place < len(notable) else size
        if stop < size and chars[stop] != 10:
            continue
        first, last, start = start, stop, stop + 1
        while first < last and marks[first] & _SPACE:
            first += 1
        while first < last and marks[last - 1] & _SPACE:
            last -= 1
        if first == last:
            continue
        long = last - first
        head, tail = chars[first], chars[last - 1]
        plain = (head == 45 or head == 42 or head == 43) and long > 1 and (marks[first + 1] & _SPACE) != 0
        bullets += plain or (marks[first] & _BULLET) != 0
        dots = tail == 46 and long > 2 and chars[last - 2] == 46 and chars[last - 3] == 46
        ellipses += tail == 0x2026 or dots
        terminal += (marks[last - 1] & _TERMINAL) != 0
        shorts += long < short
        line_hash[count] = prefix[last] - prefix[first] * _power(long)
        line_size[count] = long
        line_chars += long
        count += 1
    row[_LINES], row[_LINE_CHARS], row[_BULLETS], row[_ELLIPSES] = count, line_chars, bullets, ellipses
    row[_TERMINALS], row[_SHORT] = terminal, shorts


@kernel
def _clear(table, items):  # type: ignore[no-untyped-def]
    """Empty the front of the table, a power of two of places, twice the items at least; -> by how much hashes shift."""
    places, shift = 16, 60
    while places < 2 * items:
        places *= 2
        shift -= 1
    table[:places] = np.uint64(0)
    return np.uint64(shift)


@kernel
def _add(table, shift, value):  # type: ignore[no-untyped-def]
    """Count one more of this hash; how many there are now."""
    value = (value ^ (value >> _HALF)) * MIX
    place = value >> shift
    print_ = value << _COUNT_BITS
    mask = (_ONE << (np.uint64(64) - shift)) - _ONE
    while True:
        entry = table[place]
        if entry == 0:
            table[place] = print_ | _ONE
            return 1
        if entry & ~_COUNT_MASK == print_:
            if entry & _COUNT_MASK != _COUNT_MASK:
                table[place] = entry + _ONE
            return np.int64(table[place] & _COUNT_MASK)
        place = (place + _ONE) & mask


@kernel
def _repeated_lines(line_hash, line_size, table, row):  # type: ignore[no-untyped-def]
    lines, chars = 0, 0
    shift = _clear(table, row[_LINES])
    for line in range(row[_LINES]):
        if _add(table, shift, line_hash[line]) > 1:
            lines += 1
            chars += line_size[line]
    row[_DUP_LINES], row[_DUP_CHARS] = lines, chars


@kernel
def _sift(prefix, grams, length, power, sieve, places, suspects):  # type: ignore[no-untyped-def]
    """Where the n-grams begin that can occur more than once: those that share a place in the sieve with another."""
    if grams < 1:
        return 0
    width, shift = 64, 58
    while width < SIEVE_PLACES * grams:
        width *= 2
        shift -= 1
    sieve[:width] = np.uint8(0)
    down = np.uint64(shift)
    ends = prefix[length:]
    for at in range(grams):  # on its own: this becomes vector instructions
        places[at] = np.uint32(((ends[at] - prefix[at] * power) * MIX) >> down)
    for at in range(grams):
        place = places[at]
        sieve[place] = (sieve[place] << _ONE_BYTE) | _ONE_BYTE  # 0, 1, 3, 7, ...: the second bit says twice
    found = 0
    for at in range(grams):
        suspects[found] = at
        found += (sieve[places[at]] >> _ONE_BYTE) & _ONE_BYTE
    return found


@kernel
def _repeated_characters(prefix, size, length, sieve, places, suspects, table, row):  # type: ignore[no-untyped-def]
    """Occurrences of the most frequent repeated n-grams, as many kinds as the square root of all kinds."""
    grams, power = max(size - length + 1, 0), _power(length)
    found = _sift(prefix, grams, length, power, sieve, places, suspects)
    shift = _clear(table, found)
    kinds, repeated, occurrences = grams - found, 0, 0
    for index in range(found):
        at = suspects[index]
        seen = _add(table, shift, prefix[at + length] - prefix[at] * power)
        kinds += seen == 1
        repeated += seen == 2
        occurrences += (seen > 1) + (seen == 2)
    most = int(math.sqrt(kinds))
    if most < repeated:
        occurrences = _greatest(table[: 1 << (64 - np.int64(shift))], most)
    row[_CHAR_REP], row[_CHAR_GRAMS] = occurrences, grams


@kernel
def _greatest(table, most):  # type: ignore[no-untyped-def]
    """The sum of the `most` greatest counts in the table, of which at least so many are over 1."""
    tally = np.zeros(65, np.int64)  # kinds of each count; the last: of greater ones
    for entry in table:
        tally[min(entry & _COUNT_MASK, np.uint64(64))] += 1
    large = np.empty(tally[64], np.int64)
    at = total = 0
    for entry in table if len(large) else table[:0]:
        if entry & _COUNT_MASK > np.uint64(63):
            large[at] = np.int64(entry & _COUNT_MASK)
            at += 1
    large.sort()
    taken = min(most, len(large))
    total = large[len(large) - taken :].sum()
    for seen in range(63, 1, -1):
        some = min(most - taken, tally[seen])
        taken += some
        total += some * seen
    return total


@kernel
def _repeated_words(words, ends, length, short, sieve, places, suspects, table, row):  # type: ignore[no-untyped-def]
    """The n-gram of `short` words that covers most, and occurrences of those of `length` words that repeat.

    A long n-gram repeats only where every short one in it does, so only those are looked up.
    """
    size = row[_WORDS]
    power = _power(short)
    found = _sift(words, max(size - short + 1, 0), short, power, sieve, places, suspects)
    shift = _clear(table, found)
    most = 0
    for index in range(found):
        at = suspects[index]
        seen = _add(table, shift, words[at + short] - words[at] * power)
        if seen > 1:
            most = max(most, seen * np.int64(ends[at + short] - ends[at]))
    row[_TOP], row[_WORD_GRAMS] = min(most, row[_WORD_CHARS]), max(size - length + 1, 0)
    inside, power = length - short, _power(length)
    shift = _clear(table, found)
    occurrences = 0
    for index in range(inside, found):
        at = suspects[index - inside]
        if suspects[index] - at == inside:
            seen = _add(table, shift, words[at + length] - words[at] * power)
            occurrences += (seen > 1) + (seen == 2)
    row[_WORD_REP] = occurrences
