"""The steps of `[data]`: what may stand in the list, with each one's options.

A recipe's list reads top to bottom. Steps of three sorts stand in it:

- *text* steps look at one document and may change it: markup, characters, simplify, whitespace, repeats, adverts,
  personal_data, flagged_words, split, measure (which changes nothing and adds columns);
- *column* steps decide from the columns that measure made: filter;
- *corpus* steps decide with all documents in view: exact, near, lines.

Behind all of them stand those that work on finished documents: annotate, then augment.

Every step can be confined to some sources (`sources`) or kept away from some (`except_sources`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from jielong.recipe import Section, absolute

RESERVED = ("read", "hold_out")  # names of what happens before the first step and after the last
Treatment = Literal["mask", "drop", "keep"]


class Step(Section):
    """What every step has, besides its own keys."""

    name: str | None = Field(
        None, description="name in counts, rejects and report; none: the step's kind", min_length=1
    )
    sources: tuple[str, ...] = Field((), description="names of the sources it works on; empty: all", strict=False)
    except_sources: tuple[str, ...] = Field((), description="names of the sources it leaves alone", strict=False)

    def placed_step(self, folder: Path) -> Step:
        """The same with relative paths made absolute."""
        return self

    def files(self) -> list[Path]:
        """Files besides the sources that the step reads."""
        return []


class Markup(Step):
    """HTML and Markdown that a crawler or an editor left in the text."""

    step: Literal["markup"]
    html: Literal["strip", "keep"] = Field(
        "strip", description="HTML tags, comments, scripts and entities; code fences and inline code are left alone"
    )
    markdown: Literal["links", "all", "keep"] = Field(
        "links",
        description="links: front matter, images, comment markers and the targets of links go, their words stay; "
        "all: also heading marks and emphasis; keep: nothing goes",
    )


class Characters(Step):
    """Control and invisible characters, odd spaces, composed forms, widths."""

    step: Literal["characters"]
    width: bool = Field(True, description="full-width letters and digits become half-width; punctuation never changes")
    compatibility: bool = Field(
        True,
        description="NFC, and of NFKC what is safe in Chinese: radicals, compatibility ideographs, ligatures, half-width "
        "kana; ①, ㎡, ½, ² stay",
    )
    punctuation: Literal["keep", "chinese"] = Field(
        "keep", description="chinese: , . ! ? : ; ( ) between Chinese characters become full-width"
    )


class Simplify(Step):
    """Traditional to simplified characters (needs the extra `data`: OpenCC)."""

    step: Literal["simplify"]


class Whitespace(Step):
    """Line ends, blanks at line ends, blank lines."""

    step: Literal["whitespace"]
    max_blank_lines: int = Field(
        2, description="blank lines in a row that stay (two stand between Python functions)", ge=0
    )
    indent: Literal["keep", "strip"] = Field(
        "keep", description="strip: the ideographic spaces (U+3000) before a paragraph go; code keeps its indentation"
    )


class Repeats(Step):
    """The same sentence punctuation many times in a row."""

    step: Literal["repeats"]
    max_run: int = Field(
        3, description="marks like 。！？，~ in a row that stay; of … and — two stay, as Chinese writes them", ge=1
    )


class Adverts(Step):
    """Lines and sentences that advertise, ask for a click or a follow, or give a contact."""

    step: Literal["adverts"]
    max_line_chars: int = Field(
        100, description="a line up to here goes whole; in a longer one only the sentence that advertises goes", ge=1
    )
    urls: Literal["keep", "lines", "remove"] = Field(
        "lines", description="lines: lines that hold nothing but an address go; remove: addresses go wherever they are"
    )
    phrases: tuple[str, ...] = Field((), description="further phrases that make a line an advert", strict=False)


class PersonalData(Step):
    """Personal data, by their form and their check digits: mask, drop the document, or keep."""

    step: Literal["personal_data"]
    mobile: Treatment = Field("mask", description="mobile numbers of mainland China")
    landline: Treatment = Field("mask", description="fixed-line numbers with their area code")
    id_card: Treatment = Field("mask", description="18-digit resident identity numbers whose check digit is right")
    bank_card: Treatment = Field("mask", description="bank card numbers of 16 to 19 digits that pass Luhn's check")
    email: Treatment = Field("mask", description="e-mail addresses")
    ip: Treatment = Field("mask", description="public IPv4 addresses; private and reserved ones stay")
    qq: Treatment = Field("mask", description="QQ numbers, where the text says that they are")
    wechat: Treatment = Field("mask", description="WeChat names, where the text says that they are")


class FlaggedWords(Step):
    """Words from your own list."""

    step: Literal["flagged_words"]
    file: str = Field(description="UTF-8 file with one word a line; relative to the recipe's folder", min_length=1)
    action: Literal["mask", "drop"] = Field(
        "mask", description="mask: each character becomes *; drop: the document goes"
    )
    min_count: int = Field(1, description="drop: occurrences from which a document goes", ge=1)

    def placed_step(self, folder: Path) -> FlaggedWords:
        """With the path of the list made absolute."""
        return self.model_copy(update={"file": absolute(self.file, folder)})

    def files(self) -> list[Path]:
        """The list."""
        return [Path(self.file)]


class Decontaminate(Step):
    """Documents that hold an item of an evaluation: a model that has read the answers is not measured by it."""

    step: Literal["decontaminate"]
    against: tuple[str, ...] = Field(
        description="evaluation files (JSON lines, JSON, CSV, also compressed), folders or globs; relative to the recipe's "
        "folder",
        strict=False,
        min_length=1,
    )
    ngram: int = Field(
        13, description="characters in an n-gram, of letters and digits only (GPT-3 and Llama: 13)", ge=5, le=50
    )
    share: float = Field(
        0.7, description="share of the n-grams of what an item asks, near one another, from which a document holds it; "
        "beginning and end must stand there too; of a short or repeated question, its passage or answers must stand near it",
        gt=0, le=1,
    )  # fmt: skip

    def placed_step(self, folder: Path) -> Decontaminate:
        """With the paths made absolute."""
        return self.model_copy(update={"against": tuple(absolute(path, folder) for path in self.against)})

    def files(self) -> list[Path]:
        """The evaluation files. Raises InputError for what is not there."""
        from jielong.data.cleaning.evaluation_items import evaluation_files

        return evaluation_files(self.against)


class Fragments(Step):
    """Long fragments that stand in many documents, mined from the corpus: adverts leave, the rest is listed."""

    step: Literal["fragments"]
    min_chars: int = Field(
        12, description="letters and digits of the shortest fragment; digits count as one another", ge=6, le=64
    )
    min_documents: int = Field(20, description="documents in which a fragment stands, from which it is looked at", ge=3)
    remove: Literal["adverts", "listed", "none"] = Field(
        "adverts",
        description="adverts: fragments that speak of contacts, offers and the like in unrelated documents; listed: only what "
        "your list says; none: nothing",
    )
    listing: str | None = Field(
        None,
        description="your edited copy of data/fragments.tsv: what is marked remove goes, what is marked keep stays; "
        "relative to the recipe's folder",
    )

    def placed_step(self, folder: Path) -> Fragments:
        """With the path of the list made absolute."""
        return self if self.listing is None else self.model_copy(update={"listing": absolute(self.listing, folder)})

    def files(self) -> list[Path]:
        """The list, if there is one."""
        return [] if self.listing is None else [Path(self.listing)]


class Split(Step):
    """Long documents, cut at paragraph and sentence ends; nothing is lost and nothing is truncated."""

    step: Literal["split"]
    max_chars: int = Field(20_000, description="documents longer than this are cut, characters", ge=100)


class Measure(Step):
    """Statistics of each document, under Data-Juicer's names where it has one; they become columns of the documents."""

    step: Literal["measure"]
    trusted: tuple[str, ...] = Field(
        (),
        description="names of sources whose text is good: a character n-gram model is trained on it and gives every "
        "document its perplexity; empty: no perplexity",
        strict=False,
    )
    perplexity_order: int = Field(3, description="characters in an n-gram of that model", ge=2, le=5)
    perplexity_megabytes: int = Field(32, description="text that it is trained on at most, MB", ge=1)
    flagged_words_file: str | None = Field(
        None, description="UTF-8 file with one word a line for flagged_words_ratio; none: the ratio is 0"
    )

    def placed_step(self, folder: Path) -> Measure:
        """With the path of the list made absolute."""
        if self.flagged_words_file is None:
            return self
        return self.model_copy(update={"flagged_words_file": absolute(self.flagged_words_file, folder)})

    def files(self) -> list[Path]:
        """The list, if there is one."""
        return [] if self.flagged_words_file is None else [Path(self.flagged_words_file)]


class Rule(Section):
    """A threshold on a column: documents below min or above max leave."""

    column: str = Field(description="a column that measure makes, or text_len", min_length=1)
    min: float | None = Field(None, description="the least value that stays; none: no lower bound")
    max: float | None = Field(None, description="the greatest value that stays; none: no upper bound")
    is_in: tuple[str, ...] = Field((), description="for the column lang: the values that stay", strict=False)
    because: str = Field("", description="where the threshold comes from: a paper, a measurement")


class Filter(Step):
    """Thresholds on columns. Changing them measures nothing again."""

    step: Literal["filter"]
    preset: Literal["chinese", "none"] = Field("chinese", description="the shipped thresholds, each with its source")
    rules: tuple[Rule, ...] = Field(
        (),
        description="your own: one for a column of the preset replaces the preset's (without bounds: switches it off)",
        strict=False,
    )

    @model_validator(mode="after")
    def _check(self) -> Filter:
        columns = [rule.column for rule in self.rules]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(
                f"rules: two rules for one column, got {', '.join(twice)}; put min and max in one, or write a second filter"
            )
        for rule in self.rules:
            if rule.min is not None and rule.max is not None and rule.min > rule.max:
                raise ValueError(
                    f"rules: min above max, got {rule.min} > {rule.max} for {rule.column}; nothing could stay; swap them"
                )
        return self


class Exact(Step):
    """Documents whose text is the same."""

    step: Literal["exact"]
    normalise: bool = Field(
        True, description="compare letters and digits only, without case, width, spaces and punctuation"
    )


class Near(Step):
    """Documents whose text is nearly the same: MinHash signatures, locality-sensitive hashing, and a check of each pair."""

    step: Literal["near"]
    similarity: float = Field(
        0.8, description="Jaccard similarity of character n-grams from which two documents are one", ge=0.4, le=0.99
    )
    ngram: int = Field(5, description="characters in an n-gram, after spaces and punctuation are left out", ge=2, le=20)
    permutations: int = Field(
        128, description="hash functions in a signature; more tell similarities apart better", ge=32, le=512
    )


class Lines(Step):
    """Lines or sentences that stand in many documents: they leave all of them. Compared by letters and digits."""

    step: Literal["lines"]
    unit: Literal["line", "sentence"] = Field("line", description="what is counted and removed")
    min_documents: int = Field(
        50,
        description="documents of one source in which it stands, from which it goes (at 20, clauses of statutes go)",
        ge=2,
    )
    min_han: int = Field(
        20, description="Han characters that it must hold: code, rules, headings, list items and refrains stay", ge=1
    )


class Annotate(Step):
    """Words and parts of speech as columns (needs the extra `data`: rjieba). Stands behind all other steps but augment."""

    step: Literal["annotate"]
    words: bool = Field(True, description="a column `words`: the words of the text in order; joined they are the text")
    pos: bool = Field(
        True, description="a column `pos`: the part of speech of each word, in ICTCLAS's tags as jieba gives them"
    )
    dictionary: str | None = Field(
        None,
        description="UTF-8 file of your own words, one a line: word, then frequency and tag if you like; relative to the "
        "recipe's folder",
        min_length=1,
    )

    @model_validator(mode="after")
    def _check(self) -> Annotate:
        if not (self.words or self.pos):
            raise ValueError("words: both columns are off, got words = false and pos = false; leave the step out")
        return self

    def placed_step(self, folder: Path) -> Annotate:
        """With the path of the list made absolute."""
        if self.dictionary is None:
            return self
        return self.model_copy(update={"dictionary": absolute(self.dictionary, folder)})

    def files(self) -> list[Path]:
        """The list, if there is one."""
        return [] if self.dictionary is None else [Path(self.dictionary)]


class Augment(Step):
    """Changed copies of training documents, marked in their meta. Stands behind all other steps."""

    step: Literal["augment"]
    method: Literal["synonyms", "shuffle", "generate"] = Field(
        description="synonyms: words of your groups; shuffle: the sentences of each line in another order; generate: a "
        "function of yours"
    )
    file: str | None = Field(
        None,
        description="synonyms: UTF-8 file, one group of words a line; relative to the recipe's folder",
        min_length=1,
    )
    function: str | None = Field(
        None, description="generate: module:name of a function (text, seed) -> text or None", pattern=r"^[\w.]+:\w+$"
    )
    copies: int = Field(1, description="copies of a document at most", ge=1, le=100)
    fraction: float = Field(1.0, description="share of the documents that get copies, chosen by a hash", gt=0, le=1)
    share: float = Field(0.2, description="synonyms: share of the known words that are replaced", gt=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Augment:
        needed = {"synonyms": "file", "generate": "function"}.get(self.method)
        if needed and getattr(self, needed) is None:
            raise ValueError(f"{needed}: missing, method is {self.method!r}; say which {needed}")
        return self

    def placed_step(self, folder: Path) -> Augment:
        """With the path of the list made absolute."""
        return self if self.file is None else self.model_copy(update={"file": absolute(self.file, folder)})

    def files(self) -> list[Path]:
        """The list, if there is one."""
        return [] if self.file is None else [Path(self.file)]


AnyStep = Annotated[
    Markup | Characters | Simplify | Whitespace | Repeats | Adverts | PersonalData | FlaggedWords | Decontaminate | Split
    | Measure | Filter | Exact | Near | Fragments | Lines | Annotate | Augment,
    Field(discriminator="step"),
]  # fmt: skip
TEXT_STEPS = (
    Markup, Characters, Simplify, Whitespace, Repeats, Adverts, PersonalData, FlaggedWords, Decontaminate, Split, Measure,
)  # fmt: skip

STANDARD: tuple[AnyStep, ...] = (
    Markup(step="markup"),
    Characters(step="characters"),
    Repeats(step="repeats"),
    Adverts(step="adverts"),
    PersonalData(step="personal_data"),
    Whitespace(step="whitespace"),  # behind those that take lines away
    Measure(step="measure"),
    Filter(step="filter"),
    Exact(step="exact"),
    Near(step="near"),
    Lines(step="lines"),
)
# places of files, whose content is what counts
PATH_FIELDS = ("file", "flagged_words_file", "against", "listing", "dictionary")


def labels(steps: tuple[AnyStep, ...]) -> list[str]:
    """A name for each step, unique in the list: its `name`, or its kind, a repeated one with -2, -3, ..."""
    found = list(RESERVED)
    for step in steps:
        base = step.name or step.step
        label, number = base, 2
        while label in found:
            label, number = f"{base}-{number}", number + 1
        found.append(label)
    return found[len(RESERVED) :]
