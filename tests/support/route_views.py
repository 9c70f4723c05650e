"""Views of a turn and its workers for tests: everything idle and empty unless it is named."""

from functools import cache
from math import nan

import numpy as np

from serving.costs.costs import Link
from serving.forecast.survival import EDGES, Survival
from serving.messages import WorkerId
from serving.policy.views import OwnerView, PrefillView, ResidentsView, TurnView

INSTANT = Link(latency_s=0.0, bytes_per_s=1e30)


@cache
def runs_until(tokens: int) -> Survival:
    """The curve of a reply that ends within the last interval before `tokens`, an edge."""
    assert tokens in EDGES
    return Survival(tuple(1.0 if edge < tokens else 0.0 for edge in EDGES))


def turn(prompt_len: int = 100, **named) -> TurnView:
    fields = {
        "number": 1,
        "waited_s": 0.0,
        "max_new_len": 1024,
        "ttft_s": None,
        "tpot_s": None,
        "remaining": runs_until(64),
        "arrival_rate": 1.0,
    }
    return TurnView(prompt_len, **{**fields, **named})


def residents(
    *expected_len: float, tpot_s: float | None = None, gaps: float = 0.0, gaps_s: float = 0.0
) -> ResidentsView:
    count = len(expected_len)
    return ResidentsView(
        np.array(expected_len, np.float64),
        np.full(count, nan if tpot_s is None else tpot_s),
        np.full(count, gaps),
        np.full(count, gaps_s),
    )


def owner(cached_len: int = 0, *, rows: ResidentsView | None = None, **named) -> OwnerView:
    rows = residents() if rows is None else rows
    fields = {
        "cached_len": cached_len,
        "fetch_s": 0.0,
        "rows": rows.expected_len.size,
        "max_rows": 64,
        "kv_tokens": 0,
        "queued_s": 0.0,
        "queued_len": 0,
        "pages_available": 1000,
        "pages_total": 1000,
        "page_size": 1,
        "chunk_len": 10_000,
        "itl_s": None,
        "residents": rows,
    }
    return OwnerView(worker=WorkerId("d0"), **{**fields, **named})


def prefill(
    name: str = "p0", cached_len: int = 0, *, rows: ResidentsView | None = None, **named
) -> PrefillView:
    rows = residents() if rows is None else rows
    fields = {
        "cached_len": cached_len,
        "fetch_s": 0.0,
        "rows": rows.expected_len.size,
        "kv_tokens": 0,
        "residents": rows,
        "queued_s": 0.0,
        "queued_len": 0,
        "turns": 0,
        "chunk_len": 10_000,
        "ttft_s": None,
        "link": INSTANT,
    }
    return PrefillView(worker=WorkerId(name), **{**fields, **named})
