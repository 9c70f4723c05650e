"""Plain responses: the official client drives them, streamed and not."""

from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseOutputMessage, ResponseStreamEvent
from pydantic import TypeAdapter

from serving.messages import Failed, Rejected
from tests.serving.api.test_bad_input import error_of
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER

ASKED: dict[str, Any] = {"model": "org/fake", "input": "hi"}
SAYS = "grüße\u2028x"
EVENTS: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)


def test_a_response_is_whole(strict_client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: Script([[*SAYS.encode(), EOS]], cached_len=3)
    answer = strict_client.responses.create(**ASKED, metadata={"a": "b"}, user="u")
    assert answer.output_text == SAYS
    assert answer.id.startswith("resp_")
    assert (answer.object, answer.status, answer.model) == ("response", "completed", "org/fake")
    assert (answer.metadata, answer.user, answer.instructions) == ({"a": "b"}, "u", None)
    (message,) = answer.output
    assert isinstance(message, ResponseOutputMessage)
    assert (message.role, message.status) == ("assistant", "completed")
    assert engine.turns[0].tokens == (BOS, USER, *b"hi", ASSISTANT)
    usage = answer.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (5, 12, 17)
    details = usage.input_tokens_details
    assert (details.cached_tokens, details.cache_write_tokens) == (3, 2)
    assert answer.created_at <= (answer.completed_at or 0)


def test_instructions_come_first_and_items_are_messages(client: openai.OpenAI, engine: FakeEngine):
    client.responses.create(
        model="org/fake",
        instructions="be",
        input=[
            {"role": "developer", "content": "d"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
            {"role": "assistant", "content": "y"},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "1"},
                    {"type": "input_text", "text": "2"},
                ],
            },
        ],
    )
    said = (SYSTEM, *b"be", SYSTEM, *b"d", USER, *b"x", ASSISTANT, *b"y", EOS, USER, *b"1\n2")
    assert engine.turns[0].tokens == (BOS, *said, ASSISTANT)


def test_sampling_is_as_asked_and_shown(client: openai.OpenAI, engine: FakeEngine):
    answer = client.responses.create(
        **ASKED,
        temperature=0.5,
        top_p=0.25,
        max_output_tokens=7,
        extra_body={"seed": 3, "top_k": 4, "priority": 5},
    )
    turn = engine.turns[0]
    sampling = turn.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.5, 0.25, 7)
    assert (sampling.seed, sampling.top_k, turn.priority) == (3, 4, 5)
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (0.5, 0.25, 7)


def test_what_is_left_open_is_shown_as_it_is(client: openai.OpenAI):
    answer = client.responses.create(**ASKED)
    assert (answer.temperature, answer.top_p, answer.max_output_tokens) == (1.0, 1.0, None)


def test_variables_go_to_the_template(client: openai.OpenAI, engine: FakeEngine):
    client.responses.create(**ASKED, extra_body={"chat_template_kwargs": {"shout": True}})
    assert engine.turns[0].tokens == (BOS, USER, *b"HI", ASSISTANT)


def test_a_reply_that_is_cut_is_incomplete(strict_client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdef")
    answer = strict_client.responses.create(**ASKED, max_output_tokens=4)
    assert (answer.status, answer.output_text) == ("incomplete", "abcd")
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.completed_at is None
    (message,) = answer.output
    assert isinstance(message, ResponseOutputMessage)
    assert message.status == "incomplete"


def test_a_reply_that_says_nothing_is_an_empty_message(
    strict_client: openai.OpenAI, engine: FakeEngine
):
    engine.script = lambda turn: each([EOS])
    answer = strict_client.responses.create(**ASKED)
    assert len(answer.output) == 1
    assert answer.output_text == ""
    assert answer.status == "completed"


def test_a_stream_is_officials_events(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each([*b"xy", EOS])
    events = list(client.responses.create(**ASKED, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    created, completed = events[0], events[-1]
    assert created.type == "response.created"
    assert (created.response.status, created.response.output) == ("in_progress", [])
    assert completed.type == "response.completed"
    assert completed.response.output_text == "xy"
    assert completed.response.usage is not None
    assert completed.response.usage.output_tokens == 3
    assert completed.response.id == created.response.id


def test_every_event_is_named_and_is_of_its_type(http: httpx.Client, engine: FakeEngine):
    """The official client builds events without checking them; here each is checked."""
    engine.script = lambda turn: each([*SAYS.encode(), EOS])
    answer = http.post("/v1/responses", json={**ASKED, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    for event in events:
        name, data = event.splitlines()  # also for readers that split by Unicode
        parsed = EVENTS.validate_json(data.removeprefix("data: "))
        assert name == f"event: {parsed.type}"


def test_the_streaming_helper_puts_a_response_together(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each([*SAYS.encode(), EOS])
    with client.responses.stream(**ASKED) as stream:
        texts = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == SAYS == final.output_text
    assert len(texts) > 5


def test_a_stream_that_is_cut_is_incomplete(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdef")
    last = list(client.responses.create(**ASKED, max_output_tokens=4, stream=True))[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == "abcd"


def test_a_stream_that_breaks_off_says_so(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: Script([[97], [98]], Failed("engine_dead", "The engine died."))
    *events, last = client.responses.create(**ASKED, stream=True)
    assert events[-1].type == "response.output_text.delta"
    assert last.type == "response.failed"
    assert last.sequence_number == len(events)
    response = last.response
    assert response.status == "failed"
    assert response.error is not None
    assert (response.error.code, response.error.message) == ("server_error", "The engine died.")
    assert response.output_text == "ab"
    assert response.output[0].model_dump()["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_turn_is_an_http_error(http: httpx.Client, engine: FakeEngine, stream: bool):
    engine.script = lambda turn: Script([], Rejected("queue_full", "Too many turns wait."))
    answer = http.post("/v1/responses", json={**ASKED, "stream": stream})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert error_of(answer)["code"] == "queue_full"


def test_whole_and_streamed_are_the_same(client: openai.OpenAI, engine: FakeEngine):
    script = Script([[97, 98], [99], [EOS]], cached_len=2)
    engine.script = lambda turn: script
    first = client.responses.create(**ASKED)
    last = list(client.responses.create(**ASKED, stream=True))[-1]
    assert last.type == "response.completed"
    whole, streamed = (
        response.model_dump(
            exclude={"id": True, "created_at": True, "completed_at": True, "output": {0: {"id"}}}
        )
        for response in (first, last.response)
    )
    assert whole == streamed
    assert whole["output"][0]["content"][0]["text"] == "abc"
