"""The load that drifts apart: the same from one seed, and heavier where sessions talk much."""

from itertools import islice

from benchmarks.skewed_load import LONGEST, Ask, asks


def some(seed: int, *, talkative: bool, count: int = 300) -> list[Ask]:
    return list(islice(asks(seed, 0, 50, talkative=talkative), count))


def test_a_session_asks_the_same_again_from_the_same_seed():
    assert some(1, talkative=True) == some(1, talkative=True)
    assert some(1, talkative=True) != some(2, talkative=True)


def test_talkative_sessions_have_several_times_the_tokens_and_all_fit():
    much, little = (sum(a.reply_len for a in some(0, talkative=t)) for t in (True, False))
    assert much > 2 * little
    assert all(2 <= ask.reply_len <= LONGEST for ask in some(0, talkative=True))
    assert all(0 <= token < 50 for ask in some(0, talkative=False) for token in ask.prompt)


def test_replies_have_a_heavy_tail():
    lengths = sorted(ask.reply_len for ask in some(3, talkative=True))
    assert lengths[len(lengths) // 2] * 4 < lengths[-1]
