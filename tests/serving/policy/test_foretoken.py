"""Foretoken's route: one intent a test, then what must hold for any fleet."""

from dataclasses import replace
from itertools import permutations
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.config import ConfigError
from serving.costs.costs import Link
from serving.flags import build_config
from serving.policy.foretoken import foretoken
from serving.policy.options import Options, Pulling, shortlist
from serving.policy.route import LOCAL, History, RouteConfig
from tests.support.asking import ask, context, went
from tests.support.fake_costs import LinearCosts
from tests.support.route_cases import CASES, WORKERS
from tests.support.route_views import owner, prefill, residents, turn

SLOW_LINK = Link(latency_s=0.0, bytes_per_s=0.25)  # four seconds a token


# ---- where ---------------------------------------------------------------------------------------


def test_without_prefill_workers_the_owner_prefills_even_under_pressure():
    assert went(ask(turn(), owner(pages_available=0))) == (LOCAL, None, "no_prefill_worker")


def test_an_idle_owner_with_the_history_appends():
    assert went(ask(turn(100), owner(90), prefill())) == (LOCAL, None, "local_fastest")


def test_a_queue_at_the_owner_sends_the_turn_away():
    decision = ask(turn(100), owner(90, queued_s=50.0), prefill())
    assert went(decision) == ("p0", "pull_from_owner", "remote_fastest")


def test_evicted_history_sends_a_turn_away_that_would_have_stayed():
    worker = prefill(cached_len=60)
    assert went(ask(turn(100), owner(90), worker))[0] == LOCAL
    assert went(ask(turn(100), owner(0), worker)) == ("p0", "cached_there", "remote_fastest")


def test_rows_that_would_suffer_send_a_turn_away_that_is_faster_at_home():
    home = owner(90, rows=residents(*[20] * 30, tpot_s=20.0))
    away = prefill(queued_s=5.0)
    decision = ask(turn(100, ttft_s=30.0), home, away)
    assert went(decision) == ("p0", "pull_from_owner", "residents_harmed")


def test_rows_that_stay_long_hardly_feel_one_prefill():
    home = owner(90, rows=residents(*[2000] * 30, tpot_s=20.0))
    decision = ask(turn(100, ttft_s=30.0), home, prefill(queued_s=5.0))
    assert went(decision) == (LOCAL, None, "local_fastest")


def test_a_heavier_weight_of_tpot_protects_the_rows():
    home = owner(90, rows=residents(*[2000] * 30, tpot_s=20.0))
    decision = ask(turn(100, ttft_s=30.0), home, prefill(queued_s=5.0), w_tpot=100.0)
    assert went(decision)[2] == "residents_harmed"


def test_a_tight_ttft_target_outweighs_the_rows():
    home = owner(90, rows=residents(*[20] * 30, tpot_s=20.0))
    decision = ask(turn(100, ttft_s=1.0), home, prefill(queued_s=5.0))
    assert went(decision) == (LOCAL, None, "local_fastest")


def test_an_owner_short_of_pages_is_spared_the_prefill():
    home = owner(90, pages_available=200)
    decision = ask(turn(100), home, prefill())  # 800 of 1,000 are used; it needs 158
    assert went(decision) == ("p0", "pull_from_owner", "owner_pages")


def test_pages_are_no_reason_to_be_late():
    home = owner(90, pages_available=200)
    early, late = prefill(queued_s=5.0), prefill(queued_s=500.0)
    assert went(ask(turn(100, ttft_s=300.0), home, early))[2] == "owner_pages"
    assert went(ask(turn(100, ttft_s=300.0), home, late)) == (LOCAL, None, "local_fastest")


def test_pages_are_no_reason_for_one_that_has_waited_to_be_late():
    home, worker = owner(90, pages_available=200), prefill(queued_s=50.0)  # in 11 s, and in 61 s
    for waited_s, reason in ((35.0, "owner_pages"), (40.0, "local_fastest")):
        task = turn(100, ttft_s=100.0, waited_s=waited_s)
        assert went(ask(task, home, worker))[2] == reason
    lost = turn(100, ttft_s=100.0, waited_s=100.0)
    assert went(ask(lost, home, worker))[2] == "owner_pages"
    assert went(ask(lost, home, prefill(queued_s=99.0)))[2] == "local_fastest"


def test_pages_up_to_the_watermark_are_not_pressure():
    home = owner(90, pages_available=208)
    assert went(ask(turn(100), home, prefill()))[0] == LOCAL
    assert went(ask(turn(100), replace(home, pages_available=207), prefill()))[0] == "p0"


def test_a_reply_needs_no_more_pages_than_it_may_fill():
    home = owner(90, pages_available=152)
    assert went(ask(turn(100, max_new_len=2), home, prefill()))[0] == LOCAL


# ---- which worker, which history -----------------------------------------------------------------


def test_the_least_queue_of_two_like_workers_wins():
    decision = ask(
        turn(), owner(), prefill("a", queued_s=2.0), prefill("b", queued_s=1.0), w_tpot=0
    )
    assert decision.options[1].choice == "b"
    assert (
        went(ask(turn(), owner(queued_s=9.0), prefill("a", queued_s=2.0), prefill("b")))[0] == "b"
    )


def test_a_worker_that_holds_the_history_is_worth_its_queue():
    home = owner(50, queued_s=999.0)
    warm = prefill("warm", cached_len=50, queued_s=20.0, link=SLOW_LINK)
    cold = prefill("cold", link=SLOW_LINK)
    assert went(ask(turn(), home, warm, cold))[:2] == ("warm", "cached_there")


def test_history_is_computed_again_where_the_link_is_slower():
    home = owner(50, queued_s=999.0)
    assert went(ask(turn(), home, prefill(link=SLOW_LINK)))[1] == "recompute"


def test_history_is_pulled_over_a_slow_link_while_the_queue_runs():
    home = owner(50, queued_s=999.0)
    assert went(ask(turn(), home, prefill(link=SLOW_LINK, queued_s=200.0)))[1] == "pull_from_owner"


def test_where_nobody_holds_anything_all_is_computed():
    assert went(ask(turn(), owner(queued_s=9.0), prefill()))[1] == "recompute"


def test_of_equal_options_the_owner_moves_no_bytes():
    assert went(ask(turn(100), owner(0), prefill()))[0] == LOCAL


def test_of_equal_workers_the_one_that_moves_fewer_bytes_wins():
    costs = LinearCosts(base_s=1.0)  # the whole prompt costs as much as a token
    home = owner(50, queued_s=9.0)
    decision = ask(turn(), home, prefill("a"), prefill("b", cached_len=50), costs=costs)
    assert went(decision)[0] == "b"


def test_a_full_tie_goes_to_the_smaller_id_in_any_order():
    workers = [prefill("c"), prefill("a"), prefill("b")]
    chosen = {went(ask(turn(), owner(queued_s=9.0), *some))[0] for some in permutations(workers)}
    assert chosen == {"a"}


@pytest.mark.parametrize(
    ("weights", "of"),
    [
        ({"w_ttft": 0.0}, "TTFT"),
        ({"w_ttft": inf}, "TTFT"),
        ({"w_tpot": inf}, "TPOT"),
        ({"w_tpot": -1.0}, "TPOT"),
        ({"w_miss": inf}, "a missed target"),
        ({"w_miss": -1.0}, "a missed target"),
    ],
    ids=str,
)
def test_weights_that_order_nothing_are_refused(weights: dict[str, Any], of: str):
    """Of an infinite one, nothing would be no number, and no score less than another."""
    with pytest.raises(ValueError, match=f"weight of {of}"):
        RouteConfig(**weights)
    ((weight, value),) = weights.items()
    flag = weight.replace("w_", "route_weight_")
    with pytest.raises(ConfigError, match=f"--{flag.replace('_', '-')} must be"):
        build_config("demo", {flag: value})


# ---- the log -------------------------------------------------------------------------------------


def test_every_option_is_in_the_log_with_its_price_and_the_chosen_one_first():
    home = owner(60, queued_s=70.0, rows=residents(50, tpot_s=60.0))
    warm, cold = prefill("warm", 80, queued_s=9.0), prefill("cold", 0, link=SLOW_LINK)
    task = turn(100, ttft_s=10.0)
    options = ask(task, home, warm, cold).options
    assert [(o.choice, o.history, o.moved_bytes) for o in options] == [
        ("warm", History.CACHED, 40),
        (LOCAL, None, 0),
        ("cold", History.RECOMPUTE, 40),
        ("cold", History.PULL, 100),
    ]
    assert [o.ttft_s for o in options] == pytest.approx(
        [9 + 21, 70 + 41, 101 + 160, 240 + 41 + 160]
    )
    assert [o.harm for o in options] == pytest.approx([0, 40 / 50 / 60, 0, 0])
    assert [o.missed for o in options] == [1, 1, 1, 1]  # all of them too late for the turn
    assert [o.score for o in options] == pytest.approx(
        [o.ttft_s / 10 + o.harm + 5.0 for o in options]
    )


def test_a_first_token_within_the_margin_of_its_target_counts_as_late():
    worker = prefill(queued_s=14.0)

    def missed(margin: float) -> list[int]:
        options = ask(turn(100, ttft_s=120.0), owner(), worker, late_margin=margin).options
        assert sorted(o.ttft_s for o in options) == pytest.approx([101, 115], abs=1)
        return [o.missed for o in sorted(options, key=lambda o: o.ttft_s)]

    assert [missed(m) for m in (0.0, 0.03, 0.05, 0.2)] == [[0, 0], [0, 0], [0, 1], [1, 1]]


def test_a_turn_stays_where_it_is_in_time_though_that_costs_others_more_than_it_gains():
    home = owner(99, rows=residents(*[10] * 40, tpot_s=20.0))
    worker = prefill(queued_s=10.0, link=SLOW_LINK)
    costs = LinearCosts(base_s=1.0, new_s=1.0, row_s=0.01)

    def goes(ttft_s: float, **weights: float) -> str:
        task = turn(100, ttft_s=ttft_s)
        return went(ask(task, home, worker, costs=costs, w_tpot=12.0, **weights))[0]

    assert goes(200.0) == "p0"  # there in 115 s, and nobody harmed
    assert goes(60.0) == LOCAL
    assert goes(60.0, w_miss=0.0) == "p0"


def test_what_it_has_waited_already_counts_against_its_target():
    options = ask(turn(100, ttft_s=12.0, waited_s=11.0), owner(99), prefill(cached_len=99)).options
    assert [o.missed for o in options] == [1, 1]
    options = ask(turn(100, ttft_s=12.0, waited_s=1.0), owner(99), prefill(cached_len=99)).options
    assert [o.missed for o in options] == [0, 0]


def test_without_a_target_ttft_is_relative_to_the_fastest_option():
    options = ask(turn(100), owner(90), prefill(queued_s=11.0)).options
    assert [o.score for o in options] == pytest.approx([1.0, 2.0])


# ---- properties ----------------------------------------------------------------------------------


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_an_idle_worker_more_never_worsens_the_chosen_score(case):
    task, home, workers, costs = case
    before = foretoken(task, home, workers, context(costs)).options[0]
    idle = prefill("idle")
    after = foretoken(task, home, [*workers, idle], context(costs)).options[0]
    assert after.score <= before.score * (1 + 1e-9)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_an_idle_worker_more_never_worsens_the_finish_where_only_ttft_counts(case):
    task, home, workers, costs = case
    alone = context(costs, w_tpot=0.0, w_miss=0.0)
    before = foretoken(task, home, workers, alone).options[0]
    after = foretoken(task, home, [*workers, prefill("idle")], alone).options[0]
    assert after.ttft_s <= before.ttft_s * (1 + 1e-9)


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_where_only_ttft_counts_the_least_of_all_is_chosen(case):
    task, home, workers, costs = case
    decision = foretoken(task, home, workers, context(costs, w_tpot=0.0, w_miss=0.0))
    assert decision.options[0].ttft_s <= min(o.ttft_s for o in decision.options) * (1 + 1e-9)


@given(CASES, st.sampled_from([0.25, 0.5, 2.0, 64.0]))
@settings(max_examples=60, deadline=None)
def test_scaling_all_weights_changes_nothing(case, factor: float):
    task, home, workers, costs = case
    plain = foretoken(task, home, workers, context(costs))
    weights = {"w_ttft": factor, "w_tpot": factor, "w_miss": 5 * factor}
    scaled = foretoken(task, home, workers, context(costs, **weights))
    assert went(scaled) == went(plain)


@given(CASES, st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_more_cached_at_the_owner_never_makes_local_prefill_dearer(case, more: int):
    task, home, workers, costs = case
    cached_len = max(home.cached_len, min(home.cached_len + more, task.prompt_len - 1))
    holds_more = replace(home, cached_len=cached_len)
    # Where a chunk takes longer the more lies before it, a row that feels only the first is worse
    # off: the property holds for what there is to compute, so these costs look at that alone.
    flat = context(replace(costs, cached_s=0.0))
    few = Options(task, home, workers, flat).local()
    many = Options(task, holds_more, workers, flat).local()
    assert many.ttft_s <= few.ttft_s * (1 + 1e-9)
    assert many.harm <= few.harm * (1 + 1e-9) + 1e-12


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_no_worker_left_out_of_the_options_would_have_been_better(case):
    task, home, workers, costs = case
    ctx = context(costs)
    decision = foretoken(task, home, workers, ctx)
    options = Options(task, home, workers, ctx)
    every = [price for worker in workers for price in options.on(worker, Pulling.CHEAPEST)]
    best = min(options.ranked([options.local(), *every]), key=lambda o: o.score)
    assert decision.options[0].score <= best.score * (1 + 1e-9)


@given(WORKERS)
@settings(max_examples=60, deadline=None)
def test_whoever_is_left_off_the_shortlist_is_beaten_by_one_on_it(workers):
    kept = shortlist(workers)
    assert [w.queued_s for w in kept] == sorted(w.queued_s for w in kept)
    for left_out in workers:
        assert any(
            other.start_s <= left_out.start_s
            and other.cached_len >= left_out.cached_len
            and (other.link, other.chunk_len) == (left_out.link, left_out.chunk_len)
            for other in kept
        )


@given(CASES)
@settings(max_examples=60, deadline=None)
def test_the_log_holds_the_decision_first_local_once_and_no_option_twice(case):
    task, home, workers, costs = case
    decision = foretoken(task, home, workers, context(costs))
    first = decision.options[0]
    assert went(decision)[:2] == (first.choice, first.history)
    named = [(o.choice, o.history) for o in decision.options]
    assert named.count((LOCAL, None)) == 1
    assert len(set(named)) == len(named)
