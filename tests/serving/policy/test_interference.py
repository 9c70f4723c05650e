"""What a prefill costs the rows beside it, row by row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.interference import delays, toll, tpot_added
from serving.policy.prefill_times import Steps
from serving.policy.views import OwnerView
from tests.support.route_views import owner, residents

THREE_STEPS = Steps(full=2, full_s=5.0, last_len=1, last_s=3.0)  # 4, 4 and 2 s above a step of 1 s


def added(rows, **named) -> list[float]:
    return tpot_added(rows, delays(owner(rows=rows, **named), THREE_STEPS, 1.0)).tolist()


def harm(home: OwnerView, steps: Steps, decode_s: float) -> float:
    return toll(home.residents, delays(home, steps, decode_s), decode_s).harm


def test_a_row_that_outlives_the_prefill_spreads_all_of_it_over_its_tokens():
    assert added(residents(100)) == [10 / 100]


def test_a_row_that_ends_during_the_prefill_feels_only_its_steps():
    assert added(residents(1, 2)) == [4 / 1, 8 / 2]


def test_a_row_about_to_end_counts_as_one_token():
    assert added(residents(0.5)) == [2.0]


def test_rows_that_end_before_the_queue_does_feel_nothing():
    assert added(residents(2), queued_len=25, chunk_len=10) == [0]


def test_a_queue_ahead_leaves_a_row_fewer_steps_of_this_prefill():
    assert added(residents(4), queued_len=25, chunk_len=10) == [4 / 4]


def test_harm_is_summed_over_rows_and_relative_to_their_targets():
    home = owner(rows=residents(100, 50, tpot_s=2.0))
    assert harm(home, THREE_STEPS, 1.0) == pytest.approx((10 / 100 + 10 / 50) / 2.0)


def test_rows_without_a_target_are_measured_by_their_present_step():
    assert harm(owner(rows=residents(100)), THREE_STEPS, 1.0) == pytest.approx(10 / 100 / 1.0)


def test_a_step_predicted_shorter_with_a_chunk_than_without_is_no_gain():
    home = owner(rows=residents(100))
    assert harm(home, Steps(1, 0.5, 1, 0.5), 1.0) == 0


def test_an_owner_without_rows_harms_nobody():
    assert harm(owner(), THREE_STEPS, 1.0) == 0


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=5), st.floats(0, 1000))
def test_one_more_row_never_lessens_the_harm(lengths: list[float], another: float):
    few = harm(owner(rows=residents(*lengths)), THREE_STEPS, 1.0)
    assert harm(owner(rows=residents(*lengths, another)), THREE_STEPS, 1.0) >= few


# ---- targets -------------------------------------------------------------------------------------


def broken_of(rows, *, steps: Steps = THREE_STEPS, decode_s: float = 1.0) -> int:
    delay_s = delays(owner(rows=rows), steps, decode_s)
    return toll(rows, delay_s, decode_s).broken


def test_a_target_is_broken_if_the_whole_reply_would_miss_it_and_else_would_not():
    # 10 s more over 5 gaps to come: 1 s a gap becomes 3 s.
    assert broken_of(residents(5, tpot_s=2.9)) == 1
    assert broken_of(residents(5, tpot_s=3.0)) == 0
    assert broken_of(residents(5, tpot_s=0.9)) == 0  # lost in any case


def test_what_a_row_has_saved_so_far_pays_for_the_delay():
    # 5 gaps in 5 s and 5 to come: 20 s over 10 gaps.
    assert broken_of(residents(5, tpot_s=2.0, gaps=5, gaps_s=5.0)) == 0
    assert broken_of(residents(5, tpot_s=1.9, gaps=5, gaps_s=5.0)) == 1


def test_rows_without_a_target_have_none_to_break():
    assert broken_of(residents(5, 5)) == 0


def test_every_row_that_breaks_counts():
    assert broken_of(residents(5, 100, 4, tpot_s=2.0)) == 2
