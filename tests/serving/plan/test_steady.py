"""The long run of a workload, in a few turns."""

from math import inf

import pytest

from serving.plan.steady import Pace, Steady, steady
from serving.workload.session import SessionShape, TurnShape, Workload

FIRST = TurnShape(0.0, None, (), 100, 100)
LATER = TurnShape(200.0, None, (), 50, 100)
CHAT = (FIRST, LATER, LATER)
WORKLOAD = Workload("by hand", tuple(SessionShape(f"s{i}", 3.0 * i, CHAT) for i in range(5)), {})
LIFE_S = 100 * 0.02  # of a reply


def play(*, rate: float = 1.0, keep_s: float = inf, least_turns: int = 300) -> Steady:
    pace = Pace(rate=rate, token_s=0.02, keep_s=keep_s, ttft_s=0.1, least_turns=least_turns)
    return steady(WORKLOAD, pace)


def expected_arrivals(one: Steady) -> list[float]:
    """When turns would come, if replies took as long as expected and histories no time."""
    arrivals: list[float] = []
    for session in one.workload.sessions:
        now = session.start_s
        for turn in session.turns:
            now += turn.think_s
            arrivals.append(now)
            now += turn.reply * 0.02 if turn.reply > 1 else 0.0
    return arrivals


@pytest.mark.parametrize("rate", [1.0, 3.0, 10.0])
def test_turns_come_at_the_rate_that_is_asked_for(rate: float):
    played = play(rate=rate)
    inside = [at for at in expected_arrivals(played) if played.from_s <= at < played.to_s]
    # Five sessions of three turns every 15 s.
    assert len(inside) / (played.to_s - played.from_s) == pytest.approx(rate, rel=0.02)
    assert len(inside) == pytest.approx(300, abs=8)
    assert max(expected_arrivals(played)) < played.to_s


def test_fast_workloads_run_for_some_replies_at_least():
    played = play(rate=1000.0, least_turns=1)
    assert played.to_s - played.from_s == pytest.approx(1.2 * LIFE_S)


def test_queues_have_time_to_grow():
    pace = Pace(rate=1000.0, token_s=0.02, keep_s=inf, ttft_s=5.0, least_turns=1)
    played = steady(WORKLOAD, pace)
    assert played.to_s - played.from_s == pytest.approx(40.0)


def test_think_times_are_shortened_to_half_a_reply():
    later = [s.turns[-1] for s in play().workload.sessions if len(s.turns) == 3]
    assert [turn.think_s for turn in later] == pytest.approx([LIFE_S / 2] * len(later))


def test_sessions_enter_with_their_history():
    told = [s for s in play().workload.sessions if s.turns[0].reply == 1]
    # 200 tokens behind the first turn, 350 behind the second; the last one is the reply to them.
    assert {s.turns[0].new for s in told} == {199, 349}
    assert all(s.turns[0] == TurnShape(0.0, None, (), s.turns[0].new, 1) for s in told)
    assert all(turn.keep is None and turn.new == 50 for s in told for turn in s.turns[1:])
    starts = sorted(s.start_s for s in told)
    assert starts == pytest.approx([0.1 * i for i in range(len(told))])


def test_what_memory_does_not_keep_is_new_text():
    played = play(keep_s=100.0)
    turns = [turn for s in played.workload.sessions for turn in s.turns]
    assert {turn.new for turn in turns} == {100, 250, 400}
    assert all(turn.keep == 0 for s in played.workload.sessions for turn in s.turns[1:])
    assert all(turn.reply == 100 for turn in turns)
