"""At which places of a reply is a record taken? Early ones always, later ones at a stride.

A head is read at a reply's first token and then every so many tokens; how a reply goes on is most
uncertain at its beginning.
"""

import random

EARLY = (0, 1, 2, 4, 8)


def sampled_places(reply_len: int, stride: int, rng: random.Random) -> list[int]:
    """Return places in a reply of `reply_len` tokens, ascending: tokens that were there before.

    Each lies below `reply_len`, so at least one token was still to come. Strided places begin at a
    random one, so that over many replies every place is as likely as its neighbours.
    """
    strided = range(rng.randrange(stride), reply_len, stride)
    return sorted({*(place for place in EARLY if place < reply_len), *strided})
