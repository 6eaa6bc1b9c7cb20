"""The compiled statistics agree with their definition, exactly for counts and to float32 for ratios."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jielong.data.cleaning.scan import encode
from jielong.data.measuring.columns import COLUMNS
from jielong.data.measuring.measure import _add_up, measure
from jielong.data.measuring.measure_plain import measure_plain

TEXTS = {
    "empty": "",
    "blank": " \n\u3000\n\t",  # U+3000 ideographic space
    "prose": "春天来了，花开了。孩子们在院子里跑来跑去，笑声传得很远……\n“你看！”他说，“燕子回来了。”",
    "poem": "靜夜思\n李白\n牀前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。",
    "code": 'def f(x):\n    return {"a": x}  # 返回\n\n\nclass A:\n    pass\n\n    pass\n',
    "table": "| 名称 | 数量 |\n| --- | ---: |\n| 苹果 | 12 |\n| 苹果 | 12 |\n",
    "list": "- 一\n* 二\n+ 三\n• 四\n-五\n-\n1. 六",
    "emoji": "好👍🏽的👨‍👩‍👧 ❤️ 1️⃣ ★☆",
    "astral": "𠀀𠀁𠮷野家 \U0001d4b3 \U000e0041 \U0010fffd \U000c0000",
    "broken": "锟斤拷锟斤拷 烫烫烫烫 屯屯 屯屯屯 \ufffd \ue000 \x00\x07",
    "addresses": "见 https://a.cn/b?c=d，和（http://x.y`ftp://z），://无 a:// ab://cd://ef x:y //",
    "japanese": "これはテストです。漢字とかなが混ざっています。",
    "korean": "안녕하세요 세계 漢字",
    "english": "It is the case that the cat and the dog are in the house. IT IS the case that the cat",
    "russian": "Привет, мир! Это текст.",
    "rules": "...... …… … .. ... ....# ##\n等等...\n完…\n…",
    "repeated": "今天天气真好，适合出门。" * 40,
    "many repeated": "".join(chr(0x4E00 + i * i % 97) for i in range(3000)),
    "lines": "首页\n首页 \n\n 新闻\n首页\n新闻\r\n联系我们\n",
    "menu": "首页 | 新闻 | 体育>足球\n联系我们 登录 注册\u3000帮助中心和更多的内容 a新b\n更多…",
    "separators": "甲\u2028乙\x85丙\x1c丁\x0b\n\x0c戊",
    "marks": "नमस्ते e\u0301 ไทยนี้ ①②③ ½ ⅷ 〇々",
}


def assert_agree(texts: list[str]) -> None:
    flagged = np.arange(len(texts), dtype=np.int64)
    found = measure(*encode(texts), flagged)
    assert set(found) == set(COLUMNS) - {"perplexity"}
    for index, text in enumerate(texts):
        plain = measure_plain(text, index)
        assert set(plain) == set(found)
        for name, value in plain.items():
            expected = np.float32(value) if isinstance(value, float) else value
            assert found[name][index] == expected, (name, text)


def test_agrees_with_the_definition() -> None:
    assert_agree(list(TEXTS.values()))  # in one call: nothing leaks from one document to the next


PIECES = st.sampled_from(
    ["的", "中", "国", "，", "。", "…", ".", " ", "\n", "\n\n", "a", "B", "the", "1", "#", "{", "-", "- ", "•", "://", "http", "\u3000",
     "锟", "斤", "拷", "烫", "屯", "学习", "𠀀", "😀", "か", "한", "я", "\r\n", "\ufffd", "<", "|", "｜", "```", "繁體"]
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(PIECES, max_size=60).map("".join), min_size=1, max_size=4))
@example(["http://a`b://c", "://", "a:/", "a://"])
@example(["烫烫烫烫屯屯屯锟斤拷锟"])
def test_agrees_on_made_texts(texts: list[str]) -> None:
    assert_agree(texts)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=3))
def test_agrees_on_any_text(texts: list[str]) -> None:
    assert_agree(texts)


def test_types() -> None:
    found = measure(*encode(["中文", "x"]))
    for name, column in COLUMNS.items():
        if name != "perplexity":
            assert found[name].dtype == {"ratio": np.float32, "count": np.int32, "text": object}[column.kind], name
    assert (found["flagged_words_ratio"] == 0).all()
    assert all(len(values) == 0 for values in measure(*encode([])).values())


@pytest.mark.parametrize("name", ["prose", "repeated"])
def test_a_document_does_not_depend_on_its_neighbours(name: str) -> None:
    alone = measure(*encode([TEXTS[name]]))
    among = measure(*encode([TEXTS["many repeated"], TEXTS[name], TEXTS["code"]]))
    assert all(among[column][1] == values[0] for column, values in alone.items())


def test_adding_up_is_a_product() -> None:
    random = np.random.default_rng(4)
    counts = random.integers(0, 3, (7, 9), np.int32) * random.integers(0, 1 << 30, (7, 9), np.int32)
    weights = random.integers(0, 2, (9, 5)).astype(np.bool_)
    totals = np.zeros((7, 5), np.int64)
    _add_up(counts, weights, totals)
    assert (totals == counts.astype(np.int64) @ weights.astype(np.int64)).all()
