"""Rewards: what each kind gives, what a function is called with, and one sentence for all that goes wrong."""

from __future__ import annotations

import math
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jielong.align.config import Reward
from jielong.align.rewards import OpenedReward, asked, combined, is_right, open_function, open_rewards
from jielong.errors import InputError, ModelError, TrainingError

TALK = [
    {"role": "system", "content": "说话简短。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "一加一等于几？"},
]
PROMPTS = [TALK, [{"role": "user", "content": "天为什么是蓝的？"}]]
COMPLETIONS = ["等于二。", "因为短波散射得多"]


def written(folder: Path, text: str, name: str = "rewards.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def by_function(path: Path | str, name: str = "polite", **keys: Any) -> OpenedReward:
    [opened] = open_rewards((Reward(function=f"{path}:{name}", **keys),), None)
    return opened


def built_in(**keys: Any) -> OpenedReward:
    [opened] = open_rewards((Reward(**keys),), None)
    return opened


def scores(reward: OpenedReward, *completions: str, ended: list[bool] | None = None, **columns: Any) -> list[float]:
    prompts = [[{"role": "user", "content": "问"}]] * len(completions)
    return reward(prompts, list(completions), ended or [True] * len(completions), columns)


def sentence(error: pytest.ExceptionInfo[Exception], pattern: str) -> None:
    """The message is one sentence of the house's form, and it is this one."""
    text = str(error.value)
    assert "\n" not in text and "Traceback" not in text and text.count("; ") >= 1
    assert re.search(pattern, text), text
    assert error.value.__suppress_context__ or error.value.__context__ is None


# ----------------------------------------------------------------------------------------------- functions


def test_a_function_is_given_what_it_names(tmp_path: Path) -> None:
    path = written(tmp_path, "def polite(completions, prompts, messages, ended, level):\n"
                   "    seen.append((completions, prompts, messages, ended, level))\n    return [1, 0.5]\nseen = []\n")  # fmt: skip
    reward = by_function(path, weight=2.0)
    assert (reward.label, reward.weight, reward.needs) == ("polite", 2.0, ())
    columns = {"level": [3, None], "answer": ["二", None], "prompts": ["别的", "别的"]}
    assert reward(PROMPTS, COMPLETIONS, [True, False], columns) == [1.0, 0.5]
    module = sys.modules[open_function(f"{path}:polite", "x").call.__module__]
    assert module.seen == [
        (COMPLETIONS, ["一加一等于几？", "天为什么是蓝的？"], PROMPTS, [True, False], [3, None]),
    ]


def test_a_function_with_keywords_is_given_everything(tmp_path: Path) -> None:
    path = written(tmp_path, "def polite(prompts, completions, **columns):\n"
                   "    assert sorted(columns) == ['answer', 'ended', 'messages'], columns\n    return [len(text) for text in completions]\n")  # fmt: skip
    assert by_function(path)(PROMPTS, COMPLETIONS, [True, True], {"answer": [2, "散射"]}) == [4.0, 8.0]


def test_a_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "def polite(completions):\n    return [0.25 for _ in completions]\n", "my_rewards_module.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert scores(by_function("my_rewards_module"), "甲", "乙") == [0.25, 0.25]


def test_a_file_imports_its_neighbours_and_leaves_nothing_behind(tmp_path: Path) -> None:
    written(tmp_path, "WORDS = ('请', '谢谢')\n", "polite_words.py")
    path = written(tmp_path, "from __future__ import annotations\nfrom dataclasses import dataclass\nimport polite_words\n\n"
                   "@dataclass\nclass Row:\n    text: str\n\n"
                   "def polite(completions):\n    return [Row(t).text.startswith(polite_words.WORDS) for t in completions]\n")  # fmt: skip
    before = list(sys.path)
    assert scores(by_function(path), "请坐。", "坐。") == [1.0, 0.0]
    assert sys.path == before and not list(tmp_path.rglob("rewards*.pyc"))
    sys.modules.pop("polite_words")


def test_an_edit_within_a_second_counts(tmp_path: Path) -> None:
    path = written(tmp_path, "def polite(completions):\n    return [1.0]\n")
    assert scores(by_function(path), "好") == [1.0]
    written(tmp_path, "def polite(completions):\n    return [2.0]\n")
    assert scores(by_function(path), "好") == [2.0]


def test_a_file_is_loaded_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    path = written(
        tmp_path,
        f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\ndef one(completions): return [1]\ndef two(completions): return [2]\n",
    )
    opened = open_rewards((Reward(function=f"{path}:one"), Reward(function=f"{path}:two")), None)
    assert [scores(reward, "好") for reward in opened] == [[1.0], [2.0]] and count.read_text() == "x"


@pytest.mark.parametrize(
    "value",
    ["[1, 0.5]", "(True, 0.5)", "np.array([1, 0.5], np.float32)", "torch.tensor([1, 0.5])", "[torch.tensor(1.0), np.float64(0.5)]",
     "[np.int64(1), Fraction(1, 2)]", "[Decimal(1), np.float16(0.5)]"],
)  # fmt: skip
def test_numbers_of_all_kinds(tmp_path: Path, value: str) -> None:
    path = written(tmp_path, f"import torch\nimport numpy as np\nfrom fractions import Fraction\nfrom decimal import Decimal\n"
                   f"def polite(completions):\n    return {value}\n")  # fmt: skip
    found = scores(by_function(path), "甲", "乙")
    assert found == [1.0, 0.5] and all(type(one) is float for one in found)
    assert np.isfinite(found).all() and torch.tensor(found).dtype == torch.float32


def test_nothing_to_score(tmp_path: Path) -> None:
    path = written(tmp_path, "def polite(completions):\n    raise ValueError\n")
    assert scores(by_function(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no such file, got .*rewards\.py; give FILE\.py:NAME"),
        ("def kind(completions): return []\ndef _hidden(): ...\nfrom os.path import join\n",
         r"no function of this name in .*rewards\.py, got 'polite'; there are: kind; correct the name"),
        ("polite = 3\n", r"no function in .*rewards\.py, got 'polite'; there are: none; "),
        ("async def polite(completions): ...\n", "async in "),
        ("def polite(texts): ...\n", r"the function in .* does not take what is judged, got the arguments texts; it must take completions; write def polite\("),
        ("def polite(): ...\n", "the function in .*, got the arguments none; it must take completions"),
        ("\n\nimport no_such_package_here\n", r"cannot be loaded at line 3 of .*rewards\.py, got ModuleNotFoundError: No module named 'no_such_package_here'; "),
        ("def polite(completions:\n    return\n", r"cannot be loaded at line \d of .*rewards\.py, got SyntaxError: "),
        ("def help():\n    return 1 / 0\nhelp()\n", r"cannot be loaded at line 2 of .*, got ZeroDivisionError: division by zero; "),
        ("import sys\nsys.exit(3)\n", "cannot be loaded at line 2 of .*, got SystemExit: 3; "),
        ("raise ValueError('两\\n行')\n", "cannot be loaded at line 1 of .*, got ValueError: 两 行; "),
    ],
)  # fmt: skip
def test_a_function_that_cannot_be_opened(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "rewards.py" if text is None else written(tmp_path, text)
    with pytest.raises(InputError) as error:
        by_function(path)
    sentence(error, "^align.rewards: polite: " + message)
    assert not [name for name in sys.modules if name.startswith("jielong_user_rewards") and sys.modules[name] is None]


def test_a_module_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as error:
        by_function("no_such_module_at_all.inner")
    sentence(
        error, r"no such module, got 'no_such_module_at_all\.inner'; install it, or write FILE\.py:NAME for a file"
    )
    path = written(tmp_path, "\nimport no_such_package_here\n", "my_broken_module.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError) as error:
        by_function("my_broken_module")
    sentence(
        error, f"cannot be loaded at line 2 of {path}, got ModuleNotFoundError: No module named 'no_such_package_here'"
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise KeyError('answer')", r"polite: the function failed at line 3 of .*rewards\.py, got KeyError: 'answer'; correct it, and run the same command again"),
        ("return int('二十')", r"failed at line 3 of .*, got ValueError: invalid literal for int\(\) with base 10: '二十'; "),
        ("import json; json.loads('{')", r"failed at line 3 of .*rewards\.py, got JSONDecodeError: "),
        ("raise SystemExit", r"failed at line 3 of .*, got SystemExit; "),
        ("return None", r"polite \(.*rewards\.py\): returns no list, got NoneType; must be a list of 3 numbers, one for each completion; "),
        ("return 1.0", "returns no list, got float; "),
        ("return '好好好'", "returns no list, got str; "),
        ("return (1 for _ in completions)", "returns no list, got generator; "),
        ("return dict.fromkeys(completions, 1)", "returns no list, got dict; "),
        ("return [1, 2]", "returns a list of the wrong length, got 2; must be 3, "),
        ("return [1, 2, 3, 4]", "wrong length, got 4; must be 3, "),
        ("return [1, None, 2]", r"the reward of completion 2 of 3 \('乙乙'\) is no number, got None; must be a finite number; "),
        ("return [1, 1, '2']", r"completion 3 of 3 \('很长很长.*…'\) is no number, got '2'; "),
        ("return [[1], 2, 3]", r"completion 1 of 3 \('甲'\) is no number, got \[1\]; "),
        ("return [1, float('nan'), 2]", r"completion 2 of 3 \('乙乙'\) is not finite, got nan; "),
        ("return [float('inf'), 1, 2]", r"completion 1 of 3 \('甲'\) is not finite, got inf; "),
        ("return [10 ** 400, 1, 2]", r"completion 1 of 3 \('甲'\) is not finite, got inf; "),
    ],
)  # fmt: skip
def test_a_function_that_fails(tmp_path: Path, body: str, message: str) -> None:
    reward = by_function(written(tmp_path, f"# 奖励\ndef polite(completions):\n    {body}\n"))
    with pytest.raises(TrainingError) as error:
        scores(reward, "甲", "乙乙", "很长" * 50)
    sentence(error, message)
    assert str(error.value).startswith("align.rewards: polite") and len(str(error.value)) < 400


def test_the_line_is_that_of_the_users_file(tmp_path: Path) -> None:
    """The innermost line of the file, also where a library raises below it."""
    text = "def polite(completions):\n    return [inner(text) for text in completions]\n\ndef inner(text):\n    import json\n    return json.loads(text)\n"
    with pytest.raises(TrainingError, match=r"failed at line 6 of .*rewards\.py"):
        scores(by_function(written(tmp_path, text)), "{")


def test_a_field_that_records_do_not_have(tmp_path: Path) -> None:
    reward = by_function(written(tmp_path, "def polite(completions, level):\n    return [1]\n"))
    with pytest.raises(TrainingError) as error:
        scores(reward, "甲", answer=["二"])
    sentence(
        error,
        "polite: asks for level, and the records have no such field, got answer, prompts, completions, messages, ended; add the field",
    )


def test_our_own_errors_pass(tmp_path: Path) -> None:
    text = "from jielong.errors import ModelError\ndef polite(completions):\n    raise ModelError('model: gone; find it')\n"
    with pytest.raises(ModelError, match=r"^model: gone; find it$"):
        scores(by_function(written(tmp_path, text)), "甲")


# ------------------------------------------------------------------------------------------------ built in


def test_length() -> None:
    reward = built_in(built_in="length", min_characters=2, max_characters=4)
    assert scores(reward, "好", "好的", " 今天很好 \n", "今天很好。", "") == [0.0, 1.0, 1.0, 0.0, 0.0]
    assert reward.label == "length"


def test_ends() -> None:
    reward = built_in(built_in="ends")
    assert scores(reward, "好。", "好！\n", "好", "好。", ended=[True, True, True, False]) == [1.0, 1.0, 0.0, 0.0]
    assert scores(built_in(built_in="ends", endings=("喵",)), "好喵", "好。") == [1.0, 0.0]


def test_matches() -> None:
    assert scores(built_in(built_in="matches", pattern=r"^答[:：]\d+"), "答：12", "我答：12", "答: 12") == [
        1.0,
        0.0,
        0.0,
    ]


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("3 + 5 = 8", 8, True),
        ("等于八。", "8", True),
        ("等于 8.0", 8, True),
        ("一半是二分之一", 0.5, True),
        ("打五折就是50%", "0.5", True),
        ("一共一百二十三个", "123个", True),
        ("答案是8，不是9", 8, False),
        ("8", 8.01, False),
        ("没有数字", 8, False),
        ("所以是 1,000 元", "解：……#### 1000", True),
        ("首都是北京。", "北京", True),
        ("北京！", " 北京。", True),
        ("是北京，对吗？", "北京", False),  # another statement behind it
        ("不是北京，是上海。", "北京", False),
        ("不是北京，是上海。", "上海", True),
        ("北京\n上海", "北京", False),
        ("选 A", "A", True),
        ("选Ａ。", "a", True),
        ("APPLE", "A", False),
        ("it is Apple.", "apple", True),
        ("他说：“蓝色。”", "蓝色", True),
        ("我不知道", "北京", False),
        ("对", True, False),
        ("结果是 True", True, True),
        ("12", "", False),
    ],
)  # fmt: skip
def test_the_answer(completion: str, answer: Any, right: bool) -> None:
    assert is_right(completion, answer) is right
    if answer != "":
        assert scores(built_in(built_in="answer"), completion, answer=[answer]) == [float(right)]


def test_an_answer_needs_its_field() -> None:
    reward = built_in(built_in="answer")
    assert reward.needs == ("answer",)
    with pytest.raises(TrainingError) as error:
        scores(reward, "8", solution=["8"])
    sentence(
        error,
        "^align.rewards: answer: compares with the field answer, and the records have no such field, got solution; ",
    )
    for missing in (None, " "):
        with pytest.raises(TrainingError) as error:
            scores(reward, "8", "9", answer=[8, missing])
        sentence(
            error, f"a record has no answer to compare with, got {missing!r} for the prompt '问'; give each record one"
        )


# -------------------------------------------------------------------------------------------------- models


def test_reward_models() -> None:
    asked_for = list[str]()

    def score(folder: str) -> Any:
        asked_for.append(folder)
        return lambda messages, answers: [len(m) + len(a) for m, a in zip(messages, answers, strict=True)]

    opened = open_rewards((Reward(model="/rm/one"), Reward(model="reward", name="own", weight=0.5)), score)
    assert asked_for == ["/rm/one", "reward"] and [reward.label for reward in opened] == ["model one", "own"]
    assert opened[0](PROMPTS, COMPLETIONS, [True, True], {}) == [8.0, 9.0]
    total, by_label = combined(opened, PROMPTS, COMPLETIONS, [True, True], {})
    assert total == [12.0, 13.5] and by_label == {"model one": [8.0, 9.0], "own": [8.0, 9.0]}


def test_reward_models_that_fail() -> None:
    with pytest.raises(InputError) as error:
        open_rewards((Reward(model="/rm"),), None)
    sentence(
        error,
        "^align.rewards: model rm: a reward model cannot be used here, got /rm; use a function or a built-in reward",
    )
    [opened] = open_rewards(
        (Reward(model="/rm"),), lambda folder: lambda messages, answers: [math.nan for _ in answers]
    )
    with pytest.raises(TrainingError) as error:
        scores(opened, "甲")
    sentence(
        error, r"^align.rewards: model rm \(/rm\): the reward of completion 1 of 1 \('甲'\) is not finite, got nan; "
    )


def test_a_prompt_that_a_model_cannot_be_asked() -> None:
    from jielong.tokenizer.chat.conversations import Unfit

    def score(messages: list[Any], answers: list[str]) -> list[float]:
        raise Unfit("collision", "turn 1 spells the special token <|im_end|>")

    [opened] = open_rewards((Reward(model="/rm"),), lambda folder: score)
    with pytest.raises(TrainingError) as error:
        scores(opened, "甲")
    sentence(error, r"cannot be asked about a prompt, got turn 1 spells the special token <\|im_end\|>; ")


# ------------------------------------------------------------------------------------------------ together


def test_rewards_are_added_up_by_their_weights(tmp_path: Path) -> None:
    path = written(tmp_path, "def polite(completions):\n    return [0.1, 3]\n")
    rewards = (
        Reward(function=f"{path}:polite", weight=2),
        Reward(built_in="length", max_characters=5, weight=-1),
        Reward(built_in="ends", name="whole"),
    )
    total, by_label = combined(open_rewards(rewards, None), PROMPTS, COMPLETIONS, [True, True], {})
    assert by_label == {"polite": [0.1, 3.0], "length": [1.0, 0.0], "whole": [1.0, 0.0]}
    assert total == pytest.approx([2 * 0.1 - 1 + 1, 6.0])
    assert combined([], PROMPTS, COMPLETIONS, [True, True], {}) == ([0.0, 0.0], {})


def test_the_text_that_is_asked() -> None:
    assert asked(TALK) == "一加一等于几？"
    assert asked([{"role": "assistant", "content": "只有我"}]) == "只有我" and asked([]) == ""
    assert Fraction(1, 2) == 0.5
