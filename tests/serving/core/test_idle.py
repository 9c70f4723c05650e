"""What idle sessions are worth, with chances that a person can follow."""

from dataclasses import replace

from serving.core.cached_pages import Group
from serving.core.idle import MOST_GONE, IdleSessions
from serving.forecast.returns import ReturnPrior
from serving.messages import Tick
from tests.support.one_worker import D0, Worker
from tests.support.rules import batcher_rules


def idle(*, weight: float = 1.0) -> IdleSessions:
    prior = ReturnPrior(returns=0.5, median_s=30.0, weight=weight)
    rules = replace(batcher_rules(), returns=prior)
    return IdleSessions(rules, rules.costs, 4)


def at(sessions: IdleSessions, now: float) -> IdleSessions:
    sessions.now = now
    return sessions


def test_a_session_is_idle_from_its_leave_to_its_return():
    sessions = idle()
    sessions.left("a", 1)
    assert len(sessions) == 1
    sessions.returned("a")
    sessions.returned("never left")
    assert len(sessions) == 0


def test_of_two_alike_the_one_idle_for_longer_goes_first():
    """Whoever has not come back for an hour hardly will: the tail of gaps is heavy."""
    sessions = idle()
    at(sessions, 0.0).left("old", 1)
    at(sessions, 3590.0).left("young", 1)
    assert list(at(sessions, 3600.0).rank({"young": 5, "old": 5}, ())) == ["old", "young"]


def test_of_two_equally_old_the_one_whose_pages_save_less_each_goes_first():
    """A prefill has a fixed cost, so each page of a short history saves more than one of many."""
    sessions = idle()
    sessions.left("short", 1)
    sessions.left("long", 1)
    assert list(at(sessions, 1.0).rank({"short": 1, "long": 50}, ())) == ["long", "short"]


def test_of_two_alike_the_one_whose_like_does_not_come_back_goes_first():
    """One question, or a conversation that is going on: how many turns there were says much."""
    sessions = idle()
    for i in range(10):
        at(sessions, 100.0 * i).left("asks once", 1)
        sessions.left("goes on", 3)
        at(sessions, 100.0 * i + 10.0).returned("goes on")
        sessions.rank({"goes on": 1}, ())  # the other has no page any more
    sessions.left("new", 1)
    sessions.left("known", 3)
    assert list(at(sessions, 1010.0).rank({"known": 5, "new": 5}, ())) == ["new", "known"]


def test_an_older_turn_that_ends_last_takes_no_turns_from_its_session():
    sessions, alone = idle(), idle()
    for one in (sessions, alone):
        at(one, 0.0).left("asks once", 1)
        at(one, 100.0).rank({}, ())  # it has no page any more
        one.left("two at once", 3)
    sessions.left("two at once", 1)
    for one in (sessions, alone):
        at(one, 110.0).rank({"two at once": 5}, ())
    assert sessions.page_loss_s == alone.page_loss_s > 0


def test_what_a_session_left_behind_that_moved_away_goes_first_until_it_returns():
    sessions = idle()
    at(sessions, 0.0).left("old", 1)
    at(sessions, 3590.0).left("moved", 1)
    sessions.moved("moved")
    pages: dict[Group, int] = {"old": 5, "moved": 5}
    assert list(at(sessions, 3600.0).rank(pages, ())) == ["moved", "old"]
    sessions.returned("moved")
    at(sessions, 3600.0).left("moved", 1)
    assert list(sessions.rank(pages, ())) == ["old", "moved"]


def test_a_move_says_nothing_of_whether_sessions_return():
    sessions = idle()
    sessions.left("moved", 1)
    sessions.moved("moved")
    before = sessions._returns.chance(10.0, 100.0, 1)
    assert list(at(sessions, 500.0).rank({}, ())) == []
    sessions.returned("moved")
    assert sessions._returns.chance(10.0, 100.0, 1) == before


def test_a_session_with_no_page_left_counts_as_lost_and_is_forgotten():
    sessions = idle()
    sessions.left("gone", 1)
    sessions.left("here", 1)
    before = sessions._returns.chance(10.0, 100.0, 1)
    assert list(at(sessions, 500.0).rank({"here": 3}, ())) == ["here"]
    assert len(sessions) == 1
    assert sessions._returns.chance(10.0, 100.0, 1) < before


def test_returns_are_learned_from():
    sessions = idle()
    before = sessions._returns.chance(1.0, 10.0, 1)
    for i in range(20):
        at(sessions, 100.0 * i).left("a", 1)
        at(sessions, 100.0 * i + 5.0).returned("a")
    assert sessions._returns.chance(1.0, 10.0, 1) > before


def test_a_session_that_left_pages_but_is_active_counts_as_just_left():
    sessions = at(idle(), 100.0)
    sessions.left("idle", 1)
    assert list(at(sessions, 5000.0).rank({"active": 3, "idle": 3}, ())) == ["idle", "active"]


def test_a_ranking_says_what_losing_a_page_costs():
    sessions = idle()
    for name in ("a", "b"):
        at(sessions, 0.0).left(name, 1)
    sessions.moved("a")
    assert sessions.page_loss_s == 0
    at(sessions, 30.0).rank({"a": 1, "b": 9}, ())
    later = sessions._returns.chance(30.0, sessions._rules.return_horizon_s, 1)
    assert sessions.page_loss_s == later * sessions._costs.prefill(9 * 4, 0).seconds / 10


def test_where_nobody_ranks_sessions_without_pages_are_forgotten_once_there_are_many():
    sessions = idle()
    for number in range(MOST_GONE // 2 + 1):
        sessions.left(f"gone {number}", 1)
        sessions.left(f"moved {number}", 1)
        sessions.moved(f"moved {number}")
    sessions.left("here", 1)
    sessions.tidy({"here", "elsewhere"}, ())
    assert len(sessions) == MOST_GONE // 2 + 2
    before = sessions._returns.chance(10.0, 100.0, 1)
    at(sessions, 500.0).tidy({"here"}, ())
    assert (len(sessions), len(sessions._moved)) == (1, 0)
    assert sessions._returns.chance(10.0, 100.0, 1) < before


def test_a_worker_tidies_up_as_time_passes():
    worker = Worker(D0)
    sessions = worker.batcher.holdings.idle
    for number in range(MOST_GONE + 1):
        sessions.left(f"gone {number}", 1)
    worker.on(Tick())
    assert len(sessions) == 0
