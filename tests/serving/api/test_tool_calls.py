"""Calls of tools over HTTP, to the official client: whole, streamed, and in the next turn."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from serving.api.splicing import MAX_MISSES
from serving.config import EndpointConfig
from serving.request import Turn
from tests.serving.api.conftest import MODEL, Server, serve
from tests.serving.api.test_stream import events
from tests.support import fake_executor, fake_model, tool_templates
from tests.support.fake_engine import FakeEngine, Script, at_once, each
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_tokenizer import BOS, EOS
from tests.support.shape import Shape
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


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    with ExitStack() as stack:
        yield {
            family: stack.enter_context(serve(EndpointConfig(), TemplatedTokenizer(template), MANY))
            for family, template in TEMPLATES.items()
        }


@pytest.fixture
def engines(servers: dict[str, Server]) -> dict[str, FakeEngine]:
    for server in servers.values():
        server.engine.__dict__.update(FakeEngine().__dict__)
    return {family: server.engine for family, server in servers.items()}


@pytest.fixture
def hermes(engines: dict[str, FakeEngine]) -> FakeEngine:
    return engines["hermes"]


@pytest.fixture
def clients(servers: dict[str, Server], strict_client: openai.OpenAI) -> dict[str, openai.OpenAI]:
    return {
        family: strict_client.copy(base_url=f"{server.url}/v1")
        for family, server in servers.items()
    }


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


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_call_is_answered_whole(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str
):
    engines[family].script = lambda turn: written(family, WRITTEN[family])
    answer = clients[family].chat.completions.create(**ASKED)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert calls_of(choice.message) == ONE
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(encoded(family, WRITTEN[family])) + 1


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("at_a_time", [1, 5, 1000])
def test_a_call_is_streamed(
    clients: dict[str, openai.OpenAI],
    engines: dict[str, FakeEngine],
    family: str,
    at_a_time: int,
):
    text = WRITTEN[family] if family == "llama" else f"Let me see. {WRITTEN[family]}"
    ids = [*encoded(family, text), EOS]
    groups = [ids[at : at + at_a_time] for at in range(0, len(ids), at_a_time)]
    engines[family].script = lambda turn: Script(groups)
    arguments = ""
    with clients[family].chat.completions.stream(**ASKED) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                arguments += event.arguments_delta
            if event.type == "tool_calls.function.arguments.done":
                assert event.parsed_arguments is None or event.arguments == CABO
        final = stream.get_final_completion().choices[0]
    assert arguments == CABO
    assert final.finish_reason == "tool_calls"
    assert final.message.content == ("" if family == "llama" else "Let me see.")
    assert calls_of(final.message) == ONE


def streamed(server: Server, **fields: Any) -> list[dict[str, Any]]:
    return [chunk["choices"][0] for chunk in events(post(server, stream=True, **fields).text)]


def test_a_stream_names_a_call_first_and_then_writes_its_arguments(
    servers: dict[str, Server], hermes: FakeEngine
):
    hermes.script = lambda turn: written("hermes", f"Hm.\n{TWO}")
    start, *chunks = (choice["delta"] for choice in streamed(servers["hermes"]))
    assert start == {"role": "assistant", "content": ""}
    assert [list(delta) for delta in chunks[:4]] == [["content"]] * 3 + [["tool_calls"]]
    assert all(list(delta) == ["tool_calls"] for delta in chunks[3:-1])
    assert chunks[-1] == {}
    parts = [part for delta in chunks[3:-1] for part in delta["tool_calls"]]
    heads = [part for part in parts if "id" in part]
    assert [part["index"] for part in parts] == [0] * len(CABO) + [1] * len(ROME)
    assert [part["index"] for part in heads] == [0, 1]
    assert [part["function"]["name"] for part in heads] == ["weather", "time"]
    assert all(part["type"] == "function" for part in heads)
    assert len({part["id"] for part in heads}) == 2
    for part in parts:
        if part not in heads:
            assert set(part) == {"index", "function"}
            assert set(part["function"]) == {"arguments"}
            assert len(part["function"]["arguments"]) == 1


def test_text_and_calls_that_come_together_have_chunks_of_their_own(
    servers: dict[str, Server], hermes: FakeEngine
):
    hermes.script = lambda turn: at_once([*encoded("hermes", f"Hm.\n{TWO} so"), EOS])
    choices = streamed(servers["hermes"], logprobs=True, return_token_ids=True)[1:]
    deltas = [list(choice["delta"]) for choice in choices]
    assert deltas == [["content"], ["tool_calls"], ["content"], []]
    assert [len(choice["token_ids"]) for choice in choices] == [len(f"Hm.\n{TWO} so") + 1, 0, 0, 0]
    assert [choice["finish_reason"] for choice in choices] == [None] * 3 + ["tool_calls"]


@pytest.mark.parametrize("interval", [1, 7])
def test_tokens_and_their_scores_are_all_told(interval: int):
    ids = [*encoded("hermes", f"Hm.\n{TWO}"), EOS]
    tokenizer = TemplatedTokenizer(tool_templates.HERMES)
    with serve(EndpointConfig(stream_interval=interval), tokenizer, MANY) as server:
        server.engine.script = lambda turn: each(ids)
        fields = {"logprobs": True, "return_token_ids": True}
        whole = post(server, **fields).json()["choices"][0]
        choices = streamed(server, **fields)
        assert whole["token_ids"] == ids
        assert [i for choice in choices for i in choice.get("token_ids", ())] == ids
        items = [
            item for choice in choices for item in (choice["logprobs"] or {}).get("content", ())
        ]
        assert items == whole["logprobs"]["content"]
        assert len(items) == len(ids)


def test_calls_of_all_choices_have_ids_of_their_own(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine]
):
    for family, shape in (("hermes", r"call_[0-9a-f]{32}"), ("list", r"[A-Za-z0-9]{9}")):
        text = {"hermes": TWO, "list": WRITTEN["list"]}[family]
        engines[family].script = lambda turn, family=family, text=text: written(family, text)
        answer = clients[family].chat.completions.create(**ASKED, n=3)
        ids = [call.id for one in answer.choices for call in one.message.tool_calls or ()]
        assert len(set(ids)) == len(ids) == {"hermes": 6, "list": 3}[family]
        assert all(re.fullmatch(shape, id) for id in ids)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_is_cut_ends_for_its_length(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    hermes.script = lambda turn: written("hermes", WRITTEN["hermes"])
    upto = WRITTEN["hermes"].index("Cabo")
    choice = answered(servers["hermes"], stream=stream, max_tokens=upto)
    assert choice == ("", [("weather", '{"city": "')], "length")
    choice = answered(servers["hermes"], stream=stream, max_tokens=20)
    assert choice == (WRITTEN["hermes"][:20], [], "length")
    # The call is whole, but the reply might have gone on.
    choice = answered(servers["hermes"], stream=stream, max_tokens=len(WRITTEN["hermes"]))
    assert choice == ("", ONE, "length")


def answered(server: Server, *, stream: bool, **fields: Any) -> tuple[str, list[Any], str]:
    """The content, the calls and the reason of the end; absent content is empty."""
    if not stream:
        choice = post(server, **fields).json()["choices"][0]
        functions = [call["function"] for call in choice["message"].get("tool_calls", ())]
        calls = [(function["name"], function["arguments"]) for function in functions]
        return choice["message"]["content"] or "", calls, choice["finish_reason"]
    choices = streamed(server, **fields)
    calls = []
    for part in (part for one in choices for part in one["delta"].get("tool_calls", ())):
        if "id" in part:
            calls.append((part["function"]["name"], ""))
        name, before = calls[part["index"]]
        calls[part["index"]] = name, before + part["function"]["arguments"]
    content = "".join(one["delta"].get("content", "") for one in choices)
    return content, calls, choices[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_an_end_is_not_to_be_run(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    text = WRITTEN["hermes"][: WRITTEN["hermes"].index("Cabo")]
    hermes.script = lambda turn: written("hermes", text)
    expected = ("", [("weather", '{"city": "')], "stop")
    assert answered(servers["hermes"], stream=stream) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("m", ("H", [], "stop")),
        ("Cab", ("Hm.", [("weather", '{"city": "')], "stop")),
        ("</tool_call>", ("Hm.", ONE, "tool_calls")),
        ("nowhere", ("Hm.", ONE, "tool_calls")),
    ],
)
def test_stop_strings_are_looked_for_in_all_that_is_written(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool, stop: str, expected: Any
):
    hermes.script = lambda turn: written("hermes", f"Hm.\n{WRITTEN['hermes']}")
    assert answered(servers["hermes"], stream=stream, stop=stop) == expected


def test_what_was_held_back_for_a_stop_string_is_told_at_the_end(
    servers: dict[str, Server], hermes: FakeEngine
):
    text = f"Hm.\n{WRITTEN['hermes']}"
    hermes.script = lambda turn: written("hermes", text)
    fields = {"stop": f"{text}!"}
    for stream in (False, True):
        found = answered(servers["hermes"], stream=stream, **fields)
        assert found == ("Hm.", ONE, "tool_calls")
    choices = streamed(servers["hermes"], **fields)[1:]
    assert [list(choice["delta"]) for choice in choices] == [["content"], ["tool_calls"]]
    assert [choice["finish_reason"] for choice in choices] == [None, "tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_first_call_is_reported_where_one_is_wanted(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    hermes.script = lambda turn: written("hermes", TWO)
    both = [*ONE, ("time", ROME)]
    server = servers["hermes"]
    expected = ("", ONE, "tool_calls")
    assert answered(server, stream=stream, parallel_tool_calls=False) == expected
    for several in (True, None):
        found = answered(server, stream=stream, parallel_tool_calls=several)
        assert found == ("", both, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["Just text, 1 < 2. ", "<tool_call>oops</tool_call>", "[ARGS]"])
def test_text_without_calls_is_text(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool, text: str
):
    hermes.script = lambda turn: each([*text.encode(), EOS])
    assert answered(servers["hermes"], stream=stream) == (text, [], "stop")
    whole = post(servers["hermes"]).json()["choices"][0]["message"]
    assert whole == {"role": "assistant", "content": text, "refusal": None}


@pytest.mark.parametrize("stream", [False, True])
def test_of_special_tokens_only_the_markers_of_calls_are_text(
    servers: dict[str, Server], engines: dict[str, FakeEngine], stream: bool
):
    ids = encoded("named", "a<bos>b[TOOL_CALLS]oops")
    assert BOS in ids
    engines["named"].script = lambda turn: each([*ids, EOS])
    server = servers["named"]
    assert answered(server, stream=stream) == ("ab[TOOL_CALLS]oops", [], "stop")
    assert answered(server, stream=stream, tool_choice="none") == ("aboops", [], "stop")
    shown = answered(server, stream=stream, skip_special_tokens=False)
    assert shown == ("a<bos>b[TOOL_CALLS]oops", [], "stop")


def test_without_a_parser_calls_are_text(servers: dict[str, Server]):
    tokenizer = TemplatedTokenizer(tool_templates.HERMES)
    for config, tokens in (
        (EndpointConfig(tool_call_parser="none"), tokenizer),
        (EndpointConfig(tool_call_parser="llama3_json"), tokenizer),
        (EndpointConfig(), TemplatedTokenizer(tool_templates.HERMES.replace("tool_call>", "c>"))),
    ):
        with serve(config, tokens, MANY) as server:
            server.engine.script = lambda turn: written("hermes", WRITTEN["hermes"])
            assert answered(server, stream=False) == (WRITTEN["hermes"], [], "stop")
            assert answered(server, stream=True) == (WRITTEN["hermes"], [], "stop")


IGNORED = "x-foretoken-ignored-params"


def test_what_has_no_effect_on_calls_is_named(servers: dict[str, Server], hermes: FakeEngine):
    server = servers["hermes"]
    plain = [{"type": "function", "function": {"name": "f"}}]
    assert post(server, parallel_tool_calls=False).headers[IGNORED] == "tools.function.strict"
    assert IGNORED not in post(server, tools=plain, parallel_tool_calls=True).headers
    for fields in ({"tools": plain, "tool_choice": "none"}, {"tools": None}):
        named = post(server, **fields, parallel_tool_calls=True).headers[IGNORED]
        assert named in ("parallel_tool_calls,tools", "parallel_tool_calls")


def history(message: ChatCompletionMessage, **change: Any) -> list[Any]:
    """What a client sends after it has run the calls of a reply."""
    assert message.tool_calls
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls
    ]
    return [*HI, {**message.to_dict(), **change}, *results]


def two_turns(
    client: openai.OpenAI, engine: FakeEngine, family: str, text: str, **change: Any
) -> tuple[tuple[int, ...], tuple[int, ...], str]:
    """The prompts of both turns, and what the second one says."""
    engine.script = lambda turn: written(family, text if len(engine.turns) == 1 else "Sunny.")
    first = client.chat.completions.create(**ASKED).choices[0].message
    answer = client.chat.completions.create(**{**ASKED, "messages": history(first, **change)})
    prompts = [turn.tokens for turn in engine.turns]
    return prompts[0], prompts[1], answer.choices[0].message.content or ""


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", WRITTEN["hermes"]),
        ("hermes", f"Hello world.\n{WRITTEN['hermes']}"),
        ("hermes", TWO.replace("><", ">\n<")),
        ("llama", WRITTEN["llama"]),
        ("named", WRITTEN["named"]),
    ],
)
def test_a_conversation_with_a_call_keeps_the_ids_of_its_reply(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str, text: str
):
    first, second, said = two_turns(clients[family], engines[family], family, text)
    reply = (*encoded(family, text), EOS)
    assert second[: len(first) + len(reply)] == (*first, *reply)
    tokenizer = TemplatedTokenizer(TEMPLATES[family])
    rendered = tokenizer.decode(second, skip_special_tokens=False)
    again = tokenizer.encode(rendered, add_special_tokens=False)
    assert again != list(second)  # tokenised anew, the reply would have other ids
    results = ["sunny"] * text.count('"name"' if family != "named" else "[ARGS]")
    assert rendered.endswith("<eos><user>" + "<user>".join(results) + "<assistant>")
    assert said == "Sunny."


def test_a_client_that_writes_the_arguments_anew_keeps_the_ids_too(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    text = WRITTEN["hermes"]
    hermes.script = lambda turn: written("hermes", text)
    message = clients["hermes"].chat.completions.create(**ASKED).choices[0].message
    again = history(message)
    function = again[1]["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(json.loads(function["arguments"]), separators=(",", ":"))
    clients["hermes"].chat.completions.create(**{**ASKED, "messages": again})
    first, second = (turn.tokens for turn in hermes.turns)
    reply = (*encoded("hermes", text), EOS)
    assert second[: len(first) + len(reply)] == (*first, *reply)


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", WRITTEN["hermes"].replace(": ", ":")),  # written without spaces
        ("hermes", f"{WRITTEN['hermes']}\n"),
        ("llama", f"<|python_tag|>{WRITTEN['llama']}"),
        ("list", WRITTEN["list"]),  # the template adds ids
    ],
)
def test_where_the_template_writes_a_call_otherwise_the_prompt_before_it_is_kept(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str, text: str
):
    first, second, _ = two_turns(clients[family], engines[family], family, text)
    assert second[: len(first)] == first
    tokenizer = TemplatedTokenizer(TEMPLATES[family])
    rendered = tokenizer.decode(second, skip_special_tokens=False)
    assert list(second) == tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize(
    "change",
    [
        {"content": "I said something else."},
        {
            "tool_calls": [
                {
                    "id": "other",
                    "type": "function",
                    "function": {"name": "weather", "arguments": CABO},
                }
            ]
        },
    ],
)
def test_what_this_server_did_not_write_is_tokenised_as_it_stands(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine, change: dict[str, Any]
):
    first, second, _ = two_turns(clients["hermes"], hermes, "hermes", WRITTEN["hermes"], **change)
    assert second[: len(first)] == first
    tokenizer = TemplatedTokenizer(tool_templates.HERMES)
    rendered = tokenizer.decode(second, skip_special_tokens=False)
    assert list(second) == tokenizer.encode(rendered, add_special_tokens=False)


def ran(messages: Sequence[Any], message: dict[str, Any]) -> list[Any]:
    """The messages, a reply and what came of its calls."""
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": "sunny"}
        for call in message.get("tool_calls", ())
    ]
    return [*messages, message, *(results or [{"role": "user", "content": "and?"}])]


def conversation(server: Server, family: str, texts: Sequence[str], salt: str) -> list[Any]:
    """Have these replies one after another; each prompt begins with the last one and its reply."""
    engine = server.engine
    before = len(engine.turns)
    engine.script = lambda turn: written(family, texts[len(engine.turns) - 1 - before])
    messages = HI
    known: tuple[int, ...] = ()
    for number, text in enumerate(texts):
        answer = post(server, messages=messages, cache_salt=salt)
        prompt = engine.turns[-1].tokens
        assert prompt[: len(known)] == known, number
        known = (*prompt, *encoded(family, text), EOS)
        messages = ran(messages, answer.json()["choices"][0]["message"])
    engine.script = lambda turn: written(family, "Bye.")
    return messages


@pytest.mark.parametrize("family", ["hermes", "llama", "named"])
def test_an_agent_of_many_turns_computes_only_what_is_new(
    servers: dict[str, Server], engines: dict[str, FakeEngine], family: str
):
    """The same call again and again, with replies of text between: each is its own reply."""
    call = WRITTEN[family]
    texts = [*[call] * 12, "hello world", call, "hello world", "ok", call]
    conversation(servers[family], family, texts, "many")


@pytest.mark.parametrize("family", ["hermes", "llama", "named"])
def test_a_reply_is_found_behind_others_that_look_like_it(
    servers: dict[str, Server], engines: dict[str, FakeEngine], family: str
):
    """A call that the user wrote, and one that a reply of this server once was to somebody else."""
    engine = engines[family]
    call = WRITTEN[family]
    messages = conversation(servers[family], family, [call], "first")
    messages[0] = {"role": "user", "content": f"say {call}"}
    engine.script = lambda turn: written(family, call)
    answer = post(servers[family], messages=messages, cache_salt="other").json()
    known = (*engine.turns[-1].tokens, *encoded(family, call), EOS)
    messages = ran(messages, answer["choices"][0]["message"])
    post(servers[family], messages=messages, cache_salt="other")
    assert engine.turns[-1].tokens[: len(known)] == known


def test_looking_for_a_reply_ends(
    servers: dict[str, Server], engines: dict[str, FakeEngine], monkeypatch: pytest.MonkeyPatch
):
    server = servers["hermes"]
    call = WRITTEN["hermes"]
    messages = conversation(server, "hermes", [call], "ends")
    messages[0] = {"role": "user", "content": call * 40}
    tokenizer = server.service.tokenizer
    encodings = []
    encode = tokenizer.encode

    def counted(text: str, *, add_special_tokens: bool) -> list[int]:
        encodings.append(text)
        return encode(text, add_special_tokens=add_special_tokens)

    monkeypatch.setattr(tokenizer, "encode", counted)
    assert post(server, messages=messages, cache_salt="ends").status_code == 200
    assert len(encodings) == MAX_MISSES + 1


def test_text_before_a_call_that_was_a_reply_of_its_own_is_no_reply(
    servers: dict[str, Server], engines: dict[str, FakeEngine]
):
    text = "hello world"
    texts = [text, f"{text}\n{WRITTEN['hermes']}", text, f"{text}\n{WRITTEN['hermes']}"]
    conversation(servers["hermes"], "hermes", texts, "text")


def test_a_template_that_alters_text_leaves_calls_their_ids():
    shouts = tool_templates.HERMES.replace("message.content }}", "message.content | upper }}")
    assert shouts.count("upper") == 3
    with serve(EndpointConfig(), TemplatedTokenizer(shouts), MANY) as server:
        engine = server.engine
        messages = conversation(server, "hermes", [WRITTEN["hermes"], "abc"], "loud")
        post(server, messages=messages, cache_salt="loud")
        first, second, third = (turn.tokens for turn in engine.turns)
        call = (*encoded("hermes", WRITTEN["hermes"]), EOS)
        assert second[: len(first) + len(call)] == (*first, *call)
        assert third[: len(second)] == second
        assert third[len(second) : len(second) + 3] == tuple(b"ABC")


@pytest.mark.parametrize(
    ("family", "text", "reply_is_kept"),
    [
        ("hermes", f"Hello world.\n{WRITTEN['hermes']}", True),
        ("hermes", WRITTEN["hermes"].replace(": ", ":"), False),
        ("llama", WRITTEN["llama"], True),
        ("named", WRITTEN["named"], True),
        ("list", WRITTEN["list"], False),
    ],
)
@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_the_scheduler_finds_the_kv_of_a_conversation_with_a_call(
    servers: dict[str, Server],
    engines: dict[str, FakeEngine],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    text: str,
    reply_is_kept: bool,
    prefill_workers: int,
):
    """The served scheduler on fake devices that say what is written here."""
    says: list[int] = []

    def sample(history: object, seen: object, seed: int, reply_index: int) -> int:
        return says[reply_index] if reply_index < len(says) else EOS  # steps run ahead

    def scheduled(turn: Turn) -> Script:
        says[:] = [*encoded(family, text), EOS]
        reply = fleet.submit(turn)
        fleet.complete_all()
        assert reply.end is not None
        return Script([reply.tokens], cached_len=reply.end.cached_len)

    monkeypatch.setattr(fake_executor, "sample", sample)
    monkeypatch.setattr(fake_model, "sample", sample)
    fleet = FakeFleet.started(
        Shape(prefill_workers, num_pages=1500, prefill_pages=1500, max_model_len=5000)
    )
    engines[family].script = scheduled
    salt = {"cache_salt": f"{family}{text}{prefill_workers}", "max_tokens": 500}
    first = post(servers[family], **salt).json()
    messages = ran(HI, first["choices"][0]["message"])
    usage = post(servers[family], **salt, messages=messages).json()["usage"]
    # The last token of a reply is never run through the model.
    end = first["usage"]["total_tokens"] - 1
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    if reply_is_kept:
        assert cached == end
    else:
        assert first["usage"]["prompt_tokens"] <= cached < end
