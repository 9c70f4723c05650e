from serving.core.fleet import Fleet
from serving.core.outbox import Outbox
from serving.messages import Decision, Role, Tick, ToWorker, WorkerId

D0 = WorkerId("d0")


def outbox() -> Outbox:
    fleet = Fleet(page_size=4, window_s=1.0)
    fleet.join(D0, Role.BOTH, 100, 0.0)
    return Outbox(fleet)


def test_actions_come_out_in_order_and_once():
    box = outbox()
    box.decide_for("role", D0, "prefill", "drained")
    box.to_worker(D0, Tick())
    first, second = box.take()
    assert first == Decision("role", None, None, "prefill", "drained", {"worker": D0})
    assert second == ToWorker(D0, Tick())
    assert box.take() == []


def test_nothing_goes_to_a_worker_that_is_not_there():
    box = outbox()
    box.to_worker(WorkerId("lost"), Tick())
    assert box.take() == []
