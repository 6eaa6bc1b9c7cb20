"""Items of evaluations in documents: planted ones are found in every layout, what stands there by right stays."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from jielong.data import steps
from jielong.data.cleaning.cleaner import DropDocument
from jielong.data.cleaning.decontaminate import (
    DecontaminateCleaner,
    EvaluationIndex,
    fold,
    fold_plain,
    held,
    open_index,
)
from jielong.data.cleaning.evaluation_items import (
    JOINED,
    EvaluationFile,
    Item,
    evaluation_files,
    labels_of,
    read_items,
)
from jielong.data.cleaning.scan import encode
from jielong.errors import InputError
from tests.data.cleaning.triggers import check_contract

REAL = Path(__file__).parents[4] / "shared" / "data"
LAYOUTS = ("lines", "one line", "bracketed", "wide", "broken", "bare", "filled in", "asked first", "alone")
FULL = str.maketrans(",.!?:;()", "，。！？：；（）")
EXAM = (
    ("蜂群在越冬之前需要由谁来清点存粮的数量", ("蜂王", "工蜂", "雄蜂", "养蜂人自己")),
    ("下列关于桥梁的说法（ ）是不符合实际情况的", ("石桥不能走车", "木桥怕火", "铁桥会生锈", "竹桥很轻")),
    (
        "“竹外一枝斜更好，月来初上小楼西，风过花间人未醒，酒到唇边客已归”这四句出自哪一位诗人之手",
        ("甲", "乙", "丙", "丁"),
    ),
    (
        "根据《村规》第九条，任何人不得在水源地一百米以内倾倒垃圾或者清洗农药器具，这一条体现了什么原则",
        ("公平", "预防"),
    ),
    ("下列说法正确的是", ("晒谷场应当在每年立秋之前清扫干净", "粮仓的钥匙由两个人分别保管", "没有")),
    ("最甜的瓜是", ("西边的甜瓜", "东边的苦瓜", "南边的冬瓜")),
)
POEM = "竹外一枝斜更好，月来初上小楼西。\n风过花间人未醒，酒到唇边客已归。\n"
RULES = (
    "第八条 从略。\n第九条 任何人不得在水源地一百米以内倾倒垃圾或者清洗农药器具。\n晒谷场应当在每年立秋之前清扫干净。"
)
NEWS = "昨天下午，镇上的集市照常开张，来往的客人比上个月多了三成。\n摊主们说，今年的收成不错，价钱也公道。\n"


def block(item: Item, layout: str) -> str:
    """An item as a document might print it."""
    strings = [*item.asked, *item.context] if layout == "asked first" else [*item.context, *item.asked]
    text, choices = "\n".join(strings), list(dict.fromkeys(item.answers))
    if layout == "filled in":
        text = text.replace("（ ）", "（ B ）").replace("（）", "(B)").replace("()", "（ABC）")
    elif layout == "broken":
        text = "\n".join(text[at : at + 15] for at in range(0, len(text), 15))
    elif layout == "wide":
        text = "".join(chr(ord(c) + 0xFEE0) if "0" <= c <= "z" else c for c in text.translate(FULL))
    elif layout == "alone":
        return text
    mark = {"one line": "{}、", "bracketed": "（{}）", "wide": "{}：", "bare": ""}.get(layout, "{}. ")
    marked = [mark.format("ABCDEFGHIJ"[n % 10]) + choice for n, choice in enumerate(choices)]
    return f"12. {text}\n{('  ' if layout == 'one line' else chr(10)).join(marked)}\n答案：B"


def exam(ngram: int = 13, share: float = 0.7) -> EvaluationIndex:
    items = tuple(Item(number, (asked,), (), choices) for number, (asked, choices) in enumerate(EXAM, 1))
    return EvaluationIndex([EvaluationFile("exam.jsonl", items, {})], ngram, share)


def test_planted_items_are_found_in_every_layout() -> None:
    index = exam()
    assert index.counts[0].items == 6 and index.counts[0].joined == 1 and index.counts[0].too_short == 0
    halves = {way.number: way.half for way in index.ways}
    for number, (asked, choices) in enumerate(EXAM, 1):
        for layout in LAYOUTS:
            if layout == "alone" and halves[number] != "question":
                continue
            text = NEWS + block(Item(number, (asked,), (), choices), layout) + "\n" + NEWS
            assert [leak.number for leak in index.leaks(text)] == [number], (number, layout)


def test_what_stands_there_by_right_stays() -> None:
    index = exam()
    for text in (POEM, RULES, NEWS, POEM + RULES, "这四句出自哪一位诗人之手？" + "无" * 300 + POEM, ""):
        assert not list(index.leaks(text))
    assert index.flags(*encode([POEM, NEWS])).tolist() == [True, False]  # looked at, and left


def test_cloze_needs_the_words_around_its_blank() -> None:
    notice = "特别声明：本文由本站作者上传并发布，仅代表作者个人的观点，不代表本站的立场，本站仅提供信息存储服务。"
    cloze = Item(1, (), (f"老王见了邻居#idiom#地打招呼。{notice}",), ("喜笑颜开",))
    index = EvaluationIndex([EvaluationFile("c", (cloze,), {})], 13, 0.7)
    assert not list(index.leaks(f"今天村里来了一位客人。{notice}"))
    assert [leak.number for leak in index.leaks(f"话说老王见了邻居喜笑颜开地打招呼。{notice}")] == [1]


def test_typing_errors_and_shares() -> None:
    asked = EXAM[3][0]
    wrong = asked.replace("一百米", "二百米")
    assert [leak.number for leak in exam(share=0.5).leaks(wrong)] == [4]
    assert not list(exam(share=0.9).leaks(wrong))
    leak = next(exam(share=0.5).leaks(wrong))
    assert 0.5 <= leak.share < 1 and next(exam().leaks(asked)).share == 1


def make(tmp_path: Path, *records: dict[str, object], **options: object) -> DecontaminateCleaner:
    path = tmp_path / "exam.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return DecontaminateCleaner(
        steps.Decontaminate.model_validate({"step": "decontaminate", "against": [str(path)], **options})
    )


def test_the_step(tmp_path: Path) -> None:
    records = [{"question": asked, "choices": choices, "answer": "A"} for asked, choices in EXAM]
    cleaner = make(tmp_path, *records)
    check_contract(cleaner, NEWS)
    with pytest.raises(DropDocument) as caught:
        cleaner(NEWS + EXAM[0][0], Counter())
    assert caught.value.rule == "exam.jsonl" and caught.value.detail == "item 1: 100% of its question"
    step = steps.Decontaminate(step="decontaminate", against=(str(tmp_path),))
    assert open_index(step) is cleaner.index  # kept while the files are the same


def test_nothing_to_look_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"against: nothing to look for, got 1 items in 1 files, none of 13 letters"):
        make(tmp_path, {"question": "短", "choices": ["甲", "乙"]})


@given(st.text(alphabet="甲乙\uff22b \uff21AaH(（)）\u3000,⽔é\U00020000", max_size=30))
def test_folding_same_as_plain(text: str) -> None:
    assert fold([text]) == [fold_plain(text)]  # U+FF21, U+FF22: full-width A, B


def test_folding() -> None:
    assert fold(["⽔、\uff37ater（ B ）, (AB)(I)(x y)①", "（", ""]) == ["水waterixy①", "", ""]  # U+FF37: full-width W


LETTERS = st.text(alphabet="甲乙丙", min_size=1, max_size=14)


@given(
    st.lists(st.tuples(LETTERS, LETTERS, LETTERS), min_size=1, max_size=5),
    st.text("甲乙丙。", max_size=80),
    st.floats(0.3, 1),
)
def test_same_as_by_hand(strings: list[tuple[str, str, str]], text: str, share: float) -> None:
    """The chosen n-grams miss nothing that all n-grams would find, and the kernel finds every chosen one."""
    items = tuple(Item(n, (asked,), (told,), (answer,)) for n, (asked, told, answer) in enumerate(strings, 1))
    index = EvaluationIndex([EvaluationFile("x", items, {})], 5, share)
    folded = fold_plain(text)
    codes, hits = index.hits(text)
    assert "".join(map(chr, codes.tolist())) == folded
    found = {leak.number for leak in index.leaks(text)}
    least, most = set(), set()
    for number, way in enumerate(index.ways):
        grams = {part[at : at + 5] for part in way.key.parts for at in range(len(part) - 4)}
        places = [at for at in range(len(folded) - 4) if folded[at : at + 5] in grams]
        assert {place for place, owner in hits if owner == number} <= set(places)
        for at in places:
            for numbers, right in ((least, 1), (most, 2)):
                if held(way, folded[max(0, at - way.reach) : at + 5 + right * way.reach], 5, share) is not None:
                    numbers.add(way.number)
    assert least <= found <= most
    assert bool(hits) == bool(index.flags(*encode([text]))[0]) and (not found or hits)


def test_more_hits_than_room() -> None:
    text = EXAM[0][0] * 300
    codes, hits = exam().hits(text)
    assert len(hits) >= 300 and len(codes) == 300 * len(EXAM[0][0])
    assert [leak.number for leak in exam().leaks(text)] == [1]


def real_documents() -> list[tuple[str, str]]:
    documents = []
    for path in sorted((REAL / "pretrain").glob("*.jsonl.zst")):
        with path.open("rb") as file:
            stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
            documents += [(r["source"], r["text"]) for r in map(orjson.loads, io.BufferedReader(stream))]
    return documents


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs ../shared/data")
def test_real_items_in_real_documents(capsys: pytest.CaptureFixture[str]) -> None:
    """Planted: all found. Not planted: next to nothing, and of statutes only those that state a question whole."""
    index = open_index(steps.Decontaminate(step="decontaminate", against=(str(REAL / "eval"),)))
    documents = real_documents()
    flags = index.flags(*encode([text for _, text in documents]))
    rows = np.flatnonzero(flags).tolist()
    leaks = [(documents[row][0], leak) for row in rows for leak in index.leaks(documents[row][1])]
    with capsys.disabled():
        print("", *leaks, sep="\n")
    counts = Counter((source, leak.label.split("/")[-2]) for source, leak in leaks)
    assert counts == {("news_snippets", "chid"): 8, ("laws", "cmmlu"): 5, ("inews_web", "tnews"): 1}

    rng = random.Random(3)
    hosts = [
        text for (_, text), flag in zip(documents, flags.tolist(), strict=True) if not flag and 200 < len(text) < 4000
    ]
    halves = {(index.counts[way.file].label, way.number): way.half for way in index.ways}
    files = evaluation_files([REAL / "eval"])
    planted, missed = 0, []
    for file, label in zip(files, labels_of(files), strict=True):
        items = read_items(file, label).items
        for item in rng.sample(items, min(40, len(items))):
            half = halves.get((label, item.number))
            for layout in LAYOUTS:
                if half is None or (layout == "alone" and half != "question"):
                    continue
                host = rng.choice(hosts)
                at = rng.randrange(len(host))
                text = f"{host[:at]}\n{block(item, layout)}\n{host[at:]}"
                planted += 1
                if (label, item.number) not in {(leak.label, leak.number) for leak in index.leaks(text)}:
                    missed.append((layout, label, item.number, half))
    assert planted > 5000 and not missed
    assert JOINED in halves.values()
