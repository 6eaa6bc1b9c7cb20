"""Chinese arithmetic word problems that the project makes itself: each with its solution and an answer that can be checked.

A reward that needs no judge wants questions with one right answer, as many as a run asks for, on a machine without a network; the
fine-tuning before it wants the same questions with the arithmetic written out. `problems` draws a story, its names and things, and
numbers that suit both; the rest is computed:

    {"prompt": "小明有12个苹果，妈妈又给了他7个，现在一共有多少个？", "response": "12+7=19，现在一共有19个。",
     "answer": "19", "kind": "add", "steps": 1}

A *kind* is the arithmetic alone: which letters are drawn, what follows from them, and the steps from the story's numbers a, b, c to the
answer x. A division that must come out even is drawn backwards, from its result. Every value on the way is at least 1, so nobody gives
away more than there is and nobody has nothing left. A *story* is the words of a kind and the ranges of its letters. Up to three ranges
stand behind a letter, for three degrees of difficulty, of which a problem draws one; what is true of the world (ages, prices, speeds, the
size of a class) has one. A range may also bind a letter that follows: a draw outside of it is thrown away.

Things carry their measure words with them (一支铅笔, 一副羽毛球拍), so no story can use a wrong one. The answer is the last number of the
response, and the only one that is asked for: with a remainder either the quotient is wanted or what is left.

The same seed gives the same problems everywhere: of Python's generator only `random()` is used, whose sequence is promised to stay, and
fewer problems are the beginning of more. No prompt comes twice, for which all of them are remembered (some 100 bytes each). What is here is
meant for tens of thousands; the plainest stories (a bus, a pond) begin to run out where hundreds of thousands are asked for.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

LEVELS = 3
EASY = 20  # no number of an easy problem is larger
TRIES = 300  # draws of numbers for one story; at worst one in ten fits
T = TypeVar("T")


class Kind(NamedTuple):
    """Arithmetic. `drawn`: letters that are drawn; `made`: letters that follow, in order; `steps`: from a, b, c to x."""

    drawn: str
    made: str
    steps: str


class Story(NamedTuple):
    """The words of a kind. `things`: a row of THINGS; `numbers`: ranges, also of prices: t and u are those of the things."""

    kind: str
    prompt: str
    closing: str
    things: str
    numbers: str


class Thing(NamedTuple):
    """What is counted: 铅笔, by 支, and in a 盒 or for a price, 元."""

    name: str
    measure: str
    pack: str
    price: range


# ---------------------------------------------------------------------------------------------------- arithmetic

# fmt: off
KINDS = {
    # one step
    "add": Kind("ab", "", "a+b=x"),
    "subtract": Kind("ab", "", "a-b=x"),
    "difference": Kind("ab", "", "a-b=x"),  # how many more, how many fewer
    "more": Kind("ab", "", "a+b=x"),
    "less": Kind("ab", "", "a-b=x"),
    "more_back": Kind("ab", "", "a-b=x"),  # the one who is told of has more
    "less_back": Kind("ab", "", "a+b=x"),
    "times": Kind("ab", "", "a×b=x"),
    "times_back": Kind("bx", "a=b×x", "a÷b=x"),
    "ratio": Kind("bx", "a=b×x", "a÷b=x"),  # how many times
    "multiply": Kind("ab", "", "a×b=x"),
    "week": Kind("a", "", "a×7=x"),
    "square": Kind("a", "", "a×4=x"),  # its perimeter
    "area": Kind("ab", "d=a-b", "a×b=x"),
    "distance": Kind("ab", "", "a×b=x"),
    "speed": Kind("bx", "a=b×x", "a÷b=x"),
    "time": Kind("bx", "a=b×x", "a÷b=x"),
    "divide": Kind("bx", "a=b×x", "a÷b=x"),
    "remainder": Kind("bxy", "d=b-x e=b×y a=e+x", "a÷b=y……x"),
    "quotient": Kind("bxy", "d=b-y e=b×x a=e+y", "a÷b=x……y"),
    # two steps
    "round_up": Kind("byz", "d=b-z e=b×y a=e+z", "a÷b=y……z y+1=x"),
    "add_add": Kind("abc", "", "a+b=y y+c=x"),
    "add_subtract": Kind("abc", "", "a+b=y y-c=x"),
    "subtract_add": Kind("abc", "", "a-b=y y+c=x"),
    "subtract_subtract": Kind("abc", "", "a-b=y y-c=x"),
    "multiply_add": Kind("abc", "", "a×b=y y+c=x"),
    "multiply_subtract": Kind("abc", "", "a×b=y y-c=x"),
    "change": Kind("abc", "", "a×b=y c-y=x"),
    "more_total": Kind("ab", "", "a+b=y a+y=x"),
    "less_total": Kind("ab", "", "a-b=y a+y=x"),
    "times_total": Kind("ab", "", "a×b=y a+y=x"),
    "times_difference": Kind("ab", "", "a×b=y y-a=x"),
    "times_more": Kind("abc", "", "a×b=y y+c=x"),
    "times_less": Kind("abc", "", "a×b=y y-c=x"),
    "add_divide": Kind("acx", "y=c×x b=y-a", "a+b=y y÷c=x"),
    "subtract_divide": Kind("bcx", "y=c×x a=b+y", "a-b=y y÷c=x"),
    "subtract_multiply": Kind("abc", "", "a-b=y y×c=x"),
    "multiply_divide": Kind("abc", "", "a×b=y y÷c=x"),
    "same_work": Kind("abc", "d=c-a", "a×b=y y÷c=x"),  # the same work at another rate
    "same_rate": Kind("ayc", "b=a×y d=c-a", "b÷a=y y×c=x"),  # the price of one first
    "average": Kind("abx", "z=a+b y=x×3 c=y-z", "a+b+c=y y÷3=x"),
    "average_of_two": Kind("ax", "y=x×2 b=y-a", "a+b=y y÷2=x"),
    "perimeter": Kind("ab", "d=a-b", "a+b=y y×2=x"),
    "trees": Kind("by", "a=b×y", "a÷b=y y+1=x"),  # at both ends of the road
    "meeting": Kind("abc", "", "a+b=y y×c=x"),
    "meeting_time": Kind("bcx", "y=b+c a=y×x", "b+c=y a÷y=x"),
    "distance_left": Kind("bcx", "y=b×c a=y+x", "b×c=y a-y=x"),
    "age_gap": Kind("abc", "d=c-b", "a-b=y c+y=x"),
    "jiao": Kind("ab", "", "a×10=y y-b=x"),
    "centimetres": Kind("ab", "", "a×100=y y-b=x"),
}

# ---------------------------------------------------------------------------------------------------- words

HE = "小明 小刚 小华 小强 小军 小杰 小林 小东 小宇 小龙 明明 亮亮 冬冬 乐乐"
SHE = "小红 小丽 小芳 小美 小燕 小梅 小雪 小玲 小云 小兰 丽丽 婷婷 圆圆 佳佳"
GIVERS = "妈妈 爸爸 爷爷 奶奶 外公 外婆 姐姐 哥哥 姑姑 舅舅 阿姨 叔叔"
PARENTS = "妈妈 爸爸"
GRANDPARENTS = "爷爷 奶奶 外公 外婆"
TEACHERS = "王老师 李老师 陈老师 刘老师 杨老师 何老师"
NEIGHBOURS = "张叔叔 赵叔叔 孙叔叔 黄叔叔 周阿姨 吴阿姨 郑阿姨 林阿姨"
GRADES = "一年级 二年级 三年级 四年级 五年级 六年级"
CLASSES = "一班 二班 三班 四班 五班"

THINGS = {  # name/measure word, and the container's, or the price of one in 元
    "kept": "贴纸/张 邮票/张 卡片/张 画片/张 彩纸/张 明信片/张 玻璃珠/颗 糖/颗 积木/块 千纸鹤/只",
    "fruit": "苹果/个 梨/个 桃子/个 橘子/个 橙子/个 草莓/颗 樱桃/颗 枣/颗",
    "pieces": "苹果/个 梨/个 桃子/个 橘子/个 橙子/个 面包/个 气球/个",
    "eaten": "饺子/个 饼干/块 糖/颗 草莓/颗 樱桃/颗 葡萄/颗 小番茄/个 枣/颗",
    "weighed": "苹果/千克 梨/千克 桃子/千克 橘子/千克 葡萄/千克 香蕉/千克",
    "trees": "桃树/棵 梨树/棵 苹果树/棵 杏树/棵 枣树/棵 李子树/棵",
    "animals": "母鸡/只 鸭子/只 白鹅/只 山羊/只 兔子/只 鸽子/只",
    "books": "故事书/本 科普书/本 漫画书/本 童话书/本 历史书/本 连环画/本",
    "read": "故事书/本 科普书/本 童话书/本 历史书/本 小说/本",
    "ropes": "绳子/根 铁丝/根 电线/根 彩带/条 丝带/条",
    "land": "菜地/块 草坪/块 空地/块 稻田/块 麦田/块 花圃/块",
    "sold": "铅笔/支 笔记本/本 毛巾/条 牛奶/盒 面包/个 雨伞/把 气球/个 矿泉水/瓶",
    "small": "橡皮/块 铅笔/支 信封/个 糖/颗 气球/个",
    "packed": "铅笔/支/盒 彩笔/支/盒 粉笔/支/盒 巧克力/块/盒 饼干/块/盒 鸡蛋/个/盒 牛奶/瓶/箱 矿泉水/瓶/箱 果汁/瓶/箱 苹果/个/箱 "
              "橙子/个/箱 面包/个/袋 糖/颗/袋",
    "school": "铅笔/支/盒 彩笔/支/盒 粉笔/支/盒 练习本/本/包 羽毛球/个/筒 乒乓球/个/盒",
    "cheap": "铅笔/支/2-4 橡皮/块/2-5 尺子/把/2-8 圆珠笔/支/2-6 笔记本/本/3-12 贺卡/张/3-9 面包/个/4-12 牛奶/盒/3-8 酸奶/盒/4-9 "
             "冰淇淋/个/3-12 气球/个/2-5",
    "priced": "尺子/把/2-8 笔记本/本/3-12 文具盒/个/12-35 钢笔/支/12-60 故事书/本/12-40 词典/本/30-90 书包/个/45-160 水杯/个/15-60 "
              "跳绳/根/8-30 足球/个/45-150 篮球/个/60-200 雨伞/把/25-90 毛巾/条/8-25 帽子/顶/20-80 羽毛球拍/副/50-180 台灯/盏/45-160",
}

# ---------------------------------------------------------------------------------------------------- stories

# n o children; p: he or she, of n; g who gives; f parent; e grandparent; s teacher; h neighbour; w z classes of one grade;
# t m k a thing, its measure word, its container; u v another thing, its measure word; a b c numbers; x the answer
_KEPT = "a=4-12,8-30,25-90 b=2-9,5-25,12-80"

STORIES = (
    Story("add", "{n}有{a}{m}{t}，{g}又给了{p}{b}{m}，现在一共有多少{m}？", "现在一共有{x}{m}", "kept", _KEPT),
    Story("add", "{n}有{a}个{t}，{g}又给了{p}{b}个，{p}现在一共有多少个{t}？", "{p}现在一共有{x}个{t}", "pieces", "a=3-9,5-15,8-24 b=2-6,3-10,5-12"),
    Story("add", "{n}有{a}{m}{t}，{o}有{b}{m}，两人一共有多少{m}{t}？", "两人一共有{x}{m}{t}", "kept", _KEPT),
    Story("add", "{n}送给{o}{a}{m}{t}后，自己还剩{b}{m}，{n}原来有多少{m}{t}？", "{n}原来有{x}{m}{t}", "kept", "a=2-9,5-20,10-50 b=3-9,8-30,20-90"),
    Story("add", "{n}摘了{a}{m}{t}，{o}摘了{b}{m}，两人一共摘了多少{m}？", "两人一共摘了{x}{m}", "fruit", "a=4-12,10-40,25-90 b=4-12,10-40,25-90"),
    Story("add", "水果店上午卖出{a}千克{t}，下午卖出{b}千克，这一天一共卖出多少千克{t}？", "这一天一共卖出{x}千克{t}", "weighed", "a=5-20,15-80,60-400 b=5-20,15-80,60-400"),
    Story("add", "{w}有男生{a}人，女生{b}人，全班一共有多少人？", "全班一共有{x}人", "", "a=12-28 b=12-28"),
    Story("add", "停车场里有{a}辆车，又开来{b}辆，现在停车场里有多少辆车？", "现在停车场里有{x}辆车", "", "a=4-15,12-60,50-300 b=2-9,5-40,20-200"),
    Story("add", "池塘里有{a}只鸭子，又游来{b}只，现在池塘里有多少只鸭子？", "现在池塘里有{x}只鸭子", "", "a=3-12,8-40,20-90 b=2-9,4-25,10-60"),
    Story("add", "{n}读一本{t}，第一天读了{a}页，第二天读了{b}页，两天一共读了多少页？", "两天一共读了{x}页", "read", "a=4-12,10-40,25-90 b=4-12,10-40,25-90"),
    Story("add", "{n}买一{m}{t}花了{a}元，买一{v}{u}花了{b}元，一共花了多少元？", "一共花了{x}元", "priced", "a=t b=u"),
    Story("add", "果园里有{a}棵{t}和{b}棵{u}，两种树一共有多少棵？", "两种树一共有{x}棵", "trees", "a=5-20,20-90,80-500 b=5-20,20-90,80-500"),
    Story("add", "{n}今年{a}岁，{b}年后{p}多少岁？", "{b}年后{p}{x}岁", "", "a=5-14 b=3-30"),
    Story("subtract", "{n}有{a}{m}{t}，送给{o}{b}{m}，还剩多少{m}？", "还剩{x}{m}", "kept", _KEPT),
    Story("subtract", "盘子里有{a}{m}{t}，{n}吃了{b}{m}，盘子里还剩多少{m}？", "盘子里还剩{x}{m}", "eaten", "a=5-12,8-20,12-30 b=1-4,2-7,3-9"),
    Story("subtract", "公共汽车上有{a}人，到站后有{b}人下车，车上还有多少人？", "车上还有{x}人", "", "a=8-20,15-40,30-60 b=2-9,3-20,5-40"),
    Story("subtract", "一本{t}有{a}页，{n}已经读了{b}页，还剩多少页没有读？", "还剩{x}页没有读", "read", "a=30-60,60-150,120-360 b=5-30,20-90,50-250"),
    Story("subtract", "{n}带了{a}元，买一{m}{t}用去{b}元，还剩多少元？", "还剩{x}元", "priced", "a=20-50,30-100,60-300 b=t"),
    Story("subtract", "{n}拿{a}元去买一{m}{b}元的{t}，应找回多少元？", "应找回{x}元", "priced", "a=10/20/50/100/200 b=t x=1-99"),
    Story("subtract", "树上有{a}只小鸟，飞走了{b}只，还剩多少只？", "还剩{x}只", "", "a=4-12,10-30,20-60 b=1-9,3-20,8-45"),
    Story("subtract", "甲、乙两地相距{a}千米，一辆汽车从甲地开往乙地，已经行驶了{b}千米，离乙地还有多少千米？", "离乙地还有{x}千米", "", "a=30-90,80-300,200-900 b=10-60,30-200,80-700"),
    Story("subtract", "粮店有{a}千克大米，卖出{b}千克，还剩多少千克？", "还剩{x}千克", "", "a=40-100,100-400,300-2000 b=10-60,40-300,100-1500"),
    Story("subtract", "一{m}{t}长{a}米，剪去{b}米，还剩多少米？", "还剩{x}米", "ropes", "a=5-20,12-60,30-120 b=2-15,5-40,15-90"),
    Story("subtract", "{n}的{e}今年{a}岁，{b}年前是多少岁？", "{b}年前是{x}岁", "", "a=58-85 b=3-30"),
    Story("difference", "{n}有{a}{m}{t}，{o}有{b}{m}，{n}比{o}多多少{m}？", "{n}比{o}多{x}{m}", "kept", _KEPT),
    Story("difference", "{o}有{b}{m}{t}，{n}有{a}{m}，{o}比{n}少多少{m}？", "{o}比{n}少{x}{m}", "kept", _KEPT),
    Story("difference", "{n}身高{a}厘米，{o}身高{b}厘米，{n}比{o}高多少厘米？", "{n}比{o}高{x}厘米", "", "a=108-165 b=105-160 x=1-30"),
    Story("difference", "一{m}{t}{a}元，一{v}{u}{b}元，一{m}{t}比一{v}{u}贵多少元？", "一{m}{t}比一{v}{u}贵{x}元", "priced", "a=t b=u"),
    Story("difference", "果园里有{a}棵{t}，{b}棵{u}，{t}比{u}多多少棵？", "{t}比{u}多{x}棵", "trees", "a=8-20,30-90,100-500 b=4-18,15-80,60-450"),
    Story("difference", "图书室有{a}本{t}，{b}本{u}，{u}比{t}少多少本？", "{u}比{t}少{x}本", "books", "a=12-40,40-150,150-800 b=8-35,20-130,80-700"),
    Story("difference", "{f}今年{a}岁，{n}今年{b}岁，{f}比{n}大多少岁？", "{f}比{n}大{x}岁", "", "a=29-50 b=5-14 x=23-38"),
    Story("difference", "{n}一分钟跳绳{a}下，{o}一分钟跳绳{b}下，{n}比{o}多跳多少下？", "{n}比{o}多跳{x}下", "", "a=65-180 b=50-170 x=1-60"),
    Story("more", "{n}有{a}{m}{t}，{o}比{n}多{b}{m}，{o}有多少{m}{t}？", "{o}有{x}{m}{t}", "kept", _KEPT),
    Story("more", "农场里有{a}只{t}，{u}比{t}多{b}只，{u}有多少只？", "{u}有{x}只", "animals", "a=5-20,15-80,60-400 b=2-9,5-40,20-200"),
    Story("more", "一{m}{t}{a}元，一{v}{u}比一{m}{t}贵{b}元，一{v}{u}多少元？", "一{v}{u}{x}元", "priced", "a=t b=2-60 x=u"),
    Story("more", "{n}今年{a}岁，{f}比{p}大{b}岁，{f}今年多少岁？", "{f}今年{x}岁", "", "a=5-14 b=23-38"),
    Story("less", "{n}有{a}{m}{t}，{o}比{n}少{b}{m}，{o}有多少{m}{t}？", "{o}有{x}{m}{t}", "kept", _KEPT),
    Story("less", "{w}种了{a}棵树，{z}比{w}少种{b}棵，{z}种了多少棵树？", "{z}种了{x}棵树", "", "a=8-20,15-50,30-90 b=2-9,4-20,8-40"),
    Story("less", "{n}身高{a}厘米，{o}比{n}矮{b}厘米，{o}身高多少厘米？", "{o}身高{x}厘米", "", "a=115-165 b=2-18 x=105-160"),
    Story("more_back", "{n}有{a}{m}{t}，比{o}多{b}{m}，{o}有多少{m}{t}？", "{o}有{x}{m}{t}", "kept", _KEPT),
    Story("less_back", "{n}有{a}{m}{t}，比{o}少{b}{m}，{o}有多少{m}{t}？", "{o}有{x}{m}{t}", "kept", _KEPT),
    Story("times", "{n}有{a}{m}{t}，{o}的{t}是{n}的{b}倍，{o}有多少{m}{t}？", "{o}有{x}{m}{t}", "kept", "a=2-9,4-15,8-30 b=2-4,2-6,3-8"),
    Story("times", "农场里有{a}只{t}，{u}的只数是{t}的{b}倍，{u}有多少只？", "{u}有{x}只", "animals", "a=3-9,6-25,12-80 b=2-5,2-8,3-12"),
    Story("times_back", "农场里有{a}只{t}，正好是{u}只数的{b}倍，{u}有多少只？", "{u}有{x}只", "animals", "b=2-5,2-8,3-12 x=3-9,6-25,12-80"),
    Story("times_back", "{f}今年{a}岁，正好是{n}年龄的{b}倍，{n}今年多少岁？", "{n}今年{x}岁", "", "a=28-50 b=3-8 x=5-12"),
    Story("times_back", "一{m}{t}{a}元，正好是一{v}{u}价钱的{b}倍，一{v}{u}多少元？", "一{v}{u}{x}元", "priced", "a=t b=2-8 x=u"),
    Story("ratio", "果园里有{a}棵{t}，{b}棵{u}，{t}的棵数是{u}的几倍？", "{t}的棵数是{u}的{x}倍", "trees", "b=3-9,6-25,12-60 x=2-5,2-8,3-12"),
    Story("ratio", "{n}有{a}{m}{t}，{o}有{b}{m}，{n}的{t}是{o}的几倍？", "{n}的{t}是{o}的{x}倍", "kept", "b=2-9,4-15,8-25 x=2-4,2-6,3-8"),
    Story("ratio", "{f}今年{a}岁，{n}今年{b}岁，{f}的年龄是{n}的几倍？", "{f}的年龄是{n}的{x}倍", "", "a=28-50 b=5-12 x=3-8"),
    Story("multiply", "每{k}{t}有{a}{m}，{b}{k}{t}一共有多少{m}？", "{b}{k}{t}一共有{x}{m}", "packed", "a=3-9,4-16,8-30 b=2-9,3-12,8-40"),
    Story("multiply", "会场里有{a}排座位，每排{b}个，一共有多少个座位？", "一共有{x}个座位", "", "a=3-9,8-20,15-40 b=4-9,8-20,15-36"),
    Story("multiply", "同学们排队做操，站成{a}行，每行{b}人，一共有多少人？", "一共有{x}人", "", "a=2-9,5-12,10-30 b=4-9,8-16,12-30"),
    Story("multiply", "一{m}{t}{a}元，{h}买了{b}{m}，一共要付多少元？", "一共要付{x}元", "cheap", "a=t b=2-6,3-12,8-40"),
    Story("multiply", "一{m}{t}{a}元，学校买了{b}{m}，一共要付多少元？", "一共要付{x}元", "priced", "a=t b=2-5,3-9,6-40"),
    Story("multiply", "{n}每天读{a}页书，{b}天一共读多少页？", "{b}天一共读{x}页", "", "a=4-10,8-25,15-40 b=2-9,5-15,10-30"),
    Story("multiply", "一台机器每小时加工{a}个零件，{b}小时一共加工多少个零件？", "{b}小时一共加工{x}个零件", "", "a=5-12,10-50,30-120 b=2-6,3-9,6-24"),
    Story("multiply", "一张方桌配{a}把椅子，{b}张方桌一共要配多少把椅子？", "一共要配{x}把椅子", "", "a=4/6/8 b=2-9,5-20,15-60"),
    Story("week", "{n}每天练字{a}分钟，一个星期一共练字多少分钟？", "一个星期一共练字{x}分钟", "", "a=8-60"),
    Story("week", "{n}每天做{a}道口算题，一个星期一共做多少道？", "一个星期一共做{x}道", "", "a=5-50"),
    Story("square", "一{m}正方形{t}的边长是{a}米，周长是多少米？", "周长是{x}米", "land", "a=3-9,8-30,25-120"),
    Story("perimeter", "一{m}长方形{t}长{a}米，宽{b}米，周长是多少米？", "周长是{x}米", "land", "a=4-12,10-40,30-150 b=2-9,5-30,15-100"),
    Story("area", "一{m}长方形{t}长{a}米，宽{b}米，面积是多少平方米？", "面积是{x}平方米", "land", "a=4-9,8-25,20-90 b=2-8,4-15,10-60"),
    Story("distance", "一辆汽车每小时行驶{a}千米，{b}小时行驶多少千米？", "{b}小时行驶{x}千米", "", "a=40-70,50-90,60-120 b=2-4,2-8,3-12"),
    Story("distance", "{n}每分钟走{a}米，从家走到学校用了{b}分钟，{p}家离学校有多少米？", "{p}家离学校有{x}米", "", "a=50-85 b=4-25"),
    Story("distance", "{n}骑自行车每分钟行{a}米，{b}分钟行多少米？", "{b}分钟行{x}米", "", "a=150-250 b=3-30"),
    Story("distance", "一列高速列车每小时行驶{a}千米，{b}小时行驶多少千米？", "{b}小时行驶{x}千米", "", "a=200-350 b=2-7"),
    Story("speed", "甲、乙两地相距{a}千米，一辆汽车{b}小时行完全程，平均每小时行驶多少千米？", "平均每小时行驶{x}千米", "", "b=2-4,2-8,3-12 x=40-70,50-90,60-120"),
    Story("speed", "{n}从家走到学校一共走了{a}米，用了{b}分钟，平均每分钟走多少米？", "平均每分钟走{x}米", "", "b=4-25 x=50-85"),
    Story("time", "甲、乙两地相距{a}千米，一辆汽车每小时行驶{b}千米，行完全程需要多少小时？", "行完全程需要{x}小时", "", "b=40-70,50-90,60-120 x=2-4,2-8,3-12"),
    Story("time", "{n}家离学校{a}米，{p}每分钟走{b}米，从家走到学校要多少分钟？", "从家走到学校要{x}分钟", "", "b=50-85 x=4-25"),
    Story("divide", "把{a}{m}{t}平均分给{b}个小朋友，每人分到多少{m}？", "每人分到{x}{m}", "kept", "b=2-6,3-9,4-15 x=2-8,3-12,5-20"),
    Story("divide", "{s}把{a}{m}{t}平均分给{b}个小朋友，每个小朋友分到多少{m}？", "每个小朋友分到{x}{m}", "fruit", "b=2-6,3-9,6-20 x=2-5,2-8,3-9"),
    Story("divide", "{h}把{a}{m}{t}装{k}，每{k}装{b}{m}，可以装多少{k}？", "可以装{x}{k}", "packed", "b=3-9,4-12,6-24 x=2-9,3-15,8-40"),
    Story("divide", "学校用{a}元买了{b}{m}同样的{t}，每{m}多少元？", "每{m}{x}元", "priced", "b=2-6,4-12,8-30 x=t"),
    Story("divide", "{n}用{a}元买{t}，每{m}{b}元，可以买多少{m}？", "可以买{x}{m}", "cheap", "b=t x=2-6,3-9,5-15"),
    Story("divide", "一{m}{t}长{a}米，剪成每段{b}米的小段，可以剪成多少段？", "可以剪成{x}段", "ropes", "b=2-5,2-9,3-9 x=2-9,4-12,6-16"),
    Story("divide", "修路队要修一条长{a}米的路，每天修{b}米，多少天可以修完？", "{x}天可以修完", "", "b=10-30,20-80,50-200 x=3-9,5-15,8-30"),
    Story("divide", "{w}有{a}名同学，平均分成{b}组，每组有多少人？", "每组有{x}人", "", "a=24-56 b=2-9 x=3-14"),
    Story("remainder", "把{a}{m}{t}平均分给{b}个小朋友，每人分得尽可能多，还剩多少{m}？", "还剩{x}{m}", "kept", "b=3-6,4-9,6-15 x=1-14 y=2-6,3-9,5-15"),
    Story("remainder", "{h}把{a}{m}{t}装{k}，每{k}装{b}{m}，最后剩下多少{m}不够装满一{k}？", "最后剩下{x}{m}不够装满一{k}", "packed", "b=3-9,4-12,8-24 x=1-23 y=2-9,3-15,8-30"),
    Story("remainder", "{n}有{a}元，一{m}{t}{b}元，{p}买了尽可能多的{t}，还剩多少元？", "还剩{x}元", "cheap", "b=t x=1-11 y=2-6,3-9,5-15"),
    Story("quotient", "{h}把{a}{m}{t}装{k}，每{k}装{b}{m}，最多可以装满多少{k}？", "最多可以装满{x}{k}", "packed", "b=3-9,4-12,8-24 x=2-9,3-15,8-30 y=1-23"),
    Story("quotient", "{n}有{a}元，一{m}{t}{b}元，{p}最多可以买多少{m}？", "{p}最多可以买{x}{m}", "cheap", "b=t x=2-6,3-9,5-15 y=1-11"),
    Story("quotient", "一{m}{t}长{a}米，每{b}米剪一段，最多可以剪出多少段？", "最多可以剪出{x}段", "ropes", "b=3-5,3-9,4-12 x=2-9,4-12,6-14 y=1-11"),
    Story("round_up", "{a}名同学去划船，每条船最多坐{b}人，至少要租多少条船？", "至少要租{x}条船", "", "b=4-8 y=2-6,4-12,8-24 z=1-7"),
    Story("round_up", "{a}名师生坐车去春游，每辆车最多坐{b}人，至少需要多少辆车？", "至少需要{x}辆车", "", "b=20-50 y=2-9 z=1-49"),
    Story("round_up", "{h}要把{a}{m}{t}全部装{k}，每{k}最多装{b}{m}，至少要装多少{k}？", "至少要装{x}{k}", "packed", "b=3-9,4-12,8-24 y=2-9,3-15,8-30 z=1-23"),
    Story("add_add", "花园里有{a}朵红花、{b}朵黄花和{c}朵白花，一共有多少朵花？", "一共有{x}朵花", "", "a=3-12,8-40,30-200 b=3-12,8-40,30-200 c=3-12,8-40,30-200"),
    Story("add_add", "{n}第一天读了{a}页书，第二天读了{b}页，第三天读了{c}页，三天一共读了多少页？", "三天一共读了{x}页", "", "a=4-12,10-30,20-60 b=4-12,10-30,20-60 c=4-12,10-30,20-60"),
    Story("add_add", "{n}今年{a}岁，{f}比{p}大{b}岁，{c}年后{f}多少岁？", "{c}年后{f}{x}岁", "", "a=5-14 b=23-38 c=2-20"),
    Story("add_subtract", "{n}有{a}{m}{t}，{g}又给了{p}{b}{m}，{p}送给{o}{c}{m}后，还剩多少{m}？", "还剩{x}{m}", "kept", _KEPT + " c=2-12,5-30,15-90"),
    Story("add_subtract", "水果店有{a}千克{t}，又运进{b}千克，卖出{c}千克后，还剩多少千克？", "还剩{x}千克", "weighed", "a=10-30,30-90,80-400 b=10-30,20-90,80-400 c=5-40,20-120,80-600"),
    Story("subtract_add", "公共汽车上有{a}人，到站后下去{b}人，又上来{c}人，现在车上有多少人？", "现在车上有{x}人", "", "a=8-20,15-40,25-50 b=2-9,3-15,5-25 c=2-9,3-15,5-25"),
    Story("subtract_add", "图书角有{a}本书，借出{b}本，又还回{c}本，现在有多少本书？", "现在有{x}本书", "", "a=20-50,40-120,100-300 b=3-15,8-40,20-90 c=2-12,5-30,15-80"),
    Story("subtract_add", "{n}有{a}{m}{t}，送给{o}{b}{m}，{g}又给了{n}{c}{m}，{n}现在有多少{m}？", "{n}现在有{x}{m}", "kept", _KEPT + " c=2-9,4-20,10-50"),
    Story("subtract_subtract", "一本{t}有{a}页，{n}第一天读了{b}页，第二天读了{c}页，还剩多少页没有读？", "还剩{x}页没有读", "read", "a=30-60,60-150,120-360 b=5-15,12-40,25-90 c=5-15,12-40,25-90"),
    Story("subtract_subtract", "{n}带了{a}元，买一{m}{t}用去{b}元，买一{v}{u}用去{c}元，还剩多少元？", "还剩{x}元", "priced", "a=30-80,60-200,120-400 b=t c=u"),
    Story("subtract_subtract", "商店里有{a}{m}{t}，上午卖出{b}{m}，下午卖出{c}{m}，还剩多少{m}？", "还剩{x}{m}", "sold", "a=20-50,50-150,120-600 b=5-20,15-60,40-250 c=5-20,15-60,40-250"),
    Story("subtract_subtract", "一{m}{t}长{a}米，第一次剪去{b}米，第二次剪去{c}米，还剩多少米？", "还剩{x}米", "ropes", "a=10-30,25-80,50-120 b=2-12,5-30,10-50 c=2-12,5-30,10-50"),
    Story("multiply_add", "{s}买了{a}{m}{t}，每{m}{b}元，又买了一{v}{u}，用去{c}元，一共用去多少元？", "一共用去{x}元", "priced", "a=2-5,2-8,3-12 b=t c=u"),
    Story("multiply_add", "{n}读一本书，每天读{a}页，读了{b}天后还剩{c}页，这本书一共有多少页？", "这本书一共有{x}页", "", "a=4-10,8-20,12-36 b=2-6,3-9,5-12 c=3-12,8-40,20-90"),
    Story("multiply_subtract", "食堂运来{a}袋大米，每袋{b}千克，用去{c}千克，还剩多少千克？", "还剩{x}千克", "", "a=2-5,4-12,8-30 b=10/15/20/25/50 c=5-60,20-150,60-700"),
    Story("multiply_subtract", "商店运来{a}{k}{t}，每{k}{b}{m}，卖出{c}{m}，还剩多少{m}？", "还剩{x}{m}", "packed", "a=2-6,3-10,6-20 b=4-9,6-16,8-30 c=5-40,15-120,40-400"),
    Story("change", "{n}买了{a}{m}{t}，每{m}{b}元，付了{c}元，应找回多少元？", "应找回{x}元", "cheap", "a=2-4,2-6,3-9 b=t c=10/20/50/100 x=1-49"),
    Story("more_total", "{n}有{a}{m}{t}，{o}比{n}多{b}{m}，两人一共有多少{m}{t}？", "两人一共有{x}{m}{t}", "kept", _KEPT),
    Story("more_total", "农场里有{a}只{t}，{u}比{t}多{b}只，{t}和{u}一共有多少只？", "{t}和{u}一共有{x}只", "animals", "a=5-15,12-60,50-300 b=2-9,5-30,20-120"),
    Story("less_total", "{n}有{a}{m}{t}，{o}比{n}少{b}{m}，两人一共有多少{m}{t}？", "两人一共有{x}{m}{t}", "kept", _KEPT),
    Story("less_total", "{w}种了{a}棵树，{z}比{w}少种{b}棵，两个班一共种了多少棵树？", "两个班一共种了{x}棵树", "", "a=8-20,15-50,30-90 b=2-9,4-20,8-40"),
    Story("times_total", "果园里有{a}棵{t}，{u}的棵数是{t}的{b}倍，两种树一共有多少棵？", "两种树一共有{x}棵", "trees", "a=4-9,8-30,20-90 b=2-4,2-6,3-9"),
    Story("times_difference", "{n}有{a}{m}{t}，{o}的{t}是{n}的{b}倍，{o}比{n}多多少{m}？", "{o}比{n}多{x}{m}", "kept", "a=2-9,4-15,8-30 b=2-4,2-6,3-8"),
    Story("times_more", "农场里有{a}只{t}，{u}的只数比{t}的{b}倍多{c}只，{u}有多少只？", "{u}有{x}只", "animals", "a=3-9,8-25,15-80 b=2-4,2-6,3-9 c=1-6,3-12,5-30"),
    Story("times_less", "农场里有{a}只{t}，{u}的只数比{t}的{b}倍少{c}只，{u}有多少只？", "{u}有{x}只", "animals", "a=3-9,8-25,15-80 b=2-4,2-6,3-9 c=1-2,2-7,3-14"),
    Story("add_divide", "{w}有男生{a}人，女生{b}人，平均分成{c}组，每组有多少人？", "每组有{x}人", "", "a=12-28 b=12-28 c=2-9 x=3-14"),
    Story("add_divide", "{n}有{a}{m}{t}，{o}有{b}{m}，两人把这些{t}平均分给{c}个小朋友，每人分到多少{m}？", "每人分到{x}{m}", "kept", "a=4-12,8-30,20-70 b=4-12,8-30,20-70 c=2-5,3-8,4-10 x=2-8,3-12,5-20"),
    Story("subtract_divide", "{n}有{a}{m}{t}，自己留下{b}{m}，其余的平均分给{c}个小朋友，每人分到多少{m}？", "每人分到{x}{m}", "kept", "b=2-9,3-12,5-20 c=2-5,3-8,4-10 x=2-6,3-10,4-12"),
    Story("subtract_divide", "一本{t}有{a}页，{n}已经读了{b}页，剩下的每天读{c}页，还要读多少天？", "还要读{x}天", "read", "b=8-25,15-60,30-120 c=4-9,6-15,10-30 x=2-6,3-10,4-12"),
    Story("subtract_divide", "{n}带了{a}元，买一本书用去{b}元，剩下的钱正好买了{c}{m}{t}，每{m}{t}多少元？", "每{m}{t}{x}元", "cheap", "b=10-45 c=2-4,2-6,3-9 x=t"),
    Story("subtract_multiply", "一{m}{t}原价{a}元，现在每{m}便宜{b}元，{h}买了{c}{m}，一共要付多少元？", "一共要付{x}元", "priced", "a=t b=2-5,3-12,5-20 c=2-4,2-6,3-10 y=t"),
    Story("multiply_divide", "学校买来{a}{k}{t}，每{k}{b}{m}，平均分给{c}个班，每个班分到多少{m}？", "每个班分到{x}{m}", "school", "a=2-6,4-12,8-30 b=6/10/12,8/10/12/20,10/12/20/24/30 c=2-6,3-8,4-12"),
    Story("same_work", "修路队每天修{a}米，{b}天可以修完一条路，如果每天修{c}米，多少天可以修完？", "{x}天可以修完", "", "a=20/30/40/50/60,40/50/60/80/90,80/90/100/120/150 b=4-9,6-15,9-30 c=30/40/50/60/80,50/60/80/90/100/120,100/120/150/180/200"),
    Story("same_rate", "买{a}{m}{t}要{b}元，照这样计算，买{c}{m}要多少元？", "买{c}{m}要{x}元", "priced", "a=2-5,2-8,3-9 c=3-9,4-12,6-30 y=t"),
    Story("same_rate", "一辆汽车{a}小时行驶了{b}千米，照这样的速度，{c}小时可以行驶多少千米？", "{c}小时可以行驶{x}千米", "", "a=2-3,2-4,2-6 c=3-5,4-8,5-12 y=40-70,50-90,60-120"),
    Story("same_rate", "一台机器{a}小时加工{b}个零件，照这样计算，{c}小时可以加工多少个零件？", "{c}小时可以加工{x}个零件", "", "a=2-4,2-6,3-8 c=3-6,5-9,6-24 y=4-9,8-30,20-90"),
    Story("average", "{n}三次跳绳分别跳了{a}下、{b}下和{c}下，平均每次跳了多少下？", "平均每次跳了{x}下", "", "a=60-170 b=60-170 c=60-170 x=70-160"),
    Story("average", "{n}语文考了{a}分，数学考了{b}分，英语考了{c}分，三科的平均分是多少分？", "三科的平均分是{x}分", "", "a=70-100 b=70-100 c=70-100 x=72-98"),
    Story("average_of_two", "{n}第一天读了{a}页书，第二天读了{b}页，平均每天读了多少页？", "平均每天读了{x}页", "", "a=4-15,10-40,25-90 b=4-15,10-40,25-90 x=5-14,12-38,28-85"),
    Story("trees", "在一条{a}米长的小路的一边种树，每隔{b}米种一棵，两端都种，一共要种多少棵树？", "一共要种{x}棵树", "", "b=2-10 y=4-9,8-20,15-60"),
    Story("meeting", "{n}和{o}分别从两地同时出发，相向而行，{n}每分钟走{a}米，{o}每分钟走{b}米，{c}分钟后两人相遇，两地相距多少米？", "两地相距{x}米", "", "a=50-85 b=50-85 c=3-20"),
    Story("meeting", "两辆汽车同时从甲、乙两地相对开出，一辆每小时行驶{a}千米，另一辆每小时行驶{b}千米，{c}小时后相遇，甲、乙两地相距多少千米？", "甲、乙两地相距{x}千米", "", "a=40-70,50-90,60-120 b=40-70,50-90,60-120 c=2-3,2-5,2-8"),
    Story("meeting_time", "甲、乙两地相距{a}千米，两辆汽车同时从两地相对开出，一辆每小时行驶{b}千米，另一辆每小时行驶{c}千米，多少小时后相遇？", "{x}小时后相遇", "", "b=40-70,50-90,60-120 c=40-70,50-90,60-120 x=2-3,2-5,2-8"),
    Story("distance_left", "甲、乙两地相距{a}千米，一辆汽车从甲地开往乙地，每小时行驶{b}千米，行驶{c}小时后，离乙地还有多少千米？", "离乙地还有{x}千米", "", "b=40-70,50-90,60-120 c=2-3,2-5,2-8 x=10-60,20-150,50-300"),
    Story("age_gap", "{f}今年{a}岁，{n}今年{b}岁，等{n}{c}岁的时候，{f}多少岁？", "那时{f}{x}岁", "", "a=28-50 b=5-13 c=10-35 y=23-38"),
    Story("jiao", "{n}有{a}元，买一{m}{t}用去{b}角，还剩多少角？", "还剩{x}角", "small", "a=1-2,1-5,3-10 b=2-9"),
    Story("centimetres", "一{m}{t}长{a}米，剪去{b}厘米，还剩多少厘米？", "还剩{x}厘米", "ropes", "a=1-2,1-5,2-12 b=10-90,20-150,50-600"),
)
# fmt: on

# ---------------------------------------------------------------------------------------------------- drawing


class _Draw:
    """Draws of whole numbers, the same on every platform and in every version of Python."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, count: int) -> int:
        return int(self._random() * count)

    def one(self, given: Sequence[T]) -> T:
        return given[self.below(len(given))]

    def two(self, given: Sequence[T]) -> tuple[T, T]:
        """Two different ones."""
        first, second = self.below(len(given)), self.below(len(given) - 1)
        return given[first], given[second + (second >= first)]


def problems(count: int, seed: int, easy: bool = False) -> Iterator[dict[str, Any]]:
    """So many problems, each other: prompt, response, answer (a whole number, as text), kind (a key of KINDS), steps (equations).

    easy: of one step, with numbers up to EASY.
    """
    draw, known = _Draw(seed), set[str]()
    stories = [story for story in STORIES if not easy or len(KINDS[story.kind].steps.split()) == 1]
    while len(known) < count:
        record = _problem(draw.one(stories), 0 if easy else draw.below(LEVELS), draw)
        if record["prompt"] not in known and (not easy or is_easy(record)):
            known.add(record["prompt"])
            yield record


def is_easy(record: dict[str, Any]) -> bool:
    """Whether a problem has one step and no number above EASY."""
    said = re.findall(r"\d+", record["prompt"] + record["response"])
    return record["steps"] == 1 and max(map(int, said)) <= EASY


def _problem(story: Story, level: int, draw: _Draw) -> dict[str, Any]:
    for _ in range(TRIES):
        thing, other = draw.two(things(story.things)) if story.things else (None, None)
        found = _numbers(story, level, thing, other, draw)
        if found is not None:
            break
    else:
        raise AssertionError(f"no numbers fit {story}")
    values, equations = found
    words = _words(draw) | {letter: str(value) for letter, value in values.items()}
    if thing is not None and other is not None:
        words |= {"t": thing.name, "m": thing.measure, "k": thing.pack, "u": other.name, "v": other.measure}
    return {
        "prompt": story.prompt.format_map(words),
        "response": "，".join((*equations, story.closing.format_map(words))) + "。",
        "answer": words["x"],
        "kind": story.kind,
        "steps": len(equations),
    }


def _words(draw: _Draw) -> dict[str, str]:
    """The people of a story."""
    children = [(name, pronoun) for names, pronoun in ((HE, "他"), (SHE, "她")) for name in names.split()]
    (name, pronoun), (other, _) = draw.two(children)
    grade, (room, next_room) = draw.one(GRADES.split()), draw.two(CLASSES.split())
    rows = {"g": GIVERS, "f": PARENTS, "e": GRANDPARENTS, "s": TEACHERS, "h": NEIGHBOURS}
    people = {letter: draw.one(row.split()) for letter, row in rows.items()}
    return people | {"n": name, "p": pronoun, "o": other, "w": grade + room, "z": grade + next_room}


def _numbers(
    story: Story, level: int, thing: Thing | None, other: Thing | None, draw: _Draw
) -> tuple[dict[str, int], list[str]] | None:
    """A story's numbers and the equations that solve it; None where a draw does not fit."""
    kind, ranges = KINDS[story.kind], _ranges(story.numbers, level)
    prices = {"t": thing and thing.price, "u": other and other.price}
    allowed = {letter: prices.get(letter_range) or _values(letter_range) for letter, letter_range in ranges.items()}
    values = {letter: draw.one(allowed[letter]) for letter in kind.drawn}
    for rule in kind.made.split():
        name, _, formula = rule.partition("=")
        values[name], rest = reckon(formula, values)
        if rest or values[name] < 1:
            return None
    equations = []
    for step in kind.steps.split():
        formula, _, right = step.partition("=")
        names, results = right.split("……"), reckon(formula, values)
        if results[0] < 1 or (results[1] < 1) != (len(names) == 1):
            return None
        values |= zip(names, results, strict=False)
        left = "".join(str(values.get(token, token)) for token in _tokens(formula))
        equations.append(f"{left}={'……'.join(str(values[name]) for name in names)}")
    fits = all(values[letter] in allowed[letter] for letter in allowed)
    return (values, equations) if fits else None


def reckon(formula: str, values: dict[str, int]) -> tuple[int, int]:
    """The value of letters and numbers joined by + - × ÷, from left to right, and the remainder of a last division."""
    first, *rest = [values.get(token) or token for token in _tokens(formula)]
    total, left = int(first), 0
    for sign, number in zip(rest[::2], rest[1::2], strict=True):
        match sign:
            case "+":
                total += int(number)
            case "-":
                total -= int(number)
            case "×":
                total *= int(number)
            case _:
                total, left = divmod(total, int(number))
    return total, left


@functools.cache
def _tokens(formula: str) -> list[str]:
    return re.findall(r"[a-z]|\d+|[-+×÷]", formula)


@functools.cache
def _ranges(numbers: str, level: int) -> dict[str, str]:
    """The range of each letter at a level: 'a=3-9,5-20,8-90 b=t' -> {'a': '5-20', 'b': 't'}."""
    given = [pair.partition("=") for pair in numbers.split()]
    return {letter: (options.split(",") * LEVELS)[level] for letter, _, options in given}


@functools.cache
def _values(text: str) -> Sequence[int]:
    """'3-9' -> 3 to 9, '10/20/50' -> these."""
    if "/" in text:
        return tuple(int(number) for number in text.split("/"))
    low, _, high = text.partition("-")
    return range(int(low), int(high) + 1)


@functools.cache
def things(row: str) -> tuple[Thing, ...]:
    """A row of THINGS."""
    found = []
    for entry in THINGS[row].split():
        name, measure, *more = entry.split("/")
        price = more[0] if more and more[0][0].isdigit() else ""
        found.append(Thing(name, measure, "" if price else "".join(more), range(*_ends(price)) if price else range(0)))
    return tuple(found)


def _ends(price: str) -> tuple[int, int]:
    low, _, high = price.partition("-")
    return int(low), int(high) + 1
