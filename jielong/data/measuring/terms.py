"""`[[data.balance]]`: groups of terms whose shares in the corpus are compared, and what is a mention of a member.

    [[data.balance]]
    name = "sexes"
    [data.balance.terms]
    "女" = ["女", "她", "妇女", "女性"]
    "男" = ["男", "他", "男性", "-他她"]

(TOML wants quotes around a key that is not ASCII.) A member is mentioned wherever one of its terms stands; the longest term
wins and mentions do not overlap, so 妇女 is one mention. Chinese has no word boundaries, so a short term is found
inside words that mean something else: on 50 MB of real text a third of the 36,800 occurrences of 他 were 其他, another sixth
他们. Hence *words that are no mention*: a term with a minus sign before it, and the short list below, of which those words
are taken that hold a term of the group. They are searched together with the terms and swallow their place, longest first:
in 其他 nothing is left for 他. A word of the list that the user names as a term is a term.

他们 is on the list because it stands for any group of people, 她们 (women only) is not: counting both would make every
crowd a mention of men. A term takes what belongs to it: write 河南省 beside 河南, or 省第 becomes a neighbour. What
remains ambiguous is for the eye: the report shows mentions chosen by chance.

This file is read with every recipe, so it imports neither numpy nor numba.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from jielong.recipe import Section

NO_MENTIONS = (
    "其他", "他们", "他人", "他国", "他乡", "他日", "他方", "他项", "他杀", "他类", "他山之石", "吉他", "排他",
    "利他", "维他命", "他汀", "他滨", "他莫昔芬", "他克莫司", "他达拉非", "他唑巴坦", "头孢他啶", "子女", "儿女",
    "女真", "女贞", "处女作", "处女座", "处女地", "处女航", "仙女座", "室女座", "今日本", "本日本", "印度尼西亚",
    "印度洋", "印度支那", "西印度", "黄河南岸", "黄河北岸", "长江西", "长江北", "太湖南", "太湖北", "上海南",
    "青海南", "渤海南",
)  # fmt: skip
MAX_MEMBERS, MAX_TERMS, MAX_TERM_CHARS = 64, 1000, 32

Terms = Annotated[tuple[str, ...], Field(strict=False)]


class Group(Section):
    """One group of members, each with the terms that mention it."""

    name: str = Field(description="name of the group, shown in the report", min_length=1)
    terms: dict[str, Terms] = Field(
        description="for each member its terms; a term with a minus sign before it is a word that is no mention"
    )

    @field_validator("terms")
    @classmethod
    def _check(cls, terms: dict[str, Terms]) -> dict[str, Terms]:
        problem = _problem(terms)
        if problem:
            raise ValueError(problem)
        return terms

    @property
    def members(self) -> list[str]:
        """The names of the members, in the recipe's order."""
        return list(self.terms)

    def words(self) -> list[tuple[str, int]]:
        """What is searched: (word, number of the member); -1 for a word that is no mention. Sorted, each word once."""
        found = {
            term: number
            for number, terms in enumerate(self.terms.values())
            for term in terms
            if not term.startswith("-")
        }
        return sorted([*found.items(), *((word, -1) for word in self.no_mentions())])

    def no_mentions(self) -> list[str]:
        """The words that hold a term and are no mention: the group's own and those of the list. Sorted."""
        own = {term for terms in self.terms.values() for term in terms if not term.startswith("-")}
        given = {term[1:] for terms in self.terms.values() for term in terms if term.startswith("-")}
        listed = {word for word in NO_MENTIONS if word not in own and any(term in word for term in own)}
        return sorted(given | listed)


def _problem(terms: dict[str, Terms]) -> str | None:
    """Why these terms cannot be compared, or None."""
    if not 2 <= len(terms) <= MAX_MEMBERS:
        got = ", ".join(terms) or "none"
        return f"a group compares members, got {got}; give from 2 to {MAX_MEMBERS}; correct the group"
    owner: dict[str, str] = {}
    for member, listed in terms.items():
        if not member.strip():
            return f"a member has no name, got {member!r}; the name is the key before its terms; name it"
        if not any(not term.startswith("-") for term in listed):
            return f"{member}: has no term, got {list(listed)}; at least one is needed; add one or take the member out"
        for term in listed:
            bare = term.removeprefix("-")
            if not bare.strip() or bare != bare.strip() or "\n" in bare or len(bare) > MAX_TERM_CHARS:
                return (
                    f"{member}: not a term, got {term!r}; a term has 1 to {MAX_TERM_CHARS} characters and no blank at its "
                    "ends; correct it"
                )
            before = owner.setdefault(bare, member if term == bare else "-")
            if term == bare and before != member:
                other = "a word that is no mention" if before == "-" else f"a term of {before}"
                return f"{member}: a term stands in two places, got {term!r}, also {other}; leave it in one of them"
            if term != bare and before != "-":
                return f"{member}: got {term!r}, which is also a term of {before}; leave it in one of them"
    if len(owner) > MAX_TERMS:
        return f"too many terms, got {len(owner)}; at most {MAX_TERMS}; leave some out"
    return None
