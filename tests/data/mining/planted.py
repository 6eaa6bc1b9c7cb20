"""Invented text with adverts planted in it, and texts that recur for good reason."""

from __future__ import annotations

import random

WORDS = [
    "山",
    "水",
    "老人",
    "孩子",
    "村庄",
    "清晨",
    "傍晚",
    "河流",
    "树林",
    "石桥",
    "灯光",
    "船只",
    "书本",
    "故事",
    "声音",
    "影子",
    "季节",
    "秋天",
    "雨水",
    "屋檐",
    "市场",
    "茶馆",
    "道路",
    "星星",
    "风筝",
    "麦田",
    "院子",
    "信件",
    "钟声",
    "火车",
    "看见",
    "走过",
    "想起",
    "听到",
    "带来",
    "离开",
    "等待",
    "收起",
    "打开",
    "照亮",
    "穿过",
    "记得",
    "画出",
    "种下",
    "数着",
    "追赶",
    "停在",
    "沿着",
    "靠近",
    "忘记",
    "安静",
    "明亮",
    "古老",
    "温暖",
    "遥远",
    "潮湿",
    "缓慢",
    "轻轻",
    "慢慢",
    "忽然",
    "依然",
    "常常",
    "渐渐",
    "仿佛",
    "终于",
    "一起",
    "独自",
    "那里",
    "这里",
    "从前",
    "后来",
    "我们",
    "他们",
    "大家",
    "有人",
]
NAMES = ["张", "王", "李", "赵", "陈", "刘", "杨", "黄", "周", "吴", "徐", "孙"]
PLACES = ["朝阳", "海淀", "天河", "浦东", "江北", "雁塔", "历下", "鼓楼", "和平", "南山"]


def number(random: random.Random, digits: int) -> str:
    return str(random.randint(1, 9)) + "".join(str(random.randint(0, 9)) for _ in range(digits - 1))


def mobile(random: random.Random) -> str:
    return "1" + number(random, 10)


def adverts(random: random.Random) -> list[str]:
    """One of each kind, with its own numbers and names."""
    name, place = random.choice(NAMES), random.choice(PLACES)
    return [
        f"专业代开各类正规发票联系电话{mobile(random)}{name}经理",
        f"需要办证刻章的朋友请拨打{mobile(random)}，快速办理当天可取",
        f"长按二维码关注微信公众号每日好文，回复{number(random, 3)}领取{number(random, 2)}套学习资料",
        f"诚聘兼职打字员日结{number(random, 3)}元，联系人{name}老师，咨询微信{name}姐wx{number(random, 5)}立即报名",
        f"无抵押信用贷款最快当天放款，{place}区门店地址，客服热线400-{number(random, 3)}-{number(random, 4)}",
        f"本站最新网址www.xs{number(random, 3)}.com请各位书友收藏本站，手机用户请访问m.xs{number(random, 3)}.com",
        f"【{place}家电维修】专业上门维修各种空调冰箱洗衣机，预约电话：0{number(random, 2)}-{number(random, 8)}",
        f"祖传秘方专治各种脱发白发无效退款，加{name}医师QQ{number(random, 9)}免费咨询名额有限",
        f"限时优惠全场商品一律{random.randint(1, 9)}折起，点击下方链接领取{number(random, 3)}元红包，先到先得",
        f"未经授权不得转载本站文章，转载请注明出处并联系编辑{name}某某，投稿邮箱tg{number(random, 4)}@mail.com",
    ]


def sentence(random: random.Random) -> str:
    return "".join(random.choice(WORDS) for _ in range(random.randint(5, 14)))


def paragraph(random: random.Random) -> str:
    return "，".join(sentence(random) for _ in range(random.randint(2, 5))) + "。"


STATUTE = (
    "第{number}条 违反本条例规定，情节严重的，由主管部门责令改正，处{amount}元以上罚款；构成犯罪的，依法追究刑事责任。"
)
POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。"
PHRASE = "随着社会的不断发展和人民生活水平的提高"
GREETING = "您好，感谢您的提问，根据您描述的症状，建议您到正规医院做进一步检查，祝您早日康复。"
HEADING = "一、实验目的与要求\n二、实验原理与步骤"
GOOD = (STATUTE, POEM, PHRASE, GREETING, HEADING)


def good_text(random: random.Random, kind: int) -> str:
    """A paragraph that holds one of the texts that recur for good reason."""
    text = GOOD[kind].format(number=number(random, 2), amount=number(random, 4))
    if GOOD[kind] == PHRASE:
        return f"{text}，{paragraph(random)}"
    return text


def corpus(seed: int, documents: int, share: float) -> tuple[list[str], list[tuple[int, str, int, str]]]:
    """Documents, and of each planted advert: its document, the advert, its kind, and the document without it.

    A good text stands in every fourth document. An advert stands at the head, at the tail, in a line of its own, or in the middle of
    a sentence without a mark.
    """
    source = random.Random(seed)
    texts: list[str] = []
    planted: list[tuple[int, str, int, str]] = []
    for row in range(documents):
        paragraphs = [paragraph(source) for _ in range(source.randint(3, 6))]
        if row % 4 == 0:
            paragraphs.insert(source.randint(0, len(paragraphs)), good_text(source, row // 4 % len(GOOD)))
        clean = "\n".join(paragraphs)
        if source.random() >= share:
            texts.append(clean)
            continue
        kind = len(planted) % 10
        advert = adverts(source)[kind]
        place = len(planted) // 10 % 4
        if place == 0:
            text = advert + clean
        elif place == 1:
            text = clean + advert
        elif place == 2:
            at = source.randint(1, len(paragraphs) - 1)
            text = "\n".join([*paragraphs[:at], advert, *paragraphs[at:]])
        else:
            at = next(n for n in range(len(clean) // 2, len(clean)) if clean[n - 1 : n + 1].isalnum())
            text = clean[:at] + advert + clean[at:]
        planted.append((row, advert, kind, clean))
        texts.append(text)
    return texts, planted
