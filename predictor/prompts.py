"""What can be seen of the prompts of some records? Keys and values of one layer, back to back.

For heads that glance at prompts. Knows no files and no models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Keys and values at the last tokens of P prompts, those of M replies.

    Those of prompt i are `kv[stop[i - 1]:stop[i]]`, `kv` f16 [T, 2, K, H]: keys, then values.
    `reply` [M] are the numbers that records name replies by, ascending, and `prompt` [M] says which
    prompt each has: samples of a question share theirs.
    """

    reply: NDArray[np.int32]
    prompt: NDArray[np.int32]
    stop: Ints
    kv: NDArray[np.float16]

    def of(self, replies: NDArray[np.int32]) -> Ints:
        """Return which prompt each reply has. Raises ValueError for one that is not here."""
        place = np.searchsorted(self.reply, replies)
        here = place < len(self.reply)
        here[here] = self.reply[place[here]] == replies[here]
        if not here.all():
            raise ValueError("a reply's prompt was not recorded")
        return self.prompt[place].astype(np.int64)

    def spans(self, window: int) -> tuple[Ints, Ints]:
        """Return where in `kv` the last `window` tokens of each prompt begin, and their number."""
        begin = np.concatenate([[0], self.stop[:-1]])
        begin = np.maximum(begin, self.stop - window)
        return begin, self.stop - begin


def prompts_of(
    replies: Mapping[int, tuple[int, ...]],
    kept: Mapping[tuple[int, ...], NDArray[np.float16]],
) -> Prompts:
    """Put what is kept of prompts [n, 2, K, H] into arrays; `replies` says whose they are.

    Raises ValueError for none.
    """
    place = {prompt: number for number, prompt in enumerate(kept)}
    return Prompts(
        reply=np.array(list(replies), np.int32),
        prompt=np.array([place[prompt] for prompt in replies.values()], np.int32),
        stop=np.cumsum([len(own) for own in kept.values()], dtype=np.int64),
        kv=np.concatenate(list(kept.values())),
    )


def joined_prompts(parts: Sequence[Prompts]) -> Prompts:
    """Put prompts behind one another. Raises ValueError for none."""
    tokens = np.cumsum([0, *(len(part.kv) for part in parts[:-1])])
    prompts = np.cumsum([0, *(len(part.stop) for part in parts[:-1])])
    return Prompts(
        reply=np.concatenate([part.reply for part in parts]),
        prompt=np.concatenate(
            [(p.prompt + b).astype(np.int32) for p, b in zip(parts, prompts, strict=True)]
        ),
        stop=np.concatenate([p.stop + b for p, b in zip(parts, tokens, strict=True)]),
        kv=np.concatenate([part.kv for part in parts]),
    )
