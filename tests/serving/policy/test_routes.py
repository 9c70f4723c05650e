"""What every routing policy owes its caller, whichever rule it follows."""

import pytest
from hypothesis import given, settings

from serving.policy.route import LOCAL, Local, RouteConfig, RouteContext, RouteReason
from serving.policy.routes import ROUTE_POLICIES, ROUTE_REASONS
from tests.support.fake_costs import LinearCosts
from tests.support.route_cases import CASES
from tests.support.route_views import owner, turn

NAMES = ["foretoken", "replicas", "pd-full", "pd-delta", "local", "ppd", "threshold", "ampd"]
every_policy = pytest.mark.parametrize("name", NAMES)


def test_all_policies_are_known_by_name():
    assert list(ROUTE_POLICIES) == NAMES


def test_reasons_are_unique_words_for_labels():
    assert len(set(ROUTE_REASONS)) == len(RouteReason)
    assert all(reason.replace("_", "").isalpha() and reason.islower() for reason in ROUTE_REASONS)


@every_policy
def test_without_prefill_workers_everything_is_local(name: str):
    context = RouteContext(LinearCosts(new_s=1.0), RouteConfig(), None)
    decision = ROUTE_POLICIES[name](turn(5000, number=0), owner(pages_available=0), [], context)
    assert isinstance(decision, Local)
    assert [option.choice for option in decision.options] == [LOCAL]


@every_policy
@given(case=CASES)
@settings(max_examples=25, deadline=None)
def test_a_decision_names_a_worker_it_was_given_and_prices_it_first(name: str, case):
    task, home, workers, costs = case
    decision = ROUTE_POLICIES[name](task, home, workers, RouteContext(costs, RouteConfig(), None))
    first = decision.options[0]
    assert decision.reason in ROUTE_REASONS
    if isinstance(decision, Local):
        assert (first.choice, first.history) == (LOCAL, None)
    else:
        assert decision.worker in {worker.worker for worker in workers}
        assert (first.choice, first.history) == (decision.worker, decision.history)
        assert decision.reuse == (name != "pd-full")


@every_policy
@given(case=CASES)
@settings(max_examples=15, deadline=None)
def test_the_order_in_which_workers_are_listed_is_of_no_account(name: str, case):
    task, home, workers, costs = case
    context = RouteContext(costs, RouteConfig(), None)
    policy = ROUTE_POLICIES[name]
    assert policy(task, home, workers, context) == policy(task, home, workers[::-1], context)
