"""Does a full worker slow down without ever stopping? Small pools, long replies, service order."""

from dataclasses import replace

import pytest

from serving.messages import WorkerId
from tests.support.fake_fleet import FakeFleet, Reply
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0 = WorkerId("d0")


def retries(fleet: FakeFleet) -> int:
    return sum(decision.kind == "retry" for decision in fleet.decisions)


@pytest.mark.parametrize("prefill_workers", [0, 1, 2])
@pytest.mark.parametrize("reserve_tokens", [0, 8, 1000])
@pytest.mark.parametrize("spare_pages", [0, 1, 5])
def test_long_replies_in_a_pool_for_one_conversation_all_complete(
    prefill_workers: int, reserve_tokens: int, spare_pages: int
):
    least = 1 + 40 // 4
    shape = Shape(
        prefill_workers=prefill_workers,
        max_model_len=40,
        num_pages=least + spare_pages,
        prefill_pages=least,
        reserve_tokens=reserve_tokens,
    )
    fleet = FakeFleet.started(shape)
    for i in range(6):
        fleet.submit(make_turn(f"t{i}", [i] * 5, max_tokens=35, seed=i))
    fleet.complete_all()


def test_an_optimistic_reserve_preempts_and_loses_nothing():
    shape = Shape(max_model_len=40, num_pages=12, reserve_tokens=0)
    fleet = FakeFleet.started(shape)
    for i in range(4):
        fleet.submit(make_turn(f"t{i}", [i] * 5, max_tokens=30, seed=i, logprobs=0))
    fleet.complete_all()
    assert retries(fleet) > 0


def test_a_full_reserve_never_preempts():
    shape = Shape(max_model_len=40, num_pages=25, reserve_tokens=1000)
    fleet = FakeFleet.started(shape)
    for i in range(8):
        fleet.submit(make_turn(f"t{i}", [i] * 5, max_tokens=30, seed=i))
    fleet.complete_all()
    assert retries(fleet) == 0


@pytest.mark.parametrize("occupation", [0.95, 1.0])
def test_tokens_flow_all_the_time_while_the_pool_is_full(occupation: float):
    """A worker whose pool is nearly full of running rows emits in every few steps."""
    shape = Shape(max_model_len=64, num_pages=41, max_rows=8, reserve_tokens=0, chunk_tokens=16)
    fleet = FakeFleet.started(shape)
    for i in range(8):
        fleet.submit(make_turn(f"t{i}", [i] * 17, max_tokens=46, seed=i))
    pool = fleet.workers[D0].batcher.holdings.pool
    full_rounds, silence, emitted = 0, 0, 0
    while fleet.round():
        total = sum(len(reply.samples) for reply in fleet.replies.values())
        silence = 0 if total > emitted else silence + 1
        emitted = total
        assert silence < 60, "nothing was emitted for 60 rounds"
        full_rounds += pool.num_held >= occupation * (shape.num_pages - 1)
    assert full_rounds > 10, "the pool was not full: the test shows nothing"
    fleet.complete_all()


def test_a_row_slots_shortage_queues_and_completes():
    fleet = FakeFleet.started(Shape(max_rows=1, prefill_workers=1))
    for i in range(10):
        fleet.submit(make_turn(f"t{i}", [i] * 3, max_tokens=4, seed=i))
    fleet.complete_all()


def test_nobody_overtakes_a_large_task_at_the_head_of_the_queue():
    shape = Shape(max_model_len=64, num_pages=20, reserve_tokens=0, chunk_tokens=100)
    fleet = FakeFleet.started(shape)
    fleet.submit(make_turn("running", [1] * 20, max_tokens=30))
    while not fleet.replies["running"].samples:  # type: ignore[index]
        fleet.round()
    large = fleet.submit(make_turn("large", [2] * 60, max_tokens=2))
    fleet.run_until(lambda: bool(fleet.workers[D0].batcher.holdings.queue))
    small = [fleet.submit(make_turn(f"s{i}", [3 + i], max_tokens=2)) for i in range(10)]
    order = ends_in_order(fleet)
    assert order.index(large) < min(order.index(reply) for reply in small)


def ends_in_order(fleet: FakeFleet) -> list[Reply]:
    order: list[Reply] = []
    fleet.on_end = order.append
    fleet.complete_all()
    return order


def test_a_smaller_priority_number_is_served_first_and_equals_by_arrival():
    fleet = FakeFleet.started(Shape(max_rows=1, depth=1))
    fleet.submit(make_turn("first", [1], max_tokens=30))
    while not fleet.replies["first"].samples:  # type: ignore[index]
        fleet.round()
    for i, priority in enumerate([2, 1, 2, 0, 1]):
        fleet.submit(make_turn(f"t{i}", [10 + i], priority=priority, max_tokens=2))
        fleet.run_until(lambda n=i + 1: len(fleet.workers[D0].batcher.holdings.queue) == n)
    order = [reply.turn.id for reply in ends_in_order(fleet)]
    assert order == ["first", "t3", "t1", "t4", "t0", "t2"]


def test_the_oldest_turn_is_never_preempted():
    shape = Shape(max_model_len=40, num_pages=12, reserve_tokens=0, max_rows=6)
    for seed in range(4):
        fleet = FakeFleet.started(shape, seed=seed)
        fleet.submit(make_turn("oldest", [9] * 5, max_tokens=35))
        while fleet.coordinator.live_turns == 0:
            fleet.round()
        for i in range(5):
            fleet.submit(make_turn(f"t{i}", [i] * 5, max_tokens=30, seed=i))
        fleet.complete_all()
        retried = {decision.turn for decision in fleet.decisions if decision.kind == "retry"}
        assert retried
        assert "oldest" not in retried


@pytest.mark.parametrize("chunk_tokens", [1, 4, 16])
def test_a_long_prompt_never_stops_the_rows_that_decode(chunk_tokens: int):
    """Chunks ride beside decoding rows: a step never holds more than rows plus one budget."""
    shape = Shape(max_model_len=64, num_pages=60, chunk_tokens=chunk_tokens)
    fleet = FakeFleet.started(shape)
    fleet.submit(make_turn("a", [1], max_tokens=40))
    fleet.submit(make_turn("b", [2] * 50, max_tokens=3))
    fleet.complete_all()
    assert fleet.workers[D0].executor.largest_step <= shape.max_rows + chunk_tokens


def test_the_same_prompt_many_times_at_once_shares_pages_and_completes():
    shape = replace(Shape(), max_rows=8, num_pages=33)
    fleet = FakeFleet.started(shape)
    for i in range(8):
        fleet.submit(make_turn(f"t{i}", list(range(20)), max_tokens=10, seed=i))
    fleet.complete_all()
