"""Word problems: solved a second time, from the story's numbers alone and from the equations; no wrong word, none twice, always the same."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

import orjson
import pytest
import xxhash

from jielong.data.reading.arithmetic import KINDS, LEVELS, STORIES, THINGS, is_easy, problems, reckon, things

Row = dict[str, Any]

COUNT = 20_000
HASH = "67f566b56f185733f50acb5f4d64f136"  # of the first COUNT problems of seed 1, as JSON lines


def whole(dividend: int, divisor: int) -> int:
    assert dividend % divisor == 0, (dividend, divisor)
    return dividend // divisor


SOLVED: dict[str, Callable[..., int]] = {  # from the numbers as the story tells them
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "difference": lambda a, b: abs(a - b),
    "more": lambda a, b: a + b,
    "less": lambda a, b: a - b,
    "more_back": lambda a, b: a - b,
    "less_back": lambda a, b: a + b,
    "times": lambda a, b: a * b,
    "times_back": whole,
    "ratio": whole,
    "multiply": lambda a, b: a * b,
    "week": lambda a: 7 * a,
    "square": lambda a: 4 * a,
    "area": lambda a, b: a * b,
    "distance": lambda a, b: a * b,
    "speed": whole,
    "time": whole,
    "divide": whole,
    "remainder": lambda a, b: a % b,
    "quotient": lambda a, b: a // b,
    "round_up": lambda a, b: -(-a // b),
    "add_add": lambda a, b, c: a + b + c,
    "add_subtract": lambda a, b, c: a + b - c,
    "subtract_add": lambda a, b, c: a - b + c,
    "subtract_subtract": lambda a, b, c: a - b - c,
    "multiply_add": lambda a, b, c: a * b + c,
    "multiply_subtract": lambda a, b, c: a * b - c,
    "change": lambda a, b, c: c - a * b,
    "more_total": lambda a, b: 2 * a + b,
    "less_total": lambda a, b: 2 * a - b,
    "times_total": lambda a, b: a * (b + 1),
    "times_difference": lambda a, b: a * (b - 1),
    "times_more": lambda a, b, c: a * b + c,
    "times_less": lambda a, b, c: a * b - c,
    "add_divide": lambda a, b, c: whole(a + b, c),
    "subtract_divide": lambda a, b, c: whole(a - b, c),
    "subtract_multiply": lambda a, b, c: (a - b) * c,
    "multiply_divide": lambda a, b, c: whole(a * b, c),
    "same_work": lambda a, b, c: whole(a * b, c),
    "same_rate": lambda a, b, c: whole(b, a) * c,
    "average": lambda a, b, c: whole(a + b + c, 3),
    "average_of_two": lambda a, b: whole(a + b, 2),
    "perimeter": lambda a, b: 2 * (a + b),
    "trees": lambda a, b: whole(a, b) + 1,
    "meeting": lambda a, b, c: (a + b) * c,
    "meeting_time": lambda a, b, c: whole(a, b + c),
    "distance_left": lambda a, b, c: a - b * c,
    "age_gap": lambda a, b, c: c + a - b,
    "jiao": lambda a, b: 10 * a - b,
    "centimetres": lambda a, b: 100 * a - b,
}
KNOWN = {1, 2, 3, 4, 7, 10, 100}  # what a solution may know that the story does not say: sides, days, 角, 厘米

MEASURED = {  # by another hand than the one that wrote THINGS
    "个": "苹果 梨 桃子 橘子 橙子 饺子 小番茄 面包 气球 信封 鸡蛋 羽毛球 乒乓球 冰淇淋 文具盒 书包 水杯 足球 篮球",
    "颗": "玻璃珠 糖 草莓 樱桃 葡萄 枣",
    "张": "贴纸 邮票 卡片 画片 彩纸 明信片 贺卡",
    "块": "积木 饼干 巧克力 橡皮 菜地 草坪 空地 稻田 麦田 花圃",
    "只": "千纸鹤 母鸡 鸭子 白鹅 山羊 兔子 鸽子",
    "支": "铅笔 彩笔 粉笔 圆珠笔 钢笔",
    "本": "故事书 科普书 漫画书 童话书 历史书 连环画 小说 笔记本 练习本 词典",
    "棵": "桃树 梨树 苹果树 杏树 枣树 李子树",
    "根": "绳子 铁丝 电线 跳绳",
    "条": "彩带 丝带 毛巾",
    "把": "尺子 雨伞",
    "盒": "牛奶 酸奶",
    "瓶": "牛奶 矿泉水 果汁",
    "千克": "苹果 梨 桃子 橘子 葡萄 香蕉",
    "顶": "帽子",
    "副": "羽毛球拍",
    "盏": "台灯",
}


@pytest.fixture(scope="module")
def made() -> list[Row]:
    return list(problems(COUNT, 1))


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_every_answer_follows_from_the_story(made: list[Row]) -> None:
    for row in made:
        assert str(SOLVED[row["kind"]](*numbers(row["prompt"]))) == row["answer"], row


def test_every_equation_is_true_and_uses_what_is_known(made: list[Row]) -> None:
    """A calculator with Python's own precedence; each number is the story's, a result before, or known to all."""
    for row in made:
        told = set(numbers(row["prompt"]))
        parts = row["response"].removesuffix("。").split("，")
        equations = [part for part in parts if "=" in part]
        assert equations == parts[: row["steps"]] and 1 <= row["steps"] <= 2, row
        known, used = told | KNOWN, set[int]()
        for equation in equations:
            left, right = equation.split("=")
            found = numbers(right)
            if "÷" in left:
                dividend, divisor = numbers(left)
                assert list(divmod(dividend, divisor)) == [*found, 0][:2], row
                assert len(found) == 1 or found[1] > 0, row
            else:
                assert [eval(left.replace("×", "*"))] == found, row
            assert set(numbers(left)) <= known, row
            used |= set(numbers(left))
            known |= set(found)
        assert told <= used, f"a number of the story that is not used: {row}"


def test_the_answer_is_the_last_number_and_comes_from_the_last_equation(made: list[Row]) -> None:
    for row in made:
        *_, equation, closing = row["response"].split("，")
        assert "=" in equation and "=" not in closing
        assert numbers(closing)[-1] == int(row["answer"]) > 0, row
        assert int(row["answer"]) in numbers(equation.partition("=")[2]), row


def test_the_form_of_a_record(made: list[Row]) -> None:
    for row in made:
        assert list(row) == ["prompt", "response", "answer", "kind", "steps"]
        assert row["prompt"].endswith("？") and row["prompt"].count("？") == 1 and row["response"].endswith("。")
        assert row["answer"] == str(int(row["answer"])) and len(row["prompt"]) < 80
        assert re.fullmatch(r"[\u4e00-\u9fff0-9，、？]+", row["prompt"]), row
        assert re.fullmatch(r"[\u4e00-\u9fff0-9，、=+×÷…-]+。", row["response"]), row


def test_the_same_problems_everywhere(made: list[Row]) -> None:
    lines = b"".join(orjson.dumps(row) + b"\n" for row in made)
    assert xxhash.xxh3_128_hexdigest(lines) == HASH
    assert list(problems(30, 1)) == made[:30], "fewer are the beginning of more"
    others = {row["prompt"] for row in problems(1000, 2)}
    assert len(others & {row["prompt"] for row in made}) < 200


def test_easy_problems_are_easy() -> None:
    """One step, no number above 20, each other, and the answers follow as in the rest."""
    rows = list(problems(3000, 7, easy=True))
    assert len({row["prompt"] for row in rows}) == 3000 and {row["steps"] for row in rows} == {1}
    for row in rows:
        numbers = [int(number) for number in re.findall(r"\d+", row["prompt"] + row["response"])]
        assert max(numbers) <= 20 and min(numbers) >= 1 and is_easy(row)
        assert str(SOLVED[row["kind"]](*map(int, re.findall(r"\d+", row["prompt"])))) == row["answer"], row
    assert len({row["kind"] for row in rows}) > 10
    assert not is_easy(rows[0] | {"steps": 2}) and not is_easy(rows[0] | {"prompt": "21"})


def test_no_prompt_comes_twice(made: list[Row]) -> None:
    assert len({row["prompt"] for row in made}) == COUNT
    answers = Counter(row["answer"] for row in made)
    assert answers.most_common(1)[0][1] < COUNT / 20, "no answer is a good guess"


def test_every_story_is_told_and_every_kind(made: list[Row]) -> None:
    assert set(SOLVED) == set(KINDS) == {story.kind for story in STORIES} == {row["kind"] for row in made}
    assert len(STORIES) == len({story.prompt for story in STORIES}) >= 25
    forms = {story: re.compile(re.sub(r"\{.\}", "[^，？]+?", story.prompt)) for story in STORIES}
    told = Counter[str]()
    for row in islice(made, 4000):
        found = [s.prompt for s, form in forms.items() if s.kind == row["kind"] and form.fullmatch(row["prompt"])]
        assert found, row
        told.update(found)
    assert set(told) == {story.prompt for story in STORIES}
    one_step = sum(row["steps"] == 1 for row in made) / COUNT
    assert 0.5 < one_step < 0.75


def test_the_words_of_a_story_are_there() -> None:
    """Each letter has its number or its word; every drawn letter has a range, at each level."""
    for story in STORIES:
        drawn, letters = KINDS[story.kind].drawn, set(re.findall(r"\{(.)\}", story.prompt + story.closing))
        ranges = dict(pair.split("=") for pair in story.numbers.split())
        assert set(drawn) <= set(ranges), story
        assert all(len(options.split(",")) in (1, LEVELS) for options in ranges.values()), story
        assert bool(letters & set("tuv")) == bool(story.things), story
        asked = set(re.findall(r"\{(.)\}", story.prompt)) & set("abc")
        assert asked == {letter for letter in "abc" if letter in KINDS[story.kind].steps.replace("=", "")}, story
        assert "x" in letters and "{x}" not in story.prompt
        row = things(story.things) if story.things else ()
        assert "k" not in letters or all(thing.pack for thing in row), story
        assert not {"t", "u"} & set(ranges.values()) or all(thing.price for thing in row), story
        assert "u" not in letters or "v" in letters or len({thing.measure for thing in row}) == 1, story


def test_measure_words_fit() -> None:
    for row in THINGS:
        names = [thing.name for thing in things(row)]
        assert len(names) == len(set(names)) >= 5
        for thing in things(row):
            assert thing.name in MEASURED[thing.measure].split(), thing
            assert thing.pack in ("", "盒", "箱", "袋", "包", "筒")


def test_nobody_writes_two_of_a_thing_with_er_and_ages_are_human(made: list[Row]) -> None:
    """二 only in 第二天, 星期二, 二年级 and the like; 两 is no number of the story. Ages, heights, marks and change are possible."""
    for row in made:
        for text in (row["prompt"], row["response"]):
            assert not re.search(r"(?<!第)(?<!级)二(?![年班天次])", text) and not re.search(
                r"\d[二两]|[二两]\d", text
            ), row
            ages = [int(age) for age in re.findall(r"(\d+)岁", text)]
            assert all(5 <= age <= 90 for age in ages) or "大" in text, row
            assert all(60 < int(height) < 180 for height in re.findall(r"身高(\d+)厘米", text)), row
            assert all(50 <= int(mark) <= 100 for mark in re.findall(r"(\d+)分(?!钟)", text)), row
        assert int(row["answer"]) < 10_000, row


def test_reckoning_by_hand() -> None:
    assert reckon("a+b+c", {"a": 2, "b": 30, "c": 4}) == (36, 0)
    assert reckon("a×10", {"a": 7}) == (70, 0) and reckon("a-b", {"a": 3, "b": 5}) == (-2, 0)
    assert reckon("a÷b", {"a": 23, "b": 5}) == (4, 3)
