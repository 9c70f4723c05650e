"""What may happen to pages in host memory? Histories asked again and again of pools too small."""

from dataclasses import replace

from hypothesis import strategies as st

from serving.messages import Completed, Dropped, Failed, Rejected
from tests.support.scenarios import (
    LAGS,
    SEEDS,
    Ask,
    Conversation,
    Fault,
    Scenario,
    shapes,
)

MAX_LEN = 80


@st.composite
def host_scenarios(draw: st.DrawFn, *, calm: bool = False) -> Scenario:
    """Few long histories that displace each other all the time, and whatever else goes wrong."""
    page_size = draw(st.sampled_from((1, 2, 4)))
    least = MAX_LEN // page_size + 1
    shape = replace(
        draw(shapes()),
        prefill_workers=draw(st.integers(0, 1)),
        decode_workers=draw(st.integers(1, 2)),
        page_size=page_size,
        max_model_len=MAX_LEN,
        num_pages=least + draw(st.sampled_from((0, 2, 20))),
        prefill_pages=least + draw(st.sampled_from((0, 20))),
        host_pages=draw(st.sampled_from((1, 7, 40, 400))),
        chunk_tokens=draw(st.sampled_from((2, 4, 8, 100))),
    )
    if not calm:
        shape = replace(shape, transfer_timeout_s=draw(st.sampled_from((30.0, 0.05, 0.02))))
    ask = st.builds(
        Ask,
        new_tokens=st.integers(1, 9).map(lambda n: tuple(range(n))),
        max_tokens=st.integers(1, 12),
        stop_ids=st.just(()),
        seed=st.integers(0, 1),
        priority=st.sampled_from((0, 0, 1)),
        logprobs=st.none(),
        prompt_logprobs=st.sampled_from((None,) * 7 + (0,)),
        constrained=st.booleans(),
    )
    histories = st.sampled_from([tuple(n + i % 5 for i in range(40)) for n in range(4)])
    client = st.builds(
        _long,
        histories,
        key=st.sampled_from((None, None, "a", "b")),
        asks=st.lists(ask, min_size=2, max_size=4),
    )
    kinds = ["move", "role"]
    if not calm:
        kinds += ["forget", "tick", "tick", "cancel", "cancel", "lose", "join"]
    fault = st.builds(Fault, st.integers(0, 1500), st.sampled_from(kinds), st.integers(0, 63))
    ends = (Completed,) if calm else (Completed, Dropped, Failed, Rejected)
    few = st.just(frozenset[int]()) if calm else st.frozensets(st.integers(1, 40), max_size=3)
    return Scenario(
        shape,
        draw(st.lists(client, min_size=4, max_size=8).map(tuple)),
        draw(SEEDS),
        faults=tuple(draw(st.lists(fault, max_size=12))),
        broken_transfers=draw(few),
        broken_fetches=draw(few),
        lost_acks=draw(few),
        silent_losses=draw(st.booleans()),
        twice=not calm and draw(st.booleans()),
        pages_lag=draw(LAGS),
        expected=frozenset(ends),
    )


def _long(history: tuple[int, ...], key: str | None, asks: list[Ask]) -> Conversation:
    first = replace(asks[0], new_tokens=history + asks[0].new_tokens)
    return Conversation(key, "", (first, *asks[1:]))
