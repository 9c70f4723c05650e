"""Beliefs along whole replies, and which smoothing and calibration suit them."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.edges import EDGES
from predictor.follow import LEAST_CHANCE, fit_reader, follow, log_loss, stated
from predictor.positions import EARLY
from predictor.reading import PLAIN, Reader
from predictor.records import Records
from predictor.smoothing import UNSMOOTHED, Smoothing
from tests.predictor.test_reading import LATER, chance, sharp
from tests.predictor.test_records import made

E = 25
GRID = np.array(EDGES[:E])
SMOOTH = replace(PLAIN, smoothing=Smoothing(0.7, 0.6))
BAYES = replace(PLAIN, smoothing=Smoothing(1.0, 1.0))


def records_at(places: dict[int, list[int]], lengths: dict[int, int]) -> Records:
    """Records at these places of replies of these lengths, in this order."""
    flat = [(reply, place) for reply, own in places.items() for place in own]
    return replace(
        made(1, len(flat)),
        reply=np.array([reply for reply, _ in flat], np.int32),
        generated=np.array([place for _, place in flat], np.int32),
        remaining=np.array([lengths[reply] - place for reply, place in flat], np.int32),
        censored=np.zeros(len(flat), np.bool_),
    )


def curves(seed: int, count: int) -> np.ndarray:
    falls = np.random.default_rng(seed).uniform(0.4, 1, (count, E - 1))
    return np.concatenate([np.ones((count, 1)), np.cumprod(falls, axis=1)], axis=1)


def one_by_one(readings: np.ndarray, records: Records, reader: Reader) -> np.ndarray:
    """The same beliefs as a server has them: a row at a time, a reading at a time."""
    out = readings.copy()
    for reply in set(records.reply.tolist()):
        own = np.flatnonzero(records.reply == reply)
        belief, since = None, 0
        for i in sorted(own.tolist(), key=lambda j: int(records.generated[j])):
            place = int(records.generated[i])
            if belief is not None:
                came = np.array([place - since])
                out[i] = reader.believe(readings[i : i + 1], belief, came)[0]
            if place == 0 or place not in EARLY:
                belief, since = out[i : i + 1], place
    return out


places = st.lists(
    st.one_of(st.sampled_from(EARLY), st.integers(0, 120)), min_size=1, max_size=7, unique=True
)


@settings(max_examples=30)
@given(st.lists(places, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_many_replies_at_once_are_what_each_is_alone(own, random):
    records = records_at(dict(enumerate(own)), dict.fromkeys(range(4), 200))
    shuffled = random.sample(range(len(records)), len(records))
    records, readings = records[np.array(shuffled)], curves(len(shuffled), len(shuffled))
    found = follow(readings, records, SMOOTH)
    assert found == pytest.approx(one_by_one(readings, records, SMOOTH), abs=1e-12)


def test_without_smoothing_readings_are_beliefs():
    records = records_at({0: [0, 4, 20, 40]}, {0: 60})
    readings = curves(1, 4)
    assert follow(readings, records, PLAIN).tolist() == readings.tolist()


def test_early_records_are_asked_and_pass_nothing_on():
    records = records_at({0: [0, 4, 20]}, {0: 60})
    readings = curves(1, 3)
    other = readings.copy()
    other[1] = curves(2, 1)[0]
    found, changed = follow(readings, records, SMOOTH), follow(other, records, SMOOTH)
    assert changed[2].tolist() == found[2].tolist()
    asked = SMOOTH.believe(readings[1:2], readings[0:1], np.array([4]))[0]
    assert found[1] == pytest.approx(asked)
    assert found[1] != pytest.approx(readings[1])


def test_every_strided_record_passes_its_belief_on():
    records = records_at({0: [0, 20, 40]}, {0: 60})
    readings = curves(1, 3)
    found = follow(readings, records, SMOOTH)
    second = SMOOTH.believe(readings[1:2], readings[0:1], np.array([20]))
    third = SMOOTH.believe(readings[2:3], second, np.array([20]))
    assert found[2] == pytest.approx(third[0])


def test_a_reply_without_a_first_record_begins_with_its_reading():
    records = records_at({0: [0, 30], 1: [3, 30]}, {0: 60, 1: 60})
    readings = curves(1, 4)
    assert follow(readings, records, SMOOTH)[2].tolist() == readings[2].tolist()


def test_a_reply_that_is_counted_down_stays_so():
    """Near the end, where intervals are single tokens, a shift that is off by one would show."""
    places = [0, 11, 13, 15]
    records = records_at({0: places}, {0: 17})
    readings = np.concatenate([sharp(17 - place) for place in places])
    found = follow(readings, records, BAYES)
    for i, place in enumerate(places):
        assert chance(found[i : i + 1], 17 - place) > 0.999


def test_what_is_stated_is_calibrated_by_the_place_in_the_reply():
    records = records_at({0: [0, 20]}, {0: 60})
    readings, reader = curves(1, 2), replace(SMOOTH, calibration=LATER)
    beliefs = follow(readings, records, SMOOTH)
    wanted = reader.state(beliefs, records.generated.astype(np.int64), 0.0)
    assert stated(readings, records, reader) == pytest.approx(wanted)
    assert wanted != pytest.approx(beliefs)


def test_the_loss_is_that_of_intervals():
    records = replace(
        records_at({0: [0], 1: [0], 2: [0]}, {0: 2, 1: 9, 2: 9}),
        censored=np.array([False, False, True]),
    )
    alive = np.tile(np.where(GRID < 2, 1.0, np.where(GRID < 10, 0.6, 0.1)), (3, 1))
    # Ends in (1, 2] with 0.4, in (8, 10] with 0.5, and outlives 8 with 0.6.
    assert log_loss(alive, records) == pytest.approx(-(log(0.4) + log(0.5) + log(0.6)) / 3)


def test_what_a_curve_excluded_costs_no_more_than_the_floor():
    records = records_at({0: [0]}, {0: 30})
    assert log_loss(sharp(3), records) == pytest.approx(-log(LEAST_CHANCE))


def told(seed: int, blur: float) -> tuple[np.ndarray, Records]:
    """Replies, and readings that know each remaining length up to a log-normal error of `blur`.

    The errors of one reply are independent of each other.
    """
    random = np.random.default_rng(seed)
    lengths = {reply: int(n) for reply, n in enumerate(random.integers(30, 200, 60))}
    records = records_at({r: list(range(0, n, 20)) for r, n in lengths.items()}, lengths)
    if not blur:
        return np.concatenate([sharp(n) for n in records.remaining.tolist()]), records
    middle = records.remaining * np.exp(random.normal(0, blur, len(records)))
    away = np.log(np.maximum(GRID, 1e-3))[None, :] - np.log(middle)[:, None]
    alive = 1 / (1 + np.exp(np.clip(away / (0.55 * blur), -50, 50)))
    alive[:, 0], alive[:, -1] = 1, 0
    return alive, records


def test_readings_that_know_it_all_are_left_alone():
    readings, records = told(1, 0.0)
    assert fit_reader(readings, records, calibrates=False).smoothing == UNSMOOTHED


def test_independent_errors_are_smoothed_away():
    readings, records = told(2, 0.8)
    reader = fit_reader(readings, records, calibrates=False)
    assert reader.smoothing.past >= 0.5
    fresh, others = told(3, 0.8)
    smoothed = log_loss(follow(fresh, others, reader), others)
    assert smoothed < log_loss(fresh, others) - 0.05


def test_what_is_fitted_can_be_chosen():
    readings, records = told(4, 0.8)
    assert fit_reader(readings, records, smooths=False, calibrates=False) == PLAIN
    only = fit_reader(readings, records, smooths=False)
    assert only.smoothing == UNSMOOTHED
    assert only.calibration != PLAIN.calibration
    assert fit_reader(readings, records, calibrates=False).calibration == PLAIN.calibration
