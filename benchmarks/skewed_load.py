"""Which replies make the load of two workers drift apart? Sessions of unlike manners, from a seed.

Every session asks again as soon as it has its reply. Replies are short, or long with a heavy tail;
on one worker they are long far more often than on the other. Knows nothing of the engine.
"""

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

PROMPT_LENS = (32, 160)
SHORT_MEDIAN, SHORT_SIGMA = 40, 0.6
LONG_LEAST, LONG_SHAPE = 250, 1.3
LONGEST = 2000
LONG_SHARE = {True: 0.6, False: 0.08}
"""How often a reply is long in a session that talks much, and in one that does not."""


class Ask(NamedTuple):
    """One turn: random token ids, and the exact length of its reply."""

    prompt: list[int]
    reply_len: int


def asks(seed: int, session: int, vocab_size: int, *, talkative: bool) -> Iterator[Ask]:
    """Yield a session's turns without end: the same ones for the same seed and manner."""
    random = Random(f"{seed}/{session}/{talkative}")
    while True:
        length = random.randint(*PROMPT_LENS)
        prompt = random.choices(range(vocab_size), k=length)
        yield Ask(prompt, _reply_len(random, long=random.random() < LONG_SHARE[talkative]))


def _reply_len(random: Random, *, long: bool) -> int:
    if long:
        length = LONG_LEAST * random.paretovariate(LONG_SHAPE)
    else:
        length = SHORT_MEDIAN * random.lognormvariate(0.0, SHORT_SIGMA)
    return max(2, min(LONGEST, round(length)))
