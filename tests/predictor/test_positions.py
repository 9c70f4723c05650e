"""Where records are taken in a reply."""

import random

from hypothesis import given
from hypothesis import strategies as st

from predictor.positions import EARLY, sampled_places


@given(st.integers(1, 500), st.integers(1, 50), st.integers(0, 1000))
def test_places_lie_within_the_reply_and_no_further_apart_than_the_stride(length, stride, seed):
    places = sampled_places(length, stride, random.Random(seed))
    assert places == sorted(set(places))
    assert places[0] == 0
    assert places[-1] < length
    gaps = [b - a for a, b in zip(places, [*places[1:], length], strict=True)]
    assert max(gaps) <= stride
    assert {place for place in EARLY if place < length} <= set(places)


def test_over_many_replies_no_late_place_is_favoured():
    counts = dict.fromkeys(range(20, 40), 0)
    for seed in range(2000):
        for place in sampled_places(60, 20, random.Random(seed)):
            if place in counts:
                counts[place] += 1
    assert min(counts.values()) > 0.6 * 100
    assert max(counts.values()) < 1.5 * 100
