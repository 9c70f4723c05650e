"""Made-up sessions: seeded, and with the quantiles and rates asked for."""

from itertools import pairwise
from math import e
from statistics import fmean, quantiles

import pytest

from serving.workload.session import SessionShape, Span, TurnShape, check_turn
from serving.workload.synthetic import SYSTEM_NAME, Habits, LogNormal, make_sessions, make_span

HABITS = Habits(session_rate=2.0)
WORKLOAD = make_sessions(HABITS, 9000, seed=1)
SESSIONS = WORKLOAD.sessions[:-1]  # the last may be cut


def turns_of(sessions: tuple[SessionShape, ...]) -> list[TurnShape]:
    return [turn for session in sessions for turn in session.turns]


FIRST = [session.turns[0] for session in SESSIONS]
LATER = [turn for session in SESSIONS for turn in session.turns[1:]]


@pytest.mark.parametrize(
    ("name", "values", "habit"),
    [
        ("first", [turn.new for turn in FIRST], HABITS.first),
        ("later", [turn.new for turn in LATER], HABITS.later),
        ("reply", [turn.reply for turn in FIRST + LATER], HABITS.reply),
        ("think", [turn.think_s for turn in LATER], HABITS.think),
    ],
)
def test_values_have_the_median_and_the_quantile(name: str, values: list[float], habit: LogNormal):
    tenths = quantiles(values, n=10)
    assert tenths[4] == pytest.approx(habit.median, rel=0.08), name
    assert tenths[8] == pytest.approx(habit.q90, rel=0.12), name


def test_numbers_of_turns_are_geometric():
    numbers = [len(session.turns) for session in SESSIONS]
    assert fmean(numbers) == pytest.approx(3.1, rel=0.05)
    ones = sum(number == 1 for number in numbers)
    assert ones / len(numbers) == pytest.approx(1 / 3.1, abs=0.03)
    ended = sum(number == 2 for number in numbers)
    assert ended / (len(numbers) - ones) == pytest.approx(1 / 3.1, abs=0.03)


def test_sessions_begin_as_a_poisson_process():
    gaps = [b.start_s - a.start_s for a, b in pairwise(SESSIONS)]
    assert min(gaps) > 0
    assert fmean(gaps) == pytest.approx(0.5, rel=0.05)
    assert sum(gap > 0.5 for gap in gaps) / len(gaps) == pytest.approx(1 / e, abs=0.03)


def test_first_prompts_begin_alike_and_later_ones_keep_all():
    for session in SESSIONS:
        for i, turn in enumerate(session.turns):
            check_turn(turn, session.id, first=i == 0)
            assert turn.keep is None
            assert turn.shared == (() if i else (Span(SYSTEM_NAME, 128),))
    bare = make_sessions(Habits(session_rate=1.0, system=0), 5, seed=0)
    assert not any(turn.shared for turn in turns_of(bare.sessions))


@pytest.mark.parametrize("turns", [1, 2, 3, 7, 100])
def test_there_are_as_many_turns_as_asked_for(turns: int):
    made = make_sessions(HABITS, turns, seed=4)
    assert made.num_turns == turns
    assert all(session.turns for session in made.sessions)
    assert made.skipped == {}
    assert made.origin == "made up, seed 4"
    assert [session.id for session in made.sessions] == [
        f"made-{i}" for i in range(len(made.sessions))
    ]


def test_a_span_holds_what_begins_within_it():
    long, short = (make_span(HABITS, seconds, seed=1) for seconds in (200.0, 50.0))
    begin = WORKLOAD.sessions[0].start_s
    for span, seconds in ((long, 200.0), (short, 50.0)):
        assert span.sessions == tuple(s for s in SESSIONS if s.start_s - begin < seconds)
    assert len(long.sessions) == pytest.approx(400, rel=0.15)


def test_a_seed_fixes_the_draw():
    one, same, other = (make_sessions(HABITS, 50, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.sessions != other.sessions


def test_more_turns_are_the_same_sessions_and_more():
    whole = make_sessions(HABITS, 50, seed=1).sessions[:-1]
    assert whole == SESSIONS[: len(whole)]
