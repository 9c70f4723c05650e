"""How is a set of token ids written in bits? Bit i of word j says whether id 32 j + i is in it.

Imports no JAX: a process that has no device may use it.
"""

ALL_ALLOWED = 0xFFFFFFFF  # a word of a mask that forbids nothing
WORD = 32  # ids in one word of a mask


def mask_words(vocab_size: int) -> int:
    """Return how many words a mask of so many ids has."""
    return -(-vocab_size // WORD)
