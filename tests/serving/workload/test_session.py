"""Which turns can be, and what cutting and scaling make of a workload."""

from itertools import count

import pytest

from serving.workload.session import (
    END_OF_NAMES,
    LONGEST,
    LONGEST_DETAIL,
    BadLine,
    SessionShape,
    Span,
    TurnShape,
    Workload,
    WorkloadError,
    check_turn,
    first_turns,
    from_first_arrival,
    scale_rate,
    scale_time,
    take_turns,
    window,
    within_context,
)


def turn(
    new: int = 10, reply: int = 5, *, think_s: float = 0.0, keep: int | None = None, shared=()
) -> TurnShape:
    return TurnShape(think_s, keep, shared, new, reply)


def workload(*sessions: tuple[float, list[TurnShape]]) -> Workload:
    shapes = [SessionShape(f"s{i}", at, tuple(turns)) for i, (at, turns) in enumerate(sessions)]
    return Workload("made", tuple(shapes), {"lines: not JSON": 2})


def starts(one: Workload) -> list[float]:
    return [session.start_s for session in one.sessions]


def turns_of(one: Workload) -> list[int]:
    return [len(session.turns) for session in one.sessions]


THREE = workload(
    (2.0, [turn(), turn(think_s=4.0)]), (3.0, [turn()]), (7.0, [turn(), turn(think_s=1.0), turn()])
)
LAST_NAME = END_OF_NAMES - 1


@pytest.mark.parametrize(
    ("one", "first", "problem"),
    [
        (turn(new=-1), True, "a length is negative (-1)"),
        (turn(reply=-7), True, "a length is negative (-7)"),
        (turn(keep=-2), False, "a length is negative (-2)"),
        (turn(shared=(Span(1, -3),)), True, "a length is negative (-3)"),
        (turn(new=LONGEST + 1), True, "a length is more than 4194304 tokens (4194305)"),
        (turn(reply=LONGEST + 1), True, "a length is more than 4194304 tokens (4194305)"),
        (turn(keep=LONGEST + 1), False, "a length is more than 4194304 tokens (4194305)"),
        (
            turn(new=1, shared=(Span(1, LONGEST),)),
            True,
            "a length is more than 4194304 tokens (4194305)",
        ),
        (turn(reply=0), True, "the reply has no token"),
        (turn(new=0), True, "the prompt has no token"),
        (turn(new=0, shared=(Span(1, 0),)), True, "the prompt has no token"),
        (turn(new=0, keep=3), True, "the prompt has no token"),
        (turn(new=0, keep=0), False, "the prompt has no token"),
        (turn(think_s=-0.5), False, "a think time is not 0 s or more (-0.5)"),
        (turn(think_s=float("nan")), False, "a think time is not 0 s or more (nan)"),
        (turn(think_s=float("inf")), False, "a think time is not 0 s or more (inf)"),
        (turn(shared=(Span(0, 4),)), True, "a name of shared text is not in 1 to 16777215 (0)"),
        (turn(shared=(Span(-1, 4),)), True, "a name of shared text is not in 1 to 16777215 (-1)"),
        (
            turn(shared=(Span(1, 4), Span(END_OF_NAMES, 4))),
            True,
            "a name of shared text is not in 1 to 16777215 (16777216)",
        ),
    ],
)
def test_a_turn_that_cannot_be_is_named_with_its_place(one: TurnShape, first: bool, problem: str):
    with pytest.raises(BadLine) as caught:
        check_turn(one, "f:3", first=first)
    assert str(caught.value) == f"f:3: {problem}"
    assert caught.value.reason == problem.split(" (")[0]


@pytest.mark.parametrize(
    ("one", "first"),
    [
        (turn(new=LONGEST, reply=LONGEST), True),
        (turn(new=0, shared=(Span(LAST_NAME, 1),)), True),
        (turn(new=0), False),
        (turn(new=0, keep=1), False),
        (turn(new=1, keep=0), False),
    ],
)
def test_a_turn_that_can_be_is_let_pass(one: TurnShape, first: bool):
    check_turn(one, "f:3", first=first)


def test_a_message_shows_the_beginning_of_what_stands_there():
    error = BadLine("f:1", "odd", "x" * 1000)
    assert str(error) == f"f:1: odd ({'x' * LONGEST_DETAIL}...)"


def test_rate_scaling_moves_starts_and_leaves_think_times():
    scaled = scale_rate(THREE, 2.0)
    assert starts(scaled) == [1.0, 1.5, 3.5]
    assert [s.turns for s in scaled.sessions] == [s.turns for s in THREE.sessions]


def test_time_scaling_moves_starts_and_think_times():
    scaled = scale_time(THREE, 3.0)
    assert starts(scaled) == [6.0, 9.0, 21.0]
    assert [t.think_s for s in scaled.sessions for t in s.turns] == [0, 12, 0, 0, 3, 0]
    assert scaled.num_turns == 6


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_factors_must_be_positive(factor: float):
    with pytest.raises(WorkloadError, match=f"^--rate-scale {factor} must be positive$"):
        scale_rate(THREE, factor)
    with pytest.raises(WorkloadError, match=f"^--time-scale {factor} must be positive$"):
        scale_time(THREE, factor)


def test_time_begins_with_the_first_arrival():
    assert starts(from_first_arrival(THREE)) == [0.0, 1.0, 5.0]


def test_a_workload_without_sessions_says_what_was_left_out():
    with pytest.raises(WorkloadError) as caught:
        window(THREE, 100.0, 5.0)
    assert str(caught.value) == (
        "made: no session is left to run (left out: 2 lines: not JSON, 6 turns outside the window)"
    )
    with pytest.raises(WorkloadError, match=r"^x: no session is left to run$"):
        from_first_arrival(Workload("x", (), {}))


def test_a_window_holds_its_start_and_not_its_end_and_begins_at_its_first_arrival():
    kept = window(THREE, 2.5, 4.5)
    assert [(s.id, s.start_s) for s in kept.sessions] == [("s1", 0.0)]
    assert kept.skipped == {"lines: not JSON": 2, "turns outside the window": 5}
    assert starts(window(THREE, 3.0, 4.01)) == [0.0, 4.0]


@pytest.mark.parametrize(
    ("limit", "kept", "left_out"),
    [
        (1, [1], 5),
        (2, [2], 4),
        (3, [2, 1], 3),
        (5, [2, 1, 2], 1),
        (6, [2, 1, 3], 0),
        (9, [2, 1, 3], 0),
    ],
)
def test_a_limit_cuts_the_last_session(limit: int, kept: list[int], left_out: int):
    cut = first_turns(THREE, limit)
    assert turns_of(cut) == kept
    assert cut.skipped.get("turns beyond the limit", 0) == left_out
    assert cut.sessions[-1].turns == THREE.sessions[len(kept) - 1].turns[: kept[-1]]


def test_turns_can_be_taken_from_sessions_without_end():
    endless = (SessionShape(f"s{i}", float(i), (turn(), turn())) for i in count())
    assert [len(session.turns) for session in take_turns(endless, 5)] == [2, 2, 1]


def test_a_session_ends_before_the_turn_that_outgrows_the_context():
    # Contexts: 15, 30, then 8 + 7 + 10 + 5 = 30 after forgetting, then 45.
    one = [turn(), turn(), turn(keep=8, shared=(Span(1, 7),)), turn()]
    for limit, kept in ((45, 4), (44, 3), (30, 3), (29, 1), (15, 1)):
        assert turns_of(within_context(workload((0.0, one)), limit)) == [kept]
    none = within_context(workload((0.0, one), (1.0, [turn(new=1, reply=1)])), 14)
    assert [session.id for session in none.sessions] == ["s1"]
    assert none.skipped["turns beyond a context of 14 tokens"] == 4


def test_no_more_is_kept_than_there_is():
    one = [turn(keep=100), turn(keep=100)]
    assert turns_of(within_context(workload((0.0, one)), 30)) == [2]
