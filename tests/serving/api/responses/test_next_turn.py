"""A next turn that names the last response: its conversation, its session, and who may name it."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from serving.config import EndpointConfig
from serving.messages import Failed
from serving.request import Turn
from tests.serving.api.conftest import Server, serve
from tests.serving.api.responses.test_text import ASKED
from tests.serving.api.test_bad_input import error_of
from tests.support import fake_executor, fake_model
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER, FakeTokenizer
from tests.support.shape import Shape

X: dict[str, Any] = {**ASKED, "input": "x"}
Y: dict[str, Any] = {**ASKED, "input": "y"}
ABC = (*b"abc", EOS)
"""As bytes, where the tokenizer would have a word."""


def says_abc(engine: FakeEngine) -> None:
    engine.script = lambda turn: each(ABC)


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_goes_on_from_the_tokens_of_the_last(
    client: openai.OpenAI, engine: FakeEngine, stream: bool
):
    says_abc(engine)
    if stream:
        last = list(client.responses.create(**ASKED, stream=True))[-1]
        assert last.type == "response.completed"
        first = last.response
    else:
        first = client.responses.create(**ASKED)
    second = client.responses.create(**X, previous_response_id=first.id)
    third = client.responses.create(**Y, previous_response_id=second.id)
    assert third.previous_response_id == second.id
    one, two, three = (turn.tokens for turn in engine.turns)
    assert one == (BOS, USER, *b"hi", ASSISTANT)
    assert two == (*one, *ABC, USER, *b"x", ASSISTANT)
    assert three == (*two, *ABC, USER, *b"y", ASSISTANT)


def test_all_turns_are_of_one_session(client: openai.OpenAI, engine: FakeEngine):
    first = client.responses.create(**ASKED)
    second = client.responses.create(**ASKED, previous_response_id=first.id)
    client.responses.create(**ASKED, previous_response_id=second.id)
    client.responses.create(**ASKED, previous_response_id=first.id)  # two go on from one
    client.responses.create(**ASKED)
    one, two, three, four, other = (turn.session for turn in engine.turns)
    assert one == two == three == four
    assert None not in (one, other)
    assert one != other


def test_a_session_that_a_header_names_goes_on_and_another_header_leaves_it(
    client: openai.OpenAI, engine: FakeEngine
):
    named: dict[str, Any] = {"extra_headers": {"x-session-id": "mine"}}
    first = client.responses.create(**ASKED, **named)
    client.responses.create(**ASKED, previous_response_id=first.id)
    other: dict[str, Any] = {"extra_headers": {"x-session-id": "other"}}
    client.responses.create(**ASKED, **other, previous_response_id=first.id)
    client.chat.completions.create(
        model="org/fake", messages=[{"role": "user", "content": "hi"}], **named
    )
    one, two, three, chat = (turn.session for turn in engine.turns)
    assert one == two == chat
    assert one is not None
    assert three not in (None, one)


def test_a_session_goes_before_the_hint_of_a_later_turn(client: openai.OpenAI, engine: FakeEngine):
    first = client.responses.create(**ASKED, prompt_cache_key="a")
    client.responses.create(**ASKED, previous_response_id=first.id, prompt_cache_key="b")
    client.responses.create(**ASKED, prompt_cache_key="a")
    one, two, again = (turn.session for turn in engine.turns)
    assert one == two == again
    assert one is not None


def test_a_conversation_that_comes_with_its_replies_is_known_by_its_tokens(
    client: openai.OpenAI, engine: FakeEngine
):
    history: Any = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "abc"},
        {"role": "user", "content": "x"},
    ]
    answer = client.responses.create(model="org/fake", input=history)
    client.responses.create(**ASKED, previous_response_id=answer.id)
    client.responses.create(**ASKED, store=False)
    assert [turn.session for turn in engine.turns] == [None, None, None]


def test_instructions_are_those_of_each_turn(client: openai.OpenAI, engine: FakeEngine):
    says_abc(engine)
    first = client.responses.create(**ASKED, instructions="one")
    assert first.instructions == "one"
    client.responses.create(**ASKED, previous_response_id=first.id)
    client.responses.create(**ASKED, previous_response_id=first.id, instructions="two")
    one, none, two = (turn.tokens for turn in engine.turns)
    assert one[:5] == (BOS, SYSTEM, *b"one")
    assert none[:4] == (BOS, USER, *b"hi")
    assert two[:7] == (BOS, SYSTEM, *b"two", USER, *b"h")


def test_a_cut_reply_can_be_continued(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdef")
    first = client.responses.create(**ASKED, max_output_tokens=4)
    client.responses.create(**ASKED, previous_response_id=first.id)
    one, two = (turn.tokens for turn in engine.turns)
    assert two == (*one, *b"abcd", EOS, USER, *b"hi", ASSISTANT)


def test_a_response_is_retrieved_as_it_was_answered(
    strict_client: openai.OpenAI, engine: FakeEngine
):
    says_abc(engine)
    answer = strict_client.responses.create(**ASKED, metadata={"a": "b"})
    assert strict_client.responses.retrieve(answer.id) == answer


def test_a_streamed_response_is_there_before_its_end_is_sent(
    client: openai.OpenAI, engine: FakeEngine
):
    says_abc(engine)
    for event in client.responses.create(**ASKED, stream=True):
        if event.type == "response.completed":
            assert client.responses.retrieve(event.response.id) == event.response


def test_a_deleted_response_is_gone_and_its_conversation_goes_on(
    client: openai.OpenAI, http: httpx.Client, engine: FakeEngine
):
    says_abc(engine)
    first = client.responses.create(**ASKED)
    second = client.responses.create(**ASKED, previous_response_id=first.id)
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(**ASKED, previous_response_id=first.id)
    client.responses.create(**ASKED, previous_response_id=second.id)
    assert engine.turns[-1].tokens[: len(engine.turns[0].tokens)] == engine.turns[0].tokens
    third = http.post("/v1/responses", json=ASKED).json()["id"]
    gone = http.delete(f"/v1/responses/{third}").json()
    assert gone == {"id": third, "object": "response", "deleted": True}


@pytest.mark.parametrize("fields", [{"store": False}, {}])
def test_what_is_not_stored_is_not_there(
    client: openai.OpenAI, engine: FakeEngine, fields: dict[str, Any]
):
    answer = client.responses.create(**ASKED, **fields)
    if fields:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answer.id)
    else:
        assert client.responses.retrieve(answer.id).id == answer.id


def test_others_do_not_see_a_response(client: openai.OpenAI, engine: FakeEngine):
    answer = client.responses.create(**ASKED)
    other = client.with_options(api_key="other")
    for ask in (
        lambda: other.responses.retrieve(answer.id),
        lambda: other.responses.delete(answer.id),
        lambda: other.responses.create(**ASKED, previous_response_id=answer.id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
    assert client.responses.retrieve(answer.id).id == answer.id
    assert len(engine.turns) == 1


def test_an_unknown_response_is_a_404_that_names_the_field(http: httpx.Client, engine: FakeEngine):
    answer = http.post("/v1/responses", json={**ASKED, "previous_response_id": "resp_x"})
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("NotFoundError", "previous_response_id")
    assert error["code"] == "previous_response_not_found"
    assert "resp_x" in error["message"]
    for answer in (http.get("/v1/responses/resp_x"), http.delete("/v1/responses/resp_x")):
        assert answer.status_code == 404
        assert error_of(answer)["code"] == "response_not_found"
    assert engine.turns == []


def test_a_response_expires(monkeypatch: pytest.MonkeyPatch):
    config = EndpointConfig(stored_response_seconds=60)
    now = 1000.0
    with serve(config, FakeTokenizer()) as server:
        monkeypatch.setattr(server.service, "seconds", lambda: now)
        first = asked(server)
        now += 60
        second = asked(server, first)
        now += 60.5
        for id in (first, second):
            answer = httpx.get(f"{server.url}/v1/responses/{id}", trust_env=False)
            assert answer.status_code == 404


def test_responses_leave_for_others():
    with serve(EndpointConfig(max_stored_responses=1), FakeTokenizer()) as server:
        first, second = asked(server), asked(server)
        found = [
            httpx.get(f"{server.url}/v1/responses/{id}", trust_env=False).status_code
            for id in (first, second)
        ]
        assert found == [404, 200]


def test_a_conversation_that_is_too_large_is_not_kept():
    with serve(EndpointConfig(max_stored_bytes=1000), FakeTokenizer()) as server:
        id = asked(server)
        answer = httpx.get(f"{server.url}/v1/responses/{id}", trust_env=False)
        assert answer.status_code == 404


def test_a_long_conversation_is_read_in_a_thread_however_short_its_next_turn(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
):
    """Tokenising it in the event loop would hold up every other stream."""
    threads: list[Any] = []
    to_thread = asyncio.to_thread

    async def counted(work: Any, *args: Any) -> Any:
        threads.append(work)
        return await to_thread(work, *args)

    monkeypatch.setattr("serving.api.text.asyncio.to_thread", counted)
    monkeypatch.setattr("serving.api.text.LONG_BODY_BYTES", 600)
    first = client.responses.create(model="org/fake", input="hello" * 100)
    assert threads == []
    client.responses.create(**ASKED, previous_response_id=first.id)
    assert len(threads) == 1
    client.responses.create(**ASKED)
    assert len(threads) == 1


def asked(server: Server, before: str | None = None) -> str:
    body = {**ASKED, "previous_response_id": before}
    answer = httpx.post(f"{server.url}/v1/responses", json=body, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_failed_is_not_kept(
    client: openai.OpenAI, server: Server, engine: FakeEngine, stream: bool
):
    engine.script = lambda turn: Script([[97], [98]], Failed("engine_dead", "dead"))
    before = len(server.service.stored)
    if stream:
        assert list(client.responses.create(**ASKED, stream=True))[-1].type == "response.failed"
    else:
        with pytest.raises(openai.InternalServerError):
            client.responses.create(**ASKED)
    assert len(server.service.stored) == before


@pytest.mark.parametrize("query", ["stream=true", "include[]=x", "starting_after=1"])
def test_what_cannot_be_retrieved_is_refused(http: httpx.Client, query: str):
    id = http.post("/v1/responses", json=ASKED).json()["id"]
    answer = http.get(f"/v1/responses/{id}?{query}")
    assert answer.status_code == 400
    assert error_of(answer)["param"] == query.split("=")[0]
    assert http.get(f"/v1/responses/{id}?stream=false").status_code == 200


@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_the_scheduler_finds_the_kv_of_the_conversation(
    client: openai.OpenAI,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    prefill_workers: int,
):
    """The served scheduler on fake devices that say what is written here."""
    says = [*b"abc hello", EOS]

    def sample(history: object, seen: object, seed: int, reply_index: int) -> int:
        return says[reply_index] if reply_index < len(says) else EOS  # steps run ahead

    def scheduled(turn: Turn) -> Script:
        reply = fleet.submit(turn)
        fleet.complete_all()
        assert reply.end is not None
        return Script([reply.tokens], cached_len=reply.end.cached_len)

    monkeypatch.setattr(fake_executor, "sample", sample)
    monkeypatch.setattr(fake_model, "sample", sample)
    fleet = FakeFleet.started(
        Shape(prefill_workers, num_pages=300, prefill_pages=300, max_model_len=1000)
    )
    engine.script = scheduled
    asks = {**ASKED, "instructions": "be kind", "max_output_tokens": 50}
    asks["extra_body"] = {"cache_salt": str(prefill_workers)}
    answer, known = client.responses.create(**asks), 0
    for _ in range(3):
        usage = answer.usage
        assert usage is not None
        assert usage.input_tokens_details.cached_tokens == known
        known = usage.total_tokens - 1  # the last token of a reply is never run through the model
        answer = client.responses.create(**asks, previous_response_id=answer.id)
