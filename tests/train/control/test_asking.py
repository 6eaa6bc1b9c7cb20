"""Commands and their bounds: one sentence for each thing that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from jielong.errors import InputError
from jielong.train.control.asking import COMMANDS, check, factor_or_value, from_words, settings_of


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["pause"], {"command": "pause"}),
        (["learning-rate", "x0.5"], {"command": "learning-rate", "value": "x0.5"}),
        (["prompts", "中国", "美国"], {"command": "prompts", "prompts": ["中国", "美国"]}),
        (["generate", "人工 智能"], {"command": "generate", "prompt": "人工 智能", "temperature": 0.5}),
        (["batch"], {"command": "batch", "rows": 2}),
    ],
)
def test_words_of_a_command_line(words: list[str], command: dict[str, Any]) -> None:
    options = {key: value for key, value in command.items() if key in ("temperature", "rows")}
    assert from_words(words[0], words[1:], {"seed": None, **options}) == command


@pytest.mark.parametrize(
    ("words", "options", "sentence"),
    [
        (["sleep"], {}, "command: unknown, got 'sleep'; must be one of pause, resume"),
        (["pause", "now"], {}, "pause: takes nothing, got 1 word; remove what"),
        (["pause"], {"seed": 1}, "pause: unknown argument, got 'seed'; it takes nothing"),
        (["learning-rate"], {}, "learning-rate: takes one value, got 0 words; write it like 3e-4 or x0.5"),
        (["learning-rate", "fast"], {}, "learning-rate: not a rate, got 'fast'; must be above 0 like 3e-4"),
        (["prompts"], {}, r"prompts: must be texts, got \[\]; 1 to 64 of them"),
        (["generate"], {}, "generate: takes one prompt, got 0 words"),
        (["generate", "a", "b"], {}, "generate: takes one prompt, got 2 words"),
        (["generate", "a"], {"rows": 1}, "generate: unknown argument, got 'rows'; it takes max_new_tokens"),
        (["batch"], {"rows": 0}, "rows: not a number of rows, got 0"),
        (["batch", "3"], {}, "batch: takes no words, got '3'; --rows says how many"),
    ],
)
def test_what_is_wrong_is_a_sentence(words: list[str], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        from_words(words[0], words[1:], options)


@pytest.mark.parametrize("value", ["0", "-1e-3", "nan", "inf", "x0", "x", "", True, None, [1]])
def test_rates_that_are_none(value: Any) -> None:
    with pytest.raises(InputError, match="not a rate"):
        factor_or_value(value)


def test_rates() -> None:
    assert factor_or_value("3e-4") == (False, 3e-4) and factor_or_value(0.01) == (False, 0.01)
    assert factor_or_value(" x0.5") == (True, 0.5) and factor_or_value("×2") == (True, 2.0)


@pytest.mark.parametrize(
    "command",
    [{"command": ["pause"]}, {"command": "generate", "prompt": 3}, {"command": "generate", "prompt": "a", "top_k": 1.5},
     {"command": "generate", "prompt": "a", "seed": True}, {"command": "prompts", "prompts": ["a", ""]},
     {"command": "prompts", "prompts": "中国"}, {}],
)  # fmt: skip
def test_a_file_that_somebody_wrote_is_checked_too(command: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        check(command)


def test_settings() -> None:
    assert settings_of("temperature=0.8, top-k=5") == {"temperature": 0.8, "top_k": 5} and settings_of(" ") == {}
    for text in ("temperature", "heat=1", "top_k=many", "seed=1.5"):
        with pytest.raises(InputError):
            settings_of(text)


def test_commands_without_arguments_pass() -> None:
    for name in ("pause", "resume", "save", "stop", "batch", "status"):
        assert name in COMMANDS
        check({"command": name})
