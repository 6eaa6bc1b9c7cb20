"""The chat template that tokenizers made here carry: ChatML (Jinja, as Hugging Face has it), with tools and calls.

Calls of the assistant are lines of its turn, <tool_call>{"name": ..., "arguments": ...}</tool_call>; what a tool answers is a turn of its own.
"""

CHATML = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages and messages[0]['role'] == 'system' %}{{- messages[0]['content'] + '\\n\\n' }}{%- endif %}
{{- '可以使用的工具：\\n' }}
{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}
{{- '\\n使用时写出：<tool_call>{"name": 工具名, "arguments": 参数}</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') }}
{%- for called in message['tool_calls'] or [] %}
{%- set call = called['function'] or called %}
{{- '\\n' if message['content'] or not loop.first else '' }}
{{- '<tool_call>{"name": ' + (call['name'] | tojson) + ', "arguments": ' + (call['arguments'] | tojson) + '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
