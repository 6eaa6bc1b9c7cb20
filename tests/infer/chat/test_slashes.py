"""Commands of a chat as they are typed."""

from __future__ import annotations

import pytest

from jielong.errors import InputError, RecipeError
from jielong.infer.chat.slashes import COMMANDS, OF_TURNS, Slash, help_text, keys_text, parse, set_key
from jielong.infer.config import Config


def test_messages_and_commands() -> None:
    assert parse("你好") == "你好" and parse(" /help") == " /help" and parse("1/2") == "1/2"
    assert parse("//help") == "/help" and parse("///") == "//"
    assert parse("/help") == Slash("help", "") and parse("/system  说话 简短。 ") == Slash("system", "说话 简短。")
    assert parse("/system 第一行\n第二行") == Slash("system", "第一行\n第二行")


@pytest.mark.parametrize(
    ("line", "hint"),
    [("/hlep", r"did you mean /help\?"), ("/Retry", r"did you mean /retry\?"), ("/你好", "known: /help, /retry,"), ("/", "known: ")],
)  # fmt: skip
def test_an_unknown_one_suggests_the_nearest(line: str, hint: str) -> None:
    with pytest.raises(
        InputError, match=rf"{line}: unknown command; {hint}.* a message that begins with / is written with //"
    ):
        parse(line)


def test_help_names_every_command() -> None:
    for name in COMMANDS:
        assert f"/{name}" in help_text(turns=True)
        assert (f"/{name}" in help_text(turns=False)) == (name not in OF_TURNS)


def test_keys_are_set() -> None:
    config = Config(cache="rolling", cache_tokens=64)
    assert set_key(config, "temperature=0.5").temperature == 0.5
    assert set_key(config, " top_k = 40 ").top_k == 40
    assert set_key(config, "top_k=none").top_k is None and set_key(config, "top_k=0").top_k is None
    assert set_key(config, "top_p = 1").top_p is None
    assert set_key(config, 'stop = ["。", "！"]').stop == ("。", "！")
    assert set_key(config, "cache=kv").cache_tokens is None
    assert set_key(Config(), "num_beams=3").temperature == 0
    assert set_key(config, "seed=7") == config.model_copy(update={"seed": 7})


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("temperature", InputError, "/set: must be KEY=VALUE, got 'temperature'; for example /set temperature=0.5"),
        ("=3", InputError, "/set: must be KEY=VALUE"),
        ("device=cuda", InputError, "infer.device: settled when the chat begins, got cuda; leave"),
        ("temprature=1", RecipeError, r"infer.temprature: unknown key; did you mean temperature\?"),
        ("temperature=-1", RecipeError, "infer.temperature: out of bounds, got -1; must be at least 0.0; change it"),
        ("temperature=warm", RecipeError, 'infer.temperature: wrong type or value, got "warm"; must be a number'),
        ("cache=big", RecipeError, "infer.cache: not one of the choices"),
        ("cache_tokens=64", RecipeError, "only for cache = rolling"),
    ],
)
def test_mistakes_are_one_sentence(text: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        set_key(Config(), text)


def test_keys_as_text_can_be_set_again() -> None:
    config = Config(stop=("。",), top_k=5)
    text = keys_text(config)
    assert "prompts" not in text and 'stop = ["。"]' in text and "cache_tokens = none" in text
    changed = Config()
    for line in text.splitlines():
        changed = set_key(changed, line)
    assert changed == config
