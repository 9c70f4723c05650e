"""Survival curves against sums, brute force and each other."""

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.forecast.survival import EDGES, MAX_TOKENS, Survival, alive_on


def make_curve(seed: int, last: int, flat: float) -> Survival:
    """A curve that reaches 0 at edge `last`, and hardly falls in a share `flat` of its parts."""
    rng = np.random.default_rng(seed)
    falls = rng.uniform(0.05, 1, last)
    slight = rng.choice([1.0, 1 - 2**-53, 0.999], last)
    alive = np.cumprod(np.where(rng.random(last) < flat, slight, falls)).tolist()
    return Survival((*alive, *[0.0] * (len(EDGES) - last)))


def curves() -> st.SearchStrategy[Survival]:
    """Any curve; the first chance may be below 1."""
    seeds, lasts = st.integers(0, 2**32 - 1), st.integers(1, len(EDGES) - 1)
    return st.builds(make_curve, seeds, lasts, st.sampled_from([0.0, 0.5, 0.95]))


def geometric(mean: float) -> Survival:
    return Survival((*(math.exp(-edge / mean) for edge in EDGES[:-1]), 0.0))


tokens = st.integers(0, 3000)


@settings(max_examples=80)
@given(curves(), st.floats(0, 5000), st.floats(0, 5000))
def test_the_chance_to_be_running_never_rises(curve, a, b):
    early, late = sorted((a, b))
    assert 0 <= curve.still_running(late) <= curve.still_running(early) <= 1


@given(curves(), st.sampled_from(range(len(EDGES))))
def test_the_chance_at_an_edge_is_what_was_given(curve, index):
    assert curve.still_running(EDGES[index]) == curve.alive[index]


@settings(max_examples=50)
@given(curves(), st.integers(1, 400))
def test_the_mean_is_the_area_under_the_chances(curve, horizon):
    area = 0.0
    for left, right in pairwise(EDGES):
        width = min(right, horizon) - left
        if width > 0:
            middles = left + width * (np.arange(64) + 0.5) / 64
            area += width * float(np.mean([curve.still_running(x) for x in middles]))
    assert curve.expected(horizon) == pytest.approx(area, rel=1e-3)


def test_a_straight_fall_is_straight_where_a_horizon_cuts_it():
    last = len(EDGES) - 5
    curve = Survival((*[1.0] * last, *[0.0] * 5))
    left, right = EDGES[last - 1], EDGES[last]
    quarter = (right - left) / 4
    assert curve.expected(left + quarter) == pytest.approx(left + quarter * (1 + 0.75) / 2)


def test_the_mean_of_a_constant_hazard_is_its_own_to_the_edges_grain():
    assert geometric(300).expected() == pytest.approx(300, rel=0.01)


def test_a_curve_that_hardly_falls_has_all_of_its_area():
    flat = [1 - 2**-53] * (len(EDGES) - 1)
    curve = Survival((1.0, *flat[1:], 0.0))
    assert curve.expected(EDGES[-2]) == pytest.approx(EDGES[-2], rel=1e-12)


@settings(max_examples=80)
@given(curves(), st.floats(0.01, 0.99))
def test_a_quantile_is_the_first_token_count_that_is_exceeded_seldom_enough(curve, q):
    fewest = curve.quantile(q)
    assert curve.still_running(fewest) <= (1 - q) * (1 + 1e-6)
    if fewest > 0:
        assert curve.still_running(fewest - 1) > (1 - q) * (1 - 1e-6)


@settings(max_examples=80)
@given(curves(), tokens.filter(bool))
def test_what_remains_is_conditioned_on_what_has_come(curve, generated):
    now = curve.still_running(generated)
    assume(now > 0)
    rest = curve.after(generated)
    for edge in EDGES[:20]:
        assert rest.still_running(edge) == pytest.approx(
            curve.still_running(generated + edge) / now, rel=1e-9
        )


@given(curves())
def test_before_anything_has_come_nothing_is_known_but_the_curve(curve):
    assert curve.after(0) is curve
    grid = np.array(EDGES, np.float64)
    found = alive_on(np.array([curve.alive]), np.array([0]), grid)
    assert found[0] == pytest.approx(curve.alive)


@settings(max_examples=80)
@given(curves(), tokens.filter(bool), tokens.filter(bool))
def test_looking_twice_is_looking_once_to_the_edges_grain(curve, first, second):
    assume(curve.still_running(first + second) > 0)
    twice = curve.after(first).after(second)
    now = curve.still_running(first)

    def seen_after_first(edge: int) -> float:
        return curve.still_running(first + edge) / now

    right = bisect_right(EDGES, second)
    below, above = EDGES[right - 1], EDGES[right]
    assume(seen_after_first(above) > 0)
    for edge in EDGES[:20]:
        left = EDGES[bisect_right(EDGES, second + edge) - 1]
        beyond = EDGES[bisect_left(EDGES, second + edge)]
        high = min(1.0, seen_after_first(left) / seen_after_first(above))
        low = seen_after_first(beyond) / seen_after_first(below)
        assert low - 1e-9 <= twice.still_running(edge) <= high + 1e-9


def test_a_constant_hazard_has_no_memory():
    rest = geometric(300).after(700)
    for edge in EDGES[:30]:
        assert rest.still_running(edge) == pytest.approx(
            geometric(300).still_running(edge), abs=0.02
        )


@given(st.integers(1, 10_000))
def test_half_of_the_replies_that_outlived_their_curve_go_on_for_as_long_again(generated):
    over = Survival((0.0,) * len(EDGES))
    rest = over.after(generated)
    assert rest.alive[0] == 1
    exact = [edge for edge in EDGES[:-1] if edge == generated]
    for edge in exact:
        assert rest.still_running(edge) == 0.5
    assert rest.quantile(0.5) == pytest.approx(generated, rel=0.05, abs=1)


@settings(max_examples=60)
@given(curves(), st.integers(0, 2 * MAX_TOKENS))
def test_a_cap_ends_a_curve_and_leaves_what_is_before_it(curve, most):
    capped = curve.capped(most)
    for i, edge in enumerate(EDGES):
        assert capped.alive[i] == (curve.alive[i] if edge < most else 0)


@settings(max_examples=40)
@given(st.lists(st.tuples(curves(), tokens), min_size=1, max_size=5))
def test_many_curves_at_once_say_what_each_says_at_the_edges(rows):
    grid = np.array([0.0, 1.0, 64.0, 1000.0, MAX_TOKENS])
    alive = np.array([curve.alive for curve, _ in rows])
    edges = np.array([EDGES[bisect_left(EDGES, max(1, generated))] for _, generated in rows])
    found = alive_on(alive, edges, grid)
    for r, (curve, _) in enumerate(rows):
        generated = int(edges[r])
        now = curve.still_running(generated)
        for g, ahead in enumerate(grid):
            if now == 0:
                expected = generated / max(generated + ahead, 1)
                assert found[r, g] == pytest.approx(expected)
                continue
            at = generated + ahead
            before = EDGES[min(bisect_right(EDGES, at), len(EDGES)) - 1]
            behind = EDGES[min(bisect_left(EDGES, at), len(EDGES) - 1)]
            high, low = curve.still_running(before) / now, curve.still_running(behind) / now
            assert low - 1e-9 <= found[r, g] <= high + 1e-9


def test_many_curves_at_once_agree_with_one_where_the_fall_is_slight():
    curve = geometric(2000)
    grid = np.array([0.0, 10.0, 333.0, 1500.0])
    found = alive_on(np.array([curve.alive]), np.array([150]), grid)
    rest = curve.after(150)
    assert found[0] == pytest.approx([rest.still_running(x) for x in grid], rel=0.03)


@pytest.mark.parametrize(
    "alive",
    [
        (1.0,) * len(EDGES),
        (0.5, 0.6, *(0.0,) * (len(EDGES) - 2)),
        (1.1, *(0.0,) * (len(EDGES) - 1)),
        (1.0, 0.0),
        (math.nan, *(0.0,) * (len(EDGES) - 1)),
    ],
)
def test_what_is_no_survival_curve_is_refused(alive):
    with pytest.raises(ValueError, match="curve"):
        Survival(alive)
