"""Every prompt begins with what its turn keeps of the conversation."""

import pytest

from serving.replay.in_chat import ChatConversation, Message, keep_of
from serving.replay.in_tokens import TokenConversation
from serving.replay.reply import Reply, Usage
from serving.replay.run import new_conversation
from serving.replay.settings import CHAT, TOKENS, ReplayError
from serving.replay.text import Author
from serving.workload.session import Span
from tests.serving.replay.fake_server import config, turn

AUTHOR = Author(seed=7, vocab=100)


def replied(*ids: int, text: str = "", usage: Usage | None = None) -> Reply:
    return Reply(token_ids=list(ids), texts=[text], tokens=len(ids), usage=usage)


class TestInTokens:
    def test_a_prompt_goes_on_from_the_reply_before(self):
        one = TokenConversation(AUTHOR)
        first = one.ask(turn(4, 2, shared=(Span(3, 5),)), "a")
        assert first.path == "/v1/completions"
        assert first.prompt_len == 9
        assert first.fields == {
            "prompt": AUTHOR.shared_ids(Span(3, 5)) + AUTHOR.own_ids("a", 4),
            "return_token_ids": True,
        }
        one.heard(replied(201, 202))
        second = one.ask(turn(3, 2), "b")
        assert second.fields["prompt"] == [
            *first.fields["prompt"],
            201,
            202,
            *AUTHOR.own_ids("b", 3),
        ]
        assert len(first.fields["prompt"]) == 9  # the request that was sent stays what it was

    @pytest.mark.parametrize(("keep", "kept"), [(0, 0), (4, 4), (6, 6), (100, 6)])
    def test_a_turn_keeps_no_more_than_there_is(self, keep, kept):
        one = TokenConversation(AUTHOR)
        first = one.ask(turn(4, 2), "a")
        one.heard(replied(201, 202))
        prompt = one.ask(turn(3, 2, keep=keep), "b").fields["prompt"]
        past = [*first.fields["prompt"], 201, 202]
        assert prompt == past[:kept] + AUTHOR.own_ids("b", 3)

    def test_no_prompt_is_empty(self):
        one = TokenConversation(AUTHOR)
        assert one.ask(turn(0, 1), "a").fields["prompt"] == AUTHOR.own_ids("a", 1)
        one.heard(replied(201))
        assert one.ask(turn(0, 1), "b").prompt_len == 2  # nothing new is fine behind a past

    def test_a_reply_without_token_ids_cannot_be_continued(self):
        one = TokenConversation(AUTHOR)
        one.ask(turn(4, 2), "a")
        with pytest.raises(ReplayError, match="use --prompts chat"):
            one.heard(Reply(texts=["ab"], tokens=2))


class TestInChat:
    def test_a_prompt_goes_on_from_the_reply_before(self):
        one = ChatConversation(AUTHOR)
        first = one.ask(turn(4, 2, shared=(Span(3, 5),)), "a")
        words = AUTHOR.shared_words(Span(3, 5)) + AUTHOR.own_words("a", 4)
        assert first.path == "/v1/chat/completions"
        assert first.fields == {"messages": [{"role": "user", "content": " ".join(words)}]}
        assert first.prompt_len == 9
        one.heard(replied(text="so be it", usage=Usage(20, 8, None)))
        second = one.ask(turn(3, 2), "b")
        assert second.fields["messages"] == [
            *first.fields["messages"],
            {"role": "assistant", "content": "so be it"},
            {"role": "user", "content": " ".join(AUTHOR.own_words("b", 3))},
        ]
        assert second.prompt_len == 9 + 8 + 3

    def test_what_is_kept_of_a_question_begins_the_next_one(self):
        one = ChatConversation(AUTHOR)
        one.ask(turn(4, 2), "a")
        one.heard(replied(201, 202, text="so be"))
        ask = one.ask(turn(1, 2, keep=3), "b")
        words = AUTHOR.own_words("a", 4)[:3] + AUTHOR.own_words("b", 1)
        assert ask.fields["messages"] == [{"role": "user", "content": " ".join(words)}]

    def test_no_question_is_empty(self):
        one = ChatConversation(AUTHOR)
        ask = one.ask(turn(0, 1), "a")
        assert ask.fields["messages"][0]["content"] == AUTHOR.own_words("a", 1)[0]


def said(*sizes: int) -> tuple[Message, ...]:
    """Messages of so many words, by turns of the user and of the assistant."""
    roles = ("user", "assistant")
    return tuple(
        Message(roles[i % 2], " ".join(f"{i}:{n}" for n in range(size)), size)
        for i, size in enumerate(sizes)
    )


@pytest.mark.parametrize(
    ("keep", "messages", "words"),
    [
        (None, 4, []),
        (15, 4, []),
        (14, 4, []),
        (13, 2, ["2:0", "2:1", "2:2", "2:3"]),  # of a reply that is cut nothing stays
        (9, 2, ["2:0", "2:1", "2:2"]),
        (6, 2, []),
        (5, 0, ["0:0", "0:1"]),
        (0, 0, []),
    ],
)
def test_how_much_of_a_chat_is_kept(keep, messages, words):
    past = said(2, 4, 4, 4)
    assert keep_of(past, keep) == (past[:messages], words)


def test_prompts_are_made_as_asked_for():
    assert isinstance(new_conversation(config(prompts=TOKENS)), TokenConversation)
    assert isinstance(new_conversation(config(prompts=CHAT)), ChatConversation)
    assert new_conversation(config(seed=7)).ask(turn(5, 1), "a").fields["prompt"] == (
        AUTHOR.own_ids("a", 5)
    )
