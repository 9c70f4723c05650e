from itertools import pairwise
from math import inf, log
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.forecast.returns import (
    EDGES_S,
    MOST_TURNS,
    TIMES_WEIGHT,
    ReturnModel,
    ReturnPrior,
)

PRIOR = ReturnPrior(returns=0.6, median_s=30.0, weight=4.0)
ANY = 2
"""Turns of sessions that no test observes unless it says so: they count as any other's do."""


def model(prior: ReturnPrior = PRIOR, half_life: float = inf) -> ReturnModel:
    return ReturnModel(prior=prior, half_life=half_life)


def test_bins_are_log_spaced_from_zero():
    assert EDGES_S[0] == 0
    ratios = [b / a for a, b in pairwise(EDGES_S[1:])]
    assert ratios == pytest.approx([2**0.5] * len(ratios))


@pytest.mark.parametrize("edge", [1.0, 32.0, 4096.0])
def test_before_any_observation_the_prior_speaks(edge: float):
    assert model().chance(0, edge, ANY) == pytest.approx(0.6 * edge / (edge + 30))


def test_the_prior_is_conditioned_on_the_time_already_idle():
    still = PRIOR.idle_still(64) / PRIOR.idle_still(32)
    assert model().chance(32, 32, ANY) == pytest.approx(1 - still)


def test_in_no_time_and_after_the_last_edge_nobody_returns():
    assert model().chance(5, 0, ANY) == 0
    assert model().chance(EDGES_S[-1], inf, ANY) == 0


def test_returns_raise_the_chance_and_losses_lower_it():
    back, lost = model(), model()
    for _ in range(20):
        back.observe(10, returned=True, turns=1)
        lost.observe(10, returned=False, turns=1)
    prior = model().chance(0, 60, ANY)
    assert lost.chance(0, 60, ANY) < prior < back.chance(0, 60, ANY)


def test_a_gap_tells_nothing_of_longer_ones():
    learned = model()
    for _ in range(20):
        learned.observe(1.0, returned=False, turns=1)
    assert learned.chance(2, 60, ANY) == pytest.approx(model().chance(2, 60, ANY))
    assert learned.chance(0, 0.9, ANY) < model().chance(0, 0.9, ANY)


def test_a_session_seen_again_after_long_was_idle_through_all_shorter_gaps():
    learned = model()
    for _ in range(20):
        learned.observe(1000, returned=True, turns=1)
    assert learned.chance(0, 100, ANY) < model().chance(0, 100, ANY)
    assert learned.chance(500, 1000, ANY) > model().chance(500, 1000, ANY)


def test_a_heavier_prior_moves_less():
    def after_losses(weight: float) -> float:
        learned = model(ReturnPrior(0.6, 30.0, weight))
        for _ in range(10):
            learned.observe(60, returned=False, turns=1)
        return learned.chance(0, 60, ANY)

    assert after_losses(1) < after_losses(100) < model().chance(0, 60, ANY)


def test_old_observations_fade_into_the_prior_never_below_it():
    learned = model(half_life=1.0)
    for _ in range(50):
        learned.observe(10, returned=True, turns=1)
    before = learned.chance(0, 12, ANY)
    for _ in range(60):
        # Watched for no time: tells nothing but that time has passed.
        learned.observe(0, returned=False, turns=1)
    assert before > learned.chance(0, 12, ANY) == pytest.approx(model().chance(0, 12, ANY))


def test_half_a_life_is_half_a_weight():
    faded, halved = model(half_life=1.0), model(ReturnPrior(0.6, 30.0, 8.0))
    faded.observe(10, returned=True, turns=1)
    faded.observe(0, returned=False, turns=1)
    # Half an observation beside a prior of 4 is one beside a prior of 8.
    halved.observe(10, returned=True, turns=1)
    assert faded.chance(0, 60, ANY) == pytest.approx(halved.chance(0, 60, ANY))


def test_gaps_longer_than_all_bins_count_as_idle_throughout():
    learned = model()
    learned.observe(2 * EDGES_S[-1], returned=True, turns=1)
    assert learned.chance(0, inf, ANY) < model().chance(0, inf, ANY)


def test_constant_return_rates_are_recovered_though_many_are_lost_sight_of():
    random = Random(7)
    learned = model()
    rate = 1 / 20
    for _ in range(4000):
        gap, cut = random.expovariate(rate), random.expovariate(1 / 30)
        learned.observe(min(gap, cut), returned=gap < cut, turns=1)
    for idle in (0, 8, 32):
        assert learned.chance(idle, 20, ANY) == pytest.approx(1 - 2.718281828**-1, abs=0.05)


@pytest.mark.parametrize("prior", [(0, 1, 1), (1, 1, 1), (0.5, 0, 1), (0.5, 1, 0)])
def test_an_impossible_prior_is_refused(prior: tuple[float, float, float]):
    with pytest.raises(ValueError, match="a prior has"):
        ReturnPrior(*prior)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="half-life"):
        model(half_life=0)
    with pytest.raises(ValueError, match="not negative"):
        model().observe(-1, returned=True, turns=1)


GAPS = st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=20)
TIMES = st.floats(0, 1e6)


@given(GAPS, TIMES, TIMES, TIMES)
def test_chances_are_chances_and_grow_with_the_horizon(gaps, idle_s, first_s, more_s):
    learned = model(half_life=5.0)
    for gap_s, returned in gaps:
        learned.observe(gap_s, returned, turns=1)
    sooner, later = (
        learned.chance(idle_s, first_s, ANY),
        learned.chance(idle_s, first_s + more_s, ANY),
    )
    assert 0 <= sooner <= later + 1e-12
    assert later <= 1


@given(GAPS, TIMES, TIMES, TIMES)
def test_waiting_in_two_halves_is_waiting_once(gaps, idle_s, first_s, second_s):
    learned = model()
    for gap_s, returned in gaps:
        learned.observe(gap_s, returned, turns=1)
    once = 1 - learned.chance(idle_s, first_s + second_s, ANY)
    halves = (1 - learned.chance(idle_s, first_s, ANY)) * (
        1 - learned.chance(idle_s + first_s, second_s, ANY)
    )
    assert once == pytest.approx(halves, abs=1e-9)


def test_sessions_that_have_come_more_often_come_back_more_often():
    learned = model()
    for _ in range(30):
        learned.observe(10, returned=False, turns=1)
        learned.observe(10, returned=True, turns=3)
    for estimate in (lambda turns: learned.chance(5, 60, turns), lambda n: learned.rate(5, n)):
        assert estimate(1) < estimate(ANY) < estimate(3)


def test_how_much_more_often_is_what_came_over_what_was_expected():
    learned = model()
    expected = -log(1 - learned.chance(0, 16, ANY))
    learned.observe(16, returned=True, turns=4)
    times = (TIMES_WEIGHT + 1) / (TIMES_WEIGHT + expected)
    still = 1 - learned.chance(8, 30, ANY)
    assert learned.chance(8, 30, 4) == pytest.approx(1 - still**times)
    assert learned.rate(8, 4) == pytest.approx(times * learned.rate(8, ANY))


def test_who_returns_behind_the_last_edge_was_lost():
    back, lost = model(), model()
    for gap_s in (EDGES_S[-1], 2 * EDGES_S[-1]):
        back.observe(gap_s, returned=True, turns=1)
        lost.observe(gap_s, returned=False, turns=1)
    for turns in (1, ANY):
        assert back.rate(5, turns) == lost.rate(5, turns)


def test_beyond_the_most_turns_all_are_alike():
    learned = model()
    for _ in range(5):
        learned.observe(10, returned=True, turns=MOST_TURNS)
    assert learned.rate(1, 10 * MOST_TURNS) == learned.rate(1, MOST_TURNS) > learned.rate(1, ANY)


def test_what_was_seen_of_sessions_alike_fades_too():
    learned = model(half_life=1.0)
    learned.observe(10, returned=True, turns=1)
    for _ in range(60):
        learned.observe(0, returned=False, turns=ANY)
    assert learned.rate(1, 1) == pytest.approx(learned.rate(1, 4))


def test_of_a_constant_hazard_the_rate_is_that_hazard():
    learned = model()
    random = Random(3)
    for _ in range(20_000):
        learned.observe(random.expovariate(1 / 20), returned=True, turns=1)
    assert learned.rate(4.0, ANY) == pytest.approx(1 / 20, rel=0.1)


def test_one_waits_through_a_time_in_which_nobody_comes():
    learned = model()
    for _ in range(500):
        learned.observe(70.0, returned=True, turns=1)
    # Whoever waits from 8 s on has to wait for all 60 s until the first may come.
    assert learned.chance(8, 30, ANY) < 0.05
    assert 1 / 90 < learned.rate(8, ANY) < 1 / 60
    assert learned.rate(8, ANY) < learned.rate(40, ANY) < learned.rate(65, ANY)


@pytest.mark.parametrize("gap_s", [0.0, 0.001])
def test_however_many_return_at_once_those_who_did_not_are_told_apart(gap_s: float):
    """Agents whose tools answer at once: of what comes later their gaps say nothing."""
    learned = model()
    for _ in range(3000):
        learned.observe(gap_s, returned=True, turns=1)
    rates = [learned.rate(edge, ANY) for edge in EDGES_S[1:-1]]
    assert rates == [pytest.approx(model().rate(edge, ANY)) for edge in EDGES_S[1:-1]]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0


def test_behind_the_last_edge_keeping_pays_never():
    assert model().rate(EDGES_S[-1], ANY) == 0
    assert model().rate(EDGES_S[-1] - 1, ANY) > 0


def dearest_chance(learned: ReturnModel, idle_s: float) -> float:
    """Try all times at which to give up, and integrate over each bin in many steps."""
    kept_s = best = 0.0
    for since_s, until_s in pairwise(EDGES_S):
        if since_s < idle_s:
            continue
        width = (until_s - since_s) / 400
        for i in range(400):
            middle = since_s + (i + 0.5) * width
            kept_s += width * (1 - learned.chance(idle_s, middle - idle_s, ANY))
        best = max(best, learned.chance(idle_s, until_s - idle_s, ANY) / kept_s)
    return best


# Many at about one time: the hazard rises towards it over several bins.
CROWDS = st.lists(st.tuples(st.floats(-2, 14), st.integers(1, 60)), min_size=1, max_size=8)


@given(CROWDS, st.sampled_from([EDGES_S[0], EDGES_S[5], EDGES_S[14], EDGES_S[20], EDGES_S[-2]]))
@example([(2.4, 30), (3.1, 57), (3.5, 44), (4.3, 44), (5.1, 46)], EDGES_S[0])
@settings(max_examples=15)
def test_the_rate_is_the_best_of_all_times_to_give_up(crowds, idle_s):
    learned = model()
    for doublings, returns in crowds:
        for _ in range(returns):
            learned.observe(2**doublings, returned=True, turns=1)
    assert learned.rate(idle_s, ANY) == pytest.approx(dearest_chance(learned, idle_s), rel=2e-3)
