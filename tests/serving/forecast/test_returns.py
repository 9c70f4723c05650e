from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.forecast.returns import EDGES_S, ReturnModel, ReturnPrior

PRIOR = ReturnPrior(returns=0.6, median_s=30.0, weight=4.0)


def model(prior: ReturnPrior = PRIOR, half_life: float = inf) -> ReturnModel:
    return ReturnModel(prior=prior, half_life=half_life)


def test_bins_are_log_spaced_from_zero():
    assert EDGES_S[0] == 0
    ratios = [b / a for a, b in pairwise(EDGES_S[1:])]
    assert ratios == pytest.approx([2**0.5] * len(ratios))


@pytest.mark.parametrize("edge", [1.0, 32.0, 4096.0])
def test_before_any_observation_the_prior_speaks(edge: float):
    assert model().chance(0, edge) == pytest.approx(0.6 * edge / (edge + 30))


def test_the_prior_is_conditioned_on_the_time_already_idle():
    still = PRIOR.idle_still(64) / PRIOR.idle_still(32)
    assert model().chance(32, 32) == pytest.approx(1 - still)


def test_in_no_time_and_after_the_last_edge_nobody_returns():
    assert model().chance(5, 0) == 0
    assert model().chance(EDGES_S[-1], inf) == 0


def test_returns_raise_the_chance_and_losses_lower_it():
    back, lost = model(), model()
    for _ in range(20):
        back.observe(10, returned=True)
        lost.observe(10, returned=False)
    prior = model().chance(0, 60)
    assert lost.chance(0, 60) < prior < back.chance(0, 60)


def test_a_gap_tells_nothing_of_longer_ones():
    learned = model()
    for _ in range(20):
        learned.observe(1.0, returned=False)
    assert learned.chance(2, 60) == pytest.approx(model().chance(2, 60))
    assert learned.chance(0, 0.9) < model().chance(0, 0.9)


def test_a_session_seen_again_after_long_was_idle_through_all_shorter_gaps():
    learned = model()
    for _ in range(20):
        learned.observe(1000, returned=True)
    assert learned.chance(0, 100) < model().chance(0, 100)
    assert learned.chance(500, 1000) > model().chance(500, 1000)


def test_a_heavier_prior_moves_less():
    def after_losses(weight: float) -> float:
        learned = model(ReturnPrior(0.6, 30.0, weight))
        for _ in range(10):
            learned.observe(60, returned=False)
        return learned.chance(0, 60)

    assert after_losses(1) < after_losses(100) < model().chance(0, 60)


def test_old_observations_fade_into_the_prior_never_below_it():
    learned = model(half_life=1.0)
    for _ in range(50):
        learned.observe(10, returned=True)
    before = learned.chance(0, 12)
    for _ in range(60):
        learned.observe(0, returned=False)  # watched for no time: tells nothing but time passed
    assert before > learned.chance(0, 12) == pytest.approx(model().chance(0, 12))


def test_half_a_life_is_half_a_weight():
    faded, halved = model(half_life=1.0), model(ReturnPrior(0.6, 30.0, 8.0))
    faded.observe(10, returned=True)
    faded.observe(0, returned=False)
    # Half an observation beside a prior of 4 is one beside a prior of 8.
    halved.observe(10, returned=True)
    assert faded.chance(0, 60) == pytest.approx(halved.chance(0, 60))


def test_gaps_longer_than_all_bins_count_as_idle_throughout():
    learned = model()
    learned.observe(2 * EDGES_S[-1], returned=True)
    assert learned.chance(0, inf) < model().chance(0, inf)


def test_constant_return_rates_are_recovered_though_many_are_lost_sight_of():
    random = Random(7)
    learned = model()
    rate = 1 / 20
    for _ in range(4000):
        gap, cut = random.expovariate(rate), random.expovariate(1 / 30)
        learned.observe(min(gap, cut), returned=gap < cut)
    for idle in (0, 8, 32):
        assert learned.chance(idle, 20) == pytest.approx(1 - 2.718281828**-1, abs=0.05)


@pytest.mark.parametrize("prior", [(0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, 0)])
def test_an_impossible_prior_is_refused(prior: tuple[float, float, float]):
    with pytest.raises(ValueError, match="a prior has"):
        ReturnPrior(*prior)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="half-life"):
        model(half_life=0)
    with pytest.raises(ValueError, match="not negative"):
        model().observe(-1, returned=True)


GAPS = st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=20)
TIMES = st.floats(0, 1e6)


@given(GAPS, TIMES, TIMES, TIMES)
def test_chances_are_chances_and_grow_with_the_horizon(gaps, idle_s, first_s, more_s):
    learned = model(half_life=5.0)
    for gap_s, returned in gaps:
        learned.observe(gap_s, returned)
    sooner, later = learned.chance(idle_s, first_s), learned.chance(idle_s, first_s + more_s)
    assert 0 <= sooner <= later + 1e-12
    assert later <= 1


@given(GAPS, TIMES, TIMES, TIMES)
def test_waiting_in_two_halves_is_waiting_once(gaps, idle_s, first_s, second_s):
    learned = model()
    for gap_s, returned in gaps:
        learned.observe(gap_s, returned)
    once = 1 - learned.chance(idle_s, first_s + second_s)
    halves = (1 - learned.chance(idle_s, first_s)) * (
        1 - learned.chance(idle_s + first_s, second_s)
    )
    assert once == pytest.approx(halves, abs=1e-9)
