"""Personal data by form and check digit: replaced by a bracketed Chinese word, or a reason to drop the document.

A wrong mask destroys a number that meant something, so every form has to prove itself: an identity number by its date and
its ISO 7064 digit, a bank card by its first digit and Luhn's digit, an address by being public (the ipaddress module
decides), a QQ number or a WeChat name by the words before it. Numbers must stand alone: no digit, letter, decimal point or
joining hyphen beside them, not inside a web address, not the value of a parameter (`id=13812345678`). What stays: ISBNs,
versions, decimals, order numbers, addresses with fewer than seven digits (8.8.8.8 and 1.1.1.1 are public services, and
1.2.3.4 is a section of a manual), e-mail addresses of example.com and of SSH (git@github.com:...).

One compiled pass finds the runs of digits that are long enough and the words QQ and WeChat; only there the patterns are
tried, and around every @: 330 MB/s of pages that hold such things, where searches by patterns alone reached 105.
Chance alone makes one in ten numbers of a card's form pass Luhn's check, one in eleven of an identity number's.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from jielong.data import steps
from jielong.data.cleaning.cleaner import DropDocument, Triggers
from jielong.data.cleaning.scan import ROOM, codes_of
from jielong.data.compiled import kernel

MASKS = {
    "mobile": "[手机号]",
    "landline": "[固定电话]",
    "id_card": "[身份证号]",
    "bank_card": "[银行卡号]",
    "email": "[邮箱]",
    "ip": "[IP地址]",
    "qq": "[QQ号]",
    "wechat": "[微信号]",
}
ROUNDS = 6  # a mask can set the next number free: 13812345678(0755)2345678
_AREA = "0(?:10|2[0-9]|[3-9][0-9]{2})"
_LOCAL = "[2-9][0-9]{2,3}[- ]?[0-9]{4}"
RUN = re.compile(
    r"[0-9][0-9 .()（）+-]{5,}[Xx]?"
)  # whatever is tried as a number; a bracket or plus before it belongs to it
_NUMBER = re.compile(
    rf"""(?<![0-9A-Za-z_\#%&\u00a5$])(?<![0-9][-.*])(?<![A-Za-z_]=)(?<![A-Za-z][-/.])
    (?: (?P<ip>[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}})
      | (?P<id_card>[1-9][0-9]{{16}}[0-9Xx])
      | (?P<mobile>(?:(?:\+|00)?86[- ]?)?1[3-9][0-9](?P<s>[- ]?)[0-9]{{4}}(?P=s)[0-9]{{4}})
      | (?P<bank_card>[3-6][0-9]{{3}}(?P<b>[- ]?)[0-9]{{4}}(?P=b)[0-9]{{4}}(?P=b)[0-9]{{4}}(?:(?P=b)[0-9]{{1,3}})?)
      | (?P<landline>(?:\+?86[- ]?)?(?:{_AREA}[- ]{_LOCAL}|[(（]{_AREA}[)）][- ]?{_LOCAL})(?:-[0-9]{{1,6}})?
          |[48]00(?:-[0-9]{{3}}-[0-9]{{4}}|-[0-9]{{4}}-[0-9]{{3}}|-[0-9]{{7}}|[ ][0-9]{{3}}[ ][0-9]{{4}}))
    )
    (?![0-9A-Za-z_]|[-.][0-9]|@|\.[A-Za-z])""",
    re.VERBOSE,
)
_EMAIL = re.compile(  # from where the characters of a name begin before an @
    r"(?<![/@:=])([A-Za-z0-9_%+-]++(?:\.[A-Za-z0-9_%+-]++)*+)@((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+)([A-Za-z]{2,6})"
    r"(?![A-Za-z0-9@-]|\.[A-Za-z0-9]|:[A-Za-z0-9~/])"
)
_NAME_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-")
_DOMAINS = frozenset(
    [
        "com",
        "net",
        "org",
        "edu",
        "gov",
        "mil",
        "int",
        "info",
        "biz",
        "name",
        "pro",
        "mobi",
        "asia",
        "tel",
        "jobs",
        "app",
        "dev",
        "cloud",
        "tech",
        "online",
        "site",
        "store",
        "shop",
        "club",
        "vip",
        "xyz",
        "top",
        "wang",
        "ren",
        "ltd",
        "group",
        "fun",
        "work",
        "live",
        "email",
        "link",
        "space",
        "press",
        "wiki",
        "ink",
        "art",
        "kim",
        "red",
        "run",
        "life",
        "world",
        "today",
    ]
)
# How the words begin that name a number.
WORD = re.compile("[QqVvWw扣企微](?=[Qq扣鹅信Xx]|e[iCc])")
_NAMED = re.compile(
    r"(?:[Qq][Qq]|扣扣|企鹅)(?:群|群号|号|号码)?[ ]?[:：]?\s*(?P<number>[1-9][0-9]{4,10})(?![0-9A-Za-z_]|\.[0-9]|[个万亿余多名人元年月次])"
    r"|(?:微信|[Ww]ei[Xx]in|[Ww]e[Cc]hat|WX|[Ww]x|VX|[Vv]x|[Vv]信)(?:号|ID)?[ ]?[:：]\s*(?P<name>[A-Za-z][-_A-Za-z0-9]{5,19})(?![-_A-Za-z0-9.@(/])"
)
_PAIRS = {
    "qq": frozenset({"QQ", "qq", "Qq", "qQ", "扣扣", "企鹅"}),
    "wechat": frozenset({"微信", "V信", "v信", " :", " ："})
    | {last + sign for last in "ntxX" for sign in ":：号I"},  # weixin, wechat, wx, vx before the sign
}
_ADDRESS = re.compile(r"://|www\.|\?[\w&=%.-]*=", re.ASCII)


class PersonalDataCleaner:
    """The step `personal_data`. `edits` kinds: the fields of the step that mask."""

    def __init__(self, step: steps.PersonalData) -> None:
        self._how: dict[str, str] = {kind: getattr(step, kind) for kind in MASKS}
        self._numbers = [
            kind for kind in ("mobile", "landline", "id_card", "bank_card", "ip") if self._how[kind] != "keep"
        ]
        pairs: frozenset[str] = frozenset()
        for kind, of_kind in _PAIRS.items():
            if self._how[kind] != "keep":
                pairs |= of_kind
        digits = 7 if self._numbers else 0
        chars = frozenset("@") if self._how["email"] != "keep" else frozenset()
        self.triggers = Triggers(chars=chars, pairs=pairs, digits=digits)

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text with what was found masked, the same object without any. Raises DropDocument if the step says so."""
        before = text
        for _ in range(ROUNDS):
            runs, words = candidates(text)
            if not runs and not words and "@" not in text:
                break
            found: Counter[str] = Counter()
            if self._numbers and runs:
                text = self._without_numbers(text, runs, found)
            if self._how["email"] != "keep" and "@" in text:
                text = self._without_emails(text, found)
            if self._how["qq"] != "keep" or self._how["wechat"] != "keep":
                text = self._without_names(text, candidates(text)[1] if found else words, found)
            if not found:
                break
            edits.update(found)
        return before if text == before else text

    def _without_numbers(self, text: str, runs: list[int], found: Counter[str]) -> str:
        parts: list[str] = []
        position = 0
        for start, end in zip(runs[::2], runs[1::2], strict=True):
            for match in _NUMBER.finditer(text, start, end + 2):  # two more for what must not follow
                parts += (text[position : match.start()], self._number(match, found))
                position = match.end()
        return "".join([*parts, text[position:]]) if found else text

    def _without_emails(self, text: str, found: Counter[str]) -> str:
        before = found["email"]
        parts: list[str] = []
        position = 0
        at = text.find("@")
        while at >= 0:
            start = at
            while start and text[start - 1] in _NAME_CHARACTERS:
                start -= 1
            if start < at and (match := _EMAIL.match(text, start)):
                parts += (text[position:start], self._email(match, found))
                position = match.end()
            at = text.find("@", at + 1)
        return "".join([*parts, text[position:]]) if found["email"] > before else text

    def _without_names(self, text: str, words: list[int], found: Counter[str]) -> str:
        parts: list[str] = []
        position = 0
        for at in words:
            if at >= position and (match := _NAMED.match(text, at)):
                parts += (text[position:at], self._named(match, found))
                position = match.end()
        return "".join([*parts, text[position:]]) if parts else text

    def _treat(self, kind: str, value: str, found: Counter[str]) -> str:
        if self._how[kind] == "drop":
            raise DropDocument(kind, partly_hidden(value))
        found[kind] += 1
        return MASKS[kind]

    def _number(self, match: re.Match[str], found: Counter[str]) -> str:
        value = match[0]
        kind = next(name for name in ("ip", "id_card", "mobile", "bank_card", "landline") if match[name] is not None)
        if self._how[kind] == "keep" or not _holds(kind, value) or _in_address(match.string, match.start()):
            return value
        return self._treat(kind, value, found)

    def _email(self, match: re.Match[str], found: Counter[str]) -> str:
        domain, top = match[2].lower(), match[3].lower()
        if (len(top) > 2 and top not in _DOMAINS) or domain.split(".")[-2] in (
            "example",
            "sample",
            "yourdomain",
            "domain",
        ):
            return match[0]
        if _in_address(match.string, match.start()):
            return match[0]
        return self._treat("email", match[0], found)

    def _named(self, match: re.Match[str], found: Counter[str]) -> str:
        kind = "wechat" if match["name"] else "qq"
        start = match.start()
        letter_before = start > 0 and match.string[start - 1].isascii() and match.string[start - 1].isalpha()
        if self._how[kind] == "keep" or (letter_before and match[0][0].isascii()):
            return match[0]
        value = match["name"] or match["number"]
        return match[0][: -len(value)] + self._treat(kind, value, found)


def candidates(text: str) -> tuple[list[int], list[int]]:
    """Where a number may stand that is masked (start, end, start, ...), and where a word begins that names one.

    They are the matches of RUN, with a bracket or plus before them, in which there are digits enough, and those of WORD.
    """
    codes = codes_of(text)
    places = np.empty(ROOM, np.int32)
    runs, words = _candidates(codes, _CLASSES, places)
    if runs + words > ROOM:
        places = np.empty(runs + words, np.int32)
        _candidates(codes, _CLASSES, places)
    return places[:runs].tolist(), places[len(places) - words :][::-1].tolist()


_ADDRESS_DIGITS = 7  # is_public_address asks for as many
_DIGITS = 10  # of any other number


def _classes() -> NDArray[np.uint8]:
    """Of each character of the basic plane: 1 a digit, 2 what may stand in a run, 4 and 8 what may be first and second in
    a word. A code beyond the plane is looked up as U+FFFF, which is nothing."""
    classes = np.zeros(0x10000, np.uint8)
    for bit, characters in ((3, "0123456789"), (2, " .()（）+-"), (4, "QqVvWw扣企微"), (8, "Qq扣鹅信Xxe")):
        for character in characters:
            classes[ord(character)] |= bit
    return classes


_CLASSES = _classes()


@kernel
def _candidates(codes, classes, places):  # type: ignore[no-untyped-def]
    """Runs (two places each) to the front of `places`, words to the back, and how many places there are of both, which may
    be more than there is room for."""
    size, last = np.uint64(len(codes)), np.uint64(0xFFFF)
    at, one = np.uint64(0), np.uint64(1)  # unsigned: no look whether an index counts from the end
    runs = words = 0
    while at < size:
        found = classes[min(np.uint64(codes[at]), last)]
        if not found & 5:
            at += one
        elif found & 4:
            at += one
            after = np.uint64(codes[at]) if at < size else np.uint64(0)
            if classes[min(after, last)] & 8:
                third = np.uint64(codes[at + one]) if at + one < size else np.uint64(0)
                if after != 101 or third == 105 or third == 67 or third == 99:  # e and then i, C or c
                    if runs + words < len(places):
                        places[len(places) - 1 - words] = at - one
                    words += 1
        else:
            start = at
            digits = dots = 0
            while at < size and classes[min(np.uint64(codes[at]), last)] & 2:
                digits += classes[codes[at]] & 1
                dots += codes[at] == 46
                at += one
            if at - start < 6:
                continue
            if at < size and (codes[at] == 88 or codes[at] == 120):  # X, x
                at += one
                digits += 2  # two characters behind it are looked at as well
            if digits >= _DIGITS or (digits >= _ADDRESS_DIGITS and dots >= 3):
                before = codes[start - one] if start else codes[start]
                if runs + words + 1 < len(places):
                    places[runs] = start - np.uint64(before == 43 or before == 40 or before == 0xFF08)  # +, (, （
                    places[runs + 1] = at
                runs += 2
    return runs, words


def partly_hidden(value: str) -> str:
    """The value with its middle hidden: 138****5678."""
    shown = min(3, len(value) // 4)
    return value[:shown] + "*" * (len(value) - 2 * shown) + value[len(value) - shown :]


def _holds(kind: str, value: str) -> bool:
    """Whether a value of a kind's form passes that kind's check."""
    if kind == "id_card":
        return is_identity_number(value)
    if kind == "bank_card":
        return passes_luhn(value)
    if kind == "ip":
        return is_public_address(value)
    return True


def is_identity_number(value: str) -> bool:
    """Whether 18 characters are a resident identity number: province, date and the ISO 7064 MOD 11-2 digit."""
    month, day, year = int(value[10:12]), int(value[12:14]), int(value[6:10])
    if not (1850 <= year <= 2099 and 1 <= month <= 12 and 1 <= day <= 31) or value[0] not in "12345689":
        return False
    if day > (29 if month == 2 and ((year % 4 == 0 and year % 100 != 0) or year % 400 == 0) else _DAYS[month - 1]):
        return False
    total = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(value[:17]))
    return "10X98765432"[total % 11] == value[17].upper()


_NAME_SERVERS = frozenset({"114.114.114.114", "114.114.115.115", "119.29.29.29", "180.76.76.76", "208.67.222.222"})
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def passes_luhn(value: str) -> bool:
    """Whether the digits, blanks and hyphens left out, pass Luhn's check (ISO/IEC 7812-1) and are not one digit repeated."""
    digits = [int(character) for character in value if character.isdigit()]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += digit if place % 2 == 0 else digit * 2 - (9 if digit > 4 else 0)
    return total % 10 == 0 and len(set(digits)) > 2


def is_public_address(value: str) -> bool:
    """Whether four numbers are the public IPv4 address of a host: seven digits or more, no leading zeros, no name server."""
    if sum(map(str.isdigit, value)) < 7 or value.endswith(".0") or value in _NAME_SERVERS:
        return False
    try:
        return ipaddress.IPv4Address(value).is_global
    except ValueError:
        return False


def _in_address(text: str, at: int) -> bool:
    """Whether the place is inside a web address: unbroken ASCII before it holds a scheme or a query."""
    start = at
    while start > max(0, at - 200) and "!" <= text[start - 1] <= "~":
        start -= 1
    return start < at and _ADDRESS.search(text, start, at) is not None
