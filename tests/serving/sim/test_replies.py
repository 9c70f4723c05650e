"""Replies: their length, their end, and tokens that no other text has."""

import pytest

from serving.sim.replies import STOP, Replies, own_text, reply_token


def test_a_reply_is_its_own_token_and_an_end():
    replies = Replies()
    first, second = replies.add(3), replies.add(1)
    assert (first, second, len(replies)) == (0, 1, 2)
    assert replies.tokens(first) == (reply_token(0), reply_token(0), STOP)
    assert replies.tokens(second) == (STOP,)
    assert replies.length(first) == 3


def test_no_two_texts_have_a_token_in_common():
    tokens = [f(n) for n in range(50) for f in (own_text, reply_token)]
    assert len({*tokens, STOP}) == 101


@pytest.mark.parametrize("length", [0, -1, 2**30])
def test_a_reply_that_cannot_be_is_refused(length: int):
    with pytest.raises(ValueError, match="a reply cannot have"):
        Replies().add(length)
