"""Is what can be found by its name what it is called, and does the coordinator know of it?"""

from collections.abc import Mapping

from serving.core.fleet import Fleet
from serving.core.holdings import Holdings
from serving.messages import Tier, WorkerId
from tests.support.fake_executor import FakeExecutor


def check_mirror(fleet: Fleet, workers: Mapping[WorkerId, Holdings]) -> None:
    """Raise AssertionError unless the coordinator knows exactly the names that can be found."""
    for name in fleet.workers:
        holdings = workers[name]
        for tier, findable in (
            (Tier.POOL, holdings.pool._page_of.keys()),
            (Tier.HOST, holdings.host._kept.keys()),
        ):
            names = set(fleet.pages.names(name, tier))
            assert names == findable, f"the mirror of {name}'s {tier} is wrong"
    assert fleet.pages._bits.keys() == fleet.workers.keys()
    held = [holders for tier in fleet.pages._holders.values() for holders in tier.values()]
    assert all(held), "a page that nobody holds is remembered"


def check_contents(
    workers: Mapping[WorkerId, Holdings], executors: Mapping[WorkerId, FakeExecutor]
) -> None:
    """Raise AssertionError unless equal names mean equal KV, on devices and on hosts."""
    content: dict[bytes, list[int | None]] = {}
    for name, holdings in workers.items():
        executor = executors[name]
        named = [(n, executor.kv[page]) for n, page in holdings.pool._page_of.items()]
        named += [(n, executor.host[slot]) for n, (slot, _) in holdings.host._kept.items()]
        for page_name, page in named:
            assert content.setdefault(page_name, page) == page, f"{name}: a page is wrong"
        assert len(holdings.host) <= holdings.limits.host_pages
