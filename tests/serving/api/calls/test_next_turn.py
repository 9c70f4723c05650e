"""Replies with calls in the next turn: they keep their token ids, and the scheduler their KV."""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage

from serving.api.splicing import MAX_MISSES
from serving.config import EndpointConfig
from serving.request import Turn
from tests.serving.api.conftest import Server, serve
from tests.support import fake_executor, fake_model, tool_templates
from tests.support.calling import (
    ASKED,
    CABO,
    HI,
    MANY,
    TEMPLATES,
    TWO,
    WRITTEN,
    encoded,
    post,
    written,
)
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_tokenizer import EOS
from tests.support.shape import Shape
from tests.support.tool_templates import TemplatedTokenizer


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
