"""Numbers in Chinese text, exactly: Arabic ones and those written in characters, as fractions.

    12  1,234.5  -3  3/4  1又1/2  25%  3.5万  1亿2千万  \\frac{3}{4}
    一百二十三  三十五  两千零八  一万五  二〇二四  三点一四  负七  零下五  四分之三  百分之二十五  壹佰贰拾叁

A character that is a digit is often none: 统一, 一起, 四川, 万一. So one that stands alone counts only before a measure word, a sign
of arithmetic, a mark or the end of the text, and not in one of a few words (WORDS); numerals of several characters always count.
千 before the name of a unit belongs to the unit where a single digit is before it: 五千克 is five kilograms, and 一万五千克 is not.
These are rules of thumb for answers to questions about numbers, and no more is claimed for them.

A percentage is a fraction: 25% is 1/4, and not 25.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

MOST_DIGITS = 100  # a longer number is none: a model that repeats itself writes such
DIGIT = "〇零一二三四五六七八九壹贰貳叁叄參肆伍陆陸柒捌玖"
FORMAL = str.maketrans("〇壹贰貳叁叄參肆伍陆陸柒捌玖两兩拾佰仟萬億", "零一二二三三三四五六六七八九二二十百千万亿")
# full-width digits, percent sign, hyphen, solidus and full stop; the minus sign
WIDE = {0xFF10 + n: str(n) for n in range(10)} | {0xFF05: "%", 0xFF0D: "-", 0xFF0F: "/", 0xFF0E: ".", 0x2212: "-"}
SCALES = (("亿", 10**8), ("万", 10**4), ("千", 1000), ("百", 100), ("十", 10))
UNITS = "米克瓦帕焦卡赫伏安吨升字"  # 千米, 千克, 千瓦, ...
# what may stand behind a digit that is alone: measure words, the beginnings of units, and what joins numbers
MEASURES = (
    "个位名人只条头匹口棵株朵片块枚颗粒支枝根张本册页篇首幅件套双对副把台辆架艘列节座间栋层楼门扇排行队组班级批箱袋包盒"
    "瓶杯碗盘筐篮桶罐听串束捆堆叠滴段步次回遍趟场顿餐声道题项种类样份笔群圈轮局盏届期元角分毛圆年月日号天周时点刻秒岁代世"
    "夜晚成倍米尺寸丈里斤两克吨升亩顷度平立方厘毫公英磅千小摄华"
)
JOINS = "加减乘除等和与或的是比大到至"
WORDS = (
    r"统一|唯一|专一|单一|归一|逐一|之一|万一|第一时间|进一步|一样|一道(?!题|菜)|一度|一时|一方面|一口气|一成不变|三三两两|张三|李四|"
    rf"王五|不二|三角(?=[形函洲])|一点(?![0-9{DIGIT}钟整半])|十分(?![钟之])(?=[一-鿿])"
)
_ARABIC = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![0-9.])\.[0-9]+)"
_LARGE = rf"(?:[十百千]?(?:万亿|亿|万)|千(?![{UNITS}])|百(?!分))"  # behind an Arabic number
_CHINESE = rf"(?:[{DIGIT}两兩十拾廿卅](?:[{DIGIT}十百千万亿拾佰仟萬億廿卅]|[两兩](?=[百千万亿佰仟萬億]))*)"
_NUMBER = re.compile(
    rf"""(?P<word>{WORDS})
    | (?P<minus>负|零下|(?<![0-9A-Za-z)\]%}}])-)?
      (?: (?:(?P<whole>{_ARABIC}|{_CHINESE})又)?(?P<below>{_ARABIC}|{_CHINESE}|[百千万])分之
          (?P<above>{_ARABIC}|{_CHINESE}(?:点[{DIGIT}]+)?|百)
        | \\[dt]?frac\{{(?P<top>{_ARABIC})\}}\{{(?P<foot>{_ARABIC})\}}
        | (?:(?P<units>{_ARABIC})又)?(?P<over>{_ARABIC})\s?/\s?(?P<under>{_ARABIC})
        | (?P<scaled>(?:{_ARABIC}\s?{_LARGE})+)
        | (?P<arabic>{_ARABIC})(?P<per>\s?\\?[%‰])?
        | (?P<chinese>{_CHINESE})(?:点(?P<decimals>[{DIGIT}]+)(?![十百千])(?P<large>[万亿])?)? )""",
    re.VERBOSE,
)
_SCALED = re.compile(rf"({_ARABIC})\s?({_LARGE})")
_UNIT = re.compile(rf"\s*(?:[A-Za-z°℃²³/]{{0,6}}|[{MEASURES}][一-鿿]{{0,3}})")
_BEFORE, _BEHIND = " \t\r\n:：$￥¥=≈约", " \t\r\n。.！!；;，,$"  # of a number that is a whole text


def read_chinese(text: str) -> int | None:
    """The whole number that a numeral of characters is; None for what is none.

    Also without the last unit (一万五 is 15,000), digit by digit (二〇二四, of three digits at least or with a zero: 三五 is
    "three to five"), and in the characters of cheques.
    """
    if not 0 < len(text) <= MOST_DIGITS:
        return None
    plain = text.translate(FORMAL).replace("廿", "二十").replace("卅", "三十").replace("万万", "亿")
    digits = [_digit(character) for character in plain]
    if None not in digits:
        spoken = len(digits) == 1 or ((len(digits) > 2 or 0 in digits) and not set(text) & set("两兩"))
        return int("".join(map(str, digits))) if spoken else None
    return _below_scales(plain)


def _digit(character: str) -> int | None:
    place = "零一二三四五六七八九".find(character)
    return place if place >= 0 else None


def _below_scales(text: str) -> int | None:
    """A numeral with units, 1 at least."""
    if len(text) == 1 and text != "十":
        return _digit(text) or None
    for sign, size in SCALES:
        if sign not in text:
            continue
        left, _, right = text.rpartition(sign)
        if size >= 10**4:
            many = _below_scales(left) if left else None
        elif not left:
            many = 1 if sign == "十" else None
        else:
            many = (_digit(left) or None) if len(left) == 1 else None
        if many is None or (sign == "万" and many >= 10**4):
            return None
        rest = _rest(right, size)
        return None if rest is None else many * size + rest
    return None


def _rest(text: str, size: int) -> int | None:
    """What stands behind a unit of this size."""
    if not text:
        return 0
    if text.startswith("零"):
        found = _below_scales(text.lstrip("零")) if size > 10 and text.lstrip("零") else None
    elif len(text) == 1 and size >= 100 and text != "十":
        return (_digit(text) or 0) * size // 10
    else:
        found = _below_scales(text)
    return found if found is not None and found < size else None


def _read(text: str) -> Fraction | None:
    """An Arabic number, or one in characters, perhaps with decimals behind 点."""
    if text[0] in ".0123456789":
        digits = text.replace(",", "")
        return Fraction(digits) if len(digits) <= MOST_DIGITS else None
    numeral, _, decimals = text.partition("点")
    whole = {"百": 100, "千": 1000, "万": 10**4}.get(numeral) or read_chinese(numeral)
    if whole is None or len(decimals) > MOST_DIGITS:
        return None
    behind = "".join(str(_digit(character)) for character in decimals.translate(FORMAL))
    return Fraction(f"{whole}.{behind}" if behind else whole)


def _ratio(above: str, below: str, whole: str | None) -> Fraction | None:
    top, foot, more = _read(above), _read(below), Fraction(0) if whole is None else _read(whole)
    return None if top is None or not foot or more is None else more + top / foot


def _sum(text: str) -> Fraction | None:
    """3.5万, 1亿2千万: Arabic numbers with units that fall."""
    total, last = Fraction(0), 10**16
    for number, unit in _SCALED.findall(text):
        size, read = math.prod(dict(SCALES)[sign] for sign in unit), _read(number)
        if read is None or size >= last:
            return None
        total, last = total + read * size, size
    return total


def _alone(text: str, match: re.Match[str]) -> bool:
    """Whether a numeral of one character is a number where it stands."""
    before, behind = text[: match.start()][-1:], text[match.end() : match.end() + 1]
    if match["chinese"] == "十" and before in ("几", "数"):
        return False
    return match["chinese"] in "零〇一二三四五六七八九十两" and (
        not re.fullmatch("[一-鿿]", behind) or behind in MEASURES + JOINS
    )


def _value(text: str, match: re.Match[str]) -> Fraction | None:
    """The number that was found, without its sign."""
    if match["below"]:
        return _ratio(match["above"], match["below"], match["whole"])
    if match["top"]:
        return _ratio(match["top"], match["foot"], None)
    if match["over"]:
        return _ratio(match["over"], match["under"], match["units"])
    if match["scaled"]:
        return _sum(match["scaled"])
    if match["arabic"]:
        read, per = _read(match["arabic"]), (match["per"] or "").strip(" \\")
        return read if read is None or not per else read / (1000 if per == "‰" else 100)
    numeral, behind = match["chinese"], text[match.end() : match.end() + 1]
    if match["decimals"]:
        read = _read(f"{numeral}点{match['decimals']}")
        return None if read is None else read * dict(SCALES).get(match["large"], 1)
    if len(numeral) == 2 and numeral[1] in "千仟" and behind and behind in UNITS:
        numeral = numeral[0]
    elif len(numeral) == 1 and not match["minus"] and not _alone(text, match):
        return None
    return _read(numeral)


def numbers(text: str) -> list[Fraction]:
    """The numbers of a text, in order."""
    plain, found = text.translate(WIDE), list[Fraction]()
    for match in _NUMBER.finditer(plain):
        value = None if match["word"] else _value(plain, match)
        if value is not None:
            found.append(-value if match["minus"] else value)
    return found


def number_of(text: str) -> Fraction | None:
    """The number that a text is: nothing else stands there but a unit, a sign of currency, marks; None: the text is no number.

    Of a solution as GSM8K has it (#### 72) what stands behind the last ####.
    """
    plain = text.rpartition("####")[2].translate(WIDE).lstrip(_BEFORE).rstrip(_BEHIND)
    match = _NUMBER.match(plain)
    if match is None or match["word"] or not _UNIT.fullmatch(plain, match.end()):
        return None
    value = _value(plain, match)
    return -value if value is not None and match["minus"] else value
