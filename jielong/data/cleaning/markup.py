r"""HTML and Markdown out of a text, and nothing else: the words stay, and so does everything that is code.

What makes this hard is text *about* markup. `List<String>`, `a <b and c> d`, `<stdio.h>` and `<用户>` look like tags to a
careless pattern, so a tag here is a known element name with well-formed attributes; names that double as placeholders in
command lines (`<source>`, `<option>`) need an attribute or a closing tag in the same text; a tag in quotation marks or
before the words for "tag" and "element" is talked about and stays. Fenced, inline and indented code are replaced by marks
before anything else is looked at and put back at the end, so that a link whose words are code is still a link.

A second application must change nothing, and removing makes new markup (`<<b>b>`, `&amp;lt;`). So the rules are applied
until none fires, at most ROUNDS times; ordinary documents need one round and a look for beginnings of markup, where
code holds some for those outside code. An escaped tag (`&lt;div&gt;`, which a page writes to *show* a tag) would go in the
second round; it becomes inline code, `<div>` between backticks, which is how Markdown shows a tag. Where a stray backtick
stands on the line it stays escaped.

Code and tags are found by compiled passes (codespans.py). Documents that hold a trigger are read at some 100 MB/s.

Sources: the WHATWG list of elements; what belongs to Markdown is in markdown.py.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from html.entities import html5

import numpy as np

from jielong.data import steps
from jielong.data.cleaning.cleaner import Triggers
from jielong.data.cleaning.codespans import (
    AND,
    BLOCK,
    BREAK,
    CELL,
    COLON,
    DECLARED,
    DOUBTFUL,
    LESS,
    LINK,
    NEW,
    SECRET,
    SPACES,
    find_code,
    find_tags,
    name_number,
    word_rows,
)
from jielong.data.cleaning.markdown import counted, strip_front_matter, strip_links, strip_marks
from jielong.data.cleaning.scan import codes_of

ROUNDS = 8  # deeper nesting of markup in markup than this stays as it is
_LESS = "\ufdd0"  # noncharacters of Unicode, never in a text: a decoded "<", and the brackets of a code mark
_OPEN, _CLOSE = "\ufdd1", "\ufdd2"
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HAN = "\u3400-\u4dbf\u4e00-\u9fff"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_BLOCK = _names(
    "address article aside blockquote body center dd dir div dl dt fieldset figcaption figure footer form "
    "frameset h1 h2 h3 h4 h5 h6 head header hr html legend li main menu nav noscript ol optgroup option p pre "
    "section select summary table tbody template tfoot thead title tr ul details caption "
)
_INLINE = _names(
    "a abbr acronym applet area audio b base basefont bdi bdo big blink button canvas cite code col colgroup "
    "data datalist del dfn dialog em embed font frame i iframe img input ins kbd label link map mark marquee "
    "meta meter nobr noframes object output param picture progress q rp rt ruby s samp script small source "
    "span strike strong style sub sup svg textarea time track tt u var video wbr "
)
_INSTEAD = dict.fromkeys(_INLINE, "") | dict.fromkeys(_BLOCK, "\n") | {"br": "\n", "td": "\t", "th": "\t"}
# Names that a manual also writes as placeholders.
_DOUBTFUL = _names(
    "address base button code data del dialog dir embed font form frame input label link map mark menu object "
    "option output param picture progress script section select source style summary table template time "
    "title track var video area audio body details figure head header footer main meta meter img image "
)
_BARE = _names(  # attributes without a value
    "allowfullscreen async autofocus autoplay checked controls default defer disabled hidden ismap loop "
    "multiple muted nohref noresize noshade novalidate nowrap open readonly required reversed selected"
)
_ATTRIBUTES = rf"""
    (?: \s* [A-Za-z_:@][-\w:.@]*+ \s*+ = \s*+ (?: "[^"<]*+" | '[^'<]*+' | [^\s"'<>=`]++ )
      | \s++ (?:{"|".join(sorted(_BARE))}) (?=[\s/>])
    )*+ """
_TAG = re.compile(
    rf"(?P<end>/)?(?P<name>[A-Za-z][A-Za-z0-9]*+)(?P<attributes>(?=[\s/>]){_ATTRIBUTES})\s*+/?\s*+>", re.VERBOSE
)
_BEFORE_ABOUT = ("这个", "等", "的", "之类的")
_ABOUT_WORDS = ("标签", "标记", "元素", "属性", "占位符")
_ABOUT = re.compile(rf"\s{{0,2}}(?:(?:{'|'.join(_BEFORE_ABOUT)})?(?:{'|'.join(_ABOUT_WORDS)})|tags?\b|elements?\b)")
_TALK = {"“": "”", '"': '"', "'": "'", "‘": "’", "（": "）", "「": "」"}
_HTML_START = re.compile(r"<(?=[A-Za-z/!?])")
# Not with re.IGNORECASE, which looks at every character, and takes U+017F, the long s, for an "s".
_DECLARATION = re.compile(r"<(?:![Dd][Oo][Cc][Tt][Yy][Pp][Ee]|\?[Xx][Mm][Ll])\b[^<>]*>\n?")
_SECRET = re.compile(r"<(?:([Ss][Cc][Rr][Ii][Pp][Tt]|[Ss][Tt][Yy][Ll][Ee])\b[^<>]*>|!--)")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_SHOWN = re.compile(  # tags that the page shows, with what stands between two of them on one line if that is not prose
    rf"{_LESS}[/!]?[A-Za-z-][^\n`{_LESS}{_OPEN}>]*>(?:[^\n`{_LESS}{_OPEN}{_HAN}]*{_LESS}[/!]?[A-Za-z-][^\n`{_LESS}{_OPEN}>]*>)*"
)
_MARK = re.compile(rf"{_OPEN}([0-9]+){_CLOSE}")
_ANY_MARK = re.compile(rf"{_OPEN}[0-9]+{_CLOSE}")
_MARKS: list[str] = []  # those that were needed so far
_ASCII_WORD = re.compile(r"[A-Za-z0-9_\])]")


class MarkupCleaner:
    """The step `markup`: see the module. `edits` kinds: html_tag, html_comment, html_script, html_entity, image, link,
    definition, comment_marker, front_matter, heading, emphasis."""

    def __init__(self, step: steps.Markup) -> None:
        self._html = step.html == "strip"
        self._links = step.markdown != "keep"
        self._marks = step.markdown == "all"
        pairs: set[str] = set()
        if self._html:
            pairs |= {"<" + letter for letter in _LETTERS} | {"</", "<!", "<?", "&#"}
            pairs |= {"&" + letter for letter in _LETTERS}
        if self._links:
            pairs |= {"](", "]:", "--"}
        self._wanted = (LESS | AND if self._html else 0) | (LINK | COLON if self._links else 0)
        chars = frozenset("#*_~") if self._marks else frozenset()
        self.triggers = Triggers(chars=chars, pairs=frozenset(pairs))

    def __call__(self, text: str, edits: Counter[str]) -> str:
        """The text without the markup that the step names; the same object if there is none."""
        if _LESS in text or _OPEN in text or _CLOSE in text:
            return text  # noncharacters: no place for the marks, and no text that anybody wrote
        for number in range(ROUNDS):
            if number and self._is_bare(text):
                break
            cleaned = self._round(text, edits)
            if cleaned == text:
                break
            text = cleaned
        return text

    def _is_bare(self, text: str) -> bool:
        """Whether the text holds, code included, not even the beginnings of markup: most do after one round."""
        if self._marks or (
            self._links and (text.startswith("---") or ("]" in text and ("](" in text or "]:" in text)))
        ):
            return False
        return not self._html or not (
            ("<" in text and _HTML_START.search(text)) or ("&" in text and _ENTITY.search(text))
        )

    def _round(self, text: str, edits: Counter[str]) -> str:
        if self._links and text.startswith("---"):
            text = strip_front_matter(text, edits)
        blocks, beginnings = find_code(text)
        if not self._marks and not beginnings & self._wanted:
            return text  # what there may be is code
        bounds = blocks.tolist()
        marked = _marked(text, bounds)
        before = marked
        if self._html:
            marked = _strip_html(marked, edits, beginnings)
        if self._links and (beginnings & (LINK | COLON) or marked is not before):
            marked = strip_links(marked, edits)
        if self._marks:
            marked = strip_marks(marked, edits)
        if marked == before:
            return text
        if not bounds:
            return marked
        code = _pieces(text, bounds[::2], bounds[1::2])
        between = _ANY_MARK.split(marked)
        if len(between) > len(code):  # no mark has gone
            parts = [""] * (2 * len(code) + 1)
            parts[::2], parts[1::2] = between, code
        else:
            parts = _MARK.split(marked)
            parts[1::2] = [code[int(number)] for number in parts[1::2]]
        return "".join(parts)


def _marked(text: str, bounds: list[int]) -> str:
    """The text with marks, numbered from 0, in place of its code: start, end, start, ..."""
    if not bounds:
        return text
    parts = [""] * (len(bounds) + 1)
    parts[::2] = _pieces(text, [0, *bounds[1::2]], [*bounds[::2], len(text)])
    for number in range(len(_MARKS), len(bounds) // 2):
        _MARKS.append(f"{_OPEN}{number}{_CLOSE}")
    parts[1::2] = _MARKS[: len(bounds) // 2]
    return "".join(parts)


def _pieces(text: str, starts: list[int], ends: list[int]) -> list[str]:
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _strip_html(text: str, edits: Counter[str], beginnings: int) -> str:
    """The text, code out of it, without HTML; `beginnings`: as find_code tells them."""
    before = text
    if beginnings & LESS:
        if beginnings & SECRET:
            text = _without_scripts(text, edits)
        if beginnings & DECLARED or text is not before:  # what goes may bring two halves together
            text = counted(_DECLARATION, "", text, edits, "html_tag")
        text = _without_tags(text, edits)
    if (beginnings & AND or text is not before) and "&" in text and _ENTITY.search(text):
        text = _decoded(text, edits)
    return text


def _without_scripts(text: str, edits: Counter[str]) -> str:
    """Scripts, styles and comments go with what is in them; one that is never closed is left to the tags."""
    parts: list[str] = []
    position = search_from = 0
    closed = {"</script": True, "</style": True, "-->": True}  # whether there may be one ahead: one failed search each
    folded = ""
    while match := _SECRET.search(text, search_from):
        search_from = match.end()
        end_mark = "-->" if match[1] is None else f"</{match[1].lower()}"
        if not closed[end_mark]:
            continue
        if match[1] is not None and not folded:
            folded = _folded(text)
        at = (folded or text).find(end_mark, match.start() + 4 if match[1] is None else search_from)
        end = text.find(">", at) + 1 if at >= 0 else 0
        if not end:
            closed[end_mark] = False
            continue
        if match[1] is not None and _talked_about(text, match.start(), match.end()):
            continue
        edits["html_comment" if match[1] is None else "html_script"] += 1
        parts.append(text[position : match.start()])
        position = search_from = end
    return "".join([*parts, text[position:]]) if parts else text


def _folded(text: str) -> str:
    """ASCII letters in lower case; unlike str.lower, as long as the text."""
    return text.translate(_LOWER)


_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _without_tags(text: str, edits: Counter[str]) -> str:
    rows = np.empty((3, text.count("<")), np.int32)
    used = find_tags(codes_of(text), SPACES, *_TABLES, rows)
    if used < 0:
        return _without_tags_plain(text, edits)
    if not used:
        return text
    edits["html_tag"] += used
    starts, ends, new = rows[:, :used].tolist()
    parts = [""] * (2 * used + 1)
    parts[::2] = _pieces(text, [0, *ends], [*starts, len(text)])
    parts[1::2] = [NEW[number] for number in new]
    return "".join(parts)


def _without_tags_plain(text: str, edits: Counter[str]) -> str:
    """The same without the compiled pass: for texts that it does not decide on."""
    parts: list[str] = []
    position = count = 0
    last = "\n"  # the last character that stays
    closed: dict[str, bool] = {}
    for start in _HTML_START.finditer(text):
        at = start.start()
        if at < position or not (match := _TAG.match(text, at + 1)):
            continue
        name = match["name"]
        new = _INSTEAD.get(name.lower())
        if new is None or not (name.islower() or name.isupper()):
            continue
        if not match["end"] and not match["attributes"]:
            if name in _DOUBTFUL:
                if name not in closed:
                    closed[name] = f"</{name}>" in text
                if not closed[name]:
                    continue
            if len(name) == 1 and name.isupper() and at and _ASCII_WORD.match(text, at - 1):
                continue  # Box<S>
        if _talked_about(text, at, match.end()):
            continue
        parts.append(text[position:at])
        last = text[at - 1] if at > position else last
        position = match.end()
        count += 1
        if new == "\n":
            if name in ("br", "BR"):
                if text.startswith("|", text.rfind("\n", 0, at) + 1):
                    new = " "  # in a table's row
            else:
                new = "" if last == "\n" else "\n"
            if new != " " and text.startswith("\n", position):
                position += 1  # the page's own line end after the tag
                new = "\n" if name in ("br", "BR") or last != "\n" else ""
        elif new == "\t" and not match["end"]:
            new = ""
        if new:
            parts.append(new)
            last = new
    if not count:
        return text
    edits["html_tag"] += count
    parts.append(text[position:])
    return "".join(parts)


def _talked_about(text: str, start: int, end: int) -> bool:
    return bool(_ABOUT.match(text, end)) or (start > 0 and text[end : end + 1] == _TALK.get(text[start - 1], "no"))


def _decoded(text: str, edits: Counter[str]) -> str:
    """Entities as characters; a "<" that would begin a tag is shown as inline code, or stays escaped."""
    count = 0

    def decode(match: re.Match[str]) -> str:
        nonlocal count
        new = _character(match[0])
        count += new is not None
        return match[0] if new is None else new

    def show(match: re.Match[str]) -> str:
        nonlocal count
        run = match[0].replace(_LESS, "<")
        if not any(_would_go(run, at) for at, character in enumerate(run) if character == "<"):
            return run
        whole, start, end = match.string, match.start(), match.end()
        line_end = whole.find("\n", end)
        if "`" in whole[whole.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else len(whole)] or (
            whole[start - 1 : start] == _CLOSE or whole[end : end + 1] == _OPEN
        ):
            count -= match[0].count(_LESS)
            return match[0].replace(_LESS, "&lt;")
        return f"`{run}`"

    def settle(match: re.Match[str]) -> str:
        nonlocal count
        if _would_go(match.string, match.start()):
            count -= 1
            return "&lt;"
        return "<"

    text = _ENTITY.sub(decode, text)
    if _LESS in text:
        text = re.sub(_LESS, settle, _SHOWN.sub(show, text))
    if count > 0:
        edits["html_entity"] += count
    return text


def _would_go(text: str, at: int) -> bool:
    """Whether a "<" at this place begins something that the next round takes for markup."""
    if text.startswith("!", at + 1):
        return True
    match = _TAG.match(text, at + 1)
    return match is not None and match["name"].lower() in _INSTEAD


def _character(entity: str) -> str | None:
    """What an entity stands for; None if it is not one."""
    if entity[1] == "#":
        code = int(entity[3:-1], 16) if entity[2] in "xX" else int(entity[2:-1])
        if code in (9, 10, 13):
            return "\t" if code == 9 else "\n" if code == 10 else ""
        if (
            code < 32
            or code > 0x10FFFF
            or 0xD800 <= code < 0xE000
            or code & 0xFFFE == 0xFFFE
            or 0xFDD0 <= code < 0xFDF0
        ):
            return None
    elif entity[1:] not in html5:
        return None
    character = html.unescape(entity)
    return {"\u00a0": " ", "<": _LESS}.get(character, character)  # U+00A0 no-break space


def _kind(name: str) -> int:
    """The kind of a name, for the compiled pass."""
    kind = BREAK if name == "br" else CELL if name in ("td", "th") else BLOCK * (_INSTEAD[name] == "\n")
    return kind | DOUBTFUL * (name in _DOUBTFUL)


_BY_NUMBER = sorted((name_number(name), _kind(name)) for name in _INSTEAD)
_TABLES = (
    np.array(_BY_NUMBER, np.int64).T.copy(),
    word_rows(_BARE),
    word_rows(_BEFORE_ABOUT),
    word_rows(_ABOUT_WORDS),
    word_rows(("tag", "element")),
    np.array([[ord(before), ord(after)] for before, after in _TALK.items()], np.uint32),
)
