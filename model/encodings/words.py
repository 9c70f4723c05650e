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


def unpacked_down(words: np.ndarray, bits: int) -> np.ndarray:
    """Return the codes uint8 [w * 32 / bits, n] of words int32 [w, n]; `bits`: 4 or 8.

    Words [512, 14336] took 28 ms, turned around for `unpacked` 67 ms.
    """
    each, unsigned = PER_WORD // bits, words.view(np.uint32)
    codes = np.empty((len(words), each, words.shape[1]), np.uint8)
    for place in range(each):
        shift = np.uint32(place * bits)
        np.right_shift(unsigned, shift, out=codes[:, place], casting="unsafe")  # the lowest byte
    if bits == 4:
        codes &= 15
    return codes.reshape(each * len(words), words.shape[1])


def codes_of(
    channels: range, bits: int, read: Callable[[slice], np.ndarray], *, awq: bool
) -> np.ndarray:
    """Return the codes uint8 [n, channels] of channels that lie in words one after another.

    `read` returns words [n, w], all that hold any of these channels. `awq`: in AWQ's order.
    """
    each = PER_WORD // bits
    words, within = _words_of(channels, each)
    codes = unpacked(read(words), bits)
    if awq:
        apart = codes.reshape(len(codes), codes.shape[1] // each, each)
        codes = apart[:, :, AWQ_PLACES].reshape(codes.shape)
    return codes[:, within]


def codes_down(channels: range, bits: int, read: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Return the codes uint8 [channels, n] of channels that lie in words [w, n], as `codes_of`."""
    words, within = _words_of(channels, PER_WORD // bits)
    return unpacked_down(read(words), bits)[within]


def _words_of(channels: range, each: int) -> tuple[slice, slice]:
    """Return which words hold these channels, `each` a word, and where in these they are."""
    first, last = channels.start // each, -(-channels.stop // each)
    return slice(first, last), slice(channels.start - first * each, channels.stop - first * each)
