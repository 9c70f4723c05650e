"""How are small numbers taken out of int32 words? Lowest bits first."""

from collections.abc import Callable

import numpy as np

PER_WORD = 32  # bits

AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in a word AWQ's kernels want the code of each of eight channels."""


def unpacked(words: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes uint8 [n, w * 32 / bits] of words int32 [n, w]; `bits`: 4 or 8."""
    octets = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8)
    if bits == 8:
        return octets
    codes = np.empty((octets.shape[0], 2 * octets.shape[1]), np.uint8)
    np.bitwise_and(octets, 15, out=codes[:, 0::2])
    np.right_shift(octets, 4, out=codes[:, 1::2])
    return codes


def codes_of(
    channels: range, bits: int, read: Callable[[slice], np.ndarray], *, awq: bool
) -> np.ndarray:
    """Return the codes uint8 [n, channels] of channels that lie in words one after another.

    `read` returns words [n, w], all that hold any of these channels. `awq`: in AWQ's order.
    """
    each = PER_WORD // bits
    first, last = channels.start // each, -(-channels.stop // each)
    codes = unpacked(read(slice(first, last)), bits)
    if awq:
        apart = codes.reshape(len(codes), last - first, each)
        codes = apart[:, :, AWQ_PLACES].reshape(codes.shape)
    return codes[:, channels.start - first * each : channels.stop - first * each]
