"""The line in the log that a request for a response has, and those for responses that are kept."""

from typing import Any

import httpx
import pytest

from serving.messages import Failed, Rejected
from tests.serving.api.conftest import Lines, Server
from tests.serving.api.responses.test_text import ASKED
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import EOS

PATH = "/v1/responses"
STREAMED = pytest.mark.parametrize("streamed", [False, True])


@STREAMED
def test_a_reply_that_is_cut_ended_by_its_length(
    http: httpx.Client, engine: FakeEngine, lines: Lines, streamed: bool
):
    engine.script = lambda turn: each(b"abcdef")
    http.post(PATH, json={**ASKED, "max_output_tokens": 4, "stream": streamed})
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == ("200", "length", "4")


def test_turns_of_one_conversation_have_one_session(
    http: httpx.Client, engine: FakeEngine, lines: Lines
):
    """Nobody named it: a first turn that is kept opens one."""
    engine.script = lambda turn: Script([[97, EOS]], cached_len=len(engine.turns) - 1)
    first = http.post(PATH, json=ASKED).json()["id"]
    second = http.post(PATH, json={**ASKED, "previous_response_id": first}).json()["id"]
    http.post(PATH, json={**ASKED, "store": False})
    one, two, alone = lines.next(), lines.next(), lines.next()
    assert (one["id"], two["id"]) == (first, second)
    assert one["session"] == two["session"] == engine.turns[0].session
    assert (one["cached"], two["cached"]) == ("0", "1")
    assert int(two["prompt"]) == len(engine.turns[1].tokens) > int(one["prompt"])
    assert "session" not in alone


@STREAMED
def test_a_refused_turn_ends_with_its_code(
    http: httpx.Client, engine: FakeEngine, lines: Lines, streamed: bool
):
    engine.script = lambda turn: Script([], Rejected("queue_full", "full"))
    http.post(PATH, json={**ASKED, "stream": streamed})
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == ("429", "queue_full", "0")
    assert not {"cached", "ttft"} & line.keys()


def test_a_stream_that_breaks_ends_with_its_code(
    http: httpx.Client, engine: FakeEngine, lines: Lines
):
    """The event calls it `server_error`, as OpenAI does; the log says what it was."""
    engine.script = lambda turn: Script([[97], [98]], Failed("engine_dead", "dead"))
    http.post(PATH, json={**ASKED, "stream": True})
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == ("200", "engine_dead", "2")


@STREAMED
def test_a_client_that_leaves(server: Server, engine: FakeEngine, lines: Lines, streamed: bool):
    engine.script = lambda turn: Script([[97], [98]] if streamed else [], stalls=True)
    body = {**ASKED, "stream": streamed}
    with httpx.Client(base_url=server.url, trust_env=False) as leaving:
        if streamed:
            with leaving.stream("POST", PATH, json=body) as answer:
                assert any('"delta":"b"' in line for line in answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post(PATH, json=body, timeout=httpx.Timeout(5, read=0.2))
    line = lines.next()
    told = (line["status"], line["ended"], line["completion"])
    assert told == (("200", "client_left", "2") if streamed else ("-", "client_left", "0"))


def test_what_reaches_no_engine(http: httpx.Client, lines: Lines):
    id = http.post(PATH, json=ASKED).json()["id"]
    lines.next()
    asks: list[tuple[str, str, dict[str, Any] | None]] = [
        ("GET", f"{PATH}/{id}", None),
        ("DELETE", f"{PATH}/{id}", None),
        ("GET", f"{PATH}/{id}", None),
        ("POST", PATH, {**ASKED, "previous_response_id": id}),
        ("POST", PATH, {**ASKED, "max_tokens": 5}),
        ("POST", PATH, {**ASKED, "tools": [{"type": "function", "name": "a b"}]}),
    ]
    told = []
    for method, path, body in asks:
        http.request(method, path, json=body)
        line = lines.next()
        assert (line["method"], line["path"]) == (method, path)
        assert "prompt" not in line
        told.append((line["status"], line["ended"]))
    assert told == [
        ("200", "answered"),
        ("200", "answered"),
        ("404", "response_not_found"),
        ("404", "previous_response_not_found"),
        ("400", "refused"),
        ("400", "refused"),
    ]
