"""Steps are priced as they are run, and everything else as it was described."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.costs.costs import Costs, Estimate, Link
from serving.costs.padded import Padded
from tests.serving.costs.test_roofline import ONE

LINK = Link(1e-3, 1e9)


def pad(rows: int, tokens: int) -> tuple[int, int]:
    return -(-rows // 4) * 4, -(-tokens // 32) * 32


PADDED = Padded(ONE, pad)


def test_a_step_takes_what_its_padding_takes():
    assert isinstance(PADDED, Costs)
    assert PADDED.prefill(1, 50) == PADDED.prefill(32, 50) == ONE.prefill(32, 50)
    assert PADDED.prefill(33, 50) == ONE.prefill(64, 50)
    assert PADDED.decode(3, 70) == ONE.decode(4, 70)
    assert PADDED.mixed(5, 70, 40, 9) == ONE.mixed(8, 70, 64, 9)


def test_nothing_takes_no_time():
    assert PADDED.prefill(0, 0) == PADDED.decode(0, 0) == Estimate(0.0, 0.0)
    assert PADDED.decode_ahead(0, 0, 3) == [0.0] * 3


@given(st.integers(1, 9), st.integers(0, 999), st.integers(0, 9))
def test_steps_ahead_are_those_of_rows_that_grow_by_a_token_each(rows, kv_tokens, steps):
    expected = [PADDED.decode(rows, kv_tokens + rows * i).seconds for i in range(steps)]
    assert PADDED.decode_ahead(rows, kv_tokens, steps) == pytest.approx(expected)


def test_what_no_step_is_padded_for_is_as_described():
    assert PADDED.kv_bytes_per_token == ONE.kv_bytes_per_token
    assert PADDED.transfer(1000, LINK) == ONE.transfer(1000, LINK)
    assert PADDED.step_model() == ONE.step_model()
