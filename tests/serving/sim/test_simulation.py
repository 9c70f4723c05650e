"""A whole simulation: times by hand, and what holds of every workload."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.costs.costs import Link
from serving.messages import LastStep, Role, WorkerId
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.policy.routes import ROUTE_POLICIES
from serving.workload.session import SessionShape, Span, TurnShape, Workload, WorkloadError
from tests.support.one_worker import decode, task
from tests.support.simulated import (
    COLOCATED,
    COSTS,
    LIMITS,
    SPLIT,
    lab,
    sessions,
    turn,
)


def chunk_s(new: int, cached: int = 0) -> float:
    return COSTS.prefill(new, cached).seconds


def decode_s(rows: int, kv_tokens: int) -> float:
    return COSTS.decode(rows, kv_tokens).seconds


def test_one_turn_alone_takes_what_its_steps_take():
    one = lab()
    one.run(sessions((2.0, [turn(20, 3)])))
    (record,) = one.simulation.measurements.turns.values()
    # 16 tokens, then 4 on top of them; the token sampled with the prompt is the first of three.
    first = 2.0 + chunk_s(16) + chunk_s(4, 16)
    assert record.arrived == 2.0
    assert record.first == pytest.approx(first)
    assert record.last == pytest.approx(first + decode_s(1, 21) + decode_s(1, 22))
    assert (record.tokens, record.outcome, record.cached_len) == (3, "completed", 0)
    assert record.ttft_s == pytest.approx(chunk_s(16) + chunk_s(4, 16))
    assert record.tpot_s == pytest.approx((decode_s(1, 21) + decode_s(1, 22)) / 2)


def test_a_worker_that_has_rested_is_looked_at_again_once_it_has_work():
    two = lab(SPLIT, route="local")
    two.run(sessions((0.0, [turn(20, 200)]), (0.3, [turn(20, 200)])))
    seen = {sample.at: sample.rows for sample in two.simulation.samples}
    # The first reply lasts until 0.46 s, the second goes to the other worker, until 0.76 s.
    assert (seen[0.25], seen[0.5], seen[0.75]) == ((0, 1, 0), (0, 0, 1), (0, 0, 1))


def test_a_later_turn_comes_a_think_time_after_the_end_and_computes_only_what_is_new():
    one = lab()
    one.run(sessions((0.0, [turn(16, 4), turn(5, 2, think_s=3.0)])))
    first, second = one.simulation.measurements.turns.values()
    assert first.last is not None
    assert second.arrived == pytest.approx(first.last + 3.0)
    # The end of the first reply was sampled and never run: it is computed with what is new.
    assert (second.prompt_len, second.cached_len) == (16 + 4 + 5, 16 + 3)
    assert second.ttft_s == pytest.approx(chunk_s(6, 19))


def test_a_turn_that_keeps_part_of_its_past_computes_the_rest():
    one = lab()
    one.run(sessions((0.0, [turn(32, 4), turn(8, 2, keep=16)])))
    _, second = one.simulation.measurements.turns.values()
    assert (second.prompt_len, second.cached_len) == (24, 16)


def test_text_that_sessions_share_is_computed_once():
    shared = TurnShape(0.0, None, (Span(7, 16),), 4, 2)
    one = lab()
    one.run(sessions((0.0, [shared]), (1.0, [shared])))
    first, second = one.simulation.measurements.turns.values()
    assert (first.cached_len, second.cached_len) == (0, 16)


def test_pages_cross_the_wire_behind_the_chunk_that_fills_them():
    one = lab(SPLIT)
    one.run(sessions((0.0, [turn(16, 2)])))
    (record,) = one.simulation.measurements.turns.values()
    num_bytes = 16 * COSTS.kv_bytes_per_token
    there = chunk_s(16) + num_bytes / 1e5 + 0.001
    assert record.first == pytest.approx(chunk_s(16))
    assert record.last == pytest.approx(there + decode_s(1, 17))
    assert one.simulation.links.bytes_moved == num_bytes


def test_a_slower_wire_delays_the_second_token_alone():
    times = []
    for rate in (1e5, 1e3):
        one = lab(SPLIT, wire=Link(0.001, rate))
        one.run(sessions((0.0, [turn(16, 2)])))
        (record,) = one.simulation.measurements.turns.values()
        times.append((record.first, record.last))
    assert times[0][0] == times[1][0]
    assert times[1][1] - times[0][1] == pytest.approx(64 / 1e3 - 64 / 1e5)


def test_rows_share_steps():
    one = lab()
    one.run(sessions((0.0, [turn(8, 50)]), (0.0, [turn(8, 50)])))
    # The second comes when two steps are launched already; from then on the two share their steps.
    alone = lab()
    alone.run(sessions((0.0, [turn(8, 50)])))
    together = max(record.last or 0 for record in one.simulation.measurements.turns.values())
    (record,) = alone.simulation.measurements.turns.values()
    assert record.last is not None
    assert together < 1.5 * record.last


def test_a_reply_without_room_is_one_line():
    one = lab()
    with pytest.raises(WorkloadError, match=r"turn s0\.0: 250 tokens of prompt and 10 of reply"):
        one.run(sessions((0.0, [turn(250, 10)])))


def test_turns_without_room_are_counted_before_anything_is_simulated():
    one = lab()
    grows = [turn(100, 100), turn(20, 30), turn(9, 1)]  # 200, 250 and 260 tokens of 256
    with pytest.raises(WorkloadError, match=r"turn s1\.2: 259 .* 256, and so in 2 turns; raise"):
        one.run(sessions((0.0, [turn(8, 5)]), (9.0, grows), (9.5, [turn(300, 1)])))
    assert not one.simulation.measurements.turns


def test_noise_makes_steps_uneven_and_is_drawn_alike():
    def gaps(noise: float) -> list[float]:
        one = lab(noise=noise)
        one.run(sessions((0.0, [turn(8, 30)])))
        return list(one.simulation.measurements.gaps)

    even, uneven = gaps(0.0), gaps(0.3)
    assert max(even) < 1.3 * min(even)
    assert max(uneven) > 1.5 * min(uneven)
    assert gaps(0.3) == uneven


TURNS = st.builds(
    turn,
    new=st.integers(0, 30),
    reply=st.integers(1, 20),
    think_s=st.sampled_from([0.0, 0.01, 1.0]),
    keep=st.one_of(st.none(), st.integers(0, 40)),
)
WORKLOADS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 0.02, 0.5]), st.lists(TURNS, min_size=1, max_size=3)),
    min_size=1,
    max_size=8,
).map(lambda made: sessions(*sorted(made, key=lambda one: one[0])))
DEPLOYMENTS = st.sampled_from([COLOCATED, SPLIT, (*SPLIT, (WorkerId("p1"), Role.PREFILL))])


@settings(max_examples=60)
@given(
    workload=WORKLOADS,
    workers=DEPLOYMENTS,
    route=st.sampled_from(sorted(set(ROUTE_POLICIES) - {"ppd"})),
    rebalance=st.sampled_from(sorted(REBALANCE_POLICIES)),
    pages=st.sampled_from([65, 90, 200]),
)
def test_nothing_is_lost(workload: Workload, workers, route: str, rebalance: str, pages: int):
    one = lab(workers, route=route, rebalance=rebalance, limits=replace(LIMITS, num_pages=pages))
    one.run(workload)
    records = one.simulation.measurements.turns
    assert len(records) == workload.num_turns
    wanted = {
        f"{session.id}.{i}": shape.reply
        for session in workload.sessions
        for i, shape in enumerate(session.turns)
    }
    assert {name: record.tokens for name, record in records.items()} == wanted
    assert {record.outcome for record in records.values()} == {"completed"}
    assert one.simulation.measurements.tokens == sum(wanted.values())
    for record in records.values():
        assert record.first is not None
        assert record.last is not None
        assert record.arrived <= record.first <= record.last <= one.agenda.now
    for batcher in one.batchers:
        batcher.check()
        report = batcher.report()
        assert (report.running, report.waiting, report.pages_used) == (0, 0, 0)


def test_equal_inputs_give_equal_logs():
    def log() -> list[str]:
        made = [(i * 0.003, [turn(9 + i, 12), turn(5, 7, think_s=0.01)]) for i in range(6)]
        one = lab(SPLIT, route="foretoken", rebalance="predicted", noise=0.2)
        one.run(sessions(*made))
        return one.log

    first = log()
    assert len(first) > 40
    assert log() == first


def test_time_passes_between_sessions_without_ticks():
    one = lab()
    far = SessionShape("far", 1e6, (turn(8, 2),))
    one.run(Workload("by hand", (SessionShape("near", 0.0, (turn(8, 2),)), far), {}))
    assert len(one.simulation.samples) < 10
    assert one.agenda.now >= 1e6


def test_a_step_that_was_held_back_for_a_row_goes_on_when_its_time_is_over():
    """The row is told to come and does not; nothing else happens meanwhile."""
    two, guest = lab(SPLIT, route="local"), task("guest", range(4))
    (told_at, in_s) = (0.1, 2 * decode_s(2, 100))

    def tell() -> None:
        worker = two.simulation.workers[WorkerId("d0")]
        worker.deliver(decode(guest, WorkerId("p0"), move=1))
        worker.deliver(LastStep(guest.id, 1, in_s))

    two.agenda.at(told_at, tell)
    two.run(sessions((0.0, [turn(20, 100)])))
    step_s, longest = decode_s(1, 119), max(two.simulation.measurements.gaps)
    # Held back for half a step behind the time told, and as long before it as was left.
    assert 1.4 * step_s < longest < 2.6 * step_s


def on_a_link(payload_s: float) -> tuple[str, float, list[str]]:
    """One turn of ten chunks over a link that takes so long for each, with a timeout of a second.

    Returns how it ended, when, and why it was tried again.
    """
    chunk = LIMITS.max_chunk_tokens
    wire = Link(0.0, chunk * COSTS.kv_bytes_per_token / payload_s)
    one = lab(SPLIT, wire=wire, limits=replace(LIMITS, transfer_timeout_s=1.0))
    one.run(sessions((0.0, [turn(10 * chunk, 4)])))
    for batcher in one.batchers:
        batcher.check()
        assert batcher.report().pages_used == 0
    (record,) = one.simulation.measurements.turns.values()
    records = [json.loads(text) for text in one.log]
    retries = [record["reason"] for record in records if record["kind"] == "retry"]
    assert record.outcome is not None
    return record.outcome, one.agenda.now, retries


@pytest.mark.parametrize("payload_s", [0.001, 0.1, 0.5, 0.9])
def test_a_hand_off_may_take_as_long_as_its_link_makes_it_take(payload_s: float):
    outcome, ended, retries = on_a_link(payload_s)
    assert (outcome, retries) == ("completed", [])
    assert ended > 10 * payload_s


def test_a_link_that_is_silent_for_longer_than_the_timeout_is_given_up():
    outcome, _, retries = on_a_link(1.6)
    assert (outcome, set(retries)) == ("Failed", {"transfer_failed"})
