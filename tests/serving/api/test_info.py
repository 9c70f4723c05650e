"""What the server says about itself and its tokenizer."""

from dataclasses import replace

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.sampling_defaults import SamplingDefaults
from serving.api.id_tokenizer import IdTokenizer
from serving.api.info import RANDOM_HEADER
from serving.config import EndpointConfig
from serving.messages import EngineState, LoadReport, WorkerId, WorkerMeans
from serving.request import SamplingParams
from tests.serving.api.conftest import MODEL, serve
from tests.serving.api.test_bad_input import CHAT, HI, TEXT, error_of
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_tokenizer import BOS, SPECIALS, FakeTokenizer


def test_models_are_listed_under_every_name(client: openai.OpenAI, http: httpx.Client):
    assert [model.id for model in client.models.list()] == ["org/fake", "alias"]
    card = http.get("/v1/models").json()["data"][0]
    assert card == {
        "id": "org/fake",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "foretoken",
        "root": "org/fake",
        "parent": None,
        "max_model_len": 1000,
        "random_weights": False,
        "permission": [],
    }


def test_random_weights_are_told_and_their_ids_stand_for_text():
    model = replace(MODEL, random_weights=True)
    with (
        serve(EndpointConfig(), IdTokenizer(300, (256,)), model) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http,
    ):
        assert http.get("/v1/models").json()["data"][0]["random_weights"] is True
        assert http.get("/health").headers[RANDOM_HEADER] == "true"
        server.engine.script = lambda turn: Script([[97], [5, 0]])
        answer = http.post("/v1/completions", json={"model": "alias", "prompt": [1, 2]})
        assert answer.json()["choices"][0]["text"] == "97 5 0 "
        assert server.engine.turns[0].tokens == (1, 2)
        for path, body, param in (
            ("/v1/completions", TEXT, "prompt"),
            ("/v1/chat/completions", CHAT, "messages"),
            ("/tokenize", {"prompt": "x"}, "prompt"),
        ):
            refused = http.post(path, json=body)
            assert refused.status_code == 400
            assert error_of(refused)["code"] == "no_tokenizer"
            assert error_of(refused)["param"] == param


def test_what_a_request_does_not_say_of_sampling_the_model_does():
    model = replace(MODEL, defaults=SamplingDefaults(0.6, 0.95, 20, 0.1, 1.05))
    with (
        serve(EndpointConfig(), FakeTokenizer(), model) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http,
    ):
        server.engine.script = lambda turn: Script([[97], [5, 0]])
        own = {"temperature": 0, "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}
        for path, body in (("/v1/completions", TEXT), ("/v1/chat/completions", CHAT)):
            assert http.post(path, json=body).status_code == 200
            assert http.post(path, json={**body, **own}).status_code == 200
    said, not_said = (0.0, 1.0, None, 0.0, 1.0), (0.6, 0.95, 20, 0.1, 1.05)
    assert [sampled(turn.sampling) for turn in server.engine.turns] == [not_said, said] * 2


def sampled(by: SamplingParams) -> tuple[float | None, ...]:
    return by.temperature, by.top_p, by.top_k, by.min_p, by.repetition_penalty


def test_a_model_name_may_hold_slashes(client: openai.OpenAI):
    assert client.models.retrieve("org/fake").id == "org/fake"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("org/other")


def test_probes_and_version(http: httpx.Client):
    for path in ("/health", "/ping", "/liveness", "/readiness"):
        answer = http.get(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert RANDOM_HEADER not in answer.headers
    assert http.get("/version").json() == {"version": "1.2.3"}
    assert http.get("/server_info").json() == {"port": 8000}


@pytest.mark.parametrize(
    "path", ["/health", "/ping", "/readiness", "/liveness", "/version", "/load", "/metrics"]
)
@pytest.mark.parametrize("state", [EngineState.READY, EngineState.DRAINING])
def test_head_asks_as_get_does(
    http: httpx.Client, engine: FakeEngine, path: str, state: EngineState
):
    engine.state = state
    asked, headed = http.get(path), http.head(path)
    assert headed.status_code == asked.status_code
    assert headed.content == b""
    assert set(headed.headers) == set(asked.headers)
    # The connection is still good: no body was left in it.
    assert http.get("/version").json() == {"version": "1.2.3"}


def test_metrics_are_scraped_with_the_latest_reports(http: httpx.Client, engine: FakeEngine):
    engine.load = [LoadReport(WorkerId("d0"), 3, 2, 6, 2, 2, 1, 0, 50)]
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'vllm:num_requests_waiting{engine="1",model_name="org/fake"} 3.0' in answer.text
    engine.seconds = [WorkerMeans(WorkerId("d0"), None, 0.25)]
    text = http.get("/metrics").text
    assert 'foretoken:window_itl_seconds{engine="1",model_name="org/fake"} 0.25' in text
    http.post("/v1/chat/completions", json={**CHAT, "n": 2})
    assert 'vllm:request_params_n_bucket{engine="0",le="2.0"' in http.get("/metrics").text


@pytest.mark.parametrize(
    ("asked", "header"),
    [
        (
            "TEXT",
            "TEXT named_metrics.kv_cache_usage_perc=0.6, named_metrics.num_requests_running=2.0, "
            "named_metrics.num_requests_waiting=3.0",
        ),
        (
            "JSON",
            'JSON {"named_metrics":{"kv_cache_usage_perc":0.6,"num_requests_running":2.0,'
            '"num_requests_waiting":3.0}}',
        ),
        ("XML", None),
        (None, None),
    ],
)
def test_load_is_reported_in_a_header_on_request(
    http: httpx.Client, engine: FakeEngine, asked: str | None, header: str | None
):
    engine.load = [LoadReport(WorkerId("d0"), 3, 2, 6, 2, 2, 1, 0, 50)]
    headers = {} if asked is None else {"endpoint-load-metrics-format": asked}
    answer = http.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.headers.get("endpoint-load-metrics") == header


def test_a_text_is_tokenised(http: httpx.Client):
    answer = http.post("/tokenize", json={"prompt": "héab", "return_token_strs": True})
    assert answer.json() == {
        "count": 4,
        "max_model_len": 1000,
        "tokens": [BOS, 104, 265, 261],
        "token_strs": ["<bos>", "h", "é", "ab"],
    }
    bare = http.post("/tokenize", json={"prompt": "h", "add_special_tokens": False}).json()
    assert bare["tokens"] == [104]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"add_generation_prompt": False},
        {"continue_final_message": True},
        {"chat_template_kwargs": {"shout": True}},
    ],
)
def test_a_chat_is_tokenised_as_the_chat_endpoint_does_it(
    http: httpx.Client, engine: FakeEngine, fields: dict
):
    messages = [*HI, {"role": "assistant", "content": [{"type": "text", "text": "so ab"}]}]
    http.post("/v1/chat/completions", json={**CHAT, "messages": messages, **fields})
    answer = http.post("/tokenize", json={"messages": messages, **fields}).json()
    assert tuple(answer["tokens"]) == engine.turns[0].tokens


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20))
def test_detokenize_undoes_tokenize(http: httpx.Client, text: str):
    if any(special in text for special in SPECIALS.values()):
        return
    tokens = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"prompt": text}


def test_part_of_a_character_does_not_crash(http: httpx.Client):
    assert http.post("/detokenize", json={"tokens": [0xF0]}).json() == {"prompt": "\ufffd"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": HI}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": HI, "tools": [{"type": "function"}]}, "tools[0].function"),
        ("/detokenize", {"tokens": [300]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
def test_bad_input_is_400(http: httpx.Client, path: str, body: dict, param: str):
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == param


@pytest.mark.parametrize(
    ("path", "body"), [("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})]
)
def test_the_model_may_be_named_but_must_exist(http: httpx.Client, path: str, body: dict):
    assert http.post(path, json={**body, "model": "alias"}).status_code == 200
    assert http.post(path, json={**body, "model": "nope"}).status_code == 404
