from serving.core.finish import finish_after
from serving.request import FinishReason
from tests.support.turns import make_turn

SAMPLING = make_turn("t", [1], max_tokens=3, stop_ids=(7, 8)).sampling


def test_a_reply_goes_on_below_its_limit():
    assert finish_after(SAMPLING, 1, 2) is None


def test_a_reply_of_the_greatest_length_is_over():
    assert finish_after(SAMPLING, 1, 3) is FinishReason.LENGTH


def test_a_stop_token_ends_a_reply_and_is_the_reason_at_its_limit_too():
    assert finish_after(SAMPLING, 8, 1) is FinishReason.STOP
    assert finish_after(SAMPLING, 7, 3) is FinishReason.STOP
