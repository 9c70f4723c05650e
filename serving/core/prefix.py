"""What is a page called? Chained hashes of token pages.

The name of a page covers every token before it, so equal names mean equal KV. The function is
fixed and seedless: two processes, or two hosts, give a page the same name.
"""

from collections.abc import Sequence
from hashlib import blake2b
from struct import pack

DIGEST_BYTES = 16


def root(salt: str) -> bytes:
    """Name the empty prefix of a tenant; different salts never share a page."""
    return blake2b(salt.encode(), digest_size=DIGEST_BYTES, person=b"foretoken-root").digest()


def extend(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Name the page of `tokens` that follows the prefix called `parent`."""
    return blake2b(parent + pack(f"<{len(tokens)}i", *tokens), digest_size=DIGEST_BYTES).digest()


def chain(salt: str, tokens: Sequence[int], page_size: int) -> list[bytes]:
    """Name every prefix of whole pages: entry i covers the first i pages (entry 0: none)."""
    names = [root(salt)]
    for start in range(0, len(tokens) - page_size + 1, page_size):
        names.append(extend(names[-1], tokens[start : start + page_size]))
    return names
