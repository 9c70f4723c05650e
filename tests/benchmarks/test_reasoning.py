"""Turns drawn as STAR's paper says: shares of short replies and of those at the cap."""

import pytest

from benchmarks.reasoning import CAP, LONG, LONGEST_PROMPT, SHORT, reasoning


def test_replies_are_as_long_as_published():
    sessions = reasoning(20_000, 0).sessions
    turns = [turn for session in sessions for turn in session.turns]
    assert len(turns) == len(sessions)
    assert sum(turn.reply < SHORT for turn in turns) / len(turns) == pytest.approx(0.292, abs=0.01)
    assert sum(turn.reply > LONG for turn in turns) / len(turns) == pytest.approx(0.173, abs=0.01)
    capped = [turn for turn in turns if turn.reply > LONG]
    assert {turn.new + turn.reply for turn in capped} == {CAP}


def test_no_turn_is_longer_than_the_cap():
    turns = [turn for session in reasoning(20_000, 1).sessions for turn in session.turns]
    assert max(turn.new + turn.reply for turn in turns) == CAP
    assert min(turn.new for turn in turns) >= 1
    assert max(turn.new for turn in turns) == LONGEST_PROMPT


def test_turns_arrive_one_a_second_in_order_and_are_the_seeds():
    starts = [session.start_s for session in reasoning(20_000, 0).sessions]
    assert starts == sorted(starts)
    assert starts[-1] == pytest.approx(20_000, rel=0.03)
    assert reasoning(50, 3) == reasoning(50, 3) != reasoning(50, 4)
