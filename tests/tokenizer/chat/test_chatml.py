"""The template by itself, in transformers' sandbox: system, tools and calls in all combinations that conversations have."""

from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from jielong.tokenizer.chat.chatml import CHATML

SYSTEM, USER = {"role": "system", "content": "简短。"}, {"role": "user", "content": "你好"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": "甲"}}}
TOOLS = '可以使用的工具：\n{"name": "f"}\n\n使用时写出：<tool_call>{"name": 工具名, "arguments": 参数}</tool_call><|im_end|>\n'
CALLED = '<tool_call>{"name": "f", "arguments": {"x": "甲"}}</tool_call>'


@pytest.mark.parametrize(
    ("messages", "tools", "prompt", "text"),
    [
        ([], None, True, "<|im_start|>assistant\n"),
        ([USER], None, False, "<|im_start|>user\n你好<|im_end|>\n"),
        ([SYSTEM, USER], None, True,
         "<|im_start|>system\n简短。<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"),
        ([USER], [{"name": "f"}], False, f"<|im_start|>system\n{TOOLS}<|im_start|>user\n你好<|im_end|>\n"),
        ([SYSTEM, USER], [{"name": "f"}], False,
         f"<|im_start|>system\n简短。\n\n{TOOLS}<|im_start|>user\n你好<|im_end|>\n"),
        ([{"role": "assistant", "content": None, "tool_calls": [CALL]}], None, False, f"<|im_start|>assistant\n{CALLED}<|im_end|>\n"),
        ([{"role": "assistant", "content": "查一下。", "tool_calls": [CALL, CALL["function"]]}], None, False,
         f"<|im_start|>assistant\n查一下。\n{CALLED}\n{CALLED}<|im_end|>\n"),
        ([{"role": "user", "content": "<b>&\"'  \n"}], None, False, "<|im_start|>user\n<b>&\"'  \n<|im_end|>\n"),
    ],
)  # fmt: skip
def test_rendered(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool, text: str) -> None:
    rendered: Any = render_jinja_template([messages], tools, chat_template=CHATML, add_generation_prompt=prompt)
    assert rendered[0] == [text]
