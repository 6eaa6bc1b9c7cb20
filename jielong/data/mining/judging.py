"""Is a fragment an advert? Points for and against, each with its reason, and a threshold.

That a text stands in many documents says nothing yet: statutes, verses, set phrases, forms of address and templated
headings do so for good reason. What tells an advert apart is that several things come together, none of which
suffices:

- words: how to get in touch, what to do now, what is offered, what a site says about itself (WORDS, each kind with
  its limit);
- a telephone number or an address of the net in it (never alone: directories and references are full of them), and
  numbers that vary within a frame that does not (dates and articles of a law vary as well, so this counts only for
  long numbers);
- documents that have nothing to do with one another: the letters before and behind differ from place to place; a
  template has the same neighbours again and again, which counts against;
- its place: a line of its own, the head or the tail of documents, or glued between letters without a mark;

and against it speak the words of statutes, manuals, conversations and reports, more than one occurrence a document (a
set phrase, a form of address), and a length beyond LONG letters (a text that was reprinted, not an advert in it).

A fragment is taken for an advert from THRESHOLD points on, if besides one of these holds: a site speaks of itself; it
pleads or offers and gives LEAST_KINDS kinds of evidence (of contact, plea, offer, address, number: 职工培训 and 保险福利 are
two offers in a statute); it names two ways to get in touch with an address or number (联系电话 with a number alone is a
field of a public notice; the step personal_data masks it). What stands beside an advert in its line nearly always is
a part of it (mining.verdicts). The points were set by reading listings of news, laws, manuals, dialogues, questions
and answers, and poems; they are an opinion, so every one of them is written beside the fragment in the listing, where
a person has the last word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jielong.data.mining.fragments import Fragment

THRESHOLD = 3.0
LEAST_KINDS = 2
LONG = 200  # letters
EDGE_CHARS = 12
SHOWN = 3  # words named in the evidence


@dataclass(frozen=True)
class Words:
    """A kind of words: points for each different one, and the most (in amount) that the kind can give."""

    name: str
    points: float
    most: float
    pattern: re.Pattern[str]


@dataclass(frozen=True)
class Verdict:
    """Points and their reasons."""

    score: float
    evidence: tuple[str, ...]
    advert: bool


def _words(name: str, points: float, most: float, words: str) -> Words:
    return Words(name, points, most, re.compile("|".join(words.split()), re.IGNORECASE))


WORDS = (
    _words(
        "contact", 1.0, 2.0,
        "微信 威信 薇信 [v微]信号 公众号 公号 订阅号 视频号 扣扣 客服 热线 电话 手机号 致电 来电 拨打 邮箱 二维码 扫码 小程序 官网 网址 "
        "(?<![a-z])qq(?![a-z]) (?<![a-z])app(?![a-z]) (?<![a-z])vx?[：:] 加我 加v 加群 入群 进群 交流群 旺旺 淘宝店 抖音 快手 微博 联系人 联系方式 "
        "私信 门店 地址[：:] telegram whatsapp",
    ),
    _words(
        "plea", 0.75, 1.5,
        "关注 点击 长按 扫一扫 扫描 下载 订阅 转发 点赞 分享到 咨询 订购 报名 预订 预约 抢购 加入我们 搜索 回复 领取 添加 联系我 请联系 欢迎 敬请 立即 "
        "马上 赶快 赶紧 速来 快来 等你 别错过 不容错过 戳这里 抓紧 先到先得 索取 了解更多 了解详情 详情",
    ),
    _words(
        "offer", 1.0, 2.0,
        "免费 优惠 特价 折扣 [0-9]折 低价 秒杀 包邮 限时 福利 红包 返利 返现 赠送 赠品 大礼包 试听 试用 名额 仅需 只需 抽奖 中奖 正品 厂家 直销 批发 一对一 高薪 "
        "日结 兼职 招聘 诚聘 急聘 招工 加盟 招商 诚招 代理 贷款 放款 秒批 无抵押 信用卡 套现 办证 刻章 发票 代开 代办 代写 代购 彩票 博彩 投注 赌场 娱乐城 棋牌 充值 "
        "减肥 瘦身 祛斑 壮阳 整形 无痛 祖传 秘方 开户 荐股 牛股 涨停 稳赚 收益 私服 外挂 租房 售楼 楼盘 看房 促销 特惠 会员 培训 招生 包过 学历 办理 上门 维修 搬家 疏通 "
        "回收 保洁 开锁 微信同[号步] 销售热线 订购热线 招商热线",
    ),
    _words(
        "site", 1.5, 3.0,
        "版权所有 转载 未经(?:授权|许可) 本站 本网 本文由 本文来自 荣誉推出 责任编辑 责编 原创编译 侵权.{0,6}(?:联系|告知|删) 侵权必究 侵删 免责声明 仅代表 不代表 备案号 icp all.rights.reserved "
        "最新章节 无弹窗 全文阅读 首发 更多精彩 上一篇 下一篇 阅读原文 查看更多 (?:新闻|手机|安卓|android|ios)客户端 记住网址 加入书签 收藏本 推荐票 热门推荐 相关阅读 为你推荐 猜你喜欢 广告 赞助 自动播放 "
        "正文已结束 二维码.{0,6}关注 原标题",
    ),
    _words(
        "statute", -1.5, 4.5,
        "第.{1,4}[条款项] 应当 规定 依法 依照 条例 责令 处罚 罚款 罪 人民政府 主管部门 有期徒刑 法院 国务院 常务委员会 施行 修正 会议 委员会 办法 审查 备案[，的]",
    ),
    _words(
        "manual", -1.5, 4.5,
        "按钮 菜单 选项卡 对话框 窗口 命令 配置 参数 函数 接口 芯片 手册 文档 代码 示例 文件 选择 单击 参阅 参见 详细信息 设置 系统 返回值 默认 属性 教程 安装 用户 变量 方法 数据",
    ),
    _words(
        "conversation", -1.0, 3.0,
        "您好 你好 谢谢 感谢 祝您 不客气 早日康复 建议您? 希望 来访者 咨询师 患者 医生 病情 症状 治疗 您的 你可能 我会 我们可以",
    ),
    _words("report", -1.0, 2.0, "记者 警方 民警 诈骗 被骗 嫌疑 表示 报道 据悉 介绍"),
)  # fmt: skip
_URL = re.compile(r"https?://|www\.|[a-z0-9]\.(?:com|cn|net|org|cc|vip|top|xyz)(?![a-z])", re.IGNORECASE)
_PHONE = re.compile(r"(?<!\d)\d(?:[\- ]?\d){6,}")


def judge(fragment: Fragment) -> Verdict:
    """The points of a fragment and whether it is taken for an advert."""
    points: list[tuple[float, str]] = []
    contacts = 0
    told: set[str] = set()  # kinds of evidence in the text itself that speak for an advert
    text = _without_edges(fragment.example)
    for kind in WORDS:
        found = list(dict.fromkeys(match.lower() for match in kind.pattern.findall(text)))
        value = max(-kind.most, min(kind.most, kind.points * len(found)))
        if value:
            points.append((value, f"{kind.name}: {' '.join(found[:SHOWN])}"))
            told |= {kind.name} if kind.points > 0 else set()
            contacts = len(found) if kind.name == "contact" else contacts
    if _URL.search(text):
        points.append((1.5, "an address"))
        told.add("address")
    if _PHONE.search(text):
        points.append((1.5, "a long number"))
        told.add("number")
        if fragment.numbers >= 0.3 and fragment.numbered >= 0.5:
            points.append((1.0, f"numbers vary ({fragment.numbers:.2f}) in a constant frame"))
    points += _surroundings(fragment)
    score = round(sum(value for value, _ in points), 2)
    evidence = tuple(f"{value:+.1f} {reason}" for value, reason in points)
    enough = (
        "site" in told
        or (bool(told & {"plea", "offer"}) and len(told) >= LEAST_KINDS)
        or (contacts >= LEAST_KINDS and bool(told & {"address", "number"}))
    )
    return Verdict(score, evidence, score >= THRESHOLD and enough)


def _without_edges(example: str) -> str:
    """Without a first and a last line of a few letters: the beginnings of what stands around the fragment."""
    lines = [line for line in example.split("\n") if line.strip()]
    while len(lines) > 1 and len(lines[-1]) < EDGE_CHARS:
        lines.pop()
    while len(lines) > 1 and len(lines[0]) < EDGE_CHARS:
        lines.pop(0)
    return "\n".join(lines)


def _surroundings(fragment: Fragment) -> list[tuple[float, str]]:
    points = []
    before = fragment.before if fragment.head < 0.9 else fragment.behind  # at an edge the other side speaks
    behind = fragment.behind if fragment.tail < 0.9 else fragment.before
    alone = fragment.head >= 0.9 and fragment.tail >= 0.9
    around = f"({before:.2f} before, {behind:.2f} behind)"
    if not alone and min(before, behind) >= 0.5:
        points.append((1.0, f"unrelated neighbours {around}"))
    elif not alone and max(before, behind) < 0.2:
        points.append((-1.0, f"the same neighbours {around}"))
    shares = {
        "glued to letters": fragment.glued, "at the head": fragment.head, "at the tail": fragment.tail,
        "a line of its own": fragment.own_line,
    }  # fmt: skip
    place, share = max(shares.items(), key=lambda item: item[1])
    if share >= 0.5:
        points.append((0.5, f"{place} ({share:.2f})"))
    times = fragment.occurrences / fragment.documents
    if times >= 1.5:
        points.append((-1.0, f"{times:.1f} times a document"))
    if fragment.letters > LONG:
        points.append((-2.0, f"{fragment.letters} letters long"))
    return points
