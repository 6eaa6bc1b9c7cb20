"""Characters that go, that become others, and that stay."""

# ruff: noqa: RUF001 - full-width letters and their like are the subject

from __future__ import annotations

import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.characters import CharactersCleaner, uncomposed_characters
from tests.data.cleaning.triggers import check_contract

CLEANER = CharactersCleaner(steps.Characters(step="characters"))
CHINESE = CharactersCleaner(steps.Characters(step="characters", punctuation="chinese"))
BARE = CharactersCleaner(steps.Characters(step="characters", width=False, compatibility=False))


@pytest.mark.parametrize(
    ("dirty", "clean", "kind"),
    [
        ("一\r\n二\r三\u2028四\x0c五\x85六", "一\n二\n三\n四\n五\n六", "line_end"),
        ("一\x00\x08\x1b二\x7f\x9f", "一二", "control"),
        ("零\u200b宽\ufeff字\u00ad符\u202e和\u2066标\u2069记\U000e0041", "零宽字符和标记", "zero_width"),
        ("一\u00a0二\u2003三\u202f四", "一 二 三 四", "odd_space"),
        ("２０２４年ＡＢＣａｂｃ", "2024年ABCabc", "width"),
        ("\u2f00\u2f08\u2ec5\u2ed4\ufb01", "一人见门fi", "compatibility"),
        ("\uff76\uff9e\uff77\uff8c\uff9f", "ガキプ", "compatibility"),
        ("\uf9e4e\u0301", "理\u00e9", "composed"),
    ],
)
def test_what_changes(dirty: str, clean: str, kind: str) -> None:
    assert check_contract(CLEANER, dirty) == clean
    edits: Counter[str] = Counter()
    CLEANER(dirty, edits)
    assert edits[kind]


@pytest.mark.parametrize(
    "text",
    [
        "你好，世界：“真的？”（是）！\u3000\u3000段落％＋－＝～",
        "① ② ㎡ ½ x² 1／2 Ⅳ ℃ № ㈠",
        "👨\u200d👩\u200d👧 ❤\ufe0f ☎\ufe0f 1\ufe0f\u20e3 👍🏽 🏳\ufe0f\u200d🌈",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "می\u200cخواهم क\u094d\u200dष",
        "\ue000\ufffd",
        "(｡･∀･)\uff89\uff9e",
        "tab\tand\nline",
    ],
)
def test_what_stays(text: str) -> None:
    assert CLEANER(text, Counter()) is text


def test_joiners_outside_sequences_go() -> None:
    assert CLEANER("中\u200d文\ufe0fa\u200cb👍\u200d中", Counter()) == "中文ab👍中"


def test_options() -> None:
    assert BARE("ＡＢ\uf9e4\u200b", Counter()) == "ＡＢ\uf9e4"
    assert CHINESE("你好,世界!他(真的)说:好?", Counter()) == "你好，世界！他（真的）说：好？"
    for text in ("1,000 a,b 3.14 http://a.cn f(x) 甲(a)乙", "时间 12:30, ok."):
        assert CHINESE(text, Counter()) is text


@given(
    st.text(
        alphabet=st.sampled_from(
            "一a1,.(!) \n\r\u200d\ufe0f\u200c\u00a0Ａ１\u0301\u2f00\uf9e4👍\U000e0041\uff76\uff9eب中"
        ),
        max_size=40,
    )
)
def test_contracts(text: str) -> None:
    for cleaner in (CLEANER, CHINESE, BARE):
        check_contract(cleaner, text)


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    cleaned = check_contract(CLEANER, text)
    assert cleaned is not None and unicodedata.is_normalized("NFC", cleaned)


@given(st.text(alphabet=st.characters(min_codepoint=0x300, max_codepoint=0x1FFF), max_size=20))
def test_uncomposed_text_holds_one_of_the_characters(text: str) -> None:
    if not unicodedata.is_normalized("NFC", text):
        assert not uncomposed_characters().isdisjoint(text)


@given(
    st.text(st.sampled_from("一a1 \n\r\x0b\x00\u200b\u00a0\u2000Ａ１e\u0301\u1160ᄀ\u2f00\u2ec5\uf9e4👍\U0002f800中\ue000\ufffd\uffff\ud800"))
    | st.text()
)  # fmt: skip
def test_table_and_patterns_do_the_same(text: str) -> None:
    for cleaner in (CLEANER, BARE):
        edits = Counter[str](), Counter[str]()
        fast, may_compose = cleaner._translated(text, edits[0])
        slow = cleaner._replaced(text, edits[1])
        assert fast is None or (fast == slow and edits[0] == edits[1])
        assert may_compose or cleaner is BARE or unicodedata.is_normalized("NFC", slow)
        if fast is None:
            assert not edits[0]


@pytest.mark.parametrize("text", ["一\u200d", "\ufe0f", "\u200c", "\ufb01", "\uff76", "一\U000e0041", "\U000e0100"])
def test_where_the_table_does_not_do(text: str) -> None:
    assert CLEANER._translated(text, Counter())[0] is None
