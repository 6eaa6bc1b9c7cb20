"""The corpora that small Chinese projects train on: their fields, and how a record of theirs becomes one text.

A preset is no more than what one would have to look up: what the files are called, which fields a record has, how large it is
said to be, under which licence, where it is, what dirt to expect. `compose` makes one document of a record: the title on
a line of its own, then the text, sections after a blank line, a question before its answer. It gives None where the text is
not there, so that a record without one is counted as such.

Nothing is fetched. Fields, sizes and licences are quoted from the pages in the comments, and such pages change; what no
page could be found for is in `unconfirmed`. `dirt` is what the makers say or what published examples show; behind
"expected" stands an assumption from the kind of text. A licence of a collection seldom is one of its texts.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from jielong.errors import InputError

Compose = Callable[[dict[str, Any]], str | None]

MIN_TITLE_CHARS = 8  # an article that begins with a title this long begins with its title; a shorter one is a word


@dataclass(frozen=True, slots=True)
class Preset:
    """A published corpus. `fields` are those of a record, the used ones first; `steps` fit it besides the standard ones."""

    name: str
    title: str
    files: tuple[str, ...]  # names as published, as patterns
    form: Literal["json lines", "json array", "parquet"]
    fields: tuple[str, ...]
    compose: Compose
    size: str
    licence: str
    where: tuple[str, ...]
    dirt: str
    steps: tuple[str, ...] = ()
    unconfirmed: str = ""


# ---------------------------------------------------------------------------------------------------- one text of a record


def _string(record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    return value.strip() if isinstance(value, str) else ""


def only(name: str) -> Compose:
    """The text of one field, as it is."""

    def compose(record: dict[str, Any]) -> str | None:
        return record[name] if _string(record, name) else None

    return compose


def article(title: str, body: str) -> Compose:
    """A title and a text; the title is left out where the text begins with it, and is no text without one."""

    def compose(record: dict[str, Any]) -> str | None:
        head, text = _string(record, title), _string(record, body)
        return _under(head, text) or None

    return compose


def _under(head: str, text: str) -> str:
    if not head or not text:
        return text
    said = text.partition("\n")[0].strip() == head or (len(head) >= MIN_TITLE_CHARS and text.startswith(head))
    return text if said else f"{head}\n{text}"


def answered(questions: tuple[str, ...], answer: str) -> Compose:
    """A question in one or more fields and its answer, a line each; what a field repeats of another is said once."""

    def compose(record: dict[str, Any]) -> str | None:
        parts: list[str] = []
        for part in (_string(record, name) for name in questions):
            if parts and part.startswith(parts[-1]):  # a title is often the beginning of the question
                parts[-1] = part
            elif part and not (parts and part in parts[-1]):
                parts.append(part)
        reply = _string(record, answer)
        return "\n".join([*parts, reply]) if reply else None

    return compose


def baike(record: dict[str, Any]) -> str | None:
    """BaiduBaike: the title, the summary, and each section that has a text under its own title."""
    sections = record.get("sections")
    parts = [_string(record, "summary")]
    for section in sections if isinstance(sections, list) else []:
        if isinstance(section, dict) and (content := _string(section, "content")):
            parts.append(_under(_string(section, "title"), content))
    text = "\n\n".join(part for part in parts if part)
    return _under(_string(record, "title"), text) or None


def mnbvc(record: dict[str, Any]) -> str | None:
    """MNBVC, common form: the paragraphs of a file, a line each, also those marked as repeated: a text needs its refrains.

    Where the paragraphs were converted to a JSON string under `text`, they are found there.
    """
    paragraphs = record.get("段落", record.get("text"))
    if isinstance(paragraphs, str):
        try:
            paragraphs = orjson.loads(paragraphs)
        except orjson.JSONDecodeError:
            return None
    lines = []
    for paragraph in paragraphs if isinstance(paragraphs, list) else []:
        if isinstance(paragraph, dict) and (content := _string(paragraph, "内容")):
            lines.append(_under(_string(paragraph, "标题"), content))
    return "\n".join(lines) or None


def mnbvc_forum(record: dict[str, Any]) -> str | None:
    """MNBVC, forums: the topic and the replies under it, a line each."""
    replies = record.get("回复")
    rows = replies if isinstance(replies, list) else []
    lines = [reply for row in rows if isinstance(row, dict) and (reply := _string(row, "回复"))]
    return _under(_string(record, "主题"), "\n".join(lines)) or None


# ---------------------------------------------------------------------------------------------------- the corpora

_HF = "https://huggingface.co/datasets/"
_NLP_CORPUS = "https://github.com/brightmart/nlp_chinese_corpus"  # its README: fields, counts, sizes, examples
_NOT_FOUND = "no licence found; not confirmed"

_ALL = (
    Preset(
        # github.com/mobvoi/seq-monkey-data: README.md, docs/pretrain_open_corpus.md
        name="seq-monkey",
        title="序列猴子 general text",
        files=("mobvoi_seq_monkey_general_open_corpus.jsonl",),
        form="json lines",
        fields=("text",),
        compose=only("text"),
        size="13 000 000 documents",
        licence="Apache 2.0",
        where=("https://github.com/mobvoi/seq-monkey-data", "modelscope:ddzhu123/seq-monkey"),
        dirt="cleaned and deduplicated by its makers; comes as tar.bz2, to be unpacked first",
    ),
    Preset(
        # fields: github.com/DLLXW/baby-llama2-chinese data_process.py; count and size: a project's notes on the file
        name="wikipedia-cn",
        title="Wikipedia-cn 20230720, filtered",
        files=("wikipedia-cn-20230720-filtered.json",),
        form="json array",
        fields=("completion", "source"),
        compose=only("completion"),
        size="254 547 articles, 501 MB",
        licence="Wikipedia's text: CC BY-SA 3.0 and GFDL",
        where=(_HF + "pleisto/wikipedia-cn-20230720-filtered",),
        dirt="expected: clean, but for traditional characters here and there",
        steps=("simplify",),
        unconfirmed="the licence on the dataset's own page",
    ),
    Preset(
        name="wiki2019zh",  # _NLP_CORPUS, section 1
        title="Wikipedia 2019, simplified",
        files=("wiki_zh/*/wiki_*",),
        form="json lines",
        fields=("title", "text", "id", "url"),
        compose=article("title", "text"),
        size="1 043 224 articles, 1.6 GB (519 MB packed)",
        licence="Wikipedia's text: CC BY-SA 3.0 and GFDL",
        where=(_NLP_CORPUS,),
        dirt="quotations and lists are gone, their introductions stand alone; the files have no ending, add .jsonl to their names",
        unconfirmed="the licence of the collection",
    ),
    Preset(
        # fields and an example: projects that read it, as DLLXW/baby-llama2-chinese data_process.py; counts: its README
        name="baidubaike-563w",
        title="百度百科, 5.63 million articles",
        files=("563w_baidubaike.json",),
        form="json lines",
        fields=("title", "summary", "sections", "tags", "url"),
        compose=baike,
        size="5 634 898 articles, 16 GB",
        licence=_NOT_FOUND,
        where=(_HF + "xuqinyang/BaiduBaike-5.63M", "https://github.com/DLLXW/baby-llama2-chinese"),
        dirt="footnote marks such as [1], captions between sentences, many stubs; MinHash took a quarter of the longer articles",
        steps=("filter", "near"),
        unconfirmed="the licence, and how it was collected",
    ),
    Preset(
        # fields and forms: projects that read it, as DLLXW/baby-llama2-chinese wudaoaoCorpus_process.py; size:
        # github.com/PaddlePaddle/PaddleNLP llm/tools/preprocess/docs/WuDaoCorpusBase.md
        name="wudao",
        title="WuDaoCorpora 2.0, the open part",
        files=("WuDaoCorpus2.0_base_200G/*.json",),
        form="json array",
        fields=("title", "content", "id", "uniqueKey", "titleUkey", "dataType"),
        compose=article("title", "content"),
        size="200 GB (64 GB packed)",
        licence="the terms on its page, shown at registration; not confirmed",
        where=("https://data.baai.ac.cn/details/WuDaoCorporaText",),
        dirt="web text whose line ends became blanks, with half-width punctuation; expected: adverts; comes as rar",
        steps=("characters", "adverts", "fragments", "filter"),
        unconfirmed="the licence",
    ),
    Preset(
        # the dataset card of shibing624/medical: fields, counts, licence
        name="medical-pretrain",
        title="shibing624/medical, books and encyclopedia",
        files=("pretrain/*.json",),
        form="json lines",
        fields=("text",),
        compose=only("text"),
        size="8 475 pieces of textbooks, 362 420 of an encyclopedia",
        licence="Apache 2.0",
        where=(_HF + "shibing624/medical",),
        dirt="textbooks cut every 2 048 characters, also inside of a sentence; encyclopedia: a question run on into its answer",
    ),
    Preset(
        name="medical-finetune",  # the same card
        title="shibing624/medical, questions",
        files=("finetune/*_zh_0.json",),
        form="json lines",
        fields=("instruction", "input", "output"),
        compose=answered(("instruction", "input"), "output"),
        size="1 950 972 questions in Chinese, 117 617 in English",
        licence="Apache 2.0",
        where=(_HF + "shibing624/medical",),
        dirt="790 000 of them are facts of a knowledge graph made into questions; expected: stock phrases in the answers",
        steps=("lines", "near"),
    ),
    Preset(
        # names of the files and fields: projects that read them; licence: the page of allenai/c4
        name="c4-zh",
        title="mC4, the Chinese part",
        files=("multilingual/c4-zh*.json.gz",),
        form="json lines",
        fields=("text", "timestamp", "url"),
        compose=only("text"),
        size="1 024 files",
        licence="ODC-BY",
        where=(_HF + "allenai/c4",),
        dirt="expected: web text of every kind, with menus, adverts, shops and both scripts; every step has work here",
        steps=("simplify", "flagged_words", "adverts", "fragments", "filter", "near"),
        unconfirmed="the size of the Chinese part",
    ),
    Preset(
        # github.com/SkyworkAI/Skywork README: fields, size, what it may hold
        name="skypile-150b",
        title="SkyPile-150B",
        files=("data/*.jsonl",),
        form="json lines",
        fields=("text",),
        compose=only("text"),
        size="about 166 million pages, 592 GB",
        licence="Skywork Community License",
        where=(_HF + "Skywork/SkyPile-150B", "modelscope:modelscope/SkyPile-150B"),
        dirt="web text, filtered and deduplicated; its makers warn of e-mail addresses, telephone numbers and IP addresses",
        steps=("personal_data",),
    ),
    Preset(
        # github.com/aplmikex/deduplication_mnbvc README (fields), github.com/esbatmop/MNBVC README (size, what was done),
        # the schemas of the project's checker DataCheck_MNBVC; poems have 标题 and 作者 in their paragraphs
        name="mnbvc",
        title="MNBVC, common form",
        files=("*.jsonl", "*.jsonl.gz"),
        form="json lines",
        fields=("段落", "文件名", "是否待查文件", "是否重复文件", "文件大小", "simhash", "最长段落长度", "段落数", "去重段落数", "低质量段落数"),
        compose=mnbvc,
        size="40 TB is the aim, 2.4 TB by an early README; a file has about 500 MB",
        licence="MIT on the page of a copy; its makers say that they have not reviewed the copyright of the texts",
        where=(_HF + "liwu/MNBVC", "https://github.com/esbatmop/MNBVC"),
        dirt="only roughly cleaned, all kinds of text; digits in a row, 8 or more, are gone; one record is a file, so books are long",
        steps=("split", "fragments", "filter", "near"),
    ),
    Preset(
        # DataCheck_MNBVC: QaData and MultiQaData
        name="mnbvc-qa",
        title="MNBVC, questions and dialogues",
        files=("qa/*.jsonl.gz",),
        form="json lines",
        fields=("问", "答", "id", "来源", "元数据", "时间"),
        compose=answered(("问",), "答"),
        size="part of MNBVC",
        licence="as mnbvc",
        where=(_HF + "liwu/MNBVC",),
        dirt="the turns of one dialogue are records of their own (元数据.扩展字段: 会话, 多轮序号) and stay apart",
        steps=("near",),
        unconfirmed="what 问题明细 and 回答明细 hold; they are left out",
    ),
    Preset(
        # DataCheck_MNBVC: ForumData
        name="mnbvc-forum",
        title="MNBVC, forums",
        files=("*.jsonl", "*.jsonl.gz"),
        form="json lines",
        fields=("主题", "回复", "ID", "来源", "元数据", "时间"),
        compose=mnbvc_forum,
        size="part of MNBVC",
        licence="as mnbvc",
        where=(_HF + "liwu/MNBVC",),
        dirt="expected: short replies, quotations of earlier ones, signatures",
        steps=("adverts", "lines", "filter"),
    ),
    Preset(
        # names of the columns: projects that read them; size: github.com/TigerResearch/TigerBot README
        name="tigerbot-zh",
        title="TigerBot pretrain_zh",
        files=("data/*.parquet",),
        form="parquet",
        fields=("content", "title", "dataType"),
        compose=article("title", "content"),
        size="55 GB: books 12, web 25, encyclopedia 19",
        licence=_NOT_FOUND,
        where=(_HF + "TigerResearch/pretrain_zh",),
        dirt="filtered by source and deduplicated by tf-idf",
        unconfirmed="the licence; the columns other than content",
    ),
    Preset(
        name="cci2",  # the dataset card of BAAI/CCI2-Data
        title="CCI 2.0, Chinese Corpora Internet",
        files=("data/cci2-*.parquet",),
        form="parquet",
        fields=("content", "id"),
        compose=only("content"),
        size="178 959 936 documents, 501 GB",
        licence="the CCI usage agreement; given out on request",
        where=(_HF + "BAAI/CCI2-Data", "https://data.baai.ac.cn/details/BAAI-CCI2"),
        dirt="pages of trusted sites, filtered and deduplicated; indents of ideographic spaces",
        steps=("whitespace",),
    ),
    Preset(
        # fields: projects that read it; count: its page on Hugging Face
        name="cci3-hq",
        title="CCI 3.0, high quality",
        files=("data/part-*.jsonl",),
        form="json lines",
        fields=("text", "id", "score"),
        compose=only("text"),
        size="54.8 million documents",
        licence="Apache 2.0 was on its page and is no longer; the CCI usage agreement",
        where=(_HF + "BAAI/CCI3-HQ",),
        dirt="chosen by a quality model; `score` is its mark",
        unconfirmed="the licence as it is now",
    ),
    Preset(
        # github.com/opendatalab/WanJuan1.0 README
        name="wanjuan1",
        title="书生·万卷 1.0, text",
        files=("*.jsonl", "*.jsonl.gz"),
        form="json lines",
        fields=("content", "id"),
        compose=only("content"),
        size="more than 500 million documents, more than 1 TB",
        licence="CC BY 4.0; some parts have licences of their own",
        where=("https://opendatalab.org.cn/WanJuan1.0", "https://github.com/opendatalab/WanJuan1.0"),
        dirt="cleaned; partly in Markdown, with headings and escaped stars",
        steps=("markup",),
        unconfirmed="the names of the files",
    ),
    Preset(
        # columns: projects that read it; size: its card as quoted in a survey of corpora; licence: the page of its second edition
        name="fineweb-edu-zh",
        title="Chinese-Fineweb-edu",
        files=("data/*.parquet",),
        form="parquet",
        fields=("text", "score", "source"),
        compose=only("text"),
        size="about 90 million texts, about 300 GB",
        licence="Apache 2.0 with OpenCSG's community licence",
        where=(_HF + "opencsg/chinese-fineweb-edu", _HF + "opencsg/chinese-fineweb-edu-v2"),
        dirt="the educational part of other open corpora (CCI, SkyPile, ...): decontaminate, and do not count it twice beside them",
        steps=("near", "decontaminate"),
        unconfirmed="the conditions for commercial use",
    ),
    Preset(
        name="baike-qa",  # _NLP_CORPUS, section 3
        title="baike2018qa, also called baike_qa2019",
        files=("baike_qa_train.json", "baike_qa_valid.json"),
        form="json lines",
        fields=("title", "desc", "answer", "qid", "category"),
        compose=answered(("title", "desc"), "answer"),
        size="1.5 million questions, more than 1 GB (663 MB packed)",
        licence=_NOT_FOUND,
        where=(_NLP_CORPUS,),
        dirt="chatty answers of unknown worth, doubled carriage returns, titles cut off in the middle of the question",
        steps=("whitespace", "personal_data", "filter"),
        unconfirmed="the licence",
    ),
    Preset(
        name="webtext2019zh",  # _NLP_CORPUS, section 4
        title="webtext2019zh, community questions",
        files=("web_text_zh_train.json", "web_text_zh_valid.json", "web_text_zh_testa.json"),
        form="json lines",
        fields=("title", "desc", "content", "qid", "topic", "star", "answer_id", "answerer_tags"),
        compose=answered(("title", "desc"), "content"),
        size="4.1 million answers, 3.7 GB",
        licence=_NOT_FOUND,
        where=(_NLP_CORPUS,),
        dirt="answers with at least 3 likes (`star`), few line ends; a question comes again with each of its answers",
        steps=("lines", "filter"),
        unconfirmed="the licence",
    ),
    Preset(
        name="news2016zh",  # _NLP_CORPUS, section 2
        title="news2016zh",
        files=("news2016zh_train.json", "news2016zh_valid.json"),
        form="json lines",
        fields=("title", "content", "news_id", "source", "time", "keywords", "desc"),
        compose=article("title", "content"),
        size="2.5 million articles, 9 GB (3.6 GB packed)",
        licence=_NOT_FOUND,
        where=(_NLP_CORPUS,),
        dirt="63 000 media, 2014 to 2016; expected: lines of editors and sources, adverts at the end, reprints",
        steps=("adverts", "fragments", "near"),
        unconfirmed="the licence",
    ),
    Preset(
        # columns and count: projects that read it
        name="zhihu-kol",
        title="Zhihu-KOL",
        files=("data/*.parquet",),
        form="parquet",
        fields=("INSTRUCTION", "RESPONSE", "SOURCE", "METADATA"),
        compose=answered(("INSTRUCTION",), "RESPONSE"),
        size="1 million answers",
        licence=_NOT_FOUND,
        where=(_HF + "wangrui6/Zhihu-KOL",),
        dirt="expected: calls to follow, links, dates of edits at the end",
        steps=("adverts", "personal_data"),
        unconfirmed="the licence",
    ),
)  # fmt: skip

PRESETS = {preset.name: preset for preset in _ALL}


def preset(name: str) -> Preset:
    """The preset of a name. Raises InputError that suggests the nearest."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise InputError(f"data.sources.preset: unknown, got {name!r}; known: {', '.join(PRESETS)}; {hint}")
    return PRESETS[name]


def rows() -> list[dict[str, Any]]:
    """What is known of each preset, as plain data."""
    names = ("name", "title", "form", "files", "fields", "size", "licence", "where", "dirt", "steps", "unconfirmed")
    return [{name: getattr(one, name) for name in names} for one in PRESETS.values()]
