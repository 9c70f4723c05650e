"""Which turn does a request become? Sampling, prompt, identity, and what was ignored."""

from typing import Any

import httpx
import pytest

from serving.request import Slo, Turn
from tests.serving.api.test_bad_input import CHAT, HI, PATHS, TEXT, error_of
from tests.support.fake_engine import FakeEngine
from tests.support.fake_tokenizer import ASSISTANT, BOS, EOS, SYSTEM, USER

TOOL = {"type": "function", "function": {"name": "f"}}
IGNORED = "x-foretoken-ignored-params"


def turn_of(
    http: httpx.Client,
    engine: FakeEngine,
    where: str,
    headers: dict[str, str] | None = None,
    **fields: Any,
) -> Turn:
    path, good = PATHS[where]
    answer = http.post(path, json={**good, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return engine.turns[-1]


def test_defaults(http: httpx.Client, engine: FakeEngine):
    turn = turn_of(http, engine, "text")
    sampling = turn.sampling
    assert (sampling.max_tokens, sampling.min_tokens) == (16, 0)
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (1, None, 1, 0)
    penalties = (
        sampling.repetition_penalty,
        sampling.presence_penalty,
        sampling.frequency_penalty,
    )
    assert penalties == (1, 0, 0)
    assert (sampling.logit_bias, sampling.allowed_ids, sampling.stop_ids) == ((), None, (EOS,))
    assert (sampling.logprobs, sampling.prompt_logprobs) == (None, None)
    assert (turn.session, turn.salt, turn.priority) == (None, "", 0)
    assert (turn.slo.ttft_s, turn.slo.tpot_s) == (None, None)


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"temperature": 0, "top_p": 0.5, "seed": 3}, "temperature", 0),
        ({"top_p": 0.25}, "top_p", 0.25),
        ({"top_p": 0}, "top_k", 1),
        ({"top_p": 1e-300}, "top_k", 1),
        ({"temperature": 1e-300}, "temperature", 0),
        ({"top_k": 7}, "top_k", 7),
        ({"top_k": 300}, "top_k", None),
        ({"top_k": 10**30}, "top_k", None),
        ({"top_k": 0}, "top_k", None),
        ({"top_k": -1}, "top_k", None),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"repetition_penalty": 1.2}, "repetition_penalty", 1.2),
        ({"presence_penalty": -2}, "presence_penalty", -2),
        ({"frequency_penalty": 2}, "frequency_penalty", 2),
        ({"seed": -9007199254740991}, "seed", -9007199254740991),
        ({"seed": 2**63 - 1}, "seed", 2**63 - 1),
        ({"logit_bias": {"5": -100, "7": 1.5, "x": 0}}, "logit_bias", ((5, -100.0), (7, 1.5))),
        ({"allowed_token_ids": [5, 6]}, "allowed_ids", (5, 6)),
        ({"allowed_token_ids": [5], "stop_token_ids": [5]}, "allowed_ids", (5,)),
        (
            {"allowed_token_ids": [5, 6], "stop_token_ids": [5], "min_tokens": 1},
            "allowed_ids",
            (5, 6),
        ),
        ({"stop_token_ids": [5, EOS]}, "stop_ids", (EOS, 5)),
        ({"stop_token_ids": [5], "ignore_eos": True}, "stop_ids", (5,)),
        ({"ignore_eos": True}, "stop_ids", ()),
        ({"min_tokens": 3, "max_tokens": 3}, "min_tokens", 3),
        ({"max_tokens": 7}, "max_tokens", 7),
        ({"stop": None, "n": None, "temperature": None, "stream": None}, "temperature", 1),
        ({"best_of": 0}, "temperature", 1),
        ({"best_of": 1}, "temperature", 1),
        ({"response_format": {"type": "text"}}, "temperature", 1),
    ],
    ids=str,
)
def test_honoured_fields(
    http: httpx.Client,
    engine: FakeEngine,
    where: str,
    fields: dict[str, Any],
    name: str,
    value: Any,
):
    assert getattr(turn_of(http, engine, where, **fields).sampling, name) == value


def test_max_completion_tokens_win_over_max_tokens(http: httpx.Client, engine: FakeEngine):
    turn = turn_of(http, engine, "chat", max_completion_tokens=5, max_tokens=9)
    assert turn.sampling.max_tokens == 5


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [
        ([{"role": "developer", "content": "a"}], (BOS, SYSTEM, 97, ASSISTANT)),
        ([{"role": "system", "content": "a"}] * 2, (BOS, SYSTEM, 97, SYSTEM, 97, ASSISTANT)),
        ([{"role": "user", "content": "a", "name": "n"}] * 2, (BOS, USER, 97, USER, 97, ASSISTANT)),
        (
            [{"role": "user", "content": [{"type": "text", "text": t} for t in "xy"]}],
            (BOS, USER, *b"x\ny", ASSISTANT),
        ),
        (
            [
                *HI,
                {"role": "assistant", "content": None, "tool_calls": [TOOL]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
            ],
            (BOS, USER, *b"hi", ASSISTANT, EOS, USER, *b"r", ASSISTANT),
        ),
    ],
)
def test_messages(
    http: httpx.Client, engine: FakeEngine, messages: list[dict[str, Any]], tokens: tuple[int, ...]
):
    assert turn_of(http, engine, "chat", messages=messages).tokens == tokens


@pytest.mark.parametrize("final", ["so ", " so", "", " ", ">", "eos", "<eos"])
def test_a_final_message_is_continued(http: httpx.Client, engine: FakeEngine, final: str):
    messages = [*HI, {"role": "assistant", "content": final}]
    turn = turn_of(http, engine, "chat", messages=messages, continue_final_message=True)
    assert turn.tokens == (BOS, USER, *b"hi", ASSISTANT, *final.encode())


def test_a_prompt_is_cut_to_its_last_tokens_on_request(http: httpx.Client, engine: FakeEngine):
    turn = turn_of(http, engine, "text", prompt=[1, 2, 3, 4], truncate_prompt_tokens=2)
    assert turn.tokens == (3, 4)
    turn = turn_of(http, engine, "chat", truncate_prompt_tokens=2)
    assert turn.tokens == (*b"i", ASSISTANT)


def test_tools_reach_the_template_unless_none_is_chosen(http: httpx.Client, engine: FakeEngine):
    tools = [TOOL]
    with_tools = turn_of(http, engine, "chat", tools=tools)
    without = turn_of(http, engine, "chat", tools=tools, tool_choice="none")
    assert with_tools.tokens[:2] == (BOS, SYSTEM)
    assert without.tokens[:2] == (BOS, USER)


def test_template_variables_reach_the_template(http: httpx.Client, engine: FakeEngine):
    turn = turn_of(http, engine, "chat", chat_template_kwargs={"shout": True})
    assert turn.tokens == (BOS, USER, *b"HI", ASSISTANT)


SESSION_HEADERS = [
    "x-session-id",
    "X-Session-Affinity",
    "X-Dynamo-Session-ID",
    "x-claude-code-session-id",
    "session-id",
    "X-SMG-Routing-Key",
    "x-session-token",
]


@pytest.mark.parametrize("name", SESSION_HEADERS)
def test_a_session_has_the_name_its_client_gave_it(
    http: httpx.Client, engine: FakeEngine, name: str
):
    first = turn_of(http, engine, "text", {name: "one"}).session
    again = turn_of(http, engine, "text", {name: "one"}).session
    other = turn_of(http, engine, "text", {name: "two"}).session
    assert first == again
    assert len({first, other, None}) == 3
    assert "one" not in str(first)


def test_sessions_of_different_keys_never_meet(http: httpx.Client, engine: FakeEngine):
    keys = [{"x-session-id": "one", "authorization": f"Bearer {key}"} for key in "ab"]
    mine, yours = (turn_of(http, engine, "text", headers) for headers in keys)
    assert mine.session != yours.session
    assert mine.salt != yours.salt


def test_the_most_trusted_name_wins(http: httpx.Client, engine: FakeEngine):
    named = turn_of(http, engine, "text", {SESSION_HEADERS[0]: "x"}).session
    both = {SESSION_HEADERS[0]: "x", SESSION_HEADERS[1]: "y"}
    assert turn_of(http, engine, "text", both, prompt_cache_key="z").session == named
    by_body = turn_of(http, engine, "text", prompt_cache_key="x").session
    assert by_body == named


@pytest.mark.parametrize("name", ["x-correlation-id", "x-request-id"])
def test_request_ids_are_no_sessions(http: httpx.Client, engine: FakeEngine, name: str):
    assert turn_of(http, engine, "text", {name: "one"}, user="me").session is None


def test_salts_separate_tenants(http: httpx.Client, engine: FakeEngine):
    salts = {
        turn_of(http, engine, "text", headers, cache_salt=salt).salt
        for headers in ({}, {"authorization": "Bearer a"}, {"authorization": "Bearer b"})
        for salt in (None, "a", "b")
    }
    assert len(salts) == 9


def test_targets_and_priority(http: httpx.Client, engine: FakeEngine):
    headers = {"x-llm-d-slo-ttft-ms": "250", "x-slo-tpot-ms": "12.5"}
    turn = turn_of(http, engine, "text", headers, priority=-3)
    assert (turn.slo.ttft_s, turn.slo.tpot_s, turn.priority) == (0.25, 0.0125, -3)
    hinted = turn_of(http, engine, "text", nvext={"agent_hints": {"priority": 4}})
    assert hinted.priority == 4


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_target_must_be_a_positive_number(http: httpx.Client, value: str):
    answer = http.post("/v1/completions", json=TEXT, headers={"x-slo-tpot-ms": value})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "x-slo-tpot-ms"


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ([("x-llm-d-slo-ttft-ms", "250"), ("x-slo-ttft-ms", "9")], "x-llm-d-slo-ttft-ms"),
        ([("x-slo-tpot-ms", "9"), ("x-llm-d-slo-tpot-ms", "250")], "x-llm-d-slo-tpot-ms"),
        ([("x-slo-ttft-ms", "9"), ("x-slo-ttft-ms", "10")], "x-slo-ttft-ms"),
        ([("x-llm-d-slo-tpot-ms", "9, 10")], "x-llm-d-slo-tpot-ms"),
        ([("x-llm-d-slo-ttft-ms", "9"), ("x-llm-d-slo-ttft-ms", "soon")], "x-llm-d-slo-ttft-ms"),
        ([("x-llm-d-slo-ttft-ms", "9"), ("x-slo-ttft-ms", "-9")], "x-slo-ttft-ms"),
    ],
)
def test_contradictory_targets_are_400_and_name_the_header(
    http: httpx.Client, engine: FakeEngine, sent: list[tuple[str, str]], named: str
):
    answer = http.post("/v1/completions", json=TEXT, headers=sent)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == named
    assert f"`{named}`" in error_of(answer)["message"]
    assert not engine.turns


@pytest.mark.parametrize(
    "sent",
    [
        [("x-llm-d-slo-ttft-ms", "250"), ("x-slo-ttft-ms", "250.0")],
        [("x-slo-ttft-ms", "250"), ("x-slo-ttft-ms", "250")],
        [("x-llm-d-slo-ttft-ms", "250, 250")],
    ],
)
def test_a_target_may_be_sent_twice_if_it_is_the_same(
    http: httpx.Client, engine: FakeEngine, sent: list[tuple[str, str]]
):
    assert http.post("/v1/completions", json=TEXT, headers=sent).status_code == 200
    assert engine.turns[-1].slo == Slo(0.25, None)


def test_a_target_per_token_may_be_above_that_of_the_first(http: httpx.Client, engine: FakeEngine):
    """A reader wants the first word at once, and then as fast as one reads."""
    turn = turn_of(http, engine, "text", {"x-slo-ttft-ms": "100", "x-slo-tpot-ms": "200"})
    assert turn.slo == Slo(0.1, 0.2)


def test_a_session_name_has_a_limit(http: httpx.Client):
    answer = http.post("/v1/completions", json=TEXT, headers={"x-session-id": "x" * 257})
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "x-session-id"


@pytest.mark.parametrize(
    ("where", "fields", "header"),
    [
        ("chat", {}, None),
        ("chat", {"metadata": None, "user": None}, None),
        ("chat", {"user": "me"}, "user"),
        (
            "chat",
            {"metadata": {}, "store": False, "service_tier": "auto"},
            "metadata,service_tier,store",
        ),
        ("chat", {"audio": {"voice": "x"}, "modalities": ["text"]}, "audio"),
        ("chat", {"tools": [TOOL], "tool_choice": "none"}, "tools"),
        ("chat", {"functions": [{}], "function_call": "none"}, "function_call,functions"),
        ("chat", {"reasoning_effort": "low"}, "reasoning_effort"),
        ("chat", {"bad_words": [], "logits_processors": None}, None),
        ("chat", {"max_token": 5}, "unknown=max_token"),
        ("chat", {"evil\r\nx: y": 1, "oth,er": 2}, "unknown=evil??x??y,unknown=oth?er"),
        ("text", {"suffix": "x", "wild\u0661": 1}, "suffix,unknown=wild?"),
        ("text", {"w" * 1000: 1}, f"unknown={'w' * 48}"),
        (
            "chat",
            {f"f{i}": i for i in range(10)},
            ",".join([f"unknown=f{i}" for i in range(8)] + ["unknown=+2"]),
        ),
    ],
)
def test_ignored_fields_are_named(
    http: httpx.Client, where: str, fields: dict[str, Any], header: str | None
):
    path, good = PATHS[where]
    for streamed in (False, True):
        answer = http.post(path, json={**good, **fields, "stream": streamed})
        assert answer.status_code == 200, answer.text
        assert answer.headers.get(IGNORED) == header


def test_the_answer_names_the_model_as_the_client_did(http: httpx.Client):
    answer = http.post("/v1/chat/completions", json={**CHAT, "model": "alias"})
    assert answer.json()["model"] == "alias"


def test_a_request_may_bring_its_own_id(http: httpx.Client, engine: FakeEngine):
    for _ in range(2):
        answer = http.post("/v1/chat/completions", json={**CHAT, "request_id": "mine"})
        assert answer.json()["id"] == "chatcmpl-mine"
    assert engine.turns[0].id != engine.turns[1].id


@pytest.mark.parametrize("name", ["a\r\nb", "a b", "\u00e9", "\x7f", "\t"])
def test_an_id_that_does_not_belong_in_a_log_is_refused(http: httpx.Client, name: str):
    answer = http.post("/v1/chat/completions", json={**CHAT, "request_id": name})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["message"] == "request_id: must be visible ASCII characters without spaces."
    assert error["param"] == "request_id"


def test_an_id_may_have_any_visible_character(http: httpx.Client):
    name = "".join(map(chr, range(33, 127)))
    answer = http.post("/v1/chat/completions", json={**CHAT, "request_id": name})
    assert answer.json()["id"] == f"chatcmpl-{name}"
