"""The words of the data report: what the identifiers of steps, rules, edits and languages are called in both languages.

A report for people should not say `und-Latn` or `word_rep_ratio` without a word beside it. Identifiers come from three
places: our own code (every kind of step, every reason why a record cannot be read), the cleaners (kinds of edits), and the
recipe (a step's own name). The first are all here and a test holds this file to the code; the others are here as far as
they are known, and one that is not is shown as it is, as text from outside.

Columns are not here: the report's dictionary brings their names in both languages.
"""

from __future__ import annotations

import re
from typing import Any

from jielong.charts import Words
from jielong.pieces import Piece, data, say, visible

STEPS = {
    "read": Words("read", "读入"),
    "markup": Words("markup", "去标记"),
    "characters": Words("characters", "字符规范"),
    "simplify": Words("simplify", "繁转简"),
    "whitespace": Words("white space", "空白"),
    "repeats": Words("repeats", "重复标点"),
    "adverts": Words("adverts", "去广告"),
    "personal_data": Words("personal data", "个人信息"),
    "flagged_words": Words("flagged words", "词表"),
    "decontaminate": Words("evaluation items", "评测题"),
    "split": Words("split", "切分长文"),
    "measure": Words("measure", "统计"),
    "filter": Words("filter", "过滤"),
    "exact": Words("same text", "完全重复"),
    "near": Words("near duplicates", "近似重复"),
    "fragments": Words("mined adverts", "挖出的广告"),
    "lines": Words("lines", "重复行"),
    "annotate": Words("annotate", "标注"),
    "augment": Words("augment", "增广"),
    "hold_out": Words("hold out", "划出验证集"),
    "split into train and validation": Words("hold out", "划出验证集"),
}
RULES = {
    "bad_utf8": Words("bad utf8", "非 UTF-8"), "bad_encoding": Words("bad encoding", "编码错误"),
    "bad_json": Words("bad json", "JSON 有误"), "bad_csv": Words("bad csv", "CSV 有误"),
    "missing_text": Words("missing text", "缺少文本"), "text_not_string": Words("text not string", "文本不是字符串"),
    "empty_text": Words("empty text", "空白"), "binary": Words("binary", "二进制内容"),
    "too_big": Words("too big", "单条过大"), "broken_file": Words("broken file", "文件损坏"),
    "too_short": Words("too short", "过短"), "too_long": Words("too long", "过长"),
    "duplicate": Words("duplicate", "完全重复"), "near_duplicate": Words("near duplicate", "近似重复"), "empty": Words("nothing left", "清洗后为空"),
    "flagged_words": Words("flagged words", "词表"), "personal_data": Words("personal data", "个人信息"),
}  # fmt: skip
EDITS = {
    "html_tag": Words("HTML tags", "HTML 标签"), "html_entity": Words("HTML entities", "HTML 实体"),
    "html_comment": Words("HTML comments", "HTML 注释"), "html_script": Words("scripts and styles", "脚本与样式"),
    "front_matter": Words("front matter", "文首元数据"), "image": Words("images", "图片"), "link": Words("links", "链接"),
    "definition": Words("link definitions", "链接定义"), "comment_marker": Words("comment markers", "注释标记"),
    "synonyms": Words("copies with synonyms", "同义词替换的副本"), "shuffle": Words("copies with shuffled sentences", "打乱句序的副本"),
    "fragment": Words("mined fragments", "挖出的片段"),
    "generate": Words("generated copies", "生成的副本"),
    "heading": Words("heading marks", "标题标记"), "emphasis": Words("emphasis marks", "强调标记"),
    "control": Words("control characters", "控制字符"), "zero_width": Words("zero-width characters", "零宽字符"),
    "odd_space": Words("odd spaces", "异形空格"), "line_end": Words("line ends", "换行符"), "tag": Words("tag characters", "标记字符"),
    "width": Words("full-width letters and digits", "全角字母与数字"), "composed": Words("composed forms", "组合字形"),
    "compatibility": Words("compatibility forms", "兼容字形"), "punctuation": Words("punctuation", "标点"),
    "simplified": Words("characters simplified", "简化的字"), "indent": Words("indentation", "段首空格"),
    "line_end_blank": Words("blanks at line ends", "行尾空白"), "blank_line": Words("blank lines", "空行"),
    "punctuation_run": Words("repeated punctuation", "重复标点"), "ellipsis_run": Words("long ellipses", "过长的省略号"),
    "dash_run": Words("long dashes", "过长的破折号"), "advert_line": Words("lines of adverts", "广告行"),
    "advert_phrase": Words("phrases of adverts", "广告语"), "advert_sentence": Words("sentences of adverts", "广告句"),
    "url": Words("addresses", "网址"), "url_line": Words("lines of an address only", "仅有网址的行"),
    "mobile": Words("mobile numbers", "手机号"), "landline": Words("fixed-line numbers", "固定电话"),
    "id_card": Words("identity numbers", "身份证号"), "bank_card": Words("bank card numbers", "银行卡号"),
    "email": Words("e-mail addresses", "电子邮箱"), "ip": Words("IP addresses", "IP 地址"), "qq": Words("QQ numbers", "QQ 号"),
    "wechat": Words("WeChat names", "微信号"), "flagged_word": Words("words of the list", "词表中的词"),
    "split": Words("documents split", "切分的文档"), "line": Words("repeated lines", "重复行"),
    "sentence": Words("repeated sentences", "重复句"), "other": Words("others", "其他"),
}  # fmt: skip
LANGUAGES = {
    "zh": Words("Chinese", "中文"), "en": Words("English", "英文"), "ja": Words("Japanese", "日文"),
    "ko": Words("Korean", "韩文"), "fr": Words("French", "法文"), "de": Words("German", "德文"),
    "es": Words("Spanish", "西班牙文"), "ru": Words("Russian", "俄文"), "ar": Words("Arabic", "阿拉伯文"),
    "zxx": Words("hardly any letters", "几乎无文字"), "und": Words("not known", "未知"),
    "und-Latn": Words("Latin script", "拉丁字母"), "und-Cyrl": Words("Cyrillic script", "西里尔字母"),
    "und-Arab": Words("Arabic script", "阿拉伯字母"), "und-Grek": Words("Greek script", "希腊字母"),
    "und-Hebr": Words("Hebrew script", "希伯来字母"), "und-Thai": Words("Thai script", "泰文字母"),
    "und-Deva": Words("Devanagari script", "天城文"), "und-Tibt": Words("Tibetan script", "藏文"),
    "und-Mong": Words("Mongolian script", "蒙古文"), "other": Words("others", "其他"),
}  # fmt: skip


def as_is(key: Any) -> Words:
    """An identifier without words of ours, for pictures; whatever shows it must escape it."""
    text = "—" if key is None else visible(str(key))
    return Words(text, text)


def named(table: dict[str, Words], key: Any) -> Piece:
    """An identifier in words; one that is not in the table is text from outside."""
    return say(*table[key]) if key in table else data("—" if key is None else key)


def step_words(name: Any, kind: Any = None) -> Words:
    """The words for a step; one that the recipe has named keeps its name, a repeated one its number ("filter-2")."""
    found = STEPS.get(str(name))
    if found is None and (numbered := re.fullmatch(r"(.+)-(\d+)", str(name))) and numbered[1] == str(kind):
        base = STEPS.get(numbered[1])
        found = base and Words(f"{base.en} {numbered[2]}", f"{base.zh} {numbered[2]}")
    return found or as_is(name)


def rule_words(rule: Any, columns: dict[str, Words] | None = None) -> Words:
    """The words for a rule: a threshold is called as its column is."""
    return (columns or {}).get(str(rule)) or RULES.get(str(rule)) or as_is(rule)
