"""A profile says what was measured where it was measured, and nothing wild elsewhere."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.costs.costs import Link
from serving.costs.interpolate import make_surface
from serving.costs.measured import Grid, StepPoint, TransferPoint, WorkerShape
from serving.costs.profile import LEAST_ERROR, Profile
from serving.messages import Role
from tests.serving.costs.test_roofline import ONE

WORKER = WorkerShape(Role.BOTH, 1, 16, 64, 8, 16, 1024)
LINK = Link(1.0, 100.0)


def decode(rows, kv_tokens, seconds) -> StepPoint:
    return StepPoint(rows, kv_tokens, 0, 0, seconds, 0.1)


def chunk(rows, new_len, cached_len, seconds) -> StepPoint:
    return StepPoint(rows, rows, new_len, cached_len, seconds, 0.2)


DECODE = (
    decode(4, 4, 10.0),
    decode(4, 100, 20.0),
    decode(4, 400, 30.0),
    decode(16, 16, 15.0),
    decode(16, 400, 40.0),
    decode(16, 1600, 90.0),
)
PREFILL = (
    chunk(0, 1, 0, 5.0),
    chunk(0, 1, 512, 6.0),
    chunk(0, 32, 0, 7.0),
    chunk(0, 32, 512, 9.0),
    chunk(0, 33, 0, 20.0),
    chunk(0, 33, 512, 24.0),
    chunk(0, 64, 0, 21.0),
    chunk(0, 64, 512, 30.0),
)
MIXED = tuple(chunk(16, p.new_len, p.cached_len, 14 + p.seconds) for p in PREFILL)
TRANSFERS = (TransferPoint(100, 2.0, 0.0), TransferPoint(1000, 6.0, 0.0))
GRID = Grid(WORKER, (*DECODE, *PREFILL, *MIXED), TRANSFERS)
PROFILE = Profile(GRID, ONE)


@pytest.mark.parametrize("point", DECODE)
def test_decode_is_exact_where_it_was_measured(point):
    assert PROFILE.decode(point.rows, point.kv_tokens).seconds == pytest.approx(point.seconds)


@pytest.mark.parametrize("point", PREFILL)
def test_prefill_is_exact_where_it_was_measured(point):
    found = PROFILE.prefill(point.new_len, point.cached_len)
    assert found.seconds == pytest.approx(point.seconds)


@pytest.mark.parametrize("point", MIXED)
def test_a_mixed_step_is_exact_where_it_was_measured(point):
    found = PROFILE.mixed(16, 16, point.new_len, point.cached_len)
    assert found.seconds == pytest.approx(point.seconds)


def test_decode_is_linear_between_points():
    assert PROFILE.decode(4, 52).seconds == pytest.approx(15.0)
    assert PROFILE.decode(16, 1000).seconds == pytest.approx(65.0)


def test_a_step_is_priced_in_the_bucket_that_pads_it():
    assert PROFILE.decode(5, 400) == PROFILE.decode(16, 400)
    assert PROFILE.decode(4, 400) != PROFILE.decode(5, 400)


def test_prefill_is_bilinear_between_points():
    assert PROFILE.prefill(32, 256).seconds == pytest.approx(8.0)
    corners = {(2, 0): 1.0, (2, 4): 3.0, (6, 0): 5.0, (6, 4): 15.0}
    assert make_surface(corners, lambda x, y: 1.0).at(4, 2) == pytest.approx(24 / 4)


def test_padding_shows_as_a_jump():
    assert PROFILE.prefill(33, 0).seconds - PROFILE.prefill(32, 0).seconds == pytest.approx(13)


def test_beyond_the_points_the_utilisation_is_held():
    def held(beyond, edge):
        return beyond.seconds / edge.seconds

    assert PROFILE.decode(16, 4800).seconds == pytest.approx(
        90 * held(ONE.decode(16, 4800), ONE.decode(16, 1600))
    )
    assert PROFILE.decode(16, 1).seconds == pytest.approx(
        15 * held(ONE.decode(16, 1), ONE.decode(16, 16))
    )
    assert PROFILE.decode(64, 1600).seconds == pytest.approx(
        90 * held(ONE.decode(64, 1600), ONE.decode(16, 1600))
    )
    assert PROFILE.prefill(128, 1024).seconds == pytest.approx(
        30 * held(ONE.prefill(128, 1024), ONE.prefill(64, 512))
    )


def test_a_mixed_step_adds_what_the_rows_kv_adds_to_a_decode_step():
    assert PROFILE.mixed(16, 1600, 32, 512).seconds == pytest.approx(14 + 9 + (90 - 15))


def test_without_mixed_points_rows_count_as_tokens_of_the_chunk():
    bare = Profile(replace(GRID, steps=(*DECODE, *PREFILL)), ONE)
    chunk_and_rows = bare.prefill(36, 0).seconds
    kv = bare.decode(4, 400).seconds - bare.decode(4, 0).seconds
    assert bare.mixed(4, 400, 32, 0).seconds == pytest.approx(chunk_and_rows + kv)


def test_a_part_of_a_mixed_step_never_takes_longer_than_the_whole():
    odd = Profile(replace(GRID, steps=(*DECODE, *PREFILL, *(chunk(16, 1, 0, 0.1),))), ONE)
    assert odd.mixed(16, 1600, 1, 0).seconds >= odd.decode(16, 1600).seconds
    assert odd.mixed(1, 1, 1, 0).seconds >= odd.prefill(1, 0).seconds


def test_a_mixed_step_of_one_kind_is_of_that_kind():
    assert PROFILE.mixed(16, 400, 0, 0) == PROFILE.decode(16, 400)
    assert PROFILE.mixed(0, 0, 32, 512) == PROFILE.prefill(32, 512)
    assert PROFILE.mixed(0, 0, 0, 0).seconds == 0


def test_a_transfer_is_as_measured_and_linear_between():
    assert PROFILE.transfer(100, LINK).seconds == pytest.approx(2)
    assert PROFILE.transfer(550, LINK).seconds == pytest.approx(4)
    assert PROFILE.transfer(1, LINK).seconds == pytest.approx(2)
    assert PROFILE.transfer(2000, LINK).seconds == pytest.approx(12)
    assert PROFILE.transfer(0, LINK).seconds == 0


def test_what_was_not_measured_at_all_is_estimated():
    prefill_only = Profile(Grid(WORKER, PREFILL, ()), ONE)
    assert prefill_only.decode(4, 100) == ONE.decode(4, 100)
    assert prefill_only.transfer(500, LINK) == ONE.transfer(500, LINK)
    assert prefill_only.step_model() == ONE.step_model()
    assert prefill_only.kv_bytes_per_token == ONE.kv_bytes_per_token


def test_noise_does_not_make_more_work_cheaper():
    noisy = (
        decode(4, 4, 10.0),
        decode(4, 400, 8.0),
        decode(16, 16, 7.0),
        decode(16, 1600, 60.0),
    )
    costs = Profile(replace(GRID, steps=(*noisy, *PREFILL)), ONE)
    assert costs.decode(4, 400).seconds == pytest.approx(10)
    assert costs.decode(16, 16).seconds == pytest.approx(10)
    assert costs.decode(16, 1600).seconds == pytest.approx(60)


def test_the_error_is_that_of_the_repeats_but_never_less_than_interpolations():
    assert PROFILE.decode(4, 4).error == pytest.approx(0.1)
    assert PROFILE.prefill(4, 4).error == pytest.approx(0.2)
    assert PROFILE.transfer(500, LINK).error == LEAST_ERROR


def test_the_plane_goes_through_points_of_a_plane():
    points = tuple(
        decode(rows, kv, 3 + 0.5 * rows + 0.01 * kv) for rows in (4, 16) for kv in (16, 400, 1600)
    )
    plane = Profile(replace(GRID, steps=(*points, *PREFILL)), ONE).step_model()
    assert plane.base_s == pytest.approx(3)
    assert plane.per_row_s == pytest.approx(0.5)
    assert plane.per_token_s == pytest.approx(0.01)


def test_an_unfinished_grid_says_what_it_lacks():
    with pytest.raises(ValueError, match="no prefill"):
        Profile(Grid(WORKER, DECODE, ()), ONE)
    with pytest.raises(ValueError, match="64 new tokens on 512 cached ones beside 16 decode rows"):
        Profile(replace(GRID, steps=GRID.steps[:-1]), ONE)


times = st.lists(st.floats(0.1, 100), min_size=14, max_size=14)


@settings(max_examples=60)
@given(times, st.integers(1, 16), st.integers(1, 2000), st.integers(0, 3), st.integers(0, 1000))
def test_more_rows_or_tokens_never_take_less_time(seconds, rows, kv_tokens, more_rows, more_kv):
    steps = [p._replace(seconds=s) for p, s in zip((*DECODE, *PREFILL), seconds, strict=True)]
    costs = Profile(replace(GRID, steps=tuple(steps)), ONE)
    kv_tokens = min(kv_tokens, 100 * rows)  # contexts no longer than the grid's
    least = costs.decode(rows, kv_tokens).seconds * (1 - 1e-12)
    assert costs.decode(min(16, rows + more_rows), kv_tokens).seconds >= least
    assert costs.decode(rows, kv_tokens + more_kv).seconds >= least


@settings(max_examples=60)
@given(
    times,
    st.integers(1, 64),
    st.integers(0, 512),
    st.integers(0, 63),
    st.integers(0, 5000),
)
def test_more_new_or_cached_tokens_never_take_less_time(seconds, new, cached, more_new, more_past):
    steps = [p._replace(seconds=s) for p, s in zip((*DECODE, *PREFILL), seconds, strict=True)]
    costs = Profile(replace(GRID, steps=tuple(steps)), ONE)
    least = costs.prefill(new, cached).seconds * (1 - 1e-12)
    assert costs.prefill(min(64, new + more_new), cached).seconds >= least
    assert costs.prefill(new, cached + more_past).seconds >= least


def test_a_surface_of_one_point_is_flat_where_it_stands():
    surface = make_surface({(8, 0): 3.0}, lambda x, y: 1.0 + x + y)
    assert surface.at(8, 0) == 3
    assert surface.at(17, 0) == 6


def test_steps_ahead_are_priced_as_each_by_itself():
    single = [PROFILE.decode(4, kv_tokens).seconds for kv_tokens in (90, 94, 98, 102)]
    assert PROFILE.decode_ahead(4, 90, 4) == single
    assert len(set(single)) == 4
