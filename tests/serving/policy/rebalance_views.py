"""Views for the tests of rebalancing: spelled out, or drawn."""

import numpy as np
from hypothesis import strategies as st

from serving.costs.costs import Link, StepModel
from serving.messages import WorkerId
from serving.policy.rebalance import RebalanceConfig
from serving.policy.views import RebalanceView

GRID = (0.0, 64.0, 256.0)
BY_TOKENS = StepModel(0.0, 0.0, 2.0**-20)
MODELS = (BY_TOKENS, StepModel(2.0**-7, 2.0**-13, 2.0**-20), StepModel(2.0**-8, 0.0, 2.0**-19))
FAST = Link(0.0, 2.0**40)
EAGER = RebalanceConfig(
    horizon_steps=512, decay=1, th_in=0, th_out=0, th_under=0, min_gain=0, watermark=0.0, z=1
)
"""Moves whatever helps."""


def view(*workers, **changes) -> RebalanceView:
    """A view of workers "a", "b", ... with rows of (kv_len, *alive) each.

    A row that is a number runs for ever.
    """
    rows = [(d, row) for d, held in enumerate(workers) for row in held]
    kv_len = [row[0] if isinstance(row, tuple) else row for _, row in rows]
    alive = [row[1:] if isinstance(row, tuple) else (1.0,) * len(GRID) for _, row in rows]
    n = len(workers)
    fields = {
        "workers": tuple(WorkerId(name) for name in "abcdefgh"[:n]),
        "step_models": (BY_TOKENS,) * n,
        "capacity": np.full(n, 1e9),
        "pinned": np.zeros(n),
        "blank": np.zeros(n),
        "evict_s": np.zeros(n),
        "target_s": np.full(n, np.nan),
        "may_send": np.ones(n, np.bool_),
        "may_receive": np.ones(n, np.bool_),
        "owner": np.array([d for d, _ in rows], np.int64),
        "kv_len": np.array(kv_len, np.float64),
        "alive": np.array(alive, np.float64).reshape(-1, len(GRID)),
        "movable": np.ones(len(rows), np.bool_),
        "grid": np.array(GRID),
        "link": FAST,
        "kv_bytes_per_token": 1024,
        "was_over": frozenset(),
    }
    return RebalanceView(**(fields | changes))


_MOSTLY = st.sampled_from((True,) * 7 + (False,))


def _many(each, count):
    return st.lists(each, min_size=count, max_size=count)


@st.composite
def views(draw) -> RebalanceView:
    """Few rows on few workers, in numbers that add up exactly; lengths differ, so rows do.

    Every other view is plain: two workers much fuller than two others, and nothing forbids a move.
    """
    plain = draw(st.booleans())
    count = 4 if plain else draw(st.integers(2, 4))
    most = 3 if plain else 8
    homes = draw(_many(st.sampled_from((0, 1)), 6)) if plain else []
    homes += draw(st.lists(st.integers(0, count - 1), min_size=0 if plain else 3, max_size=most))
    lengths = draw(
        st.lists(st.integers(1, 2000), min_size=len(homes), max_size=len(homes), unique=True)
    )
    workers: list[list[tuple]] = [[] for _ in range(count)]
    for home, length in zip(homes, lengths, strict=True):
        eighths = sorted(draw(st.tuples(*[st.integers(0, 8)] * 2)), reverse=True)
        workers[home].append((length, 1.0, *(eighth / 8 for eighth in eighths)))
    if plain:
        return view(*workers, step_models=(draw(st.sampled_from(MODELS)),) * count)
    return view(
        *workers,
        step_models=tuple(draw(_many(st.sampled_from(MODELS), count))),
        capacity=np.array(draw(_many(st.sampled_from((2.0**20, 4096.0, 1024.0)), count))),
        pinned=np.array(draw(_many(st.sampled_from((0.0, 0.0, 512.0)), count))),
        blank=np.array(draw(_many(st.sampled_from((0.0, 256.0)), count))),
        evict_s=np.array(draw(_many(st.sampled_from((0.0, 0.0, 2.0**-12)), count))),
        target_s=np.array(draw(_many(st.sampled_from((np.nan, 2.0**-9, 2.0**-6)), count))),
        may_send=np.array(draw(_many(_MOSTLY, count)), np.bool_),
        may_receive=np.array(draw(_many(_MOSTLY, count)), np.bool_),
        movable=np.array(draw(_many(_MOSTLY, len(lengths))), np.bool_),
        link=draw(st.sampled_from((FAST, Link(2.0**-4, 2.0**20)))),
        was_over=frozenset(draw(st.sets(st.sampled_from("ab")))),
    )


def crowded(seed: int) -> RebalanceView:
    """Eight unlike workers with sixty rows that come and go, little room, and a slow link."""
    random = np.random.default_rng(seed)
    workers: list[list[tuple]] = [[] for _ in range(8)]
    for _ in range(60):
        home = int(8 * random.random() ** 2)
        alive = np.sort(random.random(2))[::-1]
        workers[home].append((float(random.integers(50, 2000)), 1.0, *alive))
    held = sum(row[0] for rows in workers for row in rows)
    return view(
        *workers,
        step_models=tuple(MODELS[i] for i in random.integers(0, 3, 8)),
        capacity=held * random.uniform(0.15, 0.6, 8),
        link=Link(random.uniform(0, 0.3), 2.0**24),
        movable=random.random(60) < 0.9,
    )


CONFIGS = st.builds(
    RebalanceConfig,
    horizon_steps=st.sampled_from((32.0, 512.0)),
    decay=st.sampled_from((0.0, 0.5, 1.0)),
    th_in=st.sampled_from((0.0, 0.0, 0.125)),
    th_out=st.just(0.0),
    th_under=st.sampled_from((0.0, 0.0, 0.125)),
    stake=st.sampled_from((0.5, 1.0)),
    payback=st.sampled_from((0.0, 2.0)),
    min_gain=st.sampled_from((0.0, 0.0625)),
    watermark=st.sampled_from((0.0, 0.125)),
    z=st.sampled_from((0.0, 1.0)),
    max_moves=st.sampled_from((2, 1)),
    exact_sets=st.just(4096),
)
