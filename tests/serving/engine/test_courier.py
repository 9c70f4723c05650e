"""Who is told of arrays, when, and in which order.

Arrays are fakes that arrive when the test says so.
"""

import subprocess
import sys
from threading import Event as Signal
from threading import Thread, current_thread

import pytest

from serving.engine.connectors.courier import Courier
from tests.support.underway import Underway


class Listener:
    """Notes what it is told, in order, and by which thread."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, RuntimeError | None]] = []
        self.by: list[Thread] = []
        self._all = Signal()
        self._wanted = 0

    def told(self, name: str):
        def note(error: RuntimeError | None) -> None:
            self.heard.append((name, error))
            self.by.append(current_thread())
            if len(self.heard) == self._wanted:
                self._all.set()

        return note

    def wait_for(self, count: int) -> None:
        self._wanted = count
        assert len(self.heard) >= count or self._all.wait(30)


@pytest.fixture
def courier() -> Courier:
    return Courier("courier")


def test_what_is_here_is_told_at_once_and_by_the_caller(courier):
    listener, here = Listener(), Underway()
    here.ends()
    courier.tell({"pages": here}, listener.told("a"), early=False)
    assert listener.heard == [("a", None)]
    assert listener.by == [current_thread()]


def test_one_that_is_under_way_is_waited_for_without_its_caller(courier):
    listener, late = Listener(), Underway()
    courier.tell(late, listener.told("a"), early=False)
    assert listener.heard == []
    late.ends()
    listener.wait_for(1)
    assert listener.heard == [("a", None)]


def test_a_later_one_that_is_here_already_does_not_overtake(courier):
    listener, late, here = Listener(), Underway(), Underway()
    here.ends()
    courier.tell(late, listener.told("late"), early=False)
    courier.tell(here, listener.told("here"), early=False)
    assert listener.heard == []
    late.ends()
    listener.wait_for(2)
    assert [name for name, _ in listener.heard] == ["late", "here"]


def test_one_that_may_be_told_early_is_told_at_once_and_by_the_caller(courier):
    listener, late = Listener(), Underway()
    courier.tell(late, listener.told("a"), early=True)
    assert listener.heard == [("a", None)]
    assert listener.by == [current_thread()]
    late.ends()


def test_nothing_is_told_before_what_was_given_earlier_however_early_it_may_be(courier):
    listener, late, early = Listener(), Underway(), Underway()
    courier.tell(late, listener.told("late"), early=False)
    courier.tell(early, listener.told("early"), early=True)
    assert listener.heard == []
    early.ends()
    late.ends()
    listener.wait_for(2)
    assert [name for name, _ in listener.heard] == ["late", "early"]


def test_all_leaves_are_waited_for(courier):
    listener, pages, trace = Listener(), Underway(), Underway()
    pages.ends()
    courier.tell((pages, trace), listener.told("a"), early=False)
    assert listener.heard == []
    trace.ends()
    listener.wait_for(1)


def test_what_breaks_is_told_with_its_error_and_holds_nothing_up(courier):
    listener, broken, after = Listener(), Underway(), Underway()
    courier.tell(broken, listener.told("broken"), early=False)
    courier.tell(after, listener.told("after"), early=False)
    error = RuntimeError("the device is gone")
    after.ends()
    broken.ends(error)
    listener.wait_for(2)
    assert listener.heard == [("broken", error), ("after", None)]


def test_what_broke_before_it_was_asked_for_is_told_alike(courier):
    listener, broken = Listener(), Underway()
    error = RuntimeError("the device is gone")
    broken.ends(error)
    courier.tell(broken, listener.told("a"), early=False)
    assert listener.heard == [("a", error)]


def test_its_thread_ends_when_nothing_is_under_way_and_another_begins(courier):
    listener = Listener()
    for i in range(3):
        late = Underway()
        courier.tell(late, listener.told(str(i)), early=False)
        late.ends()
        listener.wait_for(i + 1)
        listener.by[-1].join(30)
        assert not listener.by[-1].is_alive()
        listener._all.clear()
    assert [name for name, _ in listener.heard] == ["0", "1", "2"]


def test_what_is_forgotten_is_told_to_nobody_but_of_the_one_that_is_waited_for(courier):
    listener, late = Listener(), [Underway() for _ in range(4)]
    for i in range(3):
        courier.tell(late[i], listener.told(str(i)), early=False)
    courier.forget()
    courier.tell(late[3], listener.told("3"), early=False)
    for one in late:
        one.ends()
    listener.wait_for(2)
    assert [name for name, _ in listener.heard] == ["0", "3"]


def test_many_are_told_once_each_and_in_order_while_they_come_and_go(courier):
    """The thread's last look meets the next one's first: nothing is lost between them."""
    listener = Listener()
    for i in range(2000):
        late = Underway()
        Thread(target=late.ends).start() if i % 3 else late.ends()
        courier.tell(late, listener.told(str(i)), early=False)
    listener.wait_for(2000)
    assert [name for name, _ in listener.heard] == [str(i) for i in range(2000)]


AT_THE_END = """
import jax
from serving.engine.connectors.courier import Courier
long = jax.jit(lambda x: jax.lax.fori_loop(0, 200, lambda _, x: x @ x / 800, x))
ones = jax.numpy.ones((800, 800))
long(ones).block_until_ready()
Courier("courier").tell(long(ones), lambda error: print("told", error), early=False)
print("over")
"""


def test_a_process_that_ends_while_something_is_under_way_ends_well():
    """The interpreter aborts if it ends while a thread of its own waits in JAX."""
    ended = subprocess.run(
        [sys.executable, "-c", AT_THE_END], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout.split()) == (0, ["over", "told", "None"])
