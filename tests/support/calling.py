"""What do the tests of calls say and ask? Families' templates, replies with calls, requests."""

from dataclasses import replace
from typing import Any

import httpx
from openai.types.chat import ChatCompletionMessage

from tests.serving.api.conftest import MODEL, Server
from tests.support import tool_templates
from tests.support.fake_engine import Script, each
from tests.support.fake_tokenizer import EOS
from tests.support.tool_templates import TemplatedTokenizer

TEMPLATES = {
    "hermes": tool_templates.HERMES,
    "llama": tool_templates.LLAMA,
    "list": tool_templates.MISTRAL_LIST,
    "named": tool_templates.MISTRAL_NAMED,
}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "strict": True, "parameters": PARAMETERS}}
    for name in ("weather", "time")
]
CABO, ROME = '{"city": "Cabo"}', '{"city": "Rome"}'
ONE = [("weather", CABO)]
WRITTEN = {
    "hermes": f'<tool_call>\n{{"name": "weather", "arguments": {CABO}}}\n</tool_call>',
    "llama": f'{{"name": "weather", "parameters": {CABO}}}',
    "list": f'[TOOL_CALLS] [{{"name": "weather", "arguments": {CABO}}}]',
    "named": f"[TOOL_CALLS]weather[ARGS]{CABO}",
}
TWO = WRITTEN["hermes"] + WRITTEN["hermes"].replace("weather", "time").replace(CABO, ROME)
HI: list[Any] = [{"role": "user", "content": "hi"}]
MANY = replace(MODEL, max_model_len=20_000)
ASKED = {"model": "org/fake", "messages": HI, "tools": TOOLS}


def encoded(family: str, text: str) -> list[int]:
    """The ids of a text, with markers as special tokens, and of all else its bytes."""
    tokenizer = TemplatedTokenizer(TEMPLATES[family])
    ids = tokenizer.encode(text, add_special_tokens=False)
    return [
        byte
        for i in ids
        for byte in ([i] if i in tokenizer.special_ids else tokenizer.token_bytes(i))
    ]


def written(family: str, text: str) -> Script:
    return each([*encoded(family, text), EOS])


def post(server: Server, **fields: Any) -> httpx.Response:
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json={**ASKED, **fields}, trust_env=False)


def calls_of(message: ChatCompletionMessage) -> list[tuple[str, str]]:
    """The names and arguments of a message's calls."""
    found = []
    for call in message.tool_calls or ():
        assert call.type == "function"
        found.append((call.function.name, call.function.arguments))
    return found
