"""Adverts: what goes, and the prose about the same things that stays."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.adverts import FORMULAS, LONGEST_SENTENCE, NEEDED, PHRASES, PLEAS, AdvertsCleaner
from tests.data.cleaning.triggers import check_contract

CLEANER = AdvertsCleaner(steps.Adverts(step="adverts"))
REMOVE = AdvertsCleaner(steps.Adverts(step="adverts", urls="remove", max_line_chars=10, phrases=("独家秘方", "€")))
KEEP = AdvertsCleaner(steps.Adverts(step="adverts", urls="keep"))


@pytest.mark.parametrize(
    "line",
    [
        "欢迎关注我们的微信公众号：每日读书",
        "更多精彩内容，请关注公众号",
        "长按识别下方二维码关注我们",
        "扫码关注，领取优惠券",
        "点击上方蓝字关注我们",
        "点击“阅读原文”了解详情",
        "咨询电话：400-123-4567",
        "商务合作请加微信：abc12345",
        "读者QQ群：123456789",
        "责任编辑：张三",
        "（责编：李四、王五）",
        "编辑：张三 审核：李四",
        "来源：某某日报 编辑：王五 校对：赵六",
        "未经授权不得转载",
        "本文为某某网原创，转载请注明出处。",
        "版权归原作者所有，如有侵权请联系我们删除",
        "免责声明：本文仅代表作者个人观点，与本网无关。",
        "如果喜欢这篇文章，欢迎点赞、转发和收藏",
        "分享到：QQ空间 新浪微博 腾讯微博",
        "下载APP，免费看更多精彩",
        "更多精彩：",
        "上一篇：春天的故事",
        "下一篇：秋天的故事",
        "相关阅读：另一篇文章",
        "原标题：某地举行音乐会",
        "后台回复“资料”即可领取",
        "Copyright 2020 All Rights Reserved 京ICP备12345678号",
        "正文已结束，您可以按alt+4进行评论",
        "https://www.a.cn/b?c=d",
        "via: https://a.com/b",
        "- 链接：http://a.com",
        "返回搜狐，查看更多 责任编辑：",
    ],
)
def test_lines_that_go(line: str) -> None:
    assert check_contract(CLEANER, f"第一段正文。\n{line}\n第二段正文。") == "第一段正文。\n第二段正文。"
    assert check_contract(CLEANER, line) == ""


@pytest.mark.parametrize(
    "text",
    [
        "微信公众号的用户数增长了百分之十。",
        "记者扫描二维码后发现，页面要求添加微信好友。",
        "警方提醒，不要点击陌生链接，也不要扫描二维码下载软件。",
        "他在朋友圈转发了这条消息，获得上百个点赞。",
        "点击右上角的按钮，在菜单中选择“关注”。",
        "第十条 未经著作权人许可，复制、发行其作品的，应当承担民事责任。",
        "用户可以在客户端下载文件，也可以把照片分享到朋友圈。",
        "编辑部收到许多来信，编辑们逐一回复。",
        "他是这家杂志的责任编辑，负责转载文章的版权。",
        "这项技术受到广泛关注，订阅和取消订阅事件的方法如下。",
        "她说：“现在看来，转发微博不如写信。”",
        "本文研究了二维码的编码方法，仅供参考文献中的做法作比较。",
        "请将请求转发给服务器。如果失败，请在评论区留言。",
        "见 https://a.cn/b 的说明。\n    https://indented.code/\n```\nhttp://in.a.fence/\n```",
        "上一篇文章讲了安装，下一篇将讲配置。",
        "以上仅代表本人一点看法。",
        "作者：鲁迅",
        "乘客点击“扫码支付”，进入二维码界面，完成付款。",
        "具体办法可以拨打咨询电话。",
        "扫一扫院子里的落叶",
        "",
    ],
)
def test_prose_that_stays(text: str) -> None:
    assert CLEANER(text, Counter()) is text


def test_long_lines_lose_the_sentence_only() -> None:
    prose = "这是一段很长的正文，讲述了许多事情。" * 8
    edits: Counter[str] = Counter()
    assert CLEANER(f"{prose}欢迎关注微信公众号：每日读书。{prose}", edits) == prose * 2
    assert edits == {"advert_sentence": 1}
    edits.clear()
    assert CLEANER(f"{prose[:-1]}返回搜狐，查看更多 责任编辑：", edits) == prose[:-1]
    assert edits == {"advert_phrase": 1}
    for credit in ("（图片来源于网络）", "（图片来源于网络，版权归作者所有）"):
        assert CLEANER(f"{prose}{credit}{prose}", edits) == prose * 2
    whole_page = "没有标点的页面" * (LONGEST_SENTENCE // 6) + "欢迎关注微信公众号：每日读书"
    assert CLEANER(whole_page, Counter()) is whole_page


def test_options() -> None:
    edits: Counter[str] = Counter()
    assert REMOVE("请看 https://a.cn/b 的说明，很好。本店独家秘方。价格€5。完", edits) == "请看  的说明，很好。完"
    assert edits == {"url": 1, "advert_sentence": 2}
    text = "http://a.cn/b\nwww.b.cn"
    assert KEEP(text, Counter()) is text


@pytest.mark.parametrize("rules", [PHRASES, FORMULAS, PLEAS])
def test_every_anchor_is_a_pair(rules: tuple[tuple[str, str], ...]) -> None:
    """An anchor of one character would be a trigger in almost any text."""
    for anchors, _ in rules:
        assert all(len(anchor) > 1 for anchor in anchors.split())


FRAGMENTS = "".join(anchors + " " for rules in (PHRASES, FORMULAS, PLEAS) for anchors, _ in rules).split()


@given(
    st.lists(
        st.sampled_from(FRAGMENTS)
        | st.sampled_from(["请", "欢迎", "关注", "点击", "长按", "扫描", "加", "：", ":", "，", "。", "！", "\n", "http://a.cn", "www.", "归原作者所有", "仅", "观点", "联系", "12345678", "上一篇：", "（", "）", "正文"])
        | st.sampled_from(["    ", "```", "\n", "原标题：", "责编：张三", "免责声明：本文", "图片来自网络", "分享到：", "未经授权", "不得", "公众号：a", "独家秘方", "\\n", "…"]),
        max_size=10,
    ).map("".join)
)  # fmt: skip
def test_contracts(text: str) -> None:
    for cleaner in (CLEANER, REMOVE, KEEP):
        check_contract(cleaner, text)


class SlowSearch:
    """The twin of the compiled search: every place, and every line with the sign of an address."""

    def places(self, text: str) -> tuple[list[int], list[int]]:
        signs = [match.start() for match in re.finditer(r"://|www\.", text)]
        return list(range(len(text))), sorted({text.rfind("\n", 0, at) + 1 for at in signs})


FAST, SLOW = (AdvertsCleaner(steps.Adverts(step="adverts", phrases=("独家秘方", "€", "电"))) for _ in range(2))
SLOW._words = SlowSearch()  # type: ignore[assignment]
SLOW._needed = {}
PIECES = st.sampled_from(FRAGMENTS) | st.text(st.sampled_from("".join(FRAGMENTS) + "😀\n€：:"), max_size=3)
ADDRESSES = st.sampled_from(["via: ", "\n", "   - 原文链接: <", "http://a.cn", "https://b.cn", "www.c.cn", ">", "。"])


@given(st.lists(PIECES | ADDRESSES, max_size=12).map("".join))
def test_both_searches_clean_alike(text: str) -> None:
    edits = Counter[str](), Counter[str]()
    assert FAST(text, edits[0]) == SLOW(text, edits[1]) and edits[0] == edits[1]


WORDS = " ".join(NEEDED.values()).split()
ABOUT = [
    "欢迎",
    "点击",
    "客服",
    "咨询",
    "爆料",
    "公众号",
    "微信号",
    "免责",
    "1234567",
    "abc12345",
    "立即",
    *"请加号群（：，！",
]


@given(
    st.sampled_from(sorted(NEEDED)),
    st.lists(st.sampled_from(ABOUT + WORDS)).map("".join),
    st.lists(st.sampled_from(ABOUT + WORDS)).map("".join),
)
def test_what_anchors_need_stands_in_whatever_matches(anchor: str, before: str, after: str) -> None:
    for pattern in CLEANER._patterns[anchor]:
        for match in pattern.finditer(f"{before}{anchor}{after}"):
            assert any(word in match[0] for word in NEEDED[anchor].split())
