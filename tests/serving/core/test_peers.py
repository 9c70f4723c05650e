"""Workers that do both and prefill for each other: nobody waits for another's memory for ever."""

from dataclasses import replace

import pytest

from serving.messages import Ack, Cancel, Granted, Refused, WorkerId
from tests.support.fake_fleet import FakeFleet
from tests.support.one_worker import D0, Worker, kinds, prefill, task
from tests.support.shape import Shape
from tests.support.turns import make_turn

PEERS = Shape(prefill_workers=0, decode_workers=3, peers=True, route="to-a-peer", max_model_len=48)
GUEST = task("a", [0]).session
SHAPES = {
    "roomy": PEERS,
    "tight": replace(PEERS, num_pages=16, reserve_tokens=4),
    "two_tight": replace(PEERS, decode_workers=2, num_pages=13, reserve_tokens=0),
    "one_row": replace(PEERS, max_rows=1),
    "with_host_memory": replace(PEERS, num_pages=13, host_pages=20),
    "moving": replace(PEERS, rebalance="predicted", rebalance_every_s=0.005, tick_rounds=10),
}


def run(shape: Shape, seed: int) -> FakeFleet:
    """So many turns at once that pools of 12 pages are full of prompts; all complete."""
    fleet = FakeFleet.started(shape, seed=seed)
    for number in range(24):
        tokens = [number % 8, *range(10, 24 + number % 9)]
        fleet.submit(make_turn(f"t{number}", tokens, max_tokens=3 + number % 7, seed=number))
    fleet.complete_all()
    return fleet


def chosen(fleet: FakeFleet, kind: str) -> list[str]:
    return [one.choice for one in fleet.decisions if one.kind == kind]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", SHAPES)
def test_every_turn_completes_though_all_prefill_for_each_other(name: str, seed: int):
    fleet = run(SHAPES[name], seed)
    owners = chosen(fleet, "place")
    away = [a != b for a, b in zip(owners, chosen(fleet, "route"), strict=True)]
    assert sum(away) >= 3  # else nothing was shown


def test_whoever_finds_no_room_at_a_peer_is_prefilled_by_its_owner():
    fleet = run(SHAPES["two_tight"], 1)
    retried = {
        one.turn for one in fleet.decisions if (one.kind, one.reason) == ("retry", "no_room")
    }
    assert retried
    for turn in retried:
        owner = [one.choice for one in fleet.decisions if (one.turn, one.kind) == (turn, "place")]
        route = [one.choice for one in fleet.decisions if (one.turn, one.kind) == (turn, "route")]
        assert owner[-1] == route[-1]


# ---- one worker ---------------------------------------------------------------------------------


def guest(name: str, length: int = 8):
    return replace(prefill(task(name, range(300, 300 + length)), D0), waits=False)


def grant(one: Worker, name: str) -> None:
    one.on(Granted(task(name, [0]).id, D0, 0, None))


def refused(outputs) -> list[tuple[str, str]]:
    return [(o.task.turn, o.reason) for o in outputs if isinstance(o, Refused)]


def test_a_guest_with_room_is_prefilled_and_sent_like_any_other_prompt():
    one = Worker(WorkerId("d1"))
    one.on(guest("a"))
    grant(one, "a")
    assert kinds(one.step()) == ["LoadSlot", "Launch", "SendPages"]


def test_a_guest_without_room_is_refused_and_holds_nothing():
    one = Worker(WorkerId("d1"), num_pages=17)
    one.on(prefill(task("own", range(60))))
    one.launch()
    one.on(guest("a"))
    assert refused(one.step()) == []  # its owner has not granted yet: it holds nothing anywhere
    grant(one, "a")
    held = one.num_held
    assert refused(one.step()) == [("a", "no_room")]
    assert one.num_held == held
    assert [t.turn for t in one.batcher.holdings.tasks] == ["own"]


def test_a_guest_behind_somebody_who_waits_is_refused_and_a_usual_prompt_waits():
    one = Worker(WorkerId("d1"), num_pages=17)
    one.on(prefill(task("own", range(40))))
    one.launch()
    one.on(prefill(task("large", range(100, 160))))
    one.on(guest("y", 4))
    grant(one, "y")
    one.on(prefill(task("z", range(200, 204)), D0))
    grant(one, "z")
    assert refused(one.step()) == [("y", "no_room")]
    assert {t.turn for t in one.batcher.holdings.tasks} == {"own", "large", "z"}


def test_a_guest_that_is_cancelled_leaves_the_queue():
    one = Worker(WorkerId("d1"), num_pages=17)
    one.on(prefill(task("own", range(60))))
    one.launch()
    one.on(guest("a"))
    grant(one, "a")
    one.on(Cancel(task("a", [0]).id))
    assert refused(one.step()) == []


def test_what_a_guest_leaves_behind_goes_first():
    one = Worker(WorkerId("d1"), num_pages=17)
    for name, message in (("own", prefill(task("own", range(20, 28)), D0)), ("a", guest("a"))):
        one.now += 1.0
        one.on(message)
        grant(one, name)
        one.complete(one.launch(), 1)
        entry = one.batcher.holdings.tasks[message.task.id]
        for transfer in tuple(entry.unacked):
            one.on(Ack(D0, message.task.id, transfer))
    assert one.is_empty()
    first = one.batcher.holdings.idle.rank({task("own", [0]).session: 2, GUEST: 2}, ())
    assert next(iter(first)) == GUEST
