"""The thresholds on uncached tokens, and what overrules them."""

from serving.policy.baselines.threshold import threshold
from serving.policy.route import Local, RouteConfig, RouteContext
from serving.policy.views import OwnerView
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import owner, prefill, turn


def ask(home: OwnerView, *workers, prompt_len: int = 1000, **config) -> tuple[str, str]:
    rule = RouteConfig(threshold_len=200, threshold_ratio=0.5, **config)
    context = RouteContext(LinearCosts(new_s=1.0), rule, None)
    decision = threshold(turn(prompt_len), home, workers or (prefill(),), context)
    return ("local" if isinstance(decision, Local) else decision.worker), decision.reason


def roomy(cached_len: int, **named) -> OwnerView:
    return owner(cached_len, **{"pages_available": 9000, "pages_total": 10_000, **named})


def test_few_uncached_tokens_stay():
    assert ask(roomy(801)) == ("local", "few_uncached")


def test_as_many_uncached_tokens_as_the_threshold_leave():
    assert ask(roomy(800)) == ("p0", "many_uncached")


def test_a_short_prompt_that_is_mostly_uncached_leaves():
    assert ask(roomy(50), prompt_len=100) == ("p0", "many_uncached")
    assert ask(roomy(51), prompt_len=100) == ("local", "few_uncached")


def test_an_owner_whose_pages_would_fill_sends_even_few_tokens_away():
    # Its 1,000 tokens would take the used pages from 8,000 to 9,000 of 10,000.
    assert ask(roomy(990, pages_available=2000)) == ("local", "few_uncached")
    assert ask(roomy(990, pages_available=1999)) == ("p0", "owner_busy")


def test_a_busy_prefill_worker_is_not_looked_at_by_default():
    assert ask(roomy(0), prefill(queued_len=99, chunk_len=10)) == ("p0", "many_uncached")


def test_many_tokens_stay_if_the_worker_they_would_go_to_is_busy():
    full = prefill(queued_len=21, chunk_len=10)
    assert ask(roomy(0), full, threshold_prefill_busy=2.0) == ("local", "prefill_busy")


def test_a_worker_with_just_as_much_as_allowed_is_not_busy():
    enough = prefill(queued_len=20, chunk_len=10)
    assert ask(roomy(0), enough, threshold_prefill_busy=2.0) == ("p0", "many_uncached")


def test_only_the_worker_they_would_go_to_counts():
    busy, idle = prefill("a", queued_len=99, queued_s=9.0, chunk_len=10), prefill("b", chunk_len=10)
    assert ask(roomy(0), busy, idle, threshold_prefill_busy=2.0) == ("b", "many_uncached")


def test_the_log_shows_where_it_would_have_gone_if_not_to_a_busy_worker():
    rule = RouteConfig(threshold_len=200, threshold_prefill_busy=2.0)
    context = RouteContext(LinearCosts(new_s=1.0), rule, None)
    full = prefill(queued_len=21, chunk_len=10)
    options = threshold(turn(1000), roomy(0), [full], context).options
    assert [option.choice for option in options] == ["local", "p0"]
