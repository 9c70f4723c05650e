"""The rules that never look at load."""

import pytest

from serving.costs.costs import Link
from serving.policy.baselines.fixed import local, pd_delta, pd_full, replicas
from serving.policy.route import Local, Remote, RouteConfig, RouteContext
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import owner, prefill, turn

CONTEXT = RouteContext(LinearCosts(new_s=1.0), RouteConfig(), None)
SLOW_LINK = Link(latency_s=0.0, bytes_per_s=0.1)  # ten seconds a token


def ask(policy, home, *workers, number: int = 1):
    return policy(turn(100, number=number), home, workers, CONTEXT)


def went(decision: Local | Remote) -> tuple[str, str | None, str]:
    if isinstance(decision, Local):
        return "local", None, decision.reason
    return decision.worker, decision.history, decision.reason


def test_replicas_stay_whatever_waits_there():
    decision = ask(replicas, owner(0, queued_s=99.0), prefill())
    assert went(decision) == ("local", None, "colocated")


def test_a_first_turn_is_prefilled_remotely():
    assert went(ask(local, owner(), prefill(), number=0))[::2] == ("p0", "first_turn")


def test_a_later_turn_is_appended_where_its_history_is():
    decision = ask(local, owner(90, queued_s=99.0), prefill())
    assert went(decision) == ("local", None, "history_held")


def test_a_turn_whose_history_was_evicted_is_prefilled_remotely():
    assert went(ask(local, owner(0), prefill()))[::2] == ("p0", "history_lost")


def test_pd_delta_leaves_even_an_idle_owner_and_pulls_whatever_it_takes():
    decision = ask(pd_delta, owner(90), prefill(link=SLOW_LINK))
    assert went(decision) == ("p0", "pull_from_owner", "always_remote")
    assert isinstance(decision, Remote)
    assert decision.reuse


def test_pd_delta_pulls_nothing_that_the_worker_holds():
    assert went(ask(pd_delta, owner(90), prefill(cached_len=90)))[1] == "cached_there"


def test_pd_delta_goes_where_the_prefill_ends_first():
    home = owner(90)
    queued = prefill("warm", 90, queued_s=100.0, link=SLOW_LINK)
    idle = prefill("cold", 0, link=SLOW_LINK)
    assert went(ask(pd_delta, home, queued, idle))[0] == "warm"


def test_pd_full_reuses_nothing_on_either_side():
    decision = ask(pd_full, owner(90), prefill(cached_len=90))
    assert went(decision) == ("p0", "recompute", "always_remote")
    assert isinstance(decision, Remote)
    assert not decision.reuse
    assert decision.options[0].ttft_s == pytest.approx(100)
    assert decision.options[0].moved_bytes == 100


def test_pd_full_goes_to_the_shortest_queue_and_ignores_caches():
    warm, idle = prefill("a", 90, queued_s=1.0), prefill("b")
    assert went(ask(pd_full, owner(90), warm, idle))[0] == "b"


def test_pd_full_breaks_ties_by_turns_then_id():
    workers = prefill("d", turns=1), prefill("c", turns=1), prefill("b", turns=2)
    assert went(ask(pd_full, owner(), *workers))[0] == "c"
