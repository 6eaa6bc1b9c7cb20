"""Fixed examples, by kind, and how a tokenizer cuts them.

An average of characters per token says how much; a cut shows what. The kinds are where tokenizers of Chinese differ: whether an
idiom, a name or a place is one token or its characters, whether numbers keep their places, whether classical verse falls
apart, what remains of code and tables, whether a rare character or an emoji becomes a row of bytes, and whether Traditional
characters cost more than Simplified ones.

The verse is by Li Bai, Du Fu and Wang Wei; everything else was written for this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jielong.charts import Words
from jielong.tokenizer.folder import TokenizerFolder
from jielong.tokenizer.reporting.vocabulary import Vocabulary, shown

KINDS = {
    "idioms": Words("Idioms", "成语"),
    "people": Words("Names of persons", "人名"),
    "places": Words("Names of places", "地名"),
    "numbers": Words("Numbers, dates and units", "数字、日期与单位"),
    "verse": Words("Classical verse", "古诗"),
    "prose": Words("Modern prose", "现代文"),
    "terms": Words("Terms of a field", "专业术语"),
    "code": Words("Code", "代码"),
    "mixed": Words("Chinese and English mixed", "中英混排"),
    "rare": Words("Emoji and rare characters", "表情与生僻字"),
    "traditional": Words("Traditional characters", "繁体字"),
    "table": Words("Markdown and tables", "Markdown 与表格"),
}


@dataclass(frozen=True)
class Example:
    """A text to cut, and its kind (a key of KINDS)."""

    kind: str
    text: str


EXAMPLES = (
    Example("idioms", "画蛇添足、刻舟求剑、守株待兔，都不如亡羊补牢；他胸有成竹，一鸣惊人。"),
    Example("people", "诸葛亮、司马懿与欧阳修同席，王小明和李雪梅在旁边记录，请来的是爱因斯坦。"),
    Example("places", "从乌鲁木齐到哈尔滨，经呼和浩特、石家庄，再去纽约和布宜诺斯艾利斯。"),
    Example("numbers", "2024年10月31日，指数涨1.85%，收于3279.82点，成交12,345,678手；二〇二四年，三千五百万元。"),
    Example("numbers", "电话 010-6552-9988，版本 v3.11.7，气温 -12.5℃，圆周率 3.14159265。"),
    Example("verse", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"),
    Example("verse", "国破山河在，城春草木深。感时花溅泪，恨别鸟惊心。明月松间照，清泉石上流。"),
    Example("prose", "雨是傍晚开始下的。她把窗子推开一条缝，听见楼下卖豆腐的人收了摊，自行车铃响了两声，巷子就静了。"),
    Example("prose", "国务院办公厅今天发布通知，要求各地区各部门进一步做好稳就业工作，切实保障和改善民生。"),
    Example("terms", "患者行腹腔镜下胆囊切除术，术后予头孢曲松静脉滴注；依照民法典第一千一百六十五条，行为人应当承担侵权责任。"),
    Example("code", "def 求和(numbers: list[int]) -> int:\n    # 把偶数加起来\n    return sum(n for n in numbers if n % 2 == 0)\n"),
    Example("code", "SELECT name, COUNT(*) AS 次数 FROM orders WHERE city = '北京' GROUP BY name;"),
    Example("mixed", "用 PyTorch 训练 GPT，先 git clone 仓库，再把 learning_rate 调到 3e-4；iPhone 的 App 也能跑。"),
    # thumbs up with a skin tone; a family joined by U+200D zero width joiners; U+20BB7, U+2A6A5 and U+31350: rare planes
    Example("rare", "太棒了👍\U0001f3fd，全家\U0001f468\u200d\U0001f469\u200d\U0001f467去吃饭🍜！\U00020bb7野家，龘、\U0002a6a5、\U00031350、囍，㎡，①②③。"),
    Example("traditional", "臺灣與香港的讀者習慣繁體字：憂鬱的烏龜、發展計畫、體驗學習、資訊軟體。"),
    Example("table", "## 成绩\n\n| 姓名 | 语文 | 数学 |\n|------|-----:|-----:|\n| 张三 | 92 | **88** |\n\n- [链接](https://example.com/a?b=1)\n"),
)  # fmt: skip


def cut(tokenizer: TokenizerFolder, vocabulary: Vocabulary, text: str) -> list[dict[str, Any]]:
    """The tokens of a text, in order: `id`, `text` (bytes that are no whole character as <E4><B8>), `broken` or not."""
    [ids] = tokenizer.encode([text])
    return [
        {"id": int(number), "text": shown(vocabulary.raw[number]), "broken": bool(vocabulary.broken[number])}
        for number in ids
    ]


def cut_all(tokenizers: list[tuple[TokenizerFolder, Vocabulary]]) -> list[dict[str, Any]]:
    """Every example with its cuts, one list of tokens a tokenizer, in the order of the tokenizers."""
    return [
        {
            "kind": example.kind,
            "text": example.text,
            "cuts": [cut(tokenizer, vocabulary, example.text) for tokenizer, vocabulary in tokenizers],
        }
        for example in EXAMPLES
    ]
