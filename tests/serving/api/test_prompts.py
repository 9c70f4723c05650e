"""What a chat's template makes of unusual messages, and which prompts are none."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from serving.api.conversation import checked
from serving.api.errors import ApiError
from serving.api.replies import ReplyStore, Tenant
from serving.api.schemas import ChatBody
from serving.api.text import Prompts
from tests.support.fake_tokenizer import ASSISTANT, BOS, USER, FakeTokenizer

HI = {"role": "user", "content": "hi"}


class Bare(FakeTokenizer):
    """A template that writes the messages' contents and nothing else."""

    def apply_chat_template(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
        return "".join(message["content"] for message in messages)


def ids_of(tokenizer: FakeTokenizer, *messages: dict[str, Any], **fields: Any) -> tuple[int, ...]:
    body = ChatBody(model="m", messages=list(messages), **fields)
    return Prompts(tokenizer, ReplyStore(1000)).chat(body, Tenant(""))[0]


@pytest.mark.parametrize(
    ("final", "kept"), [("so", "so"), (" so \n", "so"), ("s o ", "s o"), (" ", ""), ("", "")]
)
def test_a_template_that_trims_a_final_message_takes_its_space(final: str, kept: str):
    message = {"role": "assistant", "content": final}
    ids = ids_of(FakeTokenizer(trims=True), HI, message, continue_final_message=True)
    assert ids == (BOS, USER, *b"hi", ASSISTANT, *kept.encode())


def test_a_final_message_that_the_template_alters_cannot_be_continued():
    with pytest.raises(ApiError, match="does not keep the final message as it is") as caught:
        ids_of(
            FakeTokenizer(),
            HI,
            {"role": "assistant", "content": "so"},
            continue_final_message=True,
            chat_template_kwargs={"shout": True},
        )
    assert (caught.value.status, caught.value.param) == (400, "continue_final_message")


def test_an_empty_prompt_is_refused():
    assert ids_of(Bare(), HI) == (*b"hi",)
    with pytest.raises(ApiError, match="empty prompt") as caught:
        ids_of(Bare(), {"role": "user", "content": ""})
    assert (caught.value.status, caught.value.param) == (400, "messages")


def test_a_call_whose_arguments_are_an_empty_text_has_none():
    calls = [{"function": {"name": "f", "arguments": text}} for text in ("", " ", "{}", "x")]
    (message,) = checked([{"role": "assistant", "tool_calls": calls}])
    arguments = [call["function"]["arguments"] for call in message["tool_calls"]]
    assert arguments == [{}, {}, {}, "x"]


def test_a_call_in_its_old_spelling_is_a_call():
    call = {"name": "f", "arguments": '{"x": 1}'}
    (message,) = checked([{"role": "assistant", "content": None, "function_call": call}])
    (found,) = message["tool_calls"]
    assert found == {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    with pytest.raises(ApiError, match="must have a `function` with a `name`"):
        checked([{"role": "assistant", "content": None, "function_call": {"arguments": "{}"}}])
