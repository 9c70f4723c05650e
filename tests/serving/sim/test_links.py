"""Links: latency and bytes by hand; who shares a way waits, who does not does not."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.costs.costs import Link
from serving.messages import WorkerId
from serving.sim.links import Links

A, B, C, D = map(WorkerId, "abcd")
WIRE = Link(latency_s=0.5, bytes_per_s=10.0)


def send(links: Links, sender: WorkerId, to: WorkerId, num_bytes: int, ready: float) -> float:
    return links.send(sender, to, num_bytes, ready=ready, now=0.0)


def test_a_transfer_takes_its_bytes_and_the_latency():
    links = Links(WIRE)
    assert send(links, A, B, 20, 1.0) == 1.0 + 2.0 + 0.5
    assert links.bytes_moved == 20


def test_those_on_one_way_follow_one_another():
    links = Links(WIRE)
    send(links, A, B, 20, 1.0)
    assert send(links, A, C, 10, 1.0) == 3.0 + 1.0 + 0.5  # the way out of a
    assert send(links, D, B, 10, 1.0) == 3.0 + 1.0 + 0.5  # the way into b
    assert send(links, D, C, 10, 9.0) == 9.0 + 1.0 + 0.5  # all free again


def test_latency_is_not_shared():
    links = Links(WIRE)
    assert send(links, A, B, 10, 0.0) == 1.5
    assert send(links, A, B, 10, 0.0) == 2.5


def test_separate_ways_do_not_wait_for_each_other():
    links = Links(WIRE)
    send(links, A, B, 100, 0.0)
    assert send(links, C, D, 10, 0.0) == 1.5


def test_what_is_ready_does_not_wait_for_what_is_not():
    links = Links(WIRE)
    send(links, A, B, 20, 5.0)  # its step ends then
    assert send(links, C, B, 50, 0.0) == 0.0 + 5.0 + 0.5
    assert send(links, C, B, 1, 0.0) == 7.0 + 0.1 + 0.5  # no time is left before either


SENDS = st.lists(
    st.tuples(
        st.sampled_from((A, B, C)),
        st.sampled_from((A, B, C)),
        st.integers(0, 40),
        st.integers(0, 20).map(float),
        st.integers(0, 3).map(float),
    ),
    max_size=12,
)


@given(SENDS)
def test_no_way_carries_two_at_once_and_nobody_waits_without_a_reason(sends):
    links, now = Links(Link(0.0, 10.0)), 0.0
    taken: dict[tuple[str, WorkerId], list[tuple[float, float]]] = {}
    for sender, to, num_bytes, wait, passes in sends:
        now += passes
        over = links.send(sender, to, num_bytes, ready=now + wait, now=now)
        starts, ways = over - num_bytes / 10.0, (("out", sender), ("in", to))
        busy = sorted(span for way in ways for span in taken.get(way, []))
        assert starts >= now + wait - 1e-9
        # Every earlier start, when the bytes are there or another one ends, meets with somebody.
        for earlier in [now + wait, *(end for _, end in busy)]:
            if now + wait <= earlier < starts - 1e-9:
                assert any(b < earlier + num_bytes / 10.0 + 1e-9 and e > earlier for b, e in busy)
        if num_bytes:
            for way in ways:
                taken.setdefault(way, []).append((starts, over))
    for spans in taken.values():
        for (_, ends), (begins, _) in pairwise(sorted(spans)):
            assert begins >= ends - 1e-9
