"""What does the routing policy get to see, and what are workers told of its answer?"""

from math import isnan

import pytest

from serving.core.booked import Work
from serving.costs.costs import Link
from serving.messages import (
    Decode,
    LoadReport,
    Prefill,
    Refused,
    Role,
    SetRole,
    TaskId,
    Tier,
    WorkerId,
)
from serving.policy.place import Placement
from serving.policy.route import History, Local, Option, Remote, RouteReason
from serving.request import Slo, TurnId
from tests.support.coordinating import Desk
from tests.support.rules import COSTS

P0, P1, D0 = (WorkerId(name) for name in ("p0", "p1", "d0"))
ROLES = {"p0": Role.PREFILL, "p1": Role.PREFILL, "d0": Role.DECODE}
STAY = Local(RouteReason.HISTORY_HELD, ())


class Spy:
    """A routing policy that answers as told and remembers what it was shown."""

    def __init__(self, answer: Local | Remote = STAY) -> None:
        self.answer = answer
        self.shown: list = []

    def __call__(self, turn, owner, prefills, context):
        self.shown.append((turn, owner, prefills))
        return self.answer


def desk(answer: Local | Remote = STAY, **rules) -> tuple[Desk, Spy]:
    spy = Spy(answer)
    return Desk(ROLES, route=spy, **rules), spy


def away(history: History, *, reuse: bool = True) -> Remote:
    return Remote(P0, history, reuse, RouteReason.ALWAYS_REMOTE, ())


# ---- what it sees -------------------------------------------------------------------------------


def test_a_turn_is_shown_with_its_length_its_place_and_its_targets():
    one, spy = desk(slo=Slo(2.0, None))
    one.arrive("a", range(9), max_tokens=7, session="s")
    one.arrive("b", range(12), max_tokens=5, session="s")
    first, second = (turn for turn, _, _ in spy.shown)
    assert (first.prompt_len, first.number, first.max_new_len) == (9, 0, 7)
    assert (second.prompt_len, second.number) == (12, 1)
    assert (second.ttft_s, second.tpot_s, second.waited_s) == (2.0, None, 0.0)
    assert second.arrival_rate == pytest.approx(2 / 10)


def test_what_owner_and_prefill_workers_hold_is_what_they_told():
    one, spy = desk()
    one.holds("d0", range(8))
    one.holds("p1", range(4))
    one.arrive("a", range(11))
    _, owner, prefills = spy.shown[0]
    assert owner.cached_len == 8
    assert [(view.worker, view.cached_len) for view in prefills] == [("p0", 0), ("p1", 4)]


@pytest.mark.parametrize(
    ("link", "cached_len", "fetch_s"),
    [
        (Link(1e-6, 1e6), 8, 1e-6 + 4 * COSTS.kv_bytes_per_token / 1e6),
        (Link(1.0, 1e6), 4, 0.0),  # it will compute what it could fetch
    ],
)
def test_what_is_in_host_memory_is_held_if_it_will_be_fetched(link, cached_len: int, fetch_s):
    one, spy = desk(host_link=link)
    one.holds("d0", range(4))
    one.holds("d0", range(8), tier=Tier.HOST, start=1)
    one.holds("p1", range(4), tier=Tier.HOST)
    one.arrive("a", range(11))
    _, owner, (p0, p1) = spy.shown[0]
    assert (owner.cached_len, owner.fetch_s) == (cached_len, pytest.approx(fetch_s))
    assert (p0.cached_len, p0.fetch_s) == (0, 0.0)
    assert (p1.cached_len, p1.fetch_s) == (cached_len - 4, pytest.approx(fetch_s))
    booked = one.coordinator.fleet.workers[D0].booked.total
    computed_s = COSTS.prefill(11 - cached_len, cached_len).seconds
    assert booked == (11 - cached_len, pytest.approx(fetch_s + computed_s))


def test_work_ahead_is_counted_until_its_first_token():
    one, spy = desk()
    one.arrive("a", range(9))
    one.arrive("b", range(50, 59))
    _, owner, _ = spy.shown[1]
    assert (owner.queued_len, owner.rows, owner.kv_tokens) == (9, 0, 0)
    assert owner.queued_s == pytest.approx(0.001 + 9 * 0.0001)
    one.prefilled("a", "d0")
    one.arrive("c", range(80, 89))
    _, owner, _ = spy.shown[2]
    assert (owner.queued_len, owner.rows, owner.kv_tokens) == (9, 1, 10)


@pytest.mark.parametrize(("late_waits", "ahead"), [(True, 0), (False, 9)])
def test_late_work_is_ahead_of_a_turn_in_time_only_where_it_does_not_wait(late_waits, ahead):
    one, spy = desk(late_waits=late_waits, slo=Slo(1.0, None))
    one.arrive("a", range(9))
    one.now = 1.5
    one.arrive("b", range(50, 59))
    assert [owner.queued_len for _, owner, _ in spy.shown] == [0, ahead]


def test_remote_work_is_booked_where_it_is_done():
    one, spy = desk(away(History.RECOMPUTE))
    one.arrive("a", range(9))
    one.arrive("b", range(50, 59))
    _, owner, (p0, p1) = spy.shown[1]
    assert (owner.queued_len, p0.queued_len, p0.turns, p1.queued_len) == (0, 9, 1, 0)


def test_each_resident_row_is_shown_with_its_rest_and_its_target():
    one, spy = desk()
    one.arrive("a", range(9), max_tokens=100)
    one.prefilled("a", "d0")
    one.token("a", "d0", 1)
    one.arrive("b", range(50, 59))
    _, owner, _ = spy.shown[1]
    assert owner.residents.expected_len.shape == (1,)
    assert 0 < owner.residents.expected_len[0] < 8
    assert isnan(owner.residents.tpot_s[0])
    assert owner.kv_tokens == 11


def test_pages_are_as_reported_or_all_before_any_report():
    one, spy = desk()
    one.arrive("a", range(9))
    one.on(LoadReport(D0, 0, 1, 60, 20, 20, 10, 0, 0))
    one.arrive("b", range(9))
    (_, before, _), (_, after, _) = spy.shown
    assert (before.pages_available, before.pages_total) == (100, 100)
    assert (after.pages_available, after.pages_total) == (30, 100)


def test_times_between_tokens_and_to_the_first_are_means_of_the_window():
    one, spy = desk(away(History.RECOMPUTE))
    one.arrive("a", range(9), max_tokens=50)
    one.now = 0.5
    one.prefilled("a", "p0")
    for i in range(1, 5):
        one.now += 0.25
        one.token("a", "d0", i)
    one.arrive("b", range(50, 59))
    _, owner, (p0, p1) = spy.shown[1]
    assert owner.itl_s == pytest.approx(0.25)
    assert (p0.ttft_s, p1.ttft_s) == (0.5, None)


def test_a_prefill_worker_that_leaves_is_not_offered():
    one, spy = desk()
    one.on(SetRole(P1, None))
    one.arrive("a", range(9))
    _, _, prefills = spy.shown[0]
    assert [view.worker for view in prefills] == ["p0"]


# ---- workers that do both, for each other -------------------------------------------------------

BOTH = {f"d{i}": Role.BOTH for i in range(7)}
LATE = Local(RouteReason.LOCAL_FASTEST, (Option("local", None, 9.0, 0.0, 0, missed=1, score=14.0),))
IN_TIME = Local(RouteReason.LOCAL_FASTEST, (Option("local", None, 1.0, 0.0, 0, 0, 1.0),))


def peers(answer: Local | Remote, workers: int = 3, **rules) -> tuple[Desk, Spy]:
    """So many workers that do both; the first owns each session."""
    spy, roles = Spy(answer), dict(list(BOTH.items())[:workers])
    first = lambda session, homes: Placement(homes.workers[0], "first")  # noqa: E731
    return Desk(roles, route=spy, place=first, peers=True, **rules), spy


def decode_at(one: Desk, worker: str, name: str) -> None:
    """A row begins to decode at a worker, whoever was chosen to own it."""
    one.coordinator.fleet.begin_decode(WorkerId(worker), TurnId(name), 8)


def offered(spy: Spy) -> list[list[str]]:
    return [[view.worker for view in prefills] for _, _, prefills in spy.shown]


def test_the_others_that_decode_nothing_may_prefill_and_never_the_owner():
    one, spy = peers(IN_TIME)
    one.arrive("a", range(9))
    assert offered(spy) == [["d1", "d2"]]


def test_nobody_prefills_for_others_unless_that_is_asked_for():
    spy = Spy(LATE)
    one = Desk(dict(list(BOTH.items())[:3]), route=spy)
    one.arrive("a", range(9))
    assert offered(spy) == [[]]


@pytest.mark.parametrize(("answer", "asked"), [(IN_TIME, [["d2"]]), (LATE, [["d2"], ["d2", "d1"]])])
def test_those_with_rows_are_asked_only_where_the_turn_would_cost_a_target(answer, asked):
    one, spy = peers(answer)
    one.arrive("r", range(50, 59))
    spy.shown.clear()
    decode_at(one, "d1", "r")
    one.arrive("a", range(9))
    assert offered(spy) == asked
    (*_, busy) = spy.shown[-1][2]
    assert (busy.rows, busy.kv_tokens) == ((1, 8) if answer is LATE else (0, 0))
    assert busy.residents.expected_len.size == busy.rows


def test_of_many_with_rows_those_with_the_fewest_are_asked():
    one, spy = peers(LATE, workers=7)
    one.arrive("r", range(50, 59))
    one.arrive("q", range(70, 79))
    for i in range(1, 7):
        decode_at(one, f"d{i}", "r")
    for i in (2, 3):
        decode_at(one, f"d{i}", "q")
    spy.shown.clear()
    one.arrive("a", range(9))
    assert offered(spy) == [[], ["d1", "d4", "d5", "d6"]]


def test_a_prompt_waits_for_others_where_nothing_decodes_and_not_beside_rows():
    one, spy = peers(LATE)
    one.arrive("r", range(50, 59))
    decode_at(one, "d1", "r")
    for worker in ("d1", "d2"):
        one.coordinator.fleet.book(WorkerId(worker), TurnId("b"), Work(100, 1.0), 1e9)
    spy.shown.clear()
    one.arrive("a", range(9))
    assert offered(spy) == [["d2"]]


def test_a_worker_without_room_for_the_prompt_is_not_asked():
    one, spy = peers(IN_TIME)
    page = one.shape.page_size
    one.on(LoadReport(WorkerId("d1"), 0, 0, 98, 1, 1, 0, 0, 0))  # two pages could be had
    one.arrive("a", range(2 * page))
    one.arrive("b", range(100, 101 + 2 * page))
    assert offered(spy) == [["d1", "d2"], ["d2"]]


def test_a_worker_that_leaves_is_not_asked():
    one, spy = peers(IN_TIME)
    one.on(SetRole(WorkerId("d1"), None))
    one.arrive("a", range(9))
    assert offered(spy) == [["d2"]]


def test_a_prompt_waits_for_memory_at_a_prefill_worker_and_not_at_a_peer():
    one, _ = peers(Remote(WorkerId("d1"), History.RECOMPUTE, True, RouteReason.SAVES_TARGET, ()))
    one.arrive("a", range(9))
    (prefill,) = one.told("d1", Prefill)
    assert (prefill.owner, prefill.waits) == (WorkerId("d0"), False)
    one, _ = desk(away(History.RECOMPUTE))
    one.arrive("a", range(9))
    (prefill,) = one.told("p0", Prefill)
    assert prefill.waits


def test_whoever_was_refused_once_stays_with_its_owner():
    one, spy = peers(Remote(WorkerId("d1"), History.RECOMPUTE, True, RouteReason.SAVES_TARGET, ()))
    one.arrive("a", range(9))
    spy.answer = LATE
    one.on(Refused(WorkerId("d1"), TaskId(TurnId("a"), 0), "no_room"))
    assert offered(spy) == [["d1", "d2"], []]
    (again,) = one.told("d0", Prefill)
    assert again.owner is None
    assert [(d.choice, d.reason) for d in one.decided("retry")] == [("attempt 1", "no_room")]


# ---- what is made of its answer -----------------------------------------------------------------


def test_a_local_turn_is_the_owner_s_alone():
    one, _ = desk()
    one.arrive("a", range(9))
    (work,) = one.told("d0", Prefill)
    assert (work.owner, work.pull, work.reuse) == (None, False, True)
    assert one.told("p0", Prefill) == []


@pytest.mark.parametrize(
    ("history", "held", "pull"),
    [
        (History.PULL, 8, True),
        (History.CACHED, 8, True),
        (History.RECOMPUTE, 8, False),
        (History.RECOMPUTE, 0, True),
    ],
)
def test_history_is_fetched_unless_the_policy_would_rather_compute(
    history: History, held: int, pull: bool
):
    """Where the owner holds no full page, the part of one is fetched too."""
    one, _ = desk(away(history))
    one.holds("d0", range(held))
    one.arrive("a", range(11))
    (prefill,), (decode,) = one.told("p0", Prefill), one.told("d0", Decode)
    assert (prefill.owner, prefill.pull, prefill.reuse) == (D0, pull, True)
    assert (decode.source, decode.reuse, decode.move) == (P0, True, None)


def test_without_reuse_neither_side_may_use_what_it_holds():
    one, _ = desk(away(History.RECOMPUTE, reuse=False))
    one.holds("d0", range(8))
    one.arrive("a", range(11))
    (prefill,), (decode,) = one.told("p0", Prefill), one.told("d0", Decode)
    assert (prefill.pull, prefill.reuse, decode.reuse) == (False, False, False)
    assert one.coordinator.fleet.workers[P0].booked.total.tokens == 11


@pytest.mark.parametrize(
    ("history", "computed"), [(History.PULL, 3), (History.RECOMPUTE, 7), (History.CACHED, 3)]
)
def test_what_will_be_computed_is_booked(history: History, computed: int):
    one, _ = desk(away(history))
    one.holds("d0", range(8))
    one.holds("p0", range(4))
    one.arrive("a", range(11))
    assert one.coordinator.fleet.workers[P0].booked.total.tokens == computed


def test_a_prompt_that_is_held_to_its_end_still_computes_a_token():
    one, _ = desk()
    one.holds("d0", range(8))
    one.arrive("a", range(8))
    assert one.coordinator.fleet.workers[D0].booked.total.tokens == 1


def test_the_decision_carries_its_alternatives_and_is_compared_with_what_came():
    option = Option("local", None, 0.25, 0.0, 0, 0, 0.25)
    other = Option("p0", History.RECOMPUTE, 0.5, 0.0, 36, 1, 5.5)
    one, _ = desk(Local(RouteReason.LOCAL_FASTEST, (option, other)))
    one.arrive("a", range(9))
    one.now = 0.75
    one.prefilled("a", "d0", computed=9)
    (routed,), (came,) = one.decided("route"), one.decided("first_token")
    assert (routed.choice, routed.reason) == ("d0", "local_fastest")
    assert routed.details["options"] == [
        {
            "choice": "local",
            "history": None,
            "ttft_s": 0.25,
            "harm": 0.0,
            "moved_bytes": 0,
            "missed": 0,
            "score": 0.25,
        },
        {
            "choice": "p0",
            "history": "recompute",
            "ttft_s": 0.5,
            "harm": 0.0,
            "moved_bytes": 36,
            "missed": 1,
            "score": 5.5,
        },
    ]
    assert (came.details["ttft_s"], came.details["predicted_ttft_s"]) == (0.75, 0.25)
