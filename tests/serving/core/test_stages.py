"""A turn is cancelled, or a worker lost, at every stage of every path that a turn may take.

Paths: prefilled at its owner; remotely; remotely on history pulled from the owner; on pages out of
host memory; moved while it decodes. In each case the turn ends once, with the oracle's tokens as
far as it came, and nobody holds anything.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from serving.core.worker_task import Stage
from serving.messages import Completed, Dropped, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

A = TurnId("a")
P0, D0, D1 = (WorkerId(name) for name in ("p0", "d0", "d1"))
COLOCATED = Shape(decode_workers=2, chunk_tokens=3, max_rows=2)
REMOTE = replace(COLOCATED, prefill_workers=1)


def local() -> FakeFleet:
    fleet = FakeFleet(COLOCATED)
    fleet.run()
    fleet.submit(make_turn("a", range(9), max_tokens=20))
    return fleet


def remote() -> FakeFleet:
    fleet = FakeFleet(REMOTE)
    fleet.run()
    fleet.submit(make_turn("a", range(9), max_tokens=20))
    return fleet


def pull() -> FakeFleet:
    """The owner holds a history that the prefill worker has evicted."""
    fleet = FakeFleet(REMOTE)
    fleet.run()
    first = fleet.submit(make_turn("first", range(9), max_tokens=9))
    fleet.run()
    fleet.workers[P0].batcher.holdings.pool.clear_cached()
    fleet.submit(make_turn("a", [*range(9), *first.tokens, 1, 2, 3], max_tokens=20))
    return fleet


def fetch(shape: Shape = COLOCATED) -> FakeFleet:
    """The history of the turn has gone from its owner's pool to the owner's host memory."""
    fleet = FakeFleet(replace(shape, num_pages=17, host_pages=30))
    fleet.run()
    first = fleet.submit(make_turn("first", range(20), max_tokens=9, session="s"))
    fleet.run()
    for name in ("x", "y"):
        fleet.submit(make_turn(name, [ord(name)] * 50, max_tokens=14))
    fleet.run()
    fleet.submit(make_turn("a", [*range(20), *first.tokens, 1, 2], max_tokens=20, session="s"))
    return fleet


def move() -> FakeFleet:
    fleet = local()
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 4)
    fleet.move(A, D1)
    return fleet


def at(worker: WorkerId, *stages: Stage) -> Callable[[FakeFleet], bool]:
    """The turn is in one of these stages at a worker."""

    def there(fleet: FakeFleet) -> bool:
        tasks = fleet.workers[worker].batcher.holdings.tasks.values()
        return any(t.task.turn.id == A and t.stage in stages for t in tasks)

    return there


def leaving(fleet: FakeFleet) -> bool:
    return len(fleet.workers[D0].batcher.departures) > 0


def stopped(fleet: FakeFleet) -> bool:
    """The row leaves and is in no step to come; what it sampled last is not known yet."""
    batcher = fleet.workers[D0].batcher
    slots = batcher.holdings.by_slot
    return leaving(fleet) and not any(batcher.holdings.rows.goes_on(slot) for slot in slots)


STAGES: dict[str, tuple[Callable[[], FakeFleet], Callable[[FakeFleet], bool]]] = {
    "local-waiting": (local, at(D0, Stage.WAITING)),
    "local-prefill": (local, at(D0, Stage.PREFILL)),
    "local-decode": (local, at(D0, Stage.DECODE)),
    "remote-expecting": (remote, at(P0, Stage.EXPECTING)),
    "remote-owner-waiting": (remote, at(D0, Stage.WAITING)),
    "remote-granted": (remote, at(D0, Stage.GRANTED)),
    "remote-waiting": (remote, at(P0, Stage.WAITING)),
    "remote-prefill": (remote, at(P0, Stage.PREFILL)),
    "remote-sending": (remote, at(P0, Stage.SENDING)),
    "remote-decode": (remote, at(D0, Stage.DECODE)),
    "pull-pulling": (pull, at(P0, Stage.PULLING)),
    "pull-prefill": (pull, at(P0, Stage.PREFILL)),
    "pull-sending": (pull, at(P0, Stage.SENDING)),
    "fetch-fetching": (fetch, at(D0, Stage.FETCHING)),
    "fetch-prefill": (fetch, at(D0, Stage.PREFILL)),
    "fetch-decode": (fetch, at(D0, Stage.DECODE)),
    "fetch-remote-fetching": (partial(fetch, REMOTE), at(D0, Stage.FETCHING)),
    "fetch-remote-granted": (partial(fetch, REMOTE), at(D0, Stage.GRANTED)),
    "move-asked": (move, leaving),
    "move-granted": (move, at(D1, Stage.GRANTED)),
    "move-stopped": (move, stopped),
    "move-sending": (move, at(D0, Stage.SENDING)),
    "move-done": (move, at(D1, Stage.DECODE)),
}


def reached(name: str) -> FakeFleet:
    begin, there = STAGES[name]
    fleet = begin()
    fleet.run_until(lambda: there(fleet))
    return fleet


@pytest.mark.parametrize("name", STAGES)
def test_a_turn_may_be_cancelled_in_every_stage(name: str):
    fleet = reached(name)
    fleet.cancel(A, kept=len(fleet.replies[A].samples))
    fleet.run()
    fleet.check_empty()
    end = fleet.replies[A].end
    assert end is not None
    assert isinstance(end.outcome, Dropped)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("victim", [P0, D0, D1])
@pytest.mark.parametrize("silently", [True, False])
def test_a_worker_may_be_lost_in_every_stage(name: str, victim: WorkerId, silently: bool):
    fleet = reached(name)
    if victim not in fleet.workers:
        return
    fleet.lose(victim, silently=silently)
    fleet.run()
    fleet.check_empty()
    end = fleet.replies[A].end
    assert end is not None
    assert isinstance(end.outcome, Completed)


@pytest.mark.parametrize("name", STAGES)
def test_the_turn_completes_if_nothing_happens(name: str):
    """Else the cases above show nothing."""
    fleet = reached(name)
    assert fleet.replies[A].end is None
    fleet.run()
    fleet.check_empty()
    end = fleet.replies[A].end
    assert end is not None
    assert isinstance(end.outcome, Completed)
