"""Links: latency and bytes by hand; who shares a way waits, who does not does not."""

from serving.costs.costs import Link
from serving.messages import WorkerId
from serving.sim.links import Links

A, B, C, D = map(WorkerId, "abcd")
WIRE = Link(latency_s=0.5, bytes_per_s=10.0)


def test_a_transfer_takes_its_bytes_and_the_latency():
    links = Links(WIRE)
    assert links.send(A, B, 20, 1.0) == 1.0 + 2.0 + 0.5
    assert links.bytes_moved == 20


def test_those_on_one_way_follow_one_another():
    links = Links(WIRE)
    links.send(A, B, 20, 1.0)
    assert links.send(A, C, 10, 1.0) == 3.0 + 1.0 + 0.5  # the way out of a
    assert links.send(D, B, 10, 0.0) == 3.0 + 1.0 + 0.5  # the way into b
    assert links.send(D, C, 10, 9.0) == 9.0 + 1.0 + 0.5  # all free again


def test_latency_is_not_shared():
    links = Links(WIRE)
    assert links.send(A, B, 10, 0.0) == 1.5
    assert links.send(A, B, 10, 0.0) == 2.5


def test_separate_ways_do_not_wait_for_each_other():
    links = Links(WIRE)
    links.send(A, B, 100, 0.0)
    assert links.send(C, D, 10, 0.0) == 1.5
