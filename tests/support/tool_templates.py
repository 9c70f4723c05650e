"""Chat templates that write tools and calls as three families do, and a tokenizer with one."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.chat_template import ChatTemplate
from tests.support.fake_tokenizer import SPECIALS, FakeTokenizer

_TOOLS = "{% if tools %}<sys>{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
_OTHERS = """
{%- for message in messages %}
{%- if message.role == "system" %}<sys>{{ message.content }}
{%- elif message.role != "assistant" %}<user>{{ message.content }}
"""
_END = """
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}
"""

HERMES = (
    "<bos>"
    + _TOOLS
    + "{% if tools %}Call with <tool_call></tool_call>.{% endif %}"
    + _OTHERS
    + """
{%- else %}<assistant>{{ message.content }}
{%- for call in message.tool_calls or [] %}
{{- "" if loop.first and not message.content else "\\n" }}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + "}\\n</tool_call>" }}
{%- endfor %}<eos>"""
    + _END
)
"""As Qwen2.5 and Qwen3: tags around objects, each on a line of its own."""

LLAMA = (
    "<bos>"
    + _TOOLS
    + "{% if tools %}Or with <|python_tag|>.{% endif %}"
    + _OTHERS
    + """
{%- elif not message.tool_calls %}<assistant>{{ message.content }}<eos>
{%- elif message.tool_calls | length > 1 %}{{ raise_exception("one call at once") }}
{%- else %}<assistant>
{%- set call = message.tool_calls[0].function %}
{{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}" }}<eos>"""
    + _END
)
"""As Llama 3.1: one call, which is the whole message."""

_MISTRAL = (
    "<bos>"
    + _TOOLS
    + _OTHERS
    + """
{%- elif not message.tool_calls %}<assistant>{{ message.content }}<eos>
{%- else %}<assistant>{{ message.content }}
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids must have length 9") }}{% endif %}
{%- endfor %}"""
)

MISTRAL_LIST = (
    _MISTRAL
    + """
{{- "[TOOL_CALLS] [" }}
{%- for call in message.tool_calls %}
{{- '{"name": "' + call.function.name + '", "arguments": ' }}
{{- (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
{{- "" if loop.last else ", " }}
{%- endfor %}]<eos>"""
    + _END
)
"""As Mistral 7B v0.3: a list of objects, with ids."""

MISTRAL_NAMED = (
    _MISTRAL
    + """
{%- for call in message.tool_calls %}
{{- "[TOOL_CALLS]" + call.function.name + "[ARGS]" + (call.function.arguments | tojson) }}
{%- endfor %}<eos>"""
    + _END
)
"""As newer ones: a marker, the name and another marker before each object."""

MARKERS = {270: "[TOOL_CALLS]", 271: "[ARGS]", 272: "<|python_tag|>"}


class TemplatedTokenizer(FakeTokenizer):
    """The fake tokenizer with a Jinja template, and the families' markers as special tokens."""

    special_ids = frozenset({**SPECIALS, **MARKERS})

    def __init__(self, template: str) -> None:
        super().__init__()
        self.template = template
        self._rendering = ChatTemplate(template)
        self._pieces += [(text, i) for i, text in MARKERS.items()]

    def token_bytes(self, token: int) -> bytes:
        return MARKERS[token].encode() if token in MARKERS else super().token_bytes(token)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        kept = [i for i in ids if not (skip_special_tokens and i in self.special_ids)]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        return self._rendering.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables=variables,
        )
