"""Numbers in Chinese text: whatever is written is read back, exactly; what is a word is no number."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jielong.align.numerals import MOST_DIGITS, number_of, numbers, read_chinese

DIGITS = "零一二三四五六七八九"
CHEQUE = str.maketrans("一二三四五六七八九十百千", "壹贰叁肆伍陆柒捌玖拾佰仟")


def below_ten_thousand(number: int) -> str:
    """1 to 9999: 一千零五十."""
    text, gap = "", False
    for sign, size in (("千", 1000), ("百", 100), ("十", 10), ("", 1)):
        digit = number // size % 10
        if digit:
            text += ("零" if gap and text else "") + DIGITS[digit] + sign
        gap = not digit
    return text


def written(number: int) -> str:
    """As a schoolbook writes it: 零, 十五, 一百一十五, 三万零五, 一亿零三百万, 一万亿."""
    if number == 0:
        return "零"
    text = ""
    for sign, size in (("亿", 10**8), ("万", 10**4)):
        if number >= size:
            left = number // size
            text += (written(left) if sign == "亿" else below_ten_thousand(left)) + sign
            number %= size
            if 0 < number < size // 10:
                text += "零"
    if number:
        text += below_ten_thousand(number)
    return text.replace("一十", "十", 1) if text.startswith("一十") else text


def test_the_writer() -> None:
    known = {
        7: "七", 10: "十", 15: "十五", 20: "二十", 105: "一百零五", 115: "一百一十五", 1050: "一千零五十", 30_005: "三万零五",
        100_000: "十万", 103_000_000: "一亿零三百万", 10**12: "一万亿", 10**8 + 1: "一亿零一", 20_300: "二万零三百",
    }  # fmt: skip
    assert {number: written(number) for number in known} == known


@given(st.integers(0, 10**16 - 1))
@example(10_010_010)
@example(1_000_000_000_001)
def test_what_is_written_is_read_back(number: int) -> None:
    text = written(number)
    assert read_chinese(text) == number, text
    assert read_chinese(text.translate(CHEQUE)) == number
    assert numbers(f"答案是{text}个。") == [number]
    assert number_of(f"{text}元") == number
    assert numbers(f"零下{text}度") == [-number]
    assert read_chinese(text.replace("二千", "两千").replace("二万", "两万")) == number


@given(st.integers(100, 10**12))
def test_digit_by_digit(number: int) -> None:
    text = "".join(DIGITS[int(digit)] for digit in str(number))
    assert read_chinese(text) == number and read_chinese(text.replace("零", "〇")) == number


@given(st.integers(-(10**15), 10**15), st.integers(0, 6))
def test_arabic_numbers_are_read_back(number: int, decimals: int) -> None:
    value = Fraction(number, 10**decimals)
    text = f"{'-' if number < 0 else ''}{abs(number) // 10**decimals:,}"
    if decimals:
        text += f".{abs(number) % 10**decimals:0{decimals}d}"
    for form in (text, text.replace(",", "")):
        assert numbers(f"先有 7 个，最后是{form}。") == [7, value]
        assert number_of(form) == value
    assert numbers(text.replace(",", "") + "%") == [value / 100]


@given(st.integers(1, 9999), st.integers(1, 9999), st.integers(0, 99))
def test_fractions_are_read_back(above: int, below: int, whole: int) -> None:
    value = Fraction(above, below)
    for text in (f"{above}/{below}", f"{written(below)}分之{written(above)}", f"\\frac{{{above}}}{{{below}}}"):
        assert numbers(f"等于{text}。") == [value] and number_of(text) == value
        assert numbers(f"等于-{text}") == [-value]
    assert numbers(f"{whole}又{above}/{below}") == [whole + value]
    assert numbers(f"{written(whole)}又{written(below)}分之{written(above)}") == [whole + value]


@given(st.text(alphabet="零〇一二两三十百千万亿点分之又负壹佰廿0123456789.,/%-\\frac{} 个克起统", max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    for value in numbers(text):
        assert isinstance(value, Fraction)
    number_of(text)
    read_chinese(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("两", 2), ("一万五", 15_000), ("两百五", 250), ("一百五", 150), ("三千二", 3200), ("一亿三", 130_000_000),
        ("一千二百五", 1250), ("一百十五", 115), ("廿五", 25), ("卅", 30), ("一万万", 10**8), ("两千零八", 2008), ("二〇二四", 2024),
        ("壹佰贰拾叁", 123), ("贰萬伍仟", 25_000), ("一百零五", 105), ("一万零五", 10_005),
    ],
)  # fmt: skip
def test_other_ways_to_write_a_numeral(text: str, value: int) -> None:
    assert read_chinese(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "三五",
        "十十",
        "一百零",
        "百",
        "万",
        "二十零五",
        "一百二三",
        "两三",
        "百一",
        "亿",
        "十百",
        "三万五万",
        "甲",
        "一" * (MOST_DIGITS + 1),
    ],
)
def test_what_is_no_numeral(text: str) -> None:
    assert read_chinese(text) is None


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("小明有3个苹果，小红有5个，一共有8个。", 8),
        ("所以他们一共走了一百二十三公里，一定很累。", 123),
        ("15-7=8", 8),
        ("5 减 7 等于 -2。", -2),
        ("气温是零下五度", -5),
        ("利率是百分之三点五", Fraction(7, 200)),
        ("达到百分之百", 1),
        ("一共3.5万元", 35_000),
        ("人口1亿2千万", 120_000_000),
        ("一点二亿", 120_000_000),
        ("圆周率约为三点一四", Fraction(157, 50)),
        ("下午三点二十分", 20),
        ("每天卖出千分之三", Fraction(3, 1000)),
        ("重五千克", 5),
        ("重一万五千克", 15_000),
        ("长5千米", 5),
        ("有3千人", 3000),
        ("答案：\uff17\uff12\uff05", Fraction(18, 25)),  # full-width
        ("得 72\\%", Fraction(18, 25)),
        ("\\boxed{\\dfrac{3}{4}}", Fraction(3, 4)),
        ("差是 \u22126", -6),
        ("1,2,3", 3),
        ("价格 1,234.50 元", Fraction(2469, 2)),
        ("考了十分。", 10),
        ("等于五", 5),
        ("两个", 2),
        ("三加四等于七，对吗", 7),
        ("12.", 12),
        ("买二两酒", 2),
        ("含盐 3‰", Fraction(3, 1000)),
        ("五是对的", 5),
        ("1,2345", 2345),
    ],
)  # fmt: skip
def test_the_last_number(text: str, last: Fraction | int) -> None:
    assert numbers(text)[-1] == last


def test_all_numbers_in_order() -> None:
    assert numbers("三加四等于七，12 - 5 也是 7。") == [3, 4, 7, 12, 5, 7]


@pytest.mark.parametrize(
    "text",
    ["统一", "唯一。", "他们一起走", "四川很美", "万一下雨", "三亚", "一样", "十分高兴", "几十个人", "三角形", "五边形", "最好的城市之一。", "快一点吧",
     "0/0", "1" * 5000, "张三。", "参加大陆的活动", "没有数字"],
)  # fmt: skip
def test_words_are_no_numbers(text: str) -> None:
    assert numbers(text) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), (" 12 个。", 12), ("12个苹果", 12), ("解：……\n#### 1,000", 1000), ("三十五岁", 35), ("$3.50", Fraction(7, 2)), ("25%", Fraction(1, 4)),
        (".5", Fraction(1, 2)), ("-7", -7), ("12 km", 12), ("五平方米", 5), ("二分之一", Fraction(1, 2)),
        ("四川", None), ("三亚", None), ("北京", None), ("2024年5月", None), ("3:2", None), ("", None), ("一样", None), ("三国演义", None),
        ("北京有2个机场", None),
    ],
)  # fmt: skip
def test_a_text_that_is_a_number(text: str, value: Fraction | int | None) -> None:
    assert number_of(text) == value
