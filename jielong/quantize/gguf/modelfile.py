"""The Modelfile with which Ollama makes a model of a GGUF file.

Ollama does not run the Jinja template that the file carries: it wants one in the language of Go's text/template. Only for templates that
are known is there such a form. Known is ChatML, found by what a template does, not by how it is written: our own, Qwen's, and
every other one that renders the same turns. Some put a system prompt of their own where a conversation has none (Qwen's
does); it becomes Ollama's SYSTEM.

A model that was not tuned has a template in its tokenizer too, as ours and Qwen's base models do. It does not stop where the
template ends a turn, which is how it is recognized; it continues what it is given.

Go's JSON has no blanks after colons and commas, Jinja's has: declarations of tools differ by those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jielong.errors import TokenizerError
from jielong.model.bases import stops_of
from jielong.model.hf_config import read_config
from jielong.tokenizer.chat.conversations import ASSISTANT, SYSTEM, USER, Conversation, Message
from jielong.tokenizer.chat.templates import ChatTemplate, template_of
from jielong.tokenizer.folder import TokenizerFolder, open_folder

CONTINUES = "{{ .Prompt }}"
# .System joins all system turns, which are in .Messages as well; white space beside a dash is no text
CHATML_IN_GO = """\
{{- if .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}

{{ end }}可以使用的工具：
{{ range .Tools }}{{ . }}
{{ end }}
使用时写出：<tool_call>{"name": 工具名, "arguments": 参数}</tool_call><|im_end|>
{{ else if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}
{{- if .Messages }}
{{- range $number, $message := .Messages }}
{{- if ne .Role "system" }}<|im_start|>{{ .Role }}
{{ .Content }}
{{- range $call, $called := .ToolCalls }}
{{- if or $message.Content $call }}
{{ end }}<tool_call>{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}</tool_call>
{{- end }}
{{- if or (ne .Role "assistant") (gt (len (slice $.Messages $number)) 1) }}<|im_end|>
{{ end }}
{{- end }}
{{- if and (ne .Role "assistant") (eq (len (slice $.Messages $number)) 1) }}<|im_start|>assistant
{{ end }}
{{- end }}
{{- else }}
{{- if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}{{ if .Response }}<|im_end|>
{{ end }}
{{- end }}"""

_TURNS = (Message(USER, "天为什么是蓝的？"), Message(ASSISTANT, "因为短波散射得多。"), Message(USER, "海呢？"))
_TALKS = (
    Conversation((Message(SYSTEM, "只说真话。"), *_TURNS)),
    Conversation((Message(SYSTEM, "只说真话。"), _TURNS[0])),
)


@dataclass(frozen=True)
class Form:
    """What Ollama is told of a model's turns. template: None where there is no form of it."""

    template: str | None
    system: str = ""  # where a conversation has none
    comment: str = ""


def modelfile(folder: Path, gguf_name: str) -> str:
    """The text of an Ollama Modelfile for a model folder and the GGUF file made of it, which lies beside the Modelfile.

    Nothing is said of temperature and top_p: they are not the model's.
    """
    tokenizer = open_folder(folder)
    stops = _stops(folder, tokenizer)
    form = _form(tokenizer, stops)
    lines = [f"FROM ./{gguf_name}"]
    if form.comment:
        lines.append(f"# {form.comment}")
    if form.template is not None:
        lines.append(f'TEMPLATE """{form.template}"""')
    if form.system:
        lines.append(f'SYSTEM """{form.system}"""')
    for stop in stops:
        token = tokenizer.backend.id_to_token(stop)
        if token is not None:
            lines.append(f'PARAMETER stop "{token}"')
    return "\n".join(lines) + "\n"


def _stops(folder: Path, tokenizer: TokenizerFolder) -> list[int]:
    """The ids that end a text: what generation_config.json says, else config.json, else the tokenizer."""
    given = read_config(folder).get("eos_token_id")
    beside = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, int)]
    return list(dict.fromkeys(stops_of(folder) or beside or [tokenizer.end_id]))


def _form(tokenizer: TokenizerFolder, stops: list[int]) -> Form:
    source = template_of(tokenizer)
    if source is None:
        return Form(CONTINUES)
    try:
        template = ChatTemplate(tokenizer, source, learns=False)
        ends, rendered = template.ends, [template.render(talk, prompt=True) for talk in _TALKS]
        bare = template.render(Conversation(_TURNS), prompt=True)
    except TokenizerError as error:
        return Form(None, comment=f"no TEMPLATE: the chat template cannot be read ({' '.join(str(error).split())})")
    if ends and not set(ends) & set(stops):
        return Form(CONTINUES, comment="the model does not end turns, so it is not tuned to chat: it continues text")
    if rendered != [_chatml(talk) for talk in _TALKS]:
        return Form(
            None,
            comment="no TEMPLATE: the chat template is none that has a form in Go here; write one, or use llama.cpp",
        )
    turns = _chatml(Conversation(_TURNS))
    own, opening, closing = bare.removesuffix(turns), "<|im_start|>system\n", "<|im_end|>\n"
    if bare == turns:
        return Form(CHATML_IN_GO)
    if not (bare.endswith(turns) and own.startswith(opening) and own.endswith(closing)):
        return Form(None, comment="no TEMPLATE: the chat template is ChatML only where there is a system prompt")
    return Form(CHATML_IN_GO, own.removeprefix(opening).removesuffix(closing))


def _chatml(talk: Conversation) -> str:
    """ChatML with what makes the assistant speak next."""
    turns = (f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in talk.messages)
    return "".join((*turns, "<|im_start|>assistant\n"))
