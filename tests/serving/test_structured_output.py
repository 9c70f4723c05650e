"""Structured output as clients see it: the official client, a real server, the shipped model.

The demo model has seen no JSON: what is valid here is so because of the grammar alone.
"""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

from tests.serving.test_serve import SPLIT, Served, serving
from tests.support.hostile import CHAINED, ENDLESS

QUESTION: list[Any] = [{"role": "user", "content": "Count from 3 to 9"}]


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(*SPLIT) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client as client:
        yield client


class Point(BaseModel):
    """Of at most so many characters that every reply ends in time."""

    model_config = ConfigDict(extra="forbid")

    x: int = Field(ge=-999, le=999)
    colour: Literal["red", "green", "blue"]


class Answer(BaseModel):
    """Everything that a schema of an application has: lists, choices, nesting, what may be null."""

    model_config = ConfigDict(extra="forbid")

    word: str = Field(max_length=8)
    points: list[Point] = Field(min_length=1, max_length=2)
    sure: bool
    note: Literal["none"] | None


def of_schema(schema: dict[str, Any]) -> Any:
    described = {"name": "answer", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": described}


def test_every_seed_gives_json_of_the_schema_and_the_pydantic_model_of_it(client: openai.OpenAI):
    seen = set()
    for seed in range(12):
        answer = client.chat.completions.parse(
            model="demo",
            messages=QUESTION,
            response_format=Answer,
            temperature=1.0,
            seed=seed,
            max_tokens=800,
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "stop"
        assert isinstance(choice.message.parsed, Answer)
        seen.add(choice.message.content)
    assert len(seen) > 6, "the seed makes a difference"


def test_streamed_pieces_are_the_whole_and_choices_follow_the_schema_each(client: openai.OpenAI):
    fields: dict[str, Any] = {
        "model": "demo",
        "messages": QUESTION,
        "response_format": of_schema(Point.model_json_schema()),
        "temperature": 1.0,
        "seed": 5,
        "n": 3,
        "max_tokens": 300,
    }
    whole = client.chat.completions.create(**fields)
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    for text in texts:
        Point.model_validate_json(text)


def test_any_object_is_one_or_is_cut(client: openai.OpenAI):
    ended = 0
    for seed in range(12):
        answer = client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            response_format={"type": "json_object"},
            temperature=1.0,
            seed=seed,
            max_tokens=60,
        )
        choice = answer.choices[0]
        if choice.finish_reason == "stop":
            ended += 1
            assert isinstance(json.loads(choice.message.content or ""), dict)
        else:
            assert (choice.message.content or "").startswith("{")
    assert ended > 2


FORMS: list[tuple[dict[str, Any], str]] = [
    ({"regex": "[a-f]{3}-[0-9]{2,4}(, ok)?"}, "[a-f]{3}-[0-9]{2,4}(, ok)?"),
    ({"choice": ["rock", "paper", "scissors \U0001f600"]}, "rock|paper|scissors \U0001f600"),
    ({"grammar": 'start: "<" body ">"\nbody: %json {"enum": [1, "é"]}'}, '<(1|"é")>'),
    ({"grammar": 'root ::= "x" digit digit? "."\ndigit ::= [0-9]'}, "x[0-9]{1,2}\\."),
]


@pytest.mark.parametrize(("form", "pattern"), FORMS, ids=[str(*form) for form, _ in FORMS])
@pytest.mark.parametrize("temperature", [0, 1])
def test_completions_follow_every_language(
    client: openai.OpenAI, form: dict[str, Any], pattern: str, temperature: int
):
    for seed in range(4):
        answer = client.completions.create(
            model="demo",
            prompt="1 2 3",
            temperature=temperature,
            seed=seed,
            max_tokens=200,
            extra_body={"structured_outputs": form},
        )
        assert answer.choices[0].finish_reason == "stop"
        assert re.fullmatch(pattern, answer.choices[0].text)


def test_a_turn_without_a_grammar_says_what_it_says_beside_many_that_have_one(
    client: openai.OpenAI,
):
    def ask(**fields: Any) -> Any:
        return client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            max_tokens=120,
            **fields,
        )

    constrained: dict[str, Any] = {"response_format": of_schema(Answer.model_json_schema()), "n": 2}
    alone = ask(temperature=0)
    with ThreadPoolExecutor() as threads:
        beside = [threads.submit(ask, temperature=1, seed=i, **constrained) for i in range(3)]
        assert ask(temperature=0).choices[0].message.content == alone.choices[0].message.content
    assert all(len(answer.result().choices) == 2 for answer in beside)


@pytest.mark.parametrize("schema", [CHAINED, ENDLESS], ids=["chained", "endless"])
def test_a_schema_that_breaks_the_compiler_is_a_400_and_nothing_else_breaks(
    client: openai.OpenAI, schema: dict[str, Any]
):
    with pytest.raises(openai.BadRequestError, match="make it simpler") as bad:
        client.chat.completions.create(
            model="demo", messages=QUESTION, response_format=of_schema(schema)
        )
    assert (bad.value.code, bad.value.param) == ("invalid_json_schema", "response_format")
    answer = client.chat.completions.create(
        model="demo", messages=QUESTION, response_format=of_schema({"const": 7})
    )
    assert answer.choices[0].message.content == "7"


def test_thousands_of_choices_and_properties_can_be_followed(client: openai.OpenAI):
    texts = [f"text {7919 * i}" for i in range(5000)]
    answer = client.completions.create(
        model="demo",
        prompt="1 2 3",
        max_tokens=50,
        temperature=1,
        extra_body={"structured_outputs": {"choice": texts}},
    )
    assert answer.choices[0].text in texts
    properties = {f"p{i}": {"type": "null"} for i in range(1000)}
    chat = client.chat.completions.create(
        model="demo",
        messages=QUESTION,
        max_tokens=60,
        response_format=of_schema({"type": "object", "properties": properties}),
    )
    assert chat.choices[0].finish_reason in ("stop", "length")


def test_what_the_request_leaves_nothing_of_is_a_400_and_the_server_goes_on(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(
            model="demo",
            prompt="1 2 3",
            extra_body={"structured_outputs": {"regex": "[a-z]+"}, "allowed_token_ids": [4]},
        )
    assert bad.value.code == "grammar_dead_end"
    assert client.completions.create(model="demo", prompt="1 2 3").choices


def test_nothing_was_compiled_for_any_of_it(served: Served, client: openai.OpenAI):
    before = served.metric("foretoken:xla_compilations_total")
    for n in (1, 4):
        client.chat.completions.create(
            model="demo",
            messages=QUESTION,
            response_format=of_schema(Answer.model_json_schema()),
            n=n,
            max_tokens=20,
        )
    assert served.metric("foretoken:xla_compilations_total") == before
