"""What is a page called? Chained hashes of token pages.

The name of a page covers every token before it, so equal names mean equal KV. The function is
fixed and seedless: two processes, or two hosts, give a page the same name.
"""

import sys
from array import array
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_BYTES = 16
TOKEN_BYTES = array("i").itemsize


def root(salt: str) -> bytes:
    """Name the empty prefix of a tenant; different salts never share a page."""
    return blake2b(salt.encode(), digest_size=DIGEST_BYTES, person=b"foretoken-root").digest()


def extend(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Name the page of `tokens` that follows the prefix called `parent`."""
    return blake2b(parent + _written(tokens), digest_size=DIGEST_BYTES).digest()


def chain(salt: str, tokens: Sequence[int], page_size: int) -> list[bytes]:
    """Name every prefix of whole pages: entry i covers the first i pages (entry 0: none)."""
    return chain_on([root(salt)], tokens, page_size)


def chain_on(known: Sequence[bytes], tokens: Sequence[int], page_size: int) -> list[bytes]:
    """Return the chain of `tokens` of which some names are `known`, the first ones or all."""
    names = list(known[: len(tokens) // page_size + 1])
    written, width = _written(tokens[(len(names) - 1) * page_size :]), page_size * TOKEN_BYTES
    for start in range(0, len(written) - width + 1, width):
        page = written[start : start + width]
        names.append(blake2b(names[-1] + page, digest_size=DIGEST_BYTES).digest())
    return names


def _written(tokens: Sequence[int]) -> bytes:
    """Write tokens as 32-bit integers, little end first; all at once, which is what takes time."""
    values = array("i", tokens)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()
