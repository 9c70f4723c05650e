"""A reply that comes back as text keeps the ids it was sampled with, for its tenant alone."""

import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.replies import TEXT_BYTES, VERSION_BYTES, ReplyStore, Tenant
from serving.api.schemas import ChatBody
from serving.api.text import Prompts
from tests.serving.api.test_bad_input import CHAT
from tests.support.fake_engine import FakeEngine, each
from tests.support.fake_tokenizer import EOS, WORDS, FakeTokenizer

ME, YOU = Tenant("me"), Tenant("you")
TEXTS = st.text("ab \néreply0y<>", max_size=8)
# Bytes and words mixed at will: mostly ids that tokenising their text would not give.
REPLIES = st.lists(st.sampled_from([*b"abc ", 0xC3, 0xA9, *WORDS]), max_size=8)


def chat(messages: list[dict[str, Any]], **more: Any) -> ChatBody:
    return ChatBody(model="m", messages=messages, **more)


@given(st.lists(st.tuples(TEXTS, REPLIES), min_size=1, max_size=5), TEXTS, st.booleans())
def test_every_prompt_begins_with_the_last_prompt_and_its_reply(
    turns: list[tuple[str, list[int]]], final: str, same_text: bool
):
    tokenizer, store = FakeTokenizer(), ReplyStore(1_000_000)
    prompts = Prompts(tokenizer, store)
    messages: list[dict[str, Any]] = []
    known: tuple[int, ...] = ()
    for question, reply in [*turns, (final, [])]:
        messages.append({"role": "user", "content": "q" if same_text else question})
        ids, _ = prompts.chat(chat(messages), ME)
        assert ids[: len(known)] == known
        assert tokenizer.decode(ids, skip_special_tokens=False) == tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tools=None, variables={}
        )
        text = tokenizer.decode(reply, skip_special_tokens=True)
        if not text or "\ufffd" in text:
            return
        store.add(ME, ids, text, reply)
        messages.append({"role": "assistant", "content": text})
        known = (*ids, *reply)


def conversation(tokenizer: FakeTokenizer, text: str, reply: list[int]) -> tuple[Prompts, Any]:
    store = ReplyStore(1_000_000)
    prompts = Prompts(tokenizer, store)
    first, _ = prompts.chat(chat([{"role": "user", "content": "q"}]), ME)
    store.add(ME, first, text, reply)
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "r"},
    ]
    return prompts, messages


def test_another_tenant_gets_the_ids_of_the_text():
    tokenizer = FakeTokenizer()
    prompts, messages = conversation(tokenizer, "ab", [*b"ab"])
    mine, _ = prompts.chat(chat(messages), ME)
    yours, _ = prompts.chat(chat(messages), YOU)
    rendered = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tools=None, variables={}
    )
    assert list(yours) == tokenizer.encode(rendered, add_special_tokens=False)
    assert mine != yours


def test_the_same_text_after_another_prompt_is_another_reply():
    tokenizer = FakeTokenizer()
    prompts, messages = conversation(tokenizer, "ab", [*b"ab"])
    messages[0]["content"] = "another"
    ids, _ = prompts.chat(chat(messages), ME)
    assert bytes([97, 98]) not in bytes(i for i in ids if i < 256)


def test_a_template_that_changes_the_reply_gets_its_way():
    tokenizer = FakeTokenizer(trims=True)
    prompts, messages = conversation(tokenizer, " ab", [*b" ab"])
    ids, _ = prompts.chat(chat(messages), ME)
    rendered = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tools=None, variables={}
    )
    assert list(ids) == tokenizer.encode(rendered, add_special_tokens=False)
    shouted, _ = prompts.chat(chat(messages, chat_template_kwargs={"shout": True}), ME)
    assert "AB" in tokenizer.decode(shouted, skip_special_tokens=True)


def test_a_trimmed_reply_does_not_spoil_the_others():
    tokenizer = FakeTokenizer(trims=True)
    prompts, messages = conversation(tokenizer, "ab", [*b"ab"])
    second, _ = prompts.chat(chat(messages), ME)
    prompts._splicer._replies.add(ME, second, " x", [*b" x"])
    messages += [{"role": "assistant", "content": " x"}, {"role": "user", "content": "s"}]
    third, _ = prompts.chat(chat(messages), ME)
    assert third[: len(second)] == second


class SpaceFirst(FakeTokenizer):
    """Puts a space before every text, as some do; a template without special tokens."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return super().encode(f" {text}" if text else "", add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        **options: Any,
    ) -> str:
        marks = {"user": "", "assistant": "A:"}
        text = "".join(marks[message["role"]] + message["content"] for message in messages)
        return text + ("A:" if add_generation_prompt else "")


@pytest.mark.parametrize(("question", "spliced"), [("r", True), (" r", True), ("world", False)])
def test_no_space_comes_into_a_text_that_is_tokenised_in_parts(question: str, spliced: bool):
    tokenizer = SpaceFirst()
    prompts, messages = conversation(tokenizer, "ab", [*b"ab"])
    first, _ = prompts.chat(chat(messages[:1]), ME)
    messages[2]["content"] = question
    ids, _ = prompts.chat(chat(messages), ME)
    assert tokenizer.decode(ids, skip_special_tokens=False) == f" qA:ab{question}A:"
    assert (ids[: len(first) + 2] == (*first, *b"ab")) is spliced


SHORT = TEXT_BYTES + 3 + VERSION_BYTES + 3 * 4
"""What a reply of three characters and three tokens is taken to need."""


def test_the_store_forgets_the_oldest_first():
    store = ReplyStore(3 * SHORT)
    for number, text in enumerate(["aaa", "bbb", "ccc"]):
        store.add(ME, [number], text, [1, 2, 3])
    assert all(store.knows(ME, text) for text in ["aaa", "bbb", "ccc"])
    assert store.find(ME, [0], "aaa") is not None
    store.add(ME, [3], "ddd", [1, 2, 3])
    assert [store.knows(ME, text) for text in ["aaa", "bbb", "ccc", "ddd"]] == [1, 0, 1, 1]
    store.add(ME, [4], "x" * 3 * SHORT, [1])
    assert not any(store.knows(ME, text) for text in ["aaa", "ccc", "ddd", "x" * 3 * SHORT])


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "bb", "ccc"])), max_size=40))
def test_the_store_never_holds_more_than_it_may(adds: list[tuple[int, str]]):
    most = 2 * SHORT
    store = ReplyStore(most)
    for number, text in adds:
        store.add(ME, [number], text, [number] * (number + 1))
        held = sum(
            TEXT_BYTES + len(text) + sum(VERSION_BYTES + 4 * len(ids) for ids in versions.values())
            for (_, text), versions in store._texts.items()
        )
        assert held <= most
        assert store._room == most - held


@pytest.mark.parametrize("texts", [1, 10_000])
@pytest.mark.parametrize("tokens", [1, 50])
@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_a_full_store_takes_about_the_memory_that_it_may(texts: int, tokens: int, letter: str):
    most = 1_000_000
    store = ReplyStore(most)
    tracemalloc.start()
    try:
        for number in range(10_000):
            text = f"{number % texts:05}" + letter * 4 * tokens
            store.add(ME, [number], text, [1] * tokens)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.1 * most


@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_over_http_keeps_its_ids(
    http: httpx.Client, engine: FakeEngine, streamed: bool
):
    engine.script = lambda turn: each([*b"abc", EOS])
    key = {"authorization": f"Bearer {streamed}"}
    messages = [{"role": "user", "content": "q"}]
    for _ in range(3):
        body = {**CHAT, "messages": messages, "stream": streamed}
        http.post("/v1/chat/completions", json=body, headers=key)
        messages += [{"role": "assistant", "content": "abc"}, {"role": "user", "content": "q"}]
    first, second, third = (turn.tokens for turn in engine.turns)
    reply = (*b"abc", EOS)
    assert second[: len(first) + 4] == first + reply
    assert third[: len(second) + 4] == second + reply
    asked = http.post("/tokenize", json={"messages": messages[:5]}, headers=key).json()
    assert tuple(asked["tokens"]) == third
    salted = {**CHAT, "messages": messages[:3], "cache_salt": "s"}
    http.post("/v1/chat/completions", json=salted, headers=key)
    assert engine.turns[3].tokens != second
    assert engine.turns[3].salt != engine.turns[1].salt


def test_a_reply_cut_by_a_stop_string_is_tokenised_again(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each([WORDS_AB, *b"c"])
    key = {"authorization": "Bearer cut"}
    messages = [{"role": "user", "content": "q"}]
    body = {**CHAT, "messages": messages, "stop": "b"}
    answer = http.post("/v1/chat/completions", json=body, headers=key).json()
    assert answer["choices"][0]["message"]["content"] == "a"
    messages += [{"role": "assistant", "content": "a"}, {"role": "user", "content": "q"}]
    http.post("/v1/chat/completions", json={**CHAT, "messages": messages}, headers=key)
    assert WORDS_AB not in engine.turns[1].tokens


WORDS_AB = next(i for i, word in WORDS.items() if word == "ab")
