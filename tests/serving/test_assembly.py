"""What a deployment is put together from; what does not go together is said in one line."""

import pytest

from serving.assembly import coordinator_rules
from serving.config import ConfigError
from serving.flags import build_config
from serving.policy.roles import ROLES_POLICIES


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
    [({}, True), ({"route_peers": False}, False), ({"route_policy": "ampd"}, False)],
)
def test_peers_prefill_for_each_other_under_our_route_only_and_unless_that_is_unwanted(
    flags, peers
):
    assert rules(**flags).peers is peers
