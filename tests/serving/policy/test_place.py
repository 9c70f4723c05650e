from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.costs.costs import StepModel
from serving.messages import WorkerId
from serving.policy import place as policy
from serving.policy.place import Placement
from serving.policy.views import HomesView
from serving.request import SessionId

NEW = SessionId("s1")
BY_TOKENS = StepModel(0.0, 0.0, 1.0)


class Home(NamedTuple):
    """One worker of a `HomesView`."""

    worker: WorkerId
    load: int
    turns: int
    sessions: int
    capacity: int
    cached_len: int
    expected_tokens: float
    expected_rows: float
    kv_tokens: int
    step_model: StepModel
    tpot_s: float | None
    peer: bool
    draining: bool


def view(
    name: str,
    *,
    load: int = 0,
    turns: int = 0,
    sessions: int = 0,
    capacity: int = 100,
    cached_len: int = 0,
    tokens: float = 0.0,
    rows: float = 0.0,
    kv_tokens: int = 0,
    model: StepModel = BY_TOKENS,
    tpot_s: float | None = None,
    peer: bool = False,
    draining: bool = False,
) -> Home:
    return Home(
        WorkerId(name),
        load,
        turns,
        sessions,
        capacity,
        cached_len,
        tokens,
        rows,
        kv_tokens,
        model,
        tpot_s,
        peer,
        draining,
    )


def homes(workers: Sequence[Home]) -> HomesView:
    """These workers in columns; the turn's target is the first one's."""
    models = list(dict.fromkeys(w.step_model for w in workers))
    return HomesView(
        workers=[w.worker for w in workers],
        load=np.array([w.load for w in workers], np.int64),
        turns=np.array([w.turns for w in workers], np.int64),
        capacity=np.array([w.capacity for w in workers], np.int64),
        cached_len=np.array([w.cached_len for w in workers], np.int64),
        expected_tokens=np.array([w.expected_tokens for w in workers], np.float64),
        expected_rows=np.array([w.expected_rows for w in workers], np.float64),
        step_models=models,
        model=np.array([models.index(w.step_model) for w in workers], np.int64),
        peer=np.array([w.peer for w in workers], np.bool_),
        draining=np.array([w.draining for w in workers], np.bool_),
        sessions={w.worker: w.sessions for w in workers if w.sessions},
        kv_tokens=sum(w.kv_tokens for w in workers) if all(w.peer for w in workers) else 0,
        tpot_s=workers[0].tpot_s if workers else None,
    )


def place(session: SessionId, workers: Sequence[Home]) -> Placement | None:
    return policy.place(session, homes(workers))


def place_by_hash(session: SessionId, workers: Sequence[Home]) -> Placement | None:
    return policy.place_by_hash(session, homes(workers))


def clear_of_rows(workers: Sequence[Home]) -> tuple[WorkerId, ...]:
    return policy.clear_of_rows(homes(workers))


def chosen(*views: Home) -> str:
    placement = place(NEW, views)
    assert placement is not None
    return placement.worker


def reason(*views: Home) -> str:
    placement = place(NEW, views)
    assert placement is not None
    return placement.reason


def test_no_worker_is_no_placement():
    assert place(NEW, []) is None


def test_one_long_conversation_outweighs_many_short_ones():
    assert chosen(view("a", tokens=60, rows=1), view("b", tokens=50, rows=10)) == "b"


def test_what_a_row_costs_counts_too():
    by_row = StepModel(0.0, 5.0, 1.0)
    few, many = view("a", tokens=60, rows=1), view("b", tokens=50, rows=10)
    assert chosen(few._replace(step_model=by_row), many._replace(step_model=by_row)) == "a"


def test_a_faster_worker_may_carry_more():
    fast = view("b", tokens=60, model=StepModel(0.0, 0.0, 0.5))
    assert chosen(view("a", tokens=40), fast) == "b"


def test_what_is_predicted_outweighs_what_is_held_now():
    assert chosen(view("a", load=10, tokens=60), view("b", load=60, tokens=10)) == "b"


def test_a_worker_about_to_fill_comes_last():
    assert chosen(view("a", tokens=40, capacity=40), view("b", tokens=50, capacity=100)) == "b"


def test_equal_steps_go_to_the_smaller_share_of_capacity():
    assert chosen(view("a", load=30, capacity=40), view("b", load=50, capacity=100)) == "b"


def test_equal_load_goes_to_the_fewer_turns():
    assert chosen(view("a", load=5, turns=2), view("b", load=5, turns=1)) == "b"


def test_a_quiet_server_spreads_sessions():
    assert chosen(view("a", sessions=3), view("b", sessions=2)) == "b"


def test_a_full_tie_goes_to_the_smaller_id_in_any_order():
    assert chosen(view("b"), view("a")) == chosen(view("a"), view("b")) == "a"


def test_a_held_prefix_wins_while_it_is_longer_than_the_load_is_worse():
    idle = view("a", tokens=10)
    assert chosen(idle, view("b", tokens=40, cached_len=31)) == "b"
    assert chosen(idle, view("b", tokens=40, cached_len=29)) == "a"


def test_a_prefix_that_decides_is_the_reason():
    idle = view("a", tokens=10)
    assert reason(idle, view("b", tokens=40, cached_len=31)) == "prefix"
    assert reason(idle, view("b", tokens=40, cached_len=29)) == "least_load"
    assert reason(idle._replace(cached_len=50), view("b", tokens=40)) == "least_load"


def test_a_draining_worker_gets_no_session():
    assert chosen(view("a", draining=True), view("b", tokens=90)) == "b"
    assert place(NEW, [view("a", draining=True)]) is None


VIEWS = st.lists(
    st.builds(
        Home,
        st.text("abcdef", min_size=1, max_size=3).map(WorkerId),
        load=st.integers(0, 50),
        turns=st.integers(0, 3),
        sessions=st.integers(0, 3),
        capacity=st.sampled_from((20, 40)),
        cached_len=st.integers(0, 20),
        expected_tokens=st.integers(0, 50).map(float),
        expected_rows=st.integers(0, 3).map(float),
        step_model=st.sampled_from((BY_TOKENS, StepModel(4.0, 2.0, 0.5))),
        draining=st.booleans(),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda v: v.worker,
)


def step_s(view: Home) -> float:
    model, tokens = view.step_model, view.expected_tokens - view.cached_len
    return model.base_s + model.per_row_s * view.expected_rows + model.per_token_s * tokens


@given(VIEWS, st.randoms(use_true_random=False))
def test_the_choice_has_room_and_the_shortest_steps_in_any_order(views, random):
    shuffled = list(views)
    random.shuffle(shuffled)
    placement = place(NEW, views)
    assert place(NEW, shuffled) == placement
    ready = [v for v in views if not v.draining]
    if placement is None:
        assert not ready
        return
    best = next(v for v in ready if v.worker == placement.worker)
    roomy = [v for v in ready if v.expected_tokens < v.capacity]
    assert best in (roomy or ready)
    assert all(step_s(best) <= step_s(v) for v in (roomy or ready))


def rank(view: Home, cached_len: int) -> tuple[object, ...]:
    attended = view.expected_tokens - cached_len
    model = view.step_model
    step_s = model.base_s + model.per_row_s * view.expected_rows + model.per_token_s * attended
    full, share = view.expected_tokens >= view.capacity, view.load / view.capacity
    return full, step_s, share, view.turns, view.sessions, view.worker


@given(VIEWS)
def test_columns_choose_what_ranking_one_by_one_would_choose(views):
    placement = place(NEW, views)
    if placement is not None:
        ready = [v for v in views if not v.draining and v.worker not in placement.clear]
        best = min(ready, key=lambda v: rank(v, v.cached_len))
        least_loaded = min(ready, key=lambda v: rank(v, 0))
        reason = "least_load" if best is least_loaded else "prefix"
        assert (placement.worker, placement.reason) == (best.worker, reason)


@given(VIEWS, st.integers(1, 20))
def test_more_of_the_prompt_at_hand_keeps_the_choice(views, more):
    placement = place(NEW, views)
    if placement is not None:
        longer = [
            v._replace(cached_len=v.cached_len + more) if v.worker == placement.worker else v
            for v in views
        ]
        again = place(NEW, longer)
        assert again is not None
        assert again.worker == placement.worker


def test_by_hash_a_session_stays_where_its_name_says():
    workers = [view("a", load=90, tokens=90), view("b"), view("c")]
    homes = [place_by_hash(SessionId(f"s{i}"), workers) for i in range(600)]
    counts = {w: sum(h is not None and h.worker == w for h in homes) for w in "abc"}
    assert all(150 < count < 250 for count in counts.values())  # 200 each, whatever their load
    assert homes == [place_by_hash(SessionId(f"s{i}"), workers[::-1]) for i in range(600)]
    assert {home.reason for home in homes if home is not None} == {"hash"}


def test_by_hash_nobody_that_leaves_is_chosen():
    workers = [view("a", draining=True), view("b")]
    assert {place_by_hash(SessionId(f"s{i}"), workers) for i in range(20)} == {
        place_by_hash(NEW, [view("b")])
    }
    assert place_by_hash(NEW, [view("a", draining=True)]) is None


# ---- workers that stay clear of rows ------------------------------------------------------------

HEAVY = StepModel(base_s=16.0, per_row_s=0.1, per_token_s=0.001)


def peer(name: str, **named) -> Home:
    """A worker that does both, whose steps take 16 of the 20 seconds a token."""
    how = {"model": HEAVY, "tpot_s": 20.0, "peer": True, "capacity": 10_000, **named}
    return view(name, **how)


def clear(*views: Home) -> set[str]:
    return set(clear_of_rows(views))


def test_where_steps_leave_prompts_little_one_of_four_stays_clear():
    four = [peer(name) for name in "abcd"]
    assert clear(*four) == {"a"}
    assert chosen(*four) == "b"


def test_the_one_with_the_fewest_turns_stays_clear_whatever_it_owns_or_holds():
    four = [peer("a", turns=2), peer("b", turns=1), peer("c", turns=1, cached_len=90), peer("d")]
    assert clear(*four) == {"d"}
    assert clear(peer("a", turns=1), peer("b", sessions=1), peer("c"), peer("d", turns=1)) == {"c"}
    assert chosen(*four) == "c"  # it holds the prompt


def test_a_quarter_stays_clear_at_most_and_one_of_few():
    assert len(clear(*(peer(f"w{i}") for i in range(9)))) == 2
    assert len(clear(peer("a"), peer("b"))) == 1
    assert clear(peer("a")) == set()


@pytest.mark.parametrize(("rows", "count"), [(26, 1), (29, 0)])
def test_nobody_stays_clear_if_the_others_would_have_long_steps(rows: int, count: int):
    # 16 + 0.1 * (3 * rows + 1) / 3 s: with 26 rows 18.7, with 29 18.93, and 300 tokens take 0.1 s.
    views = [peer("a"), *(peer(name, rows=rows, turns=rows, kv_tokens=100) for name in "bcd")]
    assert len(clear(*views)) == count


def test_nobody_stays_clear_if_the_others_would_fill_up():
    room = [peer("a"), *(peer(name, turns=1, load=6_900) for name in "bcd")]
    assert clear(*room) == {"a"}
    assert clear(*room[:3], peer("d", turns=1, load=7_300)) == set()


def test_more_than_a_quarter_is_never_tried_and_less_if_that_is_too_much():
    eight = [peer(f"w{i}", rows=20.0, turns=20) for i in range(8)]
    # 16 + 0.1 * 161 / 6 = 18.68 s
    assert len(clear(*eight)) == 2
    full = [peer(f"w{i}", rows=24.0, turns=24) for i in range(8)]
    # 16 + 0.1 * 193 / 6 = 19.2 s, / 7 = 18.76 s
    assert len(clear(*full)) == 1


@pytest.mark.parametrize("tpot_s", [None, 24.5, 15.0])
def test_nobody_stays_clear_without_a_target_with_a_loose_one_and_with_a_hopeless_one(tpot_s):
    assert clear(*(peer(name, tpot_s=tpot_s) for name in "abcd")) == set()


@pytest.mark.parametrize(
    ("views", "by_rows"),
    [
        ([peer("a"), peer("b")], True),
        ([peer("a", rows=99.0), peer("b")], True),  # nobody is kept clear, by the rows there are
        ([peer("a")], False),
        ([peer("a"), peer("b", draining=True)], False),
        ([peer("a", tpot_s=24.5), peer("b", tpot_s=24.5)], False),
        ([view("a"), view("b")], False),
    ],
)
def test_it_says_whether_rows_decided(views: list[Home], by_rows: bool):
    placement = place(NEW, views)
    assert placement is not None
    assert placement.by_rows is by_rows
    more = place(NEW, [one._replace(kv_tokens=one.kv_tokens + 900_000) for one in views])
    assert by_rows or more == placement


def test_nobody_stays_clear_where_some_do_not_prefill_for_others():
    assert clear(*(peer(name) for name in "abc"), view("d", model=HEAVY, tpot_s=20.0)) == set()


def test_a_worker_that_drains_is_none_that_stays_clear():
    assert clear(peer("a", draining=True), peer("b")) == set()


@given(
    st.lists(
        st.builds(
            peer,
            st.uuids().map(str),
            turns=st.integers(0, 40),
            rows=st.floats(0, 60),
            load=st.integers(0, 12_000),
            kv_tokens=st.integers(0, 5_000),
            draining=st.booleans(),
        ),
        max_size=9,
        unique_by=lambda worker: worker.worker,
    )
)
def test_somebody_is_always_left_to_own_and_nobody_clear_has_more_turns(views):
    names = clear_of_rows(views)
    ready = [one for one in views if not one.draining]
    placed = place(NEW, views)
    assert (placed is None) == (not ready)
    if placed is not None:
        assert placed.worker not in names
    others = [one.turns for one in ready if one.worker not in names]
    assert all(one.turns <= min(others) for one in ready if one.worker in names)
