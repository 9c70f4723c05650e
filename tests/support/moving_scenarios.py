"""What may happen to rows that are moved about? Few long replies, and whatever else goes wrong."""

from dataclasses import replace

from hypothesis import strategies as st

from serving.messages import Completed, Dropped, Failed, Rejected
from tests.support.scenarios import (
    LAGS,
    PATIENCE,
    SEEDS,
    Ask,
    Conversation,
    Fault,
    Scenario,
    shapes,
)


@st.composite
def moving_scenarios(draw: st.DrawFn) -> Scenario:
    """Few long replies whose rows are moved about all the time, while messages and patience lag."""
    shape = replace(
        draw(shapes()),
        prefill_workers=draw(st.integers(0, 1)),
        decode_workers=draw(st.integers(2, 3)),
        num_pages=-(-80 // 2) + draw(st.sampled_from((1, 10, 60))),
        prefill_pages=-(-80 // 2) + 1,
        page_size=draw(st.sampled_from((2, 4))),
        max_model_len=80,
        transfer_timeout_s=draw(PATIENCE),
    )
    new_tokens = st.sampled_from(((1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 3, 4, 5, 6, 9), (7,)))
    ask = st.builds(
        Ask,
        new_tokens,
        max_tokens=st.integers(10, 40),
        stop_ids=st.just(()),
        seed=st.integers(0, 1),
        priority=st.just(0),
        logprobs=st.sampled_from((None, 0)),
        prompt_logprobs=st.sampled_from((None, None, 0)),
        constrained=st.booleans(),
    )
    client = st.builds(
        Conversation,
        key=st.sampled_from((None, "a")),
        salt=st.just(""),
        asks=st.lists(ask, min_size=1, max_size=2).map(tuple),
    )
    kinds = st.sampled_from((*["move"] * 6, "tick", "tick", "lose", "join", "cancel", "role"))
    fault = st.builds(Fault, st.integers(0, 900), kinds, st.integers(0, 63))
    names = st.sampled_from(("coordinator", "p0", "d0", "d1", "d2"))
    return Scenario(
        shape,
        draw(st.lists(client, min_size=1, max_size=3).map(tuple)),
        draw(SEEDS),
        faults=tuple(draw(st.lists(fault, min_size=5, max_size=40))),
        broken_transfers=draw(st.frozensets(st.integers(1, 40), max_size=2)),
        lost_acks=draw(st.frozensets(st.integers(1, 40), max_size=2)),
        silent_losses=draw(st.booleans()),
        twice=draw(st.booleans()),
        slow=draw(st.frozensets(st.tuples(names, names), max_size=6)),
        pages_lag=draw(LAGS),
        expected=frozenset({Completed, Dropped, Failed, Rejected}),
    )
