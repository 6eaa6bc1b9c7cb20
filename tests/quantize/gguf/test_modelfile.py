"""The Modelfile's text, and that its template renders what the Jinja template does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from jielong.quantize.gguf.modelfile import CHATML_IN_GO, modelfile
from jielong.tokenizer.chat.chatml import CHATML
from jielong.tokenizer.chat.conversations import Conversation, Message
from jielong.tokenizer.chat.templates import ChatTemplate
from jielong.tokenizer.folder import open_folder
from tests.quantize.gguf.folders import change, model_folder, tokenizer_folder
from tests.quantize.gguf.go_templates import render

SYSTEM, USER, ANSWER = Message("system", "只说真话。"), Message("user", "天为什么蓝？"), Message("assistant", "散射。")
CALL = {"name": "查天气", "arguments": {"城市": "北京"}}
CALLING = Message("assistant", "", ({**CALL},))
BOTH = Message("assistant", "查一下。", ({**CALL}, {**CALL}))
RESULT = Message("tool", "晴")
TOOL = {"type": "function", "function": {"name": "查天气"}}
TALKS = {
    "one": (USER,),
    "system": (SYSTEM, USER),
    "turns": (SYSTEM, USER, ANSWER, USER),
    "call": (USER, CALLING, RESULT),
    "calls": (SYSTEM, USER, BOTH, RESULT),
}


def in_ollama(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    """The dot that Ollama gives a template."""
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    rows = [
        {
            "Role": message.role,
            "Content": message.content,
            "ToolCalls": [
                {"Function": {"Name": call["name"], "Arguments": call["arguments"]}} for call in message.calls
            ],
        }
        for message in messages
    ]
    return {"System": system, "Messages": rows, "Tools": list(tools)}


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("tools", [(), (TOOL,)], ids=["plain", "tools"])
def test_go_and_jinja_agree(name: str, tools: tuple[dict[str, Any], ...], tmp_path: Path) -> None:
    """But for the blanks in JSON."""
    template = ChatTemplate(open_folder(tokenizer_folder(tmp_path)), CHATML)
    expected = template.render(Conversation(TALKS[name], tools), prompt=True)
    blanks = re.compile(r'(?<=["}\]])([:,]) ')
    found = render(CHATML_IN_GO, **in_ollama(TALKS[name], tools))
    assert blanks.sub(r"\1", found) == blanks.sub(r"\1", expected)


def test_an_answer_that_has_begun_is_left_open() -> None:
    assert render(CHATML_IN_GO, **in_ollama((USER, ANSWER))).endswith("<|im_start|>assistant\n散射。")


def test_a_prompt_without_messages() -> None:
    """What `ollama run` gives older templates."""
    found = render(CHATML_IN_GO, System="甲", Prompt="乙", Response="", Messages=[], Tools=[])
    assert found == "<|im_start|>system\n甲<|im_end|>\n<|im_start|>user\n乙<|im_end|>\n<|im_start|>assistant\n"


def test_a_tuned_model(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {}, stops=("<|im_end|>",))
    assert modelfile(folder, "m.gguf") == (
        f'FROM ./m.gguf\nTEMPLATE """{CHATML_IN_GO}"""\nPARAMETER stop "<|im_end|>"\nPARAMETER stop "<|endoftext|>"\n'
    )


def test_models_that_continue(tmp_path: Path) -> None:
    """One that does not end turns, and one without a template."""
    folder = model_folder(tmp_path / "model", {})
    comment = "# the model does not end turns, so it is not tuned to chat: it continues text\n"
    rest = 'TEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "<|endoftext|>"\n'
    assert modelfile(folder, "m.gguf") == f"FROM ./m.gguf\n{comment}{rest}"
    change(folder / "tokenizer_config.json", chat_template=None)
    (folder / "generation_config.json").unlink()
    assert modelfile(folder, "m.gguf") == f"FROM ./m.gguf\n{rest}"


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("{{ 'Qwen' }}", "# no TEMPLATE: the chat template cannot be read"),
        (
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}",
            "# no TEMPLATE: the chat template is none that has a form in Go here; write one, or use llama.cpp\n",
        ),
        (
            "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\n乙<|im_end|>\\n' }}{% endif %}" + CHATML,
            'SYSTEM """乙"""\n',
        ),
        (
            "{% if messages[0].role != 'system' %}{{ '甲' }}{% endif %}" + CHATML,
            "# no TEMPLATE: the chat template is ChatML only where there is a system prompt\n",
        ),
    ],
    ids=["broken", "unknown", "system", "strange"],
)
def test_templates_are_known_by_what_they_do(template: str, line: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", {}, stops=("<|im_end|>",))
    change(folder / "tokenizer_config.json", chat_template=template)
    found = modelfile(folder, "m.gguf")
    assert line in found and ("TEMPLATE" in found.replace("no TEMPLATE", "")) == line.startswith("SYSTEM")
