"""`jielong generate` and `jielong chat` as a user types them, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import Result
from typer.testing import CliRunner

from jielong.__main__ import app
from jielong.infer.commands import COMMANDS


def call(*arguments: object, status: int = 0, typed: str | None = None) -> Result:
    result: Result = CliRunner().invoke(app, list(map(str, arguments)), input=typed)
    assert result.exit_code == status, result.output
    return result


def rows(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(call("generate", *arguments, "--json").stdout)["continuations"]
    return found


def test_the_commands() -> None:
    assert set(COMMANDS) == {"generate", "chat", "merge", "judge"}


def test_several_prompts_together_say_what_they_say_alone(model_folder: Path) -> None:
    common = ("--max-new-tokens", 6, "--temperature", 0, "--device", "cpu")
    together = rows(model_folder, "--prompt", "中国人民", "--prompt", "美", *common)
    alone = [rows(model_folder, "--prompt", prompt, *common)[0] for prompt in ("中国人民", "美")]
    assert [row["text"] for row in together] == [row["text"] for row in alone]
    shown = call("generate", model_folder, "--prompt", "中国人民", *common).stdout
    assert shown.startswith("中国人民" + alone[0]["text"])


def test_beams_caches_and_stops_are_options(model_folder: Path) -> None:
    common = ("--prompt", "中国", "--max-new-tokens", 6, "--device", "cpu")
    assert len(rows(model_folder, *common, "--num-beams", 3, "--length-penalty", 0.5)) == 1
    long = rows(model_folder, "--prompt", "中国", "--max-new-tokens", 60, "--cache", "rolling", "--cache-tokens", 16)
    assert long[0]["tokens"] == 60 or long[0]["stopped"] == "end_of_text"  # beyond the context of 40
    text = rows(model_folder, *common, "--temperature", 0)[0]["text"]
    if len(text) > 1:
        assert rows(model_folder, *common, "--temperature", 0, "--stop", text[1])[0]["text"] in (
            "",
            text[: text.index(text[1])],
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--prompt: none given"),
        (
            ["--prompt", "中", "--cache", "hidden"],
            "(EL-attention) does not go with this model, its rotary positions turn the keys",
        ),
        (["--prompt", "中", "--num-beams", "2", "--temperature", "1.0"], "num_beams"),
        (["--prompt", "中", "--cache", "kv", "--cache-tokens", "16"], "cache_tokens"),
        (["--prompt", "中" * 60], "prompt: too long"),
    ],
)
def test_mistakes_are_one_sentence(options: list[str], message: str, model_folder: Path) -> None:
    result = call("generate", model_folder, *options, status=2)
    assert message in result.stderr and "Traceback" not in result.output
    assert result.stdout == ""  # nothing of the prompt is shown before it is refused


def test_a_chat_ends_with_an_empty_line(model_folder: Path) -> None:
    options = ("--continue", "--max-new-tokens", 3, "--device", "cpu")
    result = call("chat", model_folder, *options, typed="中国\n\n美国\n")
    assert result.stdout.startswith("中国") and "美国" not in result.stdout
    assert call("chat", model_folder, *options).stdout == ""


def test_a_folder_with_a_template_takes_turns(model_folder: Path) -> None:
    """More of it in tests/infer/chat/."""
    result = call("chat", model_folder, "--max-new-tokens", 3, "--device", "cpu", "--json", typed="中国\n")
    [chat] = orjson.loads(result.stdout)["chats"]
    assert [row["role"] for row in chat["messages"]] == ["user", "assistant"]
