"""Groups of terms: which words are searched, and which recipes are refused."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import Field

from jielong.data.measuring.terms import MAX_MEMBERS, MAX_TERMS, NO_MENTIONS, Group
from jielong.errors import RecipeError
from jielong.recipe import Section, parse_section


class Table(Section):
    """A recipe's table with groups."""

    balance: tuple[Group, ...] = Field((), strict=False)


TOML = """
[[balance]]
name = "sexes"
[balance.terms]
"女" = ["女", "她", "妇女", "她"]
"男" = ["男", "他", "其他", "-他山"]
"""


def test_from_a_recipe() -> None:
    group = parse_section("data", Table, tomllib.loads(TOML)).balance[0]
    assert group.members == ["女", "男"]
    words = dict(group.words())
    assert [words[word] for word in ("女", "妇女", "她", "男", "他")] == [0, 0, 0, 1, 1]
    assert words["其他"] == 1, "a word of the list that is a term is a term"
    assert words["他山"] == words["他们"] == words["子女"] == -1
    assert "印度洋" not in words, "words that hold no term of the group are not searched"
    assert group.words() == sorted(group.words()) and group.no_mentions() == sorted(group.no_mentions())


def test_the_list() -> None:
    assert len(set(NO_MENTIONS)) == len(NO_MENTIONS) and all(len(word) > 1 for word in NO_MENTIONS)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, "a group compares members, got none; give from 2 to"),
        ({"甲": ["乙"]}, "a group compares members, got 甲; give"),
        ({str(n): [f"词{n}"] for n in range(MAX_MEMBERS + 1)}, "a group compares members"),
        ({"甲": ["乙"], "丙": []}, "丙: has no term, got"),
        ({"甲": ["乙"], "丙": ["-丁"]}, "丙: has no term, got"),
        ({"甲": ["乙"], "丙": ["乙"]}, "丙: a term stands in two places, got '乙', also a term of 甲"),
        (
            {"甲": ["-乙", "丁"], "丙": ["乙"]},
            "丙: a term stands in two places, got '乙', also a word that is no mention",
        ),
        ({"甲": ["乙"], "丙": ["丁", "-乙"]}, "丙: got '-乙', which is also a term of 甲"),
        ({"甲": ["乙", "-乙"], "丙": ["丁"]}, "甲: got '-乙', which is also a term of 甲"),
        ({"甲": [" 乙"], "丙": ["丁"]}, "甲: not a term, got ' 乙'"),
        ({"甲": ["-"], "丙": ["丁"]}, "甲: has no term"),
        ({"甲": ["乙", "-"], "丙": ["丁"]}, "甲: not a term, got '-'"),
        ({"甲": [""], "丙": ["丁"]}, "甲: not a term, got ''"),
        ({"甲": ["长" * 33], "丙": ["丁"]}, "甲: not a term"),
        ({" ": ["乙"], "丙": ["丁"]}, "a member has no name"),
        ({"甲": [f"词{n}" for n in range(MAX_TERMS + 1)], "丙": ["丁"]}, "too many terms"),
    ],
)
def test_refused(terms: dict[str, list[str]], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_section("data", Table, {"balance": [{"name": "x", "terms": terms}]})
    assert str(caught.value).startswith(f"data.balance.0.terms: {message}"), caught.value


def test_refused_by_type() -> None:
    for bad, field in (
        ({"terms": {"甲": ["乙"], "丙": ["丁"]}}, "name"),
        ({"name": ""}, "name"),
        ({"name": "x", "terms": {"甲": "乙"}}, "terms.甲"),
    ):
        with pytest.raises(RecipeError, match=rf"data\.balance\.0\.{field}: "):
            parse_section("data", Table, {"balance": [bad]})
