"""The official client drives chat and completions, streamed and not."""

import openai

from tests.support.fake_engine import FakeEngine, each
from tests.support.fake_tokenizer import ASSISTANT, BOS, EOS, USER


def chat(client: openai.OpenAI, **more):
    return client.chat.completions.create(
        model="org/fake", messages=[{"role": "user", "content": "hi"}], **more
    )


def test_a_chat_is_answered_whole(strict_client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each([*"grüße".encode(), EOS])
    answer = chat(strict_client)
    assert answer.choices[0].message.content == "grüße"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "org/fake"
    assert engine.turns[0].tokens == (BOS, USER, *b"hi", ASSISTANT)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == 13


def test_a_chat_is_streamed(strict_client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each([*"grüße".encode(), EOS])
    chunks = list(chat(strict_client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in chunks[1:-2]] == ["g", "r", "ü", "ß", "e"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_completion_is_answered_whole(strict_client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdef")
    answer = strict_client.completions.create(model="alias", prompt="x", max_tokens=4)
    assert answer.choices[0].text == "abcd"
    assert answer.choices[0].finish_reason == "length"
    assert answer.id.startswith("cmpl-")
    assert engine.turns[0].tokens == (BOS, *b"x")


def test_everything_at_once_satisfies_the_strict_client(
    strict_client: openai.OpenAI, engine: FakeEngine
):
    engine.script = lambda turn: each([*b"ab", EOS])
    answer = chat(strict_client, n=2, logprobs=True, top_logprobs=2, seed=5)
    content = answer.choices[1].logprobs
    assert content is not None
    stream = chat(
        strict_client,
        n=2,
        logprobs=True,
        top_logprobs=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    assert sum(len(chunk.choices) for chunk in stream) == 2 * (1 + 2 + 1 + 1)
    text = strict_client.completions.create(model="alias", prompt=["x", "y"], logprobs=2, n=2)
    assert len(text.choices) == 4


def test_a_completion_is_streamed(client: openai.OpenAI, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdef")
    chunks = list(client.completions.create(model="alias", prompt=[1, 2], stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "abcdef"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert engine.turns[0].tokens == (1, 2)
