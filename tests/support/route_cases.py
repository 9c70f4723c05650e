"""Arbitrary turns, owners, fleets and straight-line costs for the properties of routing."""

from hypothesis import strategies as st

from serving.costs.costs import Link
from serving.policy.views import PrefillView
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import INSTANT, owner, prefill, residents, turn

LENGTHS = st.integers(0, 120)
SECONDS = st.integers(0, 300).map(float)
FETCHES = st.sampled_from([0.0, 0.0, 3.0, 40.0])
LINKS = st.sampled_from([INSTANT, Link(0.0, 0.25), Link(0.5, 2.0)])
ROWS = st.lists(st.floats(0, 400), max_size=4)


def _workers(rows: st.SearchStrategy[list[float]]) -> st.SearchStrategy[list[PrefillView]]:
    one = st.builds(
        lambda name, cached_len, rows, tpot_s, **named: prefill(
            name, cached_len, rows=residents(*rows, tpot_s=tpot_s), **named
        ),
        st.text("abc", min_size=1, max_size=3),
        LENGTHS,
        rows,
        st.none() | st.floats(0.5, 50),
        queued_s=SECONDS,
        fetch_s=FETCHES,
        chunk_len=st.sampled_from([16, 64]),
        link=LINKS,
    )
    return st.lists(one, min_size=1, max_size=6, unique_by=lambda worker: worker.worker)


WORKERS = _workers(st.just([]))
COSTS = st.builds(
    LinearCosts,
    base_s=st.floats(0.5, 5),
    new_s=st.floats(0.1, 2),
    cached_s=st.floats(0, 0.001),
    row_s=st.floats(0, 1),
)
TURNS = st.builds(
    turn,
    st.integers(1, 200),
    ttft_s=st.none() | st.floats(1, 100),
)
OWNERS = st.builds(
    lambda cached_len, rows, tpot_s, **named: owner(
        cached_len, rows=residents(*rows, tpot_s=tpot_s), **named
    ),
    LENGTHS,
    ROWS,
    st.none() | st.floats(0.5, 50),
    queued_s=SECONDS,
    fetch_s=FETCHES,
    chunk_len=st.sampled_from([16, 64]),
)
CASES = st.tuples(TURNS, OWNERS, WORKERS, COSTS)
"""A turn, its owner, the prefill workers, and what things cost."""
BUSY_CASES = st.tuples(TURNS, OWNERS, _workers(ROWS), COSTS)
"""The same, where some that could prefill have rows of their own."""
