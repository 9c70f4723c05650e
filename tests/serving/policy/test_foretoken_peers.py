"""Foretoken's route among workers that could prefill beside rows of their own."""

from hypothesis import given, settings

from serving.policy.foretoken import foretoken
from serving.policy.options import shortlist
from serving.policy.route import LOCAL
from tests.support.asking import ask, context, went
from tests.support.route_cases import BUSY_CASES
from tests.support.route_views import owner, prefill, residents, turn


def test_a_worker_with_rows_is_not_asked_for_speed_alone():
    home, peer = owner(90, queued_s=50.0), prefill("d1", 90, rows=residents(2000.0))
    assert went(ask(turn(100), home, peer)) == (LOCAL, None, "peers_busy")
    assert went(ask(turn(100), home, prefill("d1", 90)))[0] == "d1"


def test_a_worker_with_rows_is_asked_where_that_saves_the_turns_target():
    home, peer = owner(90, queued_s=50.0), prefill("d1", 90, rows=residents(2000.0))
    assert went(ask(turn(100, ttft_s=30.0), home, peer)) == ("d1", "cached_there", "saves_target")
    late = ask(turn(100, ttft_s=5.0), home, peer)  # late in either case
    assert went(late) == (LOCAL, None, "peers_busy")


def test_a_target_that_its_rows_would_lose_counts_against_a_worker():
    home = owner(90, queued_s=50.0)
    # Ten steps of a token, of two seconds instead of one. Two rows with five tokens left feel
    # five seconds of that, and each has four to spare.
    tight = prefill("d1", 90, rows=residents(5.0, 5.0, tpot_s=1.8))
    assert went(ask(turn(100, ttft_s=30.0), home, tight)) == (LOCAL, None, "peers_busy")


def test_a_free_worker_goes_before_one_with_rows_that_is_faster_by_a_little():
    home = owner(90, queued_s=50.0)
    workers = [prefill("d1", 90, rows=residents(2000.0)), prefill("p0", 90, queued_s=2.0)]
    assert went(ask(turn(100, ttft_s=30.0), home, *workers))[0] == "p0"


def test_a_queue_that_is_longer_than_a_prefill_beside_rows_is_priced_all_the_same():
    home, waits = owner(90, queued_s=100.0), prefill("p0", 90, queued_s=30.0)
    tight = prefill("d1", 90, rows=residents(5.0, 5.0, tpot_s=1.8))  # done after 20 s, two late
    assert went(ask(turn(100, ttft_s=60.0), home, tight, waits))[0] == "p0"
    free = prefill("p1", 90)  # to nobody's harm, and done before p0 begins
    decision = ask(turn(100, ttft_s=60.0), home, tight, free, waits)
    assert "p0" not in [option.choice for option in decision.options]


def test_pressure_on_the_owners_pages_sends_nobody_to_a_worker_with_rows():
    home = owner(90, pages_available=0)
    assert went(ask(turn(100), home, prefill("p0", 90)))[2] == "owner_pages"
    busy = prefill("d1", 90, rows=residents(2000.0))
    assert went(ask(turn(100), home, busy)) == (LOCAL, None, "local_fastest")


@given(BUSY_CASES)
@settings(max_examples=100, deadline=None)
def test_a_worker_with_rows_is_chosen_only_if_each_other_option_misses_more(case):
    task, home, workers, costs = case
    decision = foretoken(task, home, workers, context(costs))
    busy = {worker.worker for worker in workers if worker.rows}
    best, *others = decision.options
    calm = [option for option in others if option.choice not in busy]
    if best.choice in busy:
        assert decision.reason == "saves_target"
        assert all(best.score <= option.score for option in others)
        assert all(best.missed < option.missed for option in calm[:1])
    else:
        assert all(best.score <= option.score for option in calm) or (
            decision.reason == "owner_pages"
        )


@given(BUSY_CASES)
@settings(max_examples=100, deadline=None)
def test_the_reason_is_true(case):
    task, home, workers, costs = case
    decision = foretoken(task, home, workers, context(costs))
    busy = {worker.worker for worker in workers if worker.rows}
    best, *others = decision.options
    sooner = {option.choice for option in others if option.ttft_s < best.ttft_s * (1 - 1e-9)}
    match decision.reason:
        case "local_fastest":
            assert not sooner
        case "peers_busy":
            assert sooner <= busy
            assert any(o.ttft_s < best.ttft_s for o in others if o.choice in busy)
        case "remote_fastest" | "residents_harmed":
            (local,) = (option for option in others if option.choice == LOCAL)
            faster = best.ttft_s < local.ttft_s
            assert faster == (decision.reason == "remote_fastest")
            assert faster or local.harm > 0 or local.missed > best.missed


@given(BUSY_CASES)
@settings(max_examples=100, deadline=None)
def test_a_worker_with_rows_is_never_left_out_of_the_options_before_it_is_priced(case):
    _, _, workers, _ = case
    kept = shortlist(workers)
    assert all(worker in kept for worker in workers if worker.rows)
    calm = [worker for worker in workers if not worker.rows]
    assert [worker for worker in kept if not worker.rows] == shortlist(calm)
