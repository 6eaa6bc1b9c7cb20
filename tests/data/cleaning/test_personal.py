"""Personal data: what is masked, and the many numbers that look alike and stay."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.cleaner import DropDocument
from jielong.data.cleaning.personal import (
    MASKS,
    RUN,
    WORD,
    PersonalDataCleaner,
    candidates,
    is_identity_number,
    is_public_address,
    partly_hidden,
    passes_luhn,
)
from jielong.data.cleaning.scan import ROOM
from tests.data.cleaning.triggers import check_contract

CLEANER = PersonalDataCleaner(steps.PersonalData(step="personal_data"))
ID_CARD = "11010519491231002X"  # the example of the standard GB 11643
BANK_CARD = "6222021234567894"


def only(kind: str, how: str = "mask") -> PersonalDataCleaner:
    options = dict.fromkeys(MASKS, "keep") | {kind: how}
    return PersonalDataCleaner(steps.PersonalData.model_validate({"step": "personal_data", **options}))


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("手机13812345678。", "手机[手机号]。"),
        ("tel:+86 138-1234-5678,13912345678/13712345678", "tel:[手机号],[手机号]/[手机号]"),
        ("138 1234 5678 和 8613812345678", "[手机号] 和 [手机号]"),
        ("电话：010-12345678转8，(0755)2345678，（021）6543-2100", "电话：010-12345678转8，[固定电话]，[固定电话]"),
        ("电话：010-62345678，0571-8765432-801，400-688-6148", "电话：[固定电话]，[固定电话]，[固定电话]"),
        (f"身份证{ID_CARD}，", "身份证[身份证号]，"),
        (f"卡号{BANK_CARD}，6222 0212 3456 7894", "卡号[银行卡号]，[银行卡号]"),
        ("邮箱：zhang.san_1@mail.example.edu.cn、a@qq.com。", "邮箱：[邮箱]、[邮箱]。"),
        ("来自 123.125.114.144:8080 的访问", "来自 [IP地址]:8080 的访问"),
        ("QQ：123456789，qq群 87654321，扣扣号:10001", "QQ：[QQ号]，qq群 [QQ号]，扣扣号:[QQ号]"),
        ("扣扣扣：12345678，V信 ：abc_12345", "扣扣扣：[QQ号]，V信 ：[微信号]"),
        (
            "@a.b-c@qq.com，x@b@qq.com，.a@qq.com，a..b@qq.com;c@qq.com",
            "@a.b-c@qq.com，x@b@qq.com，.a@qq.com，a..b@qq.com;[邮箱]",
        ),
        ("(((010)62345678，（+86 13812345678", "(([固定电话]，（[手机号]"),
        ("微信号：abc_12345，WX:zhangsan88，wechat: li-si-2020。", "微信号：[微信号]，WX:[微信号]，wechat: [微信号]。"),
    ],
)
def test_what_is_masked(dirty: str, clean: str) -> None:
    assert check_contract(CLEANER, dirty) == clean


@pytest.mark.parametrize(
    "text",
    [
        "编号138123456789，x13812345678，13812345678.5，0.13812345678，1-13812345678，12812345678",
        "https://a.cn/13812345678.html?id=13912345678 p=13812345678",
        "2021-04-05 08:24:43，1949-10-01，3.14159265358979，1 234 567 890",
        "ISBN 978-7-302-12345-6，7-111-12345-X，邮编100000，订单20210405123456789012",
        "110105194912310021，110105194913310020，6222021234567890，4444444444444444",
        "127.0.0.1 192.168.1.1 10.0.0.1 8.8.8.8 1.2.3.4 v1.22.333.4 256.1.222.333 123.45.67.0/24 1.2.3.4.5 114.114.114.114",
        "user@example.com git@github.com:a/b.git @用户 a@b icon@2x.png getty@tty1.service medium.com/@user.name",
        "QQ用户5000万，QQ2013，腾讯QQ 10000人，AQQ12345678",
        "微信：我们来了，微信公众号，微信:abc，box: value123, next: content",
        "0.010-0.012345678，表 1.2 3.4 5.6 7.8 9.0",
        "",
    ],
)
def test_what_stays(text: str) -> None:
    assert CLEANER(text, Counter()) is text


def test_treatments() -> None:
    text = "13812345678 a@qq.com"
    assert only("email")(text, Counter()) == "13812345678 [邮箱]"
    with pytest.raises(DropDocument) as caught:
        only("mobile", "drop")(text, Counter())
    assert (caught.value.rule, caught.value.detail) == ("mobile", "13*******78")
    edits: Counter[str] = Counter()
    CLEANER(text, edits)
    assert edits == {"mobile": 1, "email": 1}


def test_check_digits() -> None:
    """GB 11643 gives 11010519491231002X; Luhn by hand for 79927398713: 7+9+9+4+7+6+9+7+7+2+3 = 70."""
    assert is_identity_number(ID_CARD) and is_identity_number(ID_CARD.lower())
    assert not is_identity_number("110105194912310020")
    assert not is_identity_number("110105190002290010")  # 1900 was no leap year
    assert passes_luhn("79927398713") and not passes_luhn("79927398710") and not passes_luhn("0000000000000000")
    assert is_public_address("123.125.114.144")
    for address in ("8.8.8.8", "192.168.100.100", "300.123.123.123", "012.123.123.123", "123.125.114.0"):
        assert not is_public_address(address)
    assert partly_hidden("13812345678") == "13*******78" and partly_hidden("ab") == "**"


@given(
    st.lists(
        st.sampled_from(["13812345678", ID_CARD, BANK_CARD, "010-62345678", "(0755)2345678", "123.125.114.144", "QQ", "qq群", "微信", "wechat", "weixin"])
        | st.sampled_from(["vx", "V信", "号", ":", "：", " ", "-", ".", "abc_1234", "12345", "@", "qq.com", "1", "+86", "a", "。", "(", ")", "/", "\n"]),
        max_size=9,
    ).map("".join)
)  # fmt: skip
def test_contract(text: str) -> None:
    check_contract(CLEANER, text)
    for kind in MASKS:
        check_contract(only(kind), text)
        check_contract(only(kind, "drop"), text)


def slow_candidates(text: str) -> tuple[list[int], list[int]]:
    """The twin: by patterns."""
    runs: list[int] = []
    for match in RUN.finditer(text):
        start = match.start() - (match.start() > 0 and text[match.start() - 1] in "+(（")
        digits = sum("0" <= character <= "9" for character in match[0]) + 2 * (match[0][-1] in "Xx")
        if digits >= 10 or (digits >= 7 and match[0].count(".") >= 3):
            runs += [start, match.end()]
    return runs, [match.start() for match in WORD.finditer(text)]


@given(
    st.lists(
        st.sampled_from(["1", "12345", "1.2.3", "138 1234", "+", "(", "（", ")", "）", "-", " ", ".", "X", "x", "中", "😀", "٣"])
        | st.sampled_from([*"QqVvWwXx扣企微鹅信eEiIcC", "123456789"])
    ).map("".join)
)  # fmt: skip
def test_the_compiled_search_finds_what_the_patterns_find(text: str) -> None:
    assert candidates(text) == slow_candidates(text)


def test_more_candidates_than_there_is_room_for() -> None:
    text = "138 1234 5678，QQ、微信。" * ROOM
    assert candidates(text) == slow_candidates(text)
