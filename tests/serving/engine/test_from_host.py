"""A worker whose pages come back from host memory while its rows go on. Copies end when told to."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from serving.engine.from_host import FromHost
from serving.messages import Cancel, PagesReady, Refused, TaskId, TransferId
from serving.request import TurnId
from tests.serving.engine.test_worker import Bench, Device
from tests.support.one_worker import P0, prefill, task
from tests.support.underway import Underway

PATIENCE_S = 30
ONE, TWO = TransferId(P0, 1), TransferId(P0, 2)


class Told:
    """Which payloads somebody has heard of."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def of(self, name: str):
        return lambda: self.names.append(name)


def test_what_is_not_known_is_told_at_once_and_cannot_be_taken():
    pages, told = FromHost(P0), Told()
    pages.when_here(ONE, told.of("one"), computed=False)
    assert told.names == ["one"]
    with pytest.raises(KeyError):
        pages.take(ONE)


def test_what_is_here_is_told_and_taken_once():
    pages, told, here = FromHost(P0), Told(), Underway()
    here.ends()
    pages.add(ONE, [here])
    pages.when_here(ONE, told.of("one"), computed=False)
    assert told.names == ["one"]
    assert pages.take(ONE) == [here]
    assert len(pages) == 0


def test_what_failed_is_told_and_says_so_where_it_is_taken():
    pages, told, broken = FromHost(P0), Told(), Underway()
    broken.ends(RuntimeError("no memory"))
    pages.add(ONE, broken)
    pages.when_here(ONE, told.of("one"), computed=False)
    assert told.names == ["one"]
    with pytest.raises(RuntimeError, match="no memory"):
        pages.take(ONE)


def test_what_is_dropped_is_gone():
    pages = FromHost(P0)
    pages.add(ONE, Underway())
    pages.drop(ONE)
    pages.drop(TWO)
    assert len(pages) == 0


class Hosting(Device):
    """A device with host memory, whose fetches end when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.host: dict[int, int] = {}
        self.fetches: list[Underway] = []
        self.broken = False

    def offload(self, pages: Sequence[int], host_slots: Sequence[int]) -> None:
        self.host |= dict(zip(host_slots, pages, strict=True))

    def fetch(self, host_slots: Sequence[int]) -> Underway:
        if self.broken:
            raise RuntimeError("no memory")
        for slot in host_slots:
            del self.host[slot]
        self.fetches.append(Underway())
        return self.fetches[-1]

    def write(self, fetched: Any, pages: Sequence[int]) -> None:
        self.written.append((fetched, tuple(pages)))


class Home(Bench):
    """A worker that tells itself what it has to tell itself, as the loop would."""

    def _post(self, leaving: Sequence[Any]) -> None:
        super()._post(leaving)
        for ready in (one for one in self.messages_in(leaving, PagesReady)):
            self.worker.deliver(ready)

    @staticmethod
    def messages_in(leaving: Sequence[Any], kind: type) -> list[Any]:
        found = [getattr(item, "message", item) for item in leaving]
        return [item for item in found if isinstance(item, kind)]

    def rounds(self, count: int = 40) -> None:
        for _ in range(count):
            self.worker.round()
            self.worker.batcher.check()

    def hear(self) -> None:
        """Wait for what another thread says, without a round before it, and take it."""
        until = time.monotonic() + PATIENCE_S
        while not self.worker._inbox:
            assert time.monotonic() < until
            time.sleep(0.001)
        self.rounds(1)

    def run(self, name: str, tokens: range, max_tokens: int = 1) -> None:
        self.tell(prefill(task(name, tokens, max_tokens=max_tokens)))
        self.rounds()


@pytest.fixture
def home() -> Home:
    """Host memory holds a history of eight pages, of which three go in a payload; a row decodes."""
    bench = Home(P0, Hosting(), num_pages=65, host_pages=60, max_model_len=250)
    bench.run("first", range(32))
    for i in range(40):
        bench.run(str(i), range(100 * i + 100, 100 * i + 108))
    bench.tell(prefill(task("row", range(9000, 9005), max_tokens=200)))
    bench.rounds(3)
    return bench


def device(home: Home) -> Hosting:
    assert isinstance(home.device, Hosting)
    return home.device


def test_rows_go_on_while_pages_are_under_way_and_the_turn_follows_when_they_are_here(home):
    home.tell(prefill(task("again", range(34), max_tokens=3)))
    home.rounds(4)
    steps = device(home).steps
    home.rounds(4)
    assert device(home).steps == steps + 4, "the row's steps wait for nothing"
    assert len(device(home).fetches) == 2
    assert device(home).written == []
    for number in range(3):
        device(home).fetches[number].ends()
        home.hear()
        assert len(device(home).written) == number + 1
    assert [fetched for fetched, _ in device(home).written] == device(home).fetches
    assert [len(pages) for _, pages in device(home).written] == [3, 3, 2]
    home.rounds()
    report = home.worker.batcher.report()
    assert report.running == 1, "the turn is over, and the row is left"


def test_a_copy_that_fails_ends_the_attempt_and_not_the_worker(home):
    home.tell(prefill(task("again", range(34), max_tokens=3)))
    home.rounds(2)
    device(home).fetches[0].ends(RuntimeError("no memory"))
    home.hear()
    assert [refused.reason for refused in home.messages(Refused)] == ["transfer_failed"]
    device(home).fetches[1].ends()
    home.rounds(3)
    assert device(home).written == []


def test_a_copy_that_cannot_be_started_ends_the_attempt(home):
    device(home).broken = True
    home.tell(prefill(task("again", range(34), max_tokens=3)))
    home.rounds(2)
    assert [refused.reason for refused in home.messages(Refused)] == ["transfer_failed"]


def test_payloads_of_a_turn_that_ended_are_let_go(home):
    home.tell(prefill(task("again", range(34), max_tokens=3)))
    home.rounds(2)
    home.tell(Cancel(TaskId(TurnId("again"), 0)))
    for fetch in device(home).fetches:
        fetch.ends()
        home.hear()
    assert (len(home.worker._from_host), home.worker._arrived) == (0, {})
    assert device(home).written == []
