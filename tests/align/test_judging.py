"""Verdicts and their statistics, against arithmetic by hand; judges as users write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jielong.align.config import Reward
from jielong.align.judging import Judge, Verdicts, compare, judge_by, wilson
from jielong.align.rewards import open_rewards
from jielong.errors import InputError, TrainingError

PROMPTS = [[{"role": "user", "content": f"第{n}问"}] for n in range(4)]
SHORT, LONG = ["好", "好", "好的", "好"], ["好", "今天很好。", "好", "今天"]


def judge_file(folder: Path, text: str) -> str:
    (folder / "judge.py").write_text(text, encoding="utf-8")
    return f"{folder / 'judge.py'}:better"


def opened(by: str) -> Judge:
    judge = judge_by(by, (), "cpu", "--by")
    assert judge is not None
    return judge


def test_wilson_by_hand() -> None:
    """8 of 10, z = 1.96: the middle is (0.8 + 3.8416 / 20) / (1 + 3.8416 / 10) = 0.99208 / 1.38416 = 0.71674, the half width
    1.96 * sqrt(0.16 / 10 + 3.8416 / 400) / 1.38416 = 1.96 * 0.160013 / 1.38416 = 0.22658: from 0.4902 to 0.9433.
    """
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    # none of n: from 0 to z^2 / (n + z^2) = 3.8416 / 13.8416
    assert wilson(0, 10) == pytest.approx((0.0, 3.8415 / 13.8415), abs=1e-5) and wilson(0, 10)[0] == 0.0
    low, high = wilson(10, 10)
    assert high == pytest.approx(1.0) and high <= 1 and low == pytest.approx(10 / 13.8415, abs=1e-5)
    assert wilson(7.5, 12)[0] < 7.5 / 12 < wilson(7.5, 12)[1]


@given(st.integers(1, 400), st.data())
def test_wilson_solves_its_equation(count: int, data: st.DataObject) -> None:
    """Its ends are the shares p whose distance from the observed one is 1.96 of their own standard errors."""
    successes = data.draw(st.integers(0, 2 * count)) / 2
    for end in wilson(successes, count):
        distance = abs(successes / count - end)
        assert distance == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)
    low, high = wilson(successes, count)
    assert (1 - high, 1 - low) == pytest.approx(wilson(count - successes, count))


def test_a_reward_judges(tmp_path: Path) -> None:
    """Longer is better. A wins one, B two, one tie: 1.5 of 4."""
    by = judge_file(
        tmp_path,
        "def better(completions, level):\n    assert level == [0, 1, 2, 3]\n    return [len(text) for text in completions]\n",
    )
    verdicts = compare(opened(by), PROMPTS, SHORT, LONG, {"level": [0, 1, 2, 3]})
    assert verdicts.winners == ("tie", "b", "a", "b") and verdicts.margins == (0.0, -4.0, 1.0, -1.0)
    assert verdicts.wins == {"a": 1, "b": 2, "tie": 1} and verdicts.win_rate == 1.5 / 4
    assert verdicts.interval == wilson(1.5, 4) and verdicts.position_bias is None and opened(by).label == "better"
    found = verdicts.to_json()
    assert found.pop("verdicts")[1] == {"winner": "b", "margin": -4.0, "changed": None}
    assert found == {
        "prompts": 4, "wins": {"a": 1, "b": 2, "tie": 1}, "win_rate": 0.375, "changed": None, "position_bias": None,
        "interval": {"low": wilson(1.5, 4)[0], "high": wilson(1.5, 4)[1]},
        "mean_worth": {"a": sum(map(len, SHORT)) / 4, "b": sum(map(len, LONG)) / 4},
    }  # fmt: skip
    back = compare(opened(by), PROMPTS, LONG, SHORT, {"level": [0, 1, 2, 3]})
    assert back.win_rate == 1 - verdicts.win_rate


def test_a_pairwise_judge_sees_both_orders(tmp_path: Path) -> None:
    by = judge_file(tmp_path, "seen = []\ndef better(prompts, first, second, messages, **columns):\n"
                    "    assert prompts == [m[-1]['content'] for m in messages] and columns == {'level': [1] * 4}\n"
                    "    seen.append((first, second))\n    return [len(a) - len(b) for a, b in zip(first, second)]\n")  # fmt: skip
    judge = opened(by)
    verdicts = compare(judge, PROMPTS, SHORT, LONG, {"level": [1] * 4})
    assert (
        verdicts.winners == ("tie", "b", "a", "b")
        and verdicts.changed == (False,) * 4
        and verdicts.position_bias == 0.0
    )
    assert verdicts.margins == (0.0, -4.0, 1.0, -1.0)


def test_a_verdict_that_changes_with_the_order_is_a_tie(tmp_path: Path) -> None:
    """The first is favoured by 2. Differences of 0, -4, 1, -1 become 2, -2, 3, 1 and, in the other order, 2, 6, 1, 3: only the second
    prompt is decided the same way twice.
    """
    by = judge_file(
        tmp_path,
        "def better(prompts, first, second):\n    return [len(a) - len(b) + 2 for a, b in zip(first, second)]\n",
    )
    verdicts = compare(opened(by), PROMPTS, SHORT, LONG, {})
    assert verdicts.winners == ("tie", "b", "tie", "tie") and verdicts.changed == (True, False, True, True)
    assert verdicts.margins == (0.0, -4.0, 0.0, 0.0) and verdicts.position_bias == 0.75 and verdicts.win_rate == 1.5 / 4
    assert verdicts.to_json()["changed"] == 3


def test_half_a_change_is_a_change() -> None:
    """Better in front, as good behind: no verdict that holds in both orders."""
    answers = iter([[1.0], [0.0]])
    verdicts = compare(Judge("x", prefers=lambda *_: next(answers)), PROMPTS[:1], ["甲"], ["乙"], {})
    assert verdicts == Verdicts(("tie",), (0.0,), (True,))


def test_ended_is_passed_on_and_equal_answers_are_a_tie() -> None:
    def worth(prompts: list[Any], completions: list[str], ended: list[bool], columns: Any) -> list[float]:
        calls.append(ended)
        return [float(end) + 1e-7 * len(calls) for end in ended]  # rounding that differs from call to call

    calls = list[list[bool]]()
    verdicts = compare(
        Judge("x", worth=worth), PROMPTS[:2], ["好。", "好。"], ["好。", "好。"], {}, [True, True], [True, False]
    )
    assert calls == [[True, True], [True, False]]
    assert verdicts.winners == ("tie", "a")
    calls.clear()
    compare(Judge("x", worth=worth), PROMPTS[:2], ["甲", "乙"], ["丙", "丁"], {})
    assert calls == [[True, True]] * 2


def test_rewards_as_a_judge() -> None:
    rewards = open_rewards((Reward(built_in="length", min_characters=2), Reward(built_in="ends", weight=3)), None)
    judge = judge_by(None, rewards)
    assert judge is not None and judge.label == "length + ends"
    verdicts = compare(judge, PROMPTS, SHORT, LONG, {})
    assert verdicts.margins == (0.0, -4.0, 1.0, -1.0)
    assert judge_by(None, []) is None


def test_a_reward_model_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jielong.align import scoring

    def open_scorer(folder: Path, device: str) -> Any:
        assert (folder, device) == (tmp_path / "rm", "cpu")
        return lambda messages, answers: [float(len(answer)) for answer in answers]

    monkeypatch.setattr(scoring, "open_scorer", open_scorer)
    (tmp_path / "rm").mkdir()
    judge = opened(str(tmp_path / "rm"))
    assert judge.label == "reward model rm"
    assert compare(judge, PROMPTS, SHORT, LONG, {}).margins == (0.0, -4.0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"^--by: no such file, got .*judge\.py; "),
        ("def better(first): ...\n", r"^--by: the function in .*judge\.py does not take what is judged, got the arguments first; it must take first and second or completions; "),
    ],
)  # fmt: skip
def test_a_judge_that_cannot_be_opened(tmp_path: Path, text: str | None, message: str) -> None:
    by = f"{tmp_path / 'judge.py'}:better" if text is None else judge_file(tmp_path, text)
    with pytest.raises(InputError, match=message):
        opened(by)
    with pytest.raises(
        InputError,
        match=r"^--by: neither a function nor a folder, got 'nowhere'; give FILE\.py:NAME, for example judge\.py:better, or the folder",
    ):
        opened("nowhere")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1]", r"^--by \(.*judge\.py\): returns a list of the wrong length, got 1; must be 4, "),
        ("return [1, 2, None, 4]", r"the reward of completion 3 of 4 \('好的'\) is no number, got None; "),
        ("return [a.split(',')[3] for a in first]", r"^--by: the function failed at line 2 of .*judge\.py, got IndexError: list index out of range; "),
    ],
)  # fmt: skip
def test_a_judge_that_fails(tmp_path: Path, body: str, message: str) -> None:
    judge = opened(judge_file(tmp_path, f"def better(prompts, first, second):\n    {body}\n"))
    with pytest.raises(TrainingError, match=message) as error:
        compare(judge, PROMPTS, SHORT, LONG, {})
    assert "\n" not in str(error.value)
