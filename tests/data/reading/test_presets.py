"""The presets, with invented records in the published forms."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

import pytest

from jielong.data import steps
from jielong.data.reading.hubs import is_hub, parse
from jielong.data.reading.presets import PRESETS, preset, rows
from jielong.errors import InputError

PARAGRAPHS = [
    {"行号": 0, "是否重复": False, "是否跨文件重复": False, "md5": "0", "内容": "第一段。"},
    {"行号": 2, "是否重复": True, "是否跨文件重复": False, "md5": "0", "内容": "第一段。"},
    {"行号": 3, "是否重复": False, "是否跨文件重复": False, "md5": "1", "内容": "  "},
    {"行号": 4, "是否重复": False, "是否跨文件重复": False, "md5": "2", "内容": "第二段。"},
]
MNBVC = {
    "文件名": "甲.txt", "是否待查文件": False, "是否重复文件": False, "文件大小": 9, "simhash": 0, "最长段落长度": 4,
    "段落数": 3, "去重段落数": 2, "低质量段落数": 0, "段落": PARAGRAPHS,
}  # fmt: skip
META = {"create_time": "20230101 00:00:00", "问题明细": "", "回答明细": "", "扩展字段": '{"会话": 1, "多轮序号": 1}'}

RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "seq-monkey": ({"text": "春天来了。\n"}, "春天来了。\n"),
    "wikipedia-cn": ({"completion": "石桥是一座桥。", "source": "wikipedia.zh2307"}, "石桥是一座桥。"),
    "wiki2019zh": (
        {"id": "1", "url": "https://example.org", "title": "石桥", "text": "石桥\n\n石桥是一座桥。\n\n它很长。\n"},
        "石桥\n\n石桥是一座桥。\n\n它很长。",
    ),
    "baidubaike-563w": (
        {
            "title": "石桥", "summary": "石桥是一座桥。", "tags": ["桥"], "url": "http://example.org",
            "sections": [
                {"title": "历史", "content": "建于唐代。\n"}, {"title": "空", "content": ""}, {"title": "", "content": "很长。"},
            ],
        },
        "石桥\n石桥是一座桥。\n\n历史\n建于唐代。\n\n很长。",
    ),
    "wudao": (
        {"id": 1, "uniqueKey": "a", "titleUkey": "b", "dataType": "博客", "title": "春天", "content": "春天来了。 花开了。"},
        "春天\n春天来了。 花开了。",
    ),
    "medical-pretrain": ({"text": "多喝水。"}, "多喝水。"),
    "medical-finetune": ({"instruction": "感冒怎么办？", "input": "", "output": "多喝水。"}, "感冒怎么办？\n多喝水。"),
    "c4-zh": ({"text": "网页。", "timestamp": "2020-01-01T00:00:00Z", "url": "https://example.org"}, "网页。"),
    "skypile-150b": ({"text": "网页。"}, "网页。"),
    "mnbvc": (MNBVC, "第一段。\n第一段。\n第二段。"),
    "mnbvc-qa": (
        {"id": 1, "问": "几点了？", "答": "三点。", "来源": "甲", "元数据": META, "时间": "20230101"},
        "几点了？\n三点。",
    ),
    "mnbvc-forum": (
        {
            "ID": 1, "主题": "看花", "来源": "甲", "元数据": {}, "时间": "20230101",
            "回复": [{"楼ID": "1", "回复": "好看。", "扩展字段": ""}, {"楼ID": "2", "回复": "同意。", "扩展字段": ""}],
        },
        "看花\n好看。\n同意。",
    ),
    "tigerbot-zh": ({"dataType": "书", "title": None, "content": "第一章 春天"}, "第一章 春天"),
    "cci2": ({"id": "1", "content": "新闻。\n\u3000\u3000正文。"}, "新闻。\n\u3000\u3000正文。"),
    "cci3-hq": ({"id": "1", "text": "好文。", "score": 3.2}, "好文。"),
    "wanjuan1": ({"id": "1", "content": "# 标题\n正文。"}, "# 标题\n正文。"),
    "fineweb-edu-zh": ({"text": "课文。", "score": 0.7, "source": "CCI3"}, "课文。"),
    "baike-qa": (
        {"qid": "1", "category": "生活", "title": "花怎么养", "desc": "花怎么养才好？", "answer": "浇水。\r\r晒太阳。"},
        "花怎么养才好？\n浇水。\r\r晒太阳。",
    ),
    "webtext2019zh": (
        {"qid": 1, "title": "花怎么养？", "desc": "阳台朝北。", "topic": "花", "star": 3, "content": "浇水。", "answer_id": 2,
         "answerer_tags": ""},
        "花怎么养？\n阳台朝北。\n浇水。",
    ),
    "news2016zh": (
        {"news_id": "1", "keywords": "花", "title": "花开了", "desc": "花", "source": "甲报", "time": "03-22 12:00",
         "content": "今天花开了。"},
        "花开了\n今天花开了。",
    ),
    "zhihu-kol": ({"INSTRUCTION": "花怎么养？", "RESPONSE": "浇水。", "SOURCE": "Zhihu", "METADATA": "{}"}, "花怎么养？\n浇水。"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_published_record_becomes_one_text(name: str) -> None:
    record, text = RECORDS[name]
    assert preset(name).compose(record) == text
    assert set(record) == set(preset(name).fields)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("value", [None, "", " \u3000\n", 3, [], {}, [None], [3], "[", '{"a": 1}'])
def test_without_its_text_there_is_none(name: str, value: Any) -> None:
    chosen = preset(name)
    assert chosen.compose({}) is None
    titles = ("title", "tags", "url", "文件名", "主题", "问", "instruction", "INSTRUCTION", "source")
    record = {key: part if key in titles else value for key, part in RECORDS[name][0].items()}
    text = chosen.compose(record)
    assert text is None or (isinstance(value, str) and value.strip() and text.endswith(value.strip()))


def test_a_title_is_said_once() -> None:
    compose = preset("wudao").compose
    title = "石桥镇今年的油菜花开了"
    assert compose({"title": title, "content": f"{title} 记者报道。"}) == f"{title} 记者报道。"
    assert compose({"title": "石桥", "content": "石桥很长。"}) == "石桥\n石桥很长。"
    assert compose({"title": "石桥", "content": " 石桥 \n很长。"}) == "石桥 \n很长。"
    assert compose({"title": "", "content": "很长。"}) == compose({"content": "很长。"}) == "很长。"


def test_a_question_is_said_once() -> None:
    compose = preset("baike-qa").compose
    for desc in ("", None, "花怎么养？", "怎么养"):
        assert compose({"title": "花怎么养？", "desc": desc, "answer": "浇水。"}) == "花怎么养？\n浇水。"
    assert compose({"title": "", "desc": "怎么养？", "answer": "浇水。"}) == "怎么养？\n浇水。"
    assert compose({"title": "", "desc": "", "answer": "浇水。"}) == "浇水。"


def test_an_encyclopedia_article_without_its_summary_or_its_sections() -> None:
    compose = preset("baidubaike-563w").compose
    section = {"title": "历史", "content": "建于唐代。"}
    assert compose({"title": "石桥", "summary": None, "sections": [section]}) == "石桥\n历史\n建于唐代。"
    assert compose({"title": "石桥", "summary": "一座桥。"}) == "石桥\n一座桥。"
    assert compose({"title": "石桥", "summary": "", "sections": [{"title": "历史"}, None, "x"]}) is None


def test_mnbvc_in_its_other_forms() -> None:
    compose = preset("mnbvc").compose
    assert compose({"text": json.dumps(PARAGRAPHS), "meta": "{}"}) == RECORDS["mnbvc"][1]
    poem = {"行号": 1, "md5": "0", "标题": "看花", "作者": "甲", "内容": "花开花落，\n春去春来。"}
    assert compose({**MNBVC, "段落": [poem]}) == "看花\n花开花落，\n春去春来。"


def test_what_is_said_of_a_corpus_holds_together() -> None:
    assert set(PRESETS) == set(RECORDS)
    known = {get_args(kind.model_fields["step"].annotation)[0] for kind in steps.Step.__subclasses__()}
    for name, chosen in PRESETS.items():
        assert chosen.name == name == name.lower() and set(chosen.steps) <= known
        for field in dataclasses.fields(chosen):
            assert getattr(chosen, field.name) or field.name in ("steps", "unconfirmed"), (name, field.name)
        assert ("not confirmed" not in chosen.licence) or "licence" in chosen.unconfirmed
        for place in chosen.where:
            assert place.startswith("https://") or (is_hub(place) and parse(place))


def test_what_is_known_of_each() -> None:
    assert [row["name"] for row in rows()] == list(PRESETS)
    assert all(row["fields"] and row["where"] and row["size"] for row in rows())


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"data\.sources\.preset: unknown, got 'skypile'; .*did you mean skypile-150b"):
        preset("skypile")
