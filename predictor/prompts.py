"""What can be seen of the prompts of some records? Keys and values of one layer, back to back.

For heads that glance at prompts. Knows no files and no models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prompts:
    """The last tokens of the prompts of M replies: those of prompt i are `kv[stop[i - 1]:stop[i]]`.

    `reply` [M] are the numbers that records name them by, ascending. `kv` [T, 2, K, H]: keys, then
    values.
    """

    reply: NDArray[np.int32]
    stop: NDArray[np.int64]
    kv: NDArray[np.float16]

    def __len__(self) -> int:
        """Count the prompts."""
        return len(self.reply)

    def of(self, replies: NDArray[np.int32]) -> NDArray[np.int64]:
        """Return the places of replies' prompts. Raises ValueError for one that is not here."""
        place = np.searchsorted(self.reply, replies).astype(np.int64)
        if (place >= len(self)).any() or (self.reply[place] != replies).any():
            raise ValueError("a reply's prompt was not recorded")
        return place

    def spans(
        self, places: NDArray[np.int64], window: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where in `kv` the last `window` tokens of prompts begin, and their numbers."""
        stop = self.stop[places]
        begin = np.where(places > 0, self.stop[places - 1], 0)
        begin = np.maximum(begin, stop - window)
        return begin, stop - begin


def prompts_of(replies: Sequence[int], kv: Sequence[NDArray[np.float16]]) -> Prompts:
    """Put keys and values [n, 2, K, H] of prompts, numbered by `replies`, into arrays."""
    lengths = [len(own) for own in kv]
    flat = np.concatenate(kv) if kv else np.zeros((0, 2, 0, 0), np.float16)
    return Prompts(np.array(replies, np.int32), np.cumsum(np.array(lengths, np.int64)), flat)


def joined_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Put prompts behind one another. Raises ValueError for none."""
    before = np.cumsum([0, *(len(part.kv) for part in parts[:-1])])
    return Prompts(
        reply=np.concatenate([part.reply for part in parts]),
        stop=np.concatenate([p.stop + b for p, b in zip(parts, before, strict=True)]),
        kv=np.concatenate([part.kv for part in parts]),
    )
