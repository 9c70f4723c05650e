"""Times by hand: when tokens came, and what is made of them."""

import pytest

from serving.replay.failure import TurnFailed
from serving.replay.recorder import Recorder
from serving.replay.reply import Usage
from serving.request import TurnId


def test_a_turn_is_timed_from_its_sending():
    recorder = Recorder()
    record = recorder.on_sent(TurnId("a.1"), 1, 10, due=4.0, now=5.0)
    for tokens, now in ((0, 6.0), (1, 7.0), (0, 7.5), (3, 9.0), (1, 10.0)):
        recorder.on_tokens(record, tokens, now)
    recorder.on_whole(record, Usage(prompt=10, reply=5, cached=4), asked=5)
    assert record.ttft_s == 2.0
    assert record.tpot_s == (10.0 - 7.0) / 4
    assert list(recorder.gaps) == [2.0, 0.0, 0.0, 1.0]
    assert list(recorder.late) == [1.0]
    assert record.completed
    assert (record.number, record.prompt_len, record.cached_len) == (1, 10, 4)
    assert (recorder.odd_lengths, recorder.cached_known) == (0, True)


def test_tokens_that_come_first_together_have_no_gap_before_them():
    recorder = Recorder()
    record = recorder.on_sent(TurnId("a.0"), 0, 10, due=0.0, now=0.0)
    recorder.on_tokens(record, 2, 1.0)
    assert record.ttft_s == 1.0
    assert list(recorder.gaps) == [0.0]


def test_the_servers_own_lengths_are_the_right_ones():
    recorder = Recorder()
    record = recorder.on_sent(TurnId("a.0"), 0, 10, due=0.0, now=0.0)
    recorder.on_tokens(record, 1, 1.0)
    recorder.on_tokens(record, 1, 4.0)
    recorder.on_whole(record, Usage(prompt=14, reply=4, cached=None), asked=5)
    assert (record.prompt_len, record.tokens, record.tpot_s) == (14, 4, 1.0)
    assert (recorder.odd_lengths, recorder.cached_known) == (1, False)


@pytest.mark.parametrize(("tokens", "odd"), [(2, 0), (1, 1)])
def test_without_its_lengths_what_came_is_counted(tokens, odd):
    recorder = Recorder()
    record = recorder.on_sent(TurnId("a.0"), 0, 10, due=0.0, now=0.0)
    recorder.on_tokens(record, tokens, 1.0)
    recorder.on_whole(record, None, asked=2)
    assert (record.tokens, recorder.odd_lengths, recorder.cached_known) == (tokens, odd, False)


def test_failures_are_counted_by_reason_and_the_first_is_quoted():
    recorder = Recorder()
    for name, reason, message in (("a", "429", "full"), ("b", "429", "too full"), ("c", "500", "")):
        record = recorder.on_sent(TurnId(name), 0, 10, due=0.0, now=0.0)
        recorder.on_failure(record, TurnFailed(reason, message))
        assert not record.completed
    recorder.on_given_up(2)
    recorder.on_given_up(3)
    assert recorder.failed == {"429": 2, "500": 1}
    assert recorder.messages == {"429": "full", "500": ""}
    assert recorder.given_up == 5
