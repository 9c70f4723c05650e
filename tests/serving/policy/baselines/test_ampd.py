"""AMPD's three cases, in their order."""

from serving.costs.costs import Link
from serving.policy.baselines.ampd import ampd
from serving.policy.route import Local, Remote, RouteConfig, RouteContext
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import owner, prefill, residents, turn

CONTEXT = RouteContext(
    LinearCosts(new_s=1.0, row_s=50.0), RouteConfig(ampd_alpha=0.5, ampd_beta=0.5), None
)
A_SECOND_A_TOKEN = Link(latency_s=0.0, bytes_per_s=1.0)
TARGETS = turn(100, ttft_s=10.0, tpot_s=2.0)


def ask(task, home, *workers) -> tuple[str, str]:
    decision = ampd(task, home, workers, CONTEXT)
    return ("local" if isinstance(decision, Local) else decision.worker), decision.reason


def test_a_prefill_worker_with_slack_comes_first_though_the_owner_is_idle():
    assert ask(TARGETS, owner(90), prefill(ttft_s=5.0)) == ("p0", "prefill_slack")


def test_of_several_with_slack_the_least_time_counts():
    workers = prefill("a", queued_s=9.0, ttft_s=1.0), prefill("b", ttft_s=4.0)
    assert ask(TARGETS, owner(90), *workers) == ("b", "prefill_slack")


def test_a_faster_worker_without_slack_is_passed_over_for_one_with():
    workers = prefill("a", ttft_s=6.0), prefill("b", queued_s=9.0, ttft_s=4.0)
    assert ask(TARGETS, owner(90), *workers) == ("b", "prefill_slack")


def test_a_worker_that_did_nothing_lately_has_slack():
    assert ask(TARGETS, owner(90), prefill(ttft_s=None)) == ("p0", "prefill_slack")


def test_without_prefill_slack_an_owner_with_slack_prefills():
    home = owner(90, itl_s=1.0, queued_s=999.0)
    assert ask(TARGETS, home, prefill(ttft_s=5.1)) == ("local", "owner_slack")


def test_an_owner_that_decoded_nothing_has_slack():
    assert ask(TARGETS, owner(90, itl_s=None), prefill(ttft_s=9.0))[1] == "owner_slack"


LATE = prefill(ttft_s=9.0)


def test_without_slack_anywhere_the_least_time_decides():
    home = owner(90, itl_s=1.1)
    assert ask(TARGETS, home, LATE) == ("local", "less_time_local")
    waits = owner(90, itl_s=1.1, queued_s=1.0)
    assert ask(TARGETS, waits, LATE) == ("p0", "less_time_remote")


def test_remote_time_counts_the_history_read_beyond_the_queue_and_the_return():
    # 40 tokens of history read behind a queue of 30 s, 10 computed, 10 returned: 60 s.
    worker = prefill(cached_len=50, queued_s=30.0, ttft_s=9.0, link=A_SECOND_A_TOKEN)
    assert ask(TARGETS, owner(90, itl_s=1.1, queued_s=50.0), worker)[0] == "local"
    assert ask(TARGETS, owner(90, itl_s=1.1, queued_s=50.5), worker)[0] == "p0"


def test_local_time_does_not_count_the_rows_that_decode():
    home = owner(90, itl_s=1.1, rows=residents(5, 5))
    assert ask(TARGETS, home, prefill(ttft_s=9.0, queued_s=1.0))[1] == "less_time_local"


def test_without_targets_only_time_decides():
    idle = prefill(ttft_s=0.0)
    assert ask(turn(100), owner(90, itl_s=0.0), idle)[1] == "less_time_local"
    assert ask(turn(100), owner(90, itl_s=0.0, queued_s=1.0), idle)[1] == "less_time_remote"


def test_with_one_target_its_case_counts_alone():
    only_tpot = turn(100, tpot_s=2.0)
    assert ask(only_tpot, owner(90, itl_s=0.5), prefill(ttft_s=0.0))[1] == "owner_slack"


def test_history_is_always_read_from_the_owner():
    slow = prefill(ttft_s=0.0, link=Link(latency_s=0.0, bytes_per_s=0.01))
    decision = ampd(TARGETS, owner(90), [slow], CONTEXT)
    assert isinstance(decision, Remote)
    assert decision.history == "pull_from_owner"


def test_the_log_shows_what_was_weighed_against_each_other_the_chosen_one_first():
    def told(home, *workers) -> list[str]:
        return [option.choice for option in ampd(TARGETS, home, workers, CONTEXT).options]

    assert told(owner(90), prefill("a", ttft_s=9.0), prefill("b", ttft_s=5.0)) == ["b"]
    assert told(owner(90), LATE) == ["local"]
    assert told(owner(90, itl_s=1.1), LATE) == ["local", "p0"]
    assert told(owner(90, itl_s=1.1, queued_s=1.0), LATE) == ["p0", "local"]
