"""Prompts in arrays: whose they are, where they are, and that joining loses nothing."""

import numpy as np
import pytest

from predictor.prompts import Prompts, joined_prompts, prompts_of


def kept(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(size=(length, 2, 1, 3)).astype(np.float16)


def some(first: int) -> Prompts:
    """Three replies to two prompts of 4 and 7 tokens."""
    a, b = (first,), (first, first)
    return prompts_of({first: a, first + 1: b, first + 4: a}, {a: kept(4), b: kept(7)})


def shown(prompts: Prompts, reply: int, window: int) -> np.ndarray:
    (place,) = prompts.of(np.array([reply], np.int32))
    begin, count = prompts.spans(window)
    return prompts.kv[begin[place] : begin[place] + count[place]]


def test_samples_of_a_question_share_its_prompt():
    prompts = some(10)
    assert len(prompts.stop) == 2
    np.testing.assert_array_equal(shown(prompts, 10, 100), kept(4))
    np.testing.assert_array_equal(shown(prompts, 14, 100), kept(4))
    np.testing.assert_array_equal(shown(prompts, 11, 100), kept(7))


def test_a_window_ends_where_the_prompt_does():
    np.testing.assert_array_equal(shown(some(0), 1, 3), kept(7)[-3:])
    np.testing.assert_array_equal(shown(some(0), 0, 3), kept(4)[-3:])


def test_joined_prompts_are_those_of_their_parts():
    whole = joined_prompts([some(0), some(20), some(50)])
    for first in (0, 20, 50):
        for reply, length in ((first, 4), (first + 1, 7), (first + 4, 4)):
            np.testing.assert_array_equal(shown(whole, reply, 9), kept(length))


@pytest.mark.parametrize("reply", [-1, 2, 99])
def test_a_reply_that_was_not_recorded_is_not_mistaken_for_another(reply: int):
    with pytest.raises(ValueError, match="not recorded"):
        some(0).of(np.array([0, reply], np.int32))
