"""What a deployment is put together from; what does not go together is said in one line."""

import pytest

from serving.assembly import coordinator_rules
from serving.config import ConfigError
from serving.flags import build_config
from serving.policy.roles import ROLES_POLICIES
from serving.policy.routes import ROUTE_POLICIES


def rules(**flags):
    return coordinator_rules(build_config("checkpoint", flags), {})


def test_a_policy_of_roles_needs_workers_that_can_change_theirs():
    with pytest.raises(ConfigError, match="add --flexible-roles"):
        rules(roles_policy="queue", slo_ttft_ms=500.0)


def test_a_policy_of_roles_needs_a_target_to_hold_waits_against():
    with pytest.raises(ConfigError, match="add --slo-ttft-ms"):
        rules(roles_policy="queue", flexible_roles=True)


def test_a_policy_of_roles_is_used_where_it_can_act():
    made = rules(roles_policy="queue", flexible_roles=True, slo_ttft_ms=500.0)
    assert made.roles is ROLES_POLICIES["queue"]


def test_an_unknown_policy_is_answered_with_those_there_are():
    with pytest.raises(ConfigError, match="use one of none, queue"):
        rules(roles_policy="magic")


@pytest.mark.parametrize(
    ("flags", "peers"),
    [
        ({}, True),
        ({"route_peers": False}, False),
        ({"route_policy": "ampd", "prefill_workers": 1}, False),
    ],
)
def test_peers_prefill_for_each_other_under_our_route_only_and_unless_that_is_unwanted(
    flags, peers
):
    assert rules(**flags).peers is peers


SPLIT = ("pd-full", "pd-delta", "local", "ppd", "threshold", "ampd")


def test_replicas_leave_no_prefill_worker_idle():
    problem = "--route-policy replicas leaves .*: use --prefill-workers 0 --decode-workers 5$"
    with pytest.raises(ConfigError, match=problem):
        rules(route_policy="replicas", prefill_workers=2, decode_workers=3)
    assert rules(route_policy="replicas").route is ROUTE_POLICIES["replicas"]


@pytest.mark.parametrize("name", SPLIT)
def test_what_asks_prefill_workers_needs_some(name: str):
    with pytest.raises(ConfigError, match=f"--route-policy {name} needs .*: add --prefill-workers"):
        rules(route_policy=name)
    assert rules(route_policy=name, prefill_workers=1).route is ROUTE_POLICIES[name]


@pytest.mark.parametrize("prefill_workers", [0, 1])
@pytest.mark.parametrize("name", ROUTE_POLICIES)
def test_workers_that_change_their_roles_may_have_any_to_begin_with(
    name: str, prefill_workers: int
):
    mesh = {"flexible_roles": True, "prefill_workers": prefill_workers}
    assert rules(route_policy=name, **mesh).route is ROUTE_POLICIES[name]


@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_our_own_route_serves_with_and_without_prefill_workers(prefill_workers: int):
    assert rules(prefill_workers=prefill_workers).route is ROUTE_POLICIES["foretoken"]
