"""Which grammar does a turn get, and what is said of those that cannot be had?"""

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.api.id_tokenizer import IdTokenizer
from serving.api.structured import MAX_CHARACTERS
from serving.config import EndpointConfig
from serving.messages import DEAD_END, Failed
from serving.request import Grammar, GrammarKind
from tests.serving.api.conftest import serve
from tests.serving.api.test_bad_input import CHAT, JSON, PATHS, TEXT, error_of
from tests.serving.api.test_turns import turn_of
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_tokenizer import EOS, FakeTokenizer

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
OBJECT = Grammar(GrammarKind.JSON, '{"type": "object"}')


def of_schema(schema: Any, name: str = "answer") -> dict[str, Any]:
    described = {"name": name, "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def outputs(**fields: Any) -> dict[str, Any]:
    return {"structured_outputs": fields}


WANTED: list[tuple[dict[str, Any], Grammar | None]] = [
    ({}, None),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, OBJECT),
    (of_schema(SCHEMA), Grammar(GrammarKind.JSON, json.dumps(SCHEMA))),
    (outputs(json=SCHEMA), Grammar(GrammarKind.JSON, json.dumps(SCHEMA))),
    (outputs(json=json.dumps(SCHEMA)), Grammar(GrammarKind.JSON, json.dumps(SCHEMA))),
    (outputs(json_object=True), OBJECT),
    (outputs(regex="a+", json=None), Grammar(GrammarKind.REGEX, "a+")),
    (outputs(choice=["yes", "no"]), Grammar(GrammarKind.CHOICE, '["yes", "no"]')),
    (outputs(grammar='start: "a"'), Grammar(GrammarKind.LARK, 'start: "a"')),
    (outputs(regex="a", disable_any_whitespace=False), Grammar(GrammarKind.REGEX, "a")),
]


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize(("fields", "grammar"), WANTED, ids=str)
def test_a_turn_has_the_grammar_that_was_asked_for(
    http: httpx.Client,
    engine: FakeEngine,
    where: str,
    fields: dict[str, Any],
    grammar: Grammar | None,
):
    assert turn_of(http, engine, where, **fields).sampling.grammar == grammar


def test_every_choice_has_it(http: httpx.Client, engine: FakeEngine):
    turn_of(http, engine, "chat", n=3, **of_schema(SCHEMA))
    assert [turn.sampling.grammar is not None for turn in engine.turns] == [True] * 3


BAD: list[tuple[dict[str, Any], str, str | None, str]] = [
    (
        of_schema({"type": "foo"}),
        "response_format",
        "invalid_json_schema",
        "Invalid schema for response_format 'answer': Invalid type: foo",
    ),
    (
        outputs(json={"type": "foo"}),
        "structured_outputs",
        "invalid_json_schema",
        "Invalid json for structured_outputs: Invalid type: foo",
    ),
    (
        outputs(regex="a("),
        "structured_outputs",
        "invalid_grammar",
        "Invalid regex for structured_outputs: unclosed group",
    ),
    (
        outputs(grammar="start: x"),
        "structured_outputs",
        "invalid_grammar",
        'Invalid grammar for structured_outputs: line 1, column 8: unknown name: "x"',
    ),
    (of_schema([1]), "response_format.json_schema", None, "json_schema.schema` must be there"),
    (of_schema({}, name=5), "response_format.json_schema.name", None, "name` must be there"),  # type: ignore[arg-type]
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", None, "schema"),
    ({"response_format": {}}, "response_format", None, "`text`, `json_object` or `json_schema`"),
    (outputs(), "structured_outputs", None, "exactly one of json, json_object, regex"),
    (outputs(regex="a", choice=["a"]), "structured_outputs", None, "exactly one"),
    (outputs(structural_tag="{}"), "structured_outputs", None, "exactly one"),
    (outputs(regex="a", whitespace_pattern=" "), "structured_outputs", None, "exactly one"),
    (outputs(regex=["a"]), "structured_outputs", None, "structured_outputs.regex` must be a text"),
    (outputs(regex=""), "structured_outputs", None, "regex` must be a text that is not empty"),
    (outputs(choice=[]), "structured_outputs", None, "must be a list of texts"),
    (outputs(choice=["a", 1]), "structured_outputs", None, "must be a list of texts"),
    (outputs(json="{"), "structured_outputs", None, "is not valid JSON"),
    (outputs(json="[]"), "structured_outputs", None, "must be a JSON schema, as an object"),
    (outputs(json=5), "structured_outputs", None, "a JSON schema, as an object or its text"),
    (outputs(json_object="yes"), "structured_outputs", None, "must be true"),
    (
        {**outputs(regex="a"), "response_format": {"type": "json_object"}},
        "structured_outputs",
        None,
        "exclude each other",
    ),
    ({**outputs(regex="a"), "ignore_eos": True}, "ignore_eos", None, "exclude each other"),
    (outputs(regex="a" * (MAX_CHARACTERS + 1)), "structured_outputs", None, "exceeds 131072"),
]


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize(("fields", "param", "code", "message"), BAD, ids=lambda v: str(v)[:40])
def test_what_cannot_be_had_is_a_400_before_anything_is_computed(
    http: httpx.Client,
    engine: FakeEngine,
    where: str,
    fields: dict[str, Any],
    param: str,
    code: str | None,
    message: str,
):
    path, good = PATHS[where]
    answer = http.post(path, json={**good, **fields, "stream": True})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["param"], error["code"]) == (param, code)
    assert message in error["message"]
    assert "\n" not in error["message"]
    assert engine.turns == []


def test_the_official_client_raises_its_class_for_a_schema(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError, match="Invalid schema for response_format") as bad:
        client.chat.completions.create(
            model="org/fake",
            messages=[{"role": "user", "content": "x"}],
            response_format=of_schema({"$ref": "#/nowhere"})["response_format"],
        )
    assert bad.value.code == "invalid_json_schema"


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_end_is_the_requests_fault(http: httpx.Client, engine: FakeEngine, stream: bool):
    engine.script = lambda turn: Script([[ord("a")]], Failed(DEAD_END, "no token is left"))
    answer = http.post("/v1/completions", json={**TEXT, **outputs(regex="a+"), "stream": stream})
    assert answer.status_code == (200 if stream else 400)
    assert '"code":"grammar_dead_end"' in answer.text
    assert '"type":"BadRequestError"' in answer.text


def test_without_a_tokenizer_there_is_no_text_to_constrain():
    with (
        serve(EndpointConfig(), IdTokenizer(300, (256,))) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http,
    ):
        body = {**TEXT, "prompt": [1, 2], **outputs(regex="a")}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == 400
        error = error_of(answer)
        assert (error["param"], error["code"]) == ("structured_outputs", "no_tokenizer")
        assert server.engine.turns == []


class Endless(FakeTokenizer):
    """Nothing of it ends a reply by itself."""

    eos_ids: tuple[int, ...] = ()


def test_a_model_without_an_end_needs_a_token_that_ends_the_reply():
    with (
        serve(EndpointConfig(), Endless()) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http,
    ):
        answer = http.post("/v1/chat/completions", json={**CHAT, **outputs(regex="a")})
        assert error_of(answer)["param"] == "stop_token_ids"
        body = {**CHAT, **outputs(regex="a"), "stop_token_ids": [EOS]}
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        assert server.engine.turns[-1].sampling.stop_ids == (EOS,)


PARTS = st.dictionaries(
    st.sampled_from(("json", "json_object", "regex", "choice", "grammar", "structural_tag")),
    JSON | st.text(max_size=12) | st.lists(st.text(max_size=4), max_size=3),
    max_size=2,
)
SCHEMAS = st.dictionaries(
    st.sampled_from(("type", "properties", "items", "enum", "pattern", "anyOf", "$ref", "format")),
    JSON | st.sampled_from(("object", "string", "integer", "#")),
    max_size=4,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list(PATHS)), PARTS.map(lambda p: outputs(**p)) | SCHEMAS.map(of_schema))
def test_no_grammar_is_a_server_error(http: httpx.Client, where: str, fields: dict[str, Any]):
    path, good = PATHS[where]
    answer = http.post(path, content=json.dumps({**good, **fields}))
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code != 200:
        assert "\n" not in error_of(answer)["message"]


@pytest.mark.parametrize("form", ['"regex": "\\ud800"', '"choice": ["\\ud800"]'])
def test_half_a_character_is_no_text(http: httpx.Client, form: str):
    body = f'{{"model": "org/fake", "prompt": "x", "structured_outputs": {{{form}}}}}'
    answer = http.post("/v1/completions", content=body)
    assert answer.status_code == 400
    error_of(answer)
