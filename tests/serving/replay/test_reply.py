"""What chunks of several servers bring, and when a reply is whole."""

import json

import pytest

from serving.replay.failure import TurnFailed
from serving.replay.reply import Chunk, Reply, Usage, read_chunk


def chunk(tokens=0, ids=(), text="", finish=None, usage=None) -> Chunk:
    return Chunk(tokens, ids, text, finish, usage)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"choices": [{"text": "", "prompt_token_ids": [1, 2]}]}, chunk()),
        ({"choices": [{"text": "ab", "token_ids": [5, 6]}]}, chunk(2, (5, 6), "ab")),
        (
            {"choices": [{"text": "held back before", "token_ids": []}]},
            chunk(0, (), "held back before"),
        ),
        ({"choices": [{"text": "", "token_ids": [5]}]}, chunk(1, (5,))),
        ({"choices": [{"text": "ab", "token_ids": None}]}, chunk(1, (), "ab")),
        ({"choices": [{"delta": {"role": "assistant", "content": ""}}]}, chunk()),
        ({"choices": [{"delta": {"content": "ab"}}]}, chunk(1, (), "ab")),
        ({"choices": [{"delta": {"content": None, "reasoning_content": "hm"}}]}, chunk(1)),
        ({"choices": [{"delta": {"reasoning": "hm"}}]}, chunk(1)),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, chunk(finish="stop")),
        ({"choices": [], "usage": None}, chunk()),
        (
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3}},
            chunk(usage=Usage(9, 3, None)),
        ),
        (
            {
                "choices": [],
                "usage": {
                    "prompt_tokens": 9,
                    "completion_tokens": 3,
                    "prompt_tokens_details": {"cached_tokens": 0},
                },
            },
            chunk(usage=Usage(9, 3, 0)),
        ),
    ],
)
def test_what_an_event_brings(event, expected):
    assert read_chunk(json.dumps(event).encode()) == expected


def test_the_mark_of_the_end_brings_nothing():
    assert read_chunk(b"[DONE]") is None


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (b'{"error": {"code": "aborted", "message": "no"}}', "stream: aborted"),
        (b'{"error": {"message": "no"}}', "stream: error"),
        (b"<html>", "stream: not JSON"),
        (b"[1]", "stream: no object"),
    ],
)
def test_events_that_end_a_turn(event, reason):
    with pytest.raises(TurnFailed) as failure:
        read_chunk(event)
    assert failure.value.reason == reason


def test_a_reply_grows_until_it_is_whole():
    reply = Reply()
    reply.add(chunk(2, (5, 6), "ab"))
    with pytest.raises(TurnFailed, match="the stream ended before the reply did"):
        reply.check_whole()
    reply.add(chunk(1, (7,), "c", "length"))
    reply.add(chunk(usage=Usage(9, 3, 1)))
    reply.check_whole()
    assert (reply.tokens, reply.token_ids, reply.text) == (3, [5, 6, 7], "abc")
    assert reply.usage == Usage(9, 3, 1)


def test_a_reply_that_the_server_gave_up_is_not_whole():
    reply = Reply()
    reply.add(chunk(1, (5,), "a", "abort"))
    with pytest.raises(TurnFailed) as failure:
        reply.check_whole()
    assert failure.value.reason == "finish_reason abort"
