"""The benchmark of the routing policies times each of them on both fleets."""

from benchmarks.route_speed import measure
from serving.policy.routes import ROUTE_POLICIES


def test_every_policy_is_timed_on_an_idle_and_a_busy_fleet():
    figures = measure(3, seconds=0.0)
    for fleet in ("idle", "busy"):
        timed = figures[fleet]
        assert set(timed) == set(ROUTE_POLICIES)
        assert all(times["median_us"] > 0 for times in timed.values())
