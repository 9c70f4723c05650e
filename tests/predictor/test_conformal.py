"""Stated quantiles hold for replies that were never seen, or are bent until they do."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from predictor.conformal import (
    CLASSES,
    LEAST_REPLIES,
    LEVELS,
    STRETCHES,
    WIDTHS,
    _distribution,
    calibrate,
    classes,
    scores,
    uncalibrated,
)
from predictor.curves import mean_up_to, quantile
from predictor.edges import EDGES
from predictor.reading import PLAIN

E = 37
GRID = np.array(EDGES[:E], float)
REPLIES = 4000
START, NOW = np.zeros(REPLIES, np.int32), np.zeros(REPLIES, np.int64)
WHOLE = np.zeros(REPLIES, np.bool_)
ALONE = np.arange(REPLIES, dtype=np.int32)
STRAIGHT = tuple(np.linspace(0, 1, LEVELS).tolist())


def curves(middles: np.ndarray, spread: float) -> np.ndarray:
    """Log-normal curves [N, E] with these medians."""
    with np.errstate(divide="ignore"):
        alive = norm.sf(np.log(GRID)[None, :], np.log(middles)[:, None], spread)
    alive[:, 0] = 1
    alive[:, -1] = 0
    return alive


def drawn(alive: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A length for each curve, by that curve."""
    falls = -alive
    u = random.random(len(alive))
    lengths = [np.interp(-1 + one, fall, GRID) for one, fall in zip(u, falls, strict=True)]
    return np.maximum(np.ceil(lengths), 1).astype(np.int32)


def middles(random: np.random.Generator) -> np.ndarray:
    return np.exp(random.uniform(np.log(100), np.log(400), REPLIES))


def covered(stated: np.ndarray, lengths: np.ndarray) -> float:
    return float((lengths <= quantile(stated, 0.9)).mean())


def test_curves_that_are_right_stay_as_they_are():
    random = np.random.default_rng(1)
    alive = curves(middles(random), 0.6)
    found = calibrate(alive, START, drawn(alive, random), WHOLE, ALONE)
    assert found.apply(alive, NOW, 0.0) == pytest.approx(alive, abs=0.04)


def test_curves_that_were_too_sure_are_widened_until_their_quantiles_hold():
    random = np.random.default_rng(2)
    known, fresh = middles(random), middles(random)
    lengths = drawn(curves(known, 0.6), random)
    found = calibrate(curves(known, 0.4), START, lengths, WHOLE, ALONE)
    said, came = curves(fresh, 0.4), drawn(curves(fresh, 0.6), random)
    assert covered(said, came) < 0.82
    assert 0.88 < covered(found.apply(said, NOW, 0.0), came) < 0.92


def test_curves_that_were_too_vague_are_narrowed_until_their_quantiles_hold():
    random = np.random.default_rng(3)
    known, fresh = middles(random), middles(random)
    lengths = drawn(curves(known, 0.3), random)
    found = calibrate(curves(known, 0.6), START, lengths, WHOLE, ALONE)
    said, came = curves(fresh, 0.6), drawn(curves(fresh, 0.3), random)
    assert covered(said, came) > 0.98
    assert 0.88 < covered(found.apply(said, NOW, 0.0), came) < 0.92


def test_replies_that_were_cut_off_are_longer_than_they_came():
    random = np.random.default_rng(4)
    known, fresh = middles(random), middles(random)
    lengths = drawn(curves(known, 0.6), random)
    limits = random.integers(1, 1000, REPLIES).astype(np.int32)
    came, cut = np.minimum(lengths, limits), limits < lengths
    said, truth = curves(fresh, 0.4), drawn(curves(fresh, 0.6), random)

    def share(censored: np.ndarray) -> float:
        found = calibrate(curves(known, 0.4), START, came, censored, ALONE)
        return covered(found.apply(said, NOW, 0.0), truth)

    assert 0.88 < share(cut) < 0.92
    assert share(WHOLE) < 0.84  # as if they had ended there


def test_a_stretch_of_the_reply_has_its_own_map():
    """Sure of itself at the beginning without reason, and right from token 20 on."""
    random = np.random.default_rng(5)
    known, fresh = middles(random), middles(random)
    late = np.arange(REPLIES) % 2 == 1
    generated = np.where(late, 30, 0).astype(np.int32)
    lengths = np.where(late, drawn(curves(known, 0.3), random), drawn(curves(known, 0.6), random))
    found = calibrate(curves(known, 0.3), generated, lengths, WHOLE, ALONE)
    stated = found.apply(curves(fresh, 0.3), generated.astype(np.int64), 0.0)
    came = np.where(late, drawn(curves(fresh, 0.3), random), drawn(curves(fresh, 0.6), random))
    for mask in (late, ~late):
        assert 0.87 < covered(stated[mask], came[mask]) < 0.93


def test_few_replies_share_a_map_with_curves_of_like_width():
    """A hundred records of few replies are no class of their own."""
    random = np.random.default_rng(6)
    alive = curves(middles(random), 0.6)
    lengths = drawn(alive, random)
    few = np.arange(REPLIES) < LEAST_REPLIES + 50
    generated = np.where(few, 30, 0).astype(np.int32)
    one = int(classes(alive[:1], np.array([30]))[0])
    other = int(classes(alive[:1], np.array([60]))[0])  # nobody was there: all of like width

    def maps(reply: np.ndarray) -> tuple[tuple[float, ...], ...]:
        return calibrate(alive, generated, lengths, WHOLE, reply).maps

    assert maps(ALONE)[one] != maps(ALONE)[other]
    together = np.where(few, ALONE % (LEAST_REPLIES - 1), ALONE)
    assert maps(together)[one] == maps(together)[other]


def test_classes_are_stretches_by_widths():
    wide, sharp = curves(np.array([200.0]), 1.0), curves(np.array([200.0]), 0.01)
    both = np.concatenate([sharp, wide])
    for stretch, start in enumerate(STRETCHES):
        found = classes(both, np.array([start, start]))
        assert found.tolist() == [stretch * len(WIDTHS), stretch * len(WIDTHS) + len(WIDTHS) - 1]


def test_right_curves_of_lengths_that_are_nearly_certain_stay_as_they_are():
    """Each of a few whole numbers has a chance of its own; nothing lies between them."""
    random = np.random.default_rng(8)
    alive = curves(np.full(REPLIES, 2.5), 0.4)
    found = calibrate(alive, START, drawn(alive, random), WHOLE, ALONE)
    assert found.apply(alive, NOW, 0.0) == pytest.approx(alive, abs=0.04)


def test_a_score_is_drawn_from_the_chance_of_the_length():
    alive = np.tile([1.0, 0.9, 0.6, 0.2], (REPLIES, 1))
    lengths = np.full(REPLIES, 2, np.int32)
    found = scores(alive, lengths, WHOLE)
    assert 0.1 <= found.min() < 0.101
    assert 0.399 < found.max() <= 0.4
    # Of one that was cut after two tokens: it would have come to more than these two.
    assert scores(alive[:2], lengths[:2], ~WHOLE[:2]) == pytest.approx([0.4, 0.4])


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_a_quantile_covers_a_reply_whose_score_lies_below_and_none_whose_length_does_not(q: float):
    random = np.random.default_rng(7)
    alive = curves(np.exp(random.uniform(0, 5, REPLIES)), 0.7)
    lengths = drawn(alive, random)
    found, covers = scores(alive, lengths, WHOLE), lengths <= quantile(alive, q)
    assert covers[found < q - 1e-9].all()
    assert not covers[scores(alive, lengths - 1, ~WHOLE) > q + 1e-9].any()


def test_cut_replies_weigh_on_as_kaplan_and_meier_say():
    """Scores 0.2, 0.4 (cut), 0.6, 0.8: ends of 1/4, then half of the rest, then all of it."""
    found = _distribution(np.array([0.2, 0.4, 0.6, 0.8]), np.array([False, True, False, False]))
    below = [found[round(level * (LEVELS - 1))] for level in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert below == pytest.approx([0, 1 / 4, 1 / 4, 1 - 3 / 4 / 2, 1])


@pytest.mark.parametrize("tilt", [0.3, 2.0])
def test_a_tilt_lengthens_or_shortens(tilt: float):
    alive = curves(np.array([50.0]), 0.6)
    generated, far = np.array([0]), np.array([10**5], np.int32)
    up, down = (uncalibrated().apply(alive, generated, t) for t in (tilt, -tilt))
    assert quantile(down, 0.9) < quantile(alive, 0.9) < quantile(up, 0.9)
    assert mean_up_to(down, far) < mean_up_to(alive, far) < mean_up_to(up, far)


def test_a_tilt_shifts_log_odds():
    alive = np.array([[1.0, 0.5, 0.2, 0.0]])
    stated = uncalibrated().apply(alive, np.array([0]), float(np.log(3)))
    # Odds of 1 and 1/4 become 3 and 3/4; what is certain stays so.
    assert stated == pytest.approx(np.array([[1.0, 3 / 4, 3 / 7, 0.0]]))


def test_uncalibrated_curves_are_stated_as_they_are():
    alive = curves(np.array([5.0, 50.0, 200.0]), 0.7)
    assert PLAIN.state(alive, np.array([0, 30, 500]), 0.0) == pytest.approx(alive)


@pytest.mark.parametrize(
    "maps",
    [
        (STRAIGHT,) * (CLASSES - 1),
        (STRAIGHT[:-1],) * CLASSES,
        ((0.5, *STRAIGHT[1:]),) * CLASSES,
        ((*STRAIGHT[:-1], 0.999),) * CLASSES,
        ((0.0, 0.9, *STRAIGHT[2:]),) * CLASSES,
        (*(STRAIGHT,) * (CLASSES - 1), (0.0, float("nan"), *STRAIGHT[2:])),
    ],
    ids=["a class lacks", "short", "not from 0", "not to 1", "falls", "no number"],
)
def test_what_is_no_calibration_is_refused(maps):
    with pytest.raises(ValueError, match="rising map"):
        replace(uncalibrated(), maps=maps)
