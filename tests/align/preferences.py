"""Preferences to prepare: good ones of every form, and bad ones with the reason why each is set aside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jielong.align.config import Config, Kind
from jielong.recipe import parse_section

METHODS: dict[Kind, str] = {"pairs": "dpo", "unpaired": "kto", "prompts": "grpo"}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def pair(number: int, **more: Any) -> dict[str, Any]:
    """A question with a better and a worse answer; another for each number."""
    return {"prompt": f"{number} 加一等于几？", "chosen": f"等于{number + 1}。", "rejected": "不知道呢。", **more}


def marked(number: int, label: Any = True) -> dict[str, Any]:
    return {"prompt": f"{number} 加一等于几？", "completion": f"等于{number + 1}。", "label": label}


CALL = [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
Q, A, B = user("问"), answer("好答案"), answer("差答案")
SAID = {"prompt": "问", "chosen": "好答案", "rejected": "差答案"}
# a record of pairs, and the reason; those of the tokens and of what is there already are last
BAD: list[tuple[bytes | dict[str, Any], str]] = [
    (b'{"prompt": ', "bad_json"),
    (b'{"prompt": "\xb4\xba", "chosen": "a", "rejected": "b"}', "bad_utf8"),
    ({"text": "没有偏好"}, "unknown_form"),
    ({"prompt": "问", "chosen": "只有一个"}, "unknown_form"),
    ({"chosen": "没有", "rejected": "提示"}, "unknown_form"),
    ({"chosen": A, "rejected": B}, "unknown_form"),
    ({"chosen": [A], "rejected": [B]}, "unknown_form"),
    (SAID | {"history": "问"}, "unknown_form"),
    (SAID | {"history": 5}, "unknown_form"),
    (SAID | {"history": [["问"]]}, "unknown_form"),
    ({"conversations": "问", "chosen": A, "rejected": B}, "unknown_form"),
    ({"conversations": {"a": 1}, "chosen": A, "rejected": B}, "unknown_form"),
    ({"conversations": [], "chosen": A, "rejected": B}, "no_turns"),
    (SAID | {"prompt": [answer("你好"), Q]}, "role_order"),
    (SAID | {"prompt": [Q, A]}, "role_order"),
    (SAID | {"prompt": [Q, Q]}, "role_order"),
    (SAID | {"prompt": [{"role": "旁白", "content": "问"}]}, "unknown_role"),
    ({"chosen": [Q, A], "rejected": [Q]}, "role_order"),
    (SAID | {"prompt": None}, "missing_text"),
    (SAID | {"rejected": None}, "missing_text"),
    (SAID | {"chosen": {"from": "gpt", "value": None}}, "missing_text"),
    (SAID | {"prompt": " \n"}, "empty_question"),
    (SAID | {"chosen": ""}, "empty_answer"),
    (SAID | {"rejected": [answer(" ")]}, "empty_answer"),
    (SAID | {"chosen": ["好", "很好"]}, "not_text"),
    (SAID | {"prompt": {"a": 1}}, "not_text"),
    (SAID | {"prompt": "长" * 60_000}, "turn_too_long"),
    (SAID | {"chosen": "长" * 60_000}, "turn_too_long"),
    (SAID | {"chosen": [{"role": "assistant", "content": "", "tool_calls": CALL}]}, "with_tools"),
    ({"messages": [Q], "tools": [{"name": "f"}], "chosen": A, "rejected": B}, "with_tools"),
    ({"messages": [Q], "tools": "[{", "chosen": A, "rejected": B}, "bad_tools"),
    ({"chosen": [Q, A, user("再问"), A], "rejected": [Q, B, user("再问"), B]}, "diverging"),
    (SAID | {"chosen": [user("别的"), A]}, "diverging"),
    (SAID | {"margin": "大"}, "bad_margin"),
    (SAID | {"margin": True}, "bad_margin"),
    (SAID | {"margin": -1}, "bad_margin"),
    (SAID | {"score_chosen": 1, "score_rejected": 2.5}, "bad_margin"),
    (SAID | {"rejected": "好 答\n案"}, "equal"),
    (SAID | {"rejected": "差\x00"}, "binary"),
    (SAID | {"prompt": "什么是<|im_end|>？"}, "collision"),
    (SAID | {"rejected": "很长" * 2000}, "too_long"),
    (SAID | {"prompt": "很长" * 2000}, "too_long"),
]
BAD_LABELS: list[tuple[dict[str, Any], str]] = [
    (marked(1, label), "bad_label") for label in (None, "也许", 2, 0.5, [True], {"good": 1}, "")
]


def config_of(*paths: Path, kind: Kind = "pairs", **more: Any) -> Config:
    """An [align] table over files, each a source named for its file."""
    sources = [{"name": path.name.partition(".")[0], "path": str(path)} for path in paths]
    table = {"method": METHODS[kind], "sources": sources, "validation_share": 0.25}
    if kind == "prompts":
        table["rewards"] = [{"built_in": "length"}]
    return parse_section("align", Config, table | more)
