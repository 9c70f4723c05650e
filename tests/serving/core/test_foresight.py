"""What one worker makes of a head's readings, and what it learns from the replies that end."""

from dataclasses import replace

import numpy as np
import pytest

from predictor.edges import EDGES
from predictor.reading import PLAIN, Reader
from predictor.smoothing import Smoothing
from serving.core.foresight import MOST_TILT, TILT_RATE, Foresight
from serving.core.worker_task import WorkerTask, open_task
from serving.forecast.forecast import Forecast, Stated
from tests.support.one_worker import P0, decode, prefill, task

E = 25
GRID = np.array(EDGES[:E])
BAYES = replace(PLAIN, smoothing=Smoothing(1.0, 1.0))


def row(name: str = "a", *, replied: int = 0, max_tokens: int = 100, **sampling) -> WorkerTask:
    reply = tuple(range(replied))
    sampling = {"stop_ids": (63,), **sampling}
    work = task(name, range(4), reply=reply, max_tokens=max_tokens, **sampling)
    return open_task(prefill(work), 4)


def ending_within(tokens: int) -> np.ndarray:
    """A reading [1, E]: the end comes within so many tokens, at any of them alike."""
    return np.maximum(1 - GRID / tokens, 0)[None].astype(np.float32)


def sharp(remaining: int) -> np.ndarray:
    return (remaining > GRID)[None].astype(np.float32)


def read(foresight: Foresight, entry: WorkerTask, reading: np.ndarray) -> Forecast:
    (forecast,) = foresight.read([entry], [entry.replied], reading)
    assert forecast is not None
    return forecast


def test_a_reading_becomes_the_forecast_of_its_row():
    entry = row(replied=3)
    forecast = read(Foresight(PLAIN), entry, ending_within(25))
    assert entry.forecast is forecast
    assert forecast.curve.still_running(5) == pytest.approx(0.8)
    assert forecast.belief == pytest.approx(ending_within(25)[0].tolist())
    assert forecast.prediction == pytest.approx((3, 12.5, 13, 23), abs=1e-4)


def test_a_step_whose_rows_have_all_left_says_nothing():
    assert Foresight(PLAIN).read([], [], np.zeros((0, E), np.float32)) == []


def test_predictions_are_cut_at_what_the_reply_may_still_have():
    entry = row(replied=3, max_tokens=13)
    _, mean, median, high = read(Foresight(PLAIN), entry, ending_within(40)).prediction
    # Of min(remaining, 10): 10 - 10 * 10 / 80.
    assert (mean, median, high) == (pytest.approx(8.75), 10, 10)


def test_each_row_has_its_own_reading_and_limit():
    rows = [row("a", max_tokens=5), row("b", replied=2, max_tokens=100)]
    readings = np.concatenate([ending_within(20), ending_within(32)])
    found = Foresight(PLAIN).read(rows, [0, 2], readings)
    said = [f.prediction for f in found if f is not None]
    assert [(one.generated, one.median, one.high) for one in said] == [(0, 5, 5), (2, 16, 29)]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_reading_that_is_no_curve_is_dropped_and_counted(broken: float):
    foresight, rows = Foresight(PLAIN), [row("a"), row("b")]
    before = [read(foresight, entry, ending_within(20)) for entry in rows]
    readings = np.concatenate([ending_within(40), ending_within(40)])
    readings[0, 0 if broken == np.inf else 7] = broken
    first, second = foresight.read(rows, [1, 1], readings)
    assert first is None
    assert rows[0].forecast is before[0]
    assert rows[1].forecast is second
    assert second is not before[1]
    assert foresight.unreadable == 1


def test_a_row_without_a_reading_goes_on_with_what_was_believed():
    foresight, rows = Foresight(BAYES), [row("a"), row("b")]
    before = [read(foresight, entry, ending_within(20)) for entry in rows]
    readings = np.concatenate([np.zeros((1, E), np.float32), ending_within(40)])
    first, second = foresight.read(rows, [9, 9], readings)
    assert first is None
    assert rows[0].forecast is before[0]
    assert second is not None
    assert foresight.unreadable == 0


def test_a_row_without_a_sound_reading_has_no_forecast():
    foresight, entry = Foresight(PLAIN), row()
    assert foresight.read([entry], [0], np.full((1, E), np.nan, np.float32)) == [None]
    assert entry.forecast is None
    foresight.learn(entry)
    assert foresight.tilt == 0


def test_a_reading_is_folded_into_the_belief_before_it():
    foresight, entry = Foresight(BAYES), row()
    read(foresight, entry, sharp(6))
    entry.tokens += [1, 2]
    believed = np.array(read(foresight, entry, ending_within(32)).belief)
    # A vague reading leaves the past as it is: four of the six tokens are still to come.
    assert believed[GRID == 3] - believed[GRID == 4] == pytest.approx(1, abs=0.01)


def test_a_row_that_came_from_elsewhere_goes_on_with_what_was_believed_there():
    there, here = Foresight(BAYES), Foresight(BAYES)
    entry = row()
    told = read(there, entry, sharp(6))
    work = replace(task("a", range(4), reply=(1, 2), max_tokens=100), forecast=told)
    come = open_task(decode(work, P0), 4)
    entry.tokens += [1, 2]
    stays = read(there, entry, ending_within(32))
    assert read(here, come, ending_within(32)) == stays
    afresh = read(here, row(replied=2), ending_within(32))
    assert afresh.belief != pytest.approx(stays.belief)


def test_a_place_that_is_read_again_is_not_folded_into_itself():
    foresight, entry = Foresight(BAYES), row(replied=5)
    once = read(foresight, entry, ending_within(20))
    assert read(foresight, entry, ending_within(20)).belief == once.belief


def replied(foresight: Foresight, *, length: int) -> None:
    """A reply of `length` tokens, said at its beginning to be at most 18 with 90 %."""
    entry = row()
    read(foresight, entry, ending_within(20))
    entry.stated = [Stated(0, 18, 0.9)]
    entry.tokens += range(length)
    foresight.learn(entry)


def test_replies_above_their_quantiles_raise_the_tilt():
    foresight = Foresight(PLAIN)
    replied(foresight, length=19)
    assert foresight.tilt == pytest.approx(0.9 * TILT_RATE)


def test_replies_within_their_quantiles_lower_the_tilt_by_less():
    foresight = Foresight(PLAIN)
    replied(foresight, length=18)
    assert foresight.tilt == pytest.approx(-0.1 * TILT_RATE)


def test_every_quantile_counts_with_its_place():
    """Said at 0: at most 19, with 95 %; at 10 the same. 25 tokens are above the first alone."""
    foresight, entry = Foresight(PLAIN), row()
    read(foresight, entry, ending_within(20))
    entry.tokens += range(10)
    read(foresight, entry, ending_within(20))
    entry.tokens += range(15)
    assert entry.stated == [(place, 19, pytest.approx(0.95)) for place in (0, 10)]
    foresight.learn(entry)
    assert foresight.tilt == pytest.approx(TILT_RATE * (0.95 - 0.5))


def test_a_reply_is_learned_from_once():
    foresight, entry = Foresight(PLAIN), row()
    read(foresight, entry, ending_within(20))
    entry.tokens += range(30)
    foresight.learn(entry)
    foresight.learn(entry)
    assert foresight.tilt == pytest.approx(0.95 * TILT_RATE)


def test_a_quantile_that_the_limit_cuts_teaches_nothing():
    foresight, entry = Foresight(PLAIN), row(max_tokens=10)
    read(foresight, entry, ending_within(40))
    entry.tokens += range(10)
    foresight.learn(entry)
    assert foresight.tilt == 0


@pytest.mark.parametrize(
    ("sampling", "teaches"),
    [
        ({}, True),
        ({"stop_ids": ()}, False),
        ({"min_tokens": 11}, False),
        ({"min_tokens": 10}, True),
    ],
    ids=str,
)
def test_a_place_where_a_reply_was_not_free_to_end_teaches_nothing(sampling: dict, teaches: bool):
    foresight, entry = Foresight(PLAIN), row(replied=10, **sampling)
    read(foresight, entry, ending_within(20))
    entry.tokens += range(30)
    foresight.learn(entry)
    assert (foresight.tilt > 0) == teaches


def test_right_curves_are_not_bent_because_some_lengths_are_certain():
    """Every second reply has five tokens, and its curve says so: every quantile covers it."""
    foresight, random = Foresight(PLAIN), np.random.default_rng(2)
    readings = np.concatenate([sharp(5), ending_within(40)])
    covered: list[bool] = []
    for _ in range(1500):
        rows = [row("certain"), row("open")]
        foresight.read(rows, [0, 0], readings)
        for entry, length in zip(rows, (5, int(random.integers(1, 41))), strict=True):
            covered.append(length <= entry.stated[0].high)
            entry.tokens += range(length)
            foresight.learn(entry)
    assert abs(foresight.tilt) < 0.3
    assert 0.87 < np.mean(covered[1::2]) < 0.93


@pytest.mark.parametrize(("length", "bound"), [(1000, MOST_TILT), (1, -MOST_TILT)])
def test_the_tilt_has_bounds(length: int, bound: float):
    foresight = Foresight(PLAIN)
    for _ in range(2050):
        entry = row()
        entry.stated = [Stated(0, 18, 0.9)]
        entry.tokens += range(length)
        foresight.learn(entry)
    assert foresight.tilt == (bound if length == 1000 else pytest.approx(bound, abs=1e-9))


def test_the_tilt_bends_what_is_stated_and_not_what_is_believed():
    foresight = Foresight(Reader(PLAIN.smoothing, PLAIN.calibration))
    plain = read(foresight, row(), ending_within(20))
    foresight.tilt = 1.0
    tilted = read(foresight, row(), ending_within(20))
    assert tilted.belief == plain.belief
    assert tilted.prediction.median > plain.prediction.median
    assert tilted.prediction.high > plain.prediction.high


def test_a_head_that_is_too_sure_is_corrected_by_what_comes():
    """Replies are spread evenly up to 40 tokens; the head is sure of far fewer."""
    foresight, random = Foresight(PLAIN), np.random.default_rng(1)
    sure = np.tile(ending_within(40) ** 3, (10, 1))
    covered: list[bool] = []
    for _ in range(150):
        rows = [row(str(i)) for i in range(10)]
        for entry, said in zip(rows, foresight.read(rows, [0] * 10, sure), strict=True):
            length = int(random.integers(1, 41))
            covered.append(said is not None and length <= said.prediction.high)
            entry.tokens += range(length)
            foresight.learn(entry)
    assert np.mean(covered[:100]) < 0.8
    assert 0.86 < np.mean(covered[-500:]) < 0.94
