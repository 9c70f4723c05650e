"""What did the replies of some records say? Token ids of prompts and replies, back to back.

For predictors that read text instead of hidden states. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of M replies: text i is `tokens[stop[i - 1]:stop[i]]`, its prompt first.

    `reply` [M] are the numbers that records name them by, ascending; `prompt_len` [M] in tokens.
    """

    reply: NDArray[np.int32]
    prompt_len: NDArray[np.int32]
    stop: NDArray[np.int64]
    tokens: NDArray[np.int32]

    def __len__(self) -> int:
        """Count the replies."""
        return len(self.reply)

    def text(self, i: int) -> NDArray[np.int32]:
        """Return the prompt and the reply of text `i`, one behind the other."""
        start = int(self.stop[i - 1]) if i else 0
        return self.tokens[start : int(self.stop[i])]


def texts_of(
    replies: Sequence[int], prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Texts:
    """Put the texts of replies, numbered by `replies`, into arrays."""
    flat = [token for p, a in zip(prompts, answers, strict=True) for token in (*p, *a)]
    lengths = [len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]
    return Texts(
        reply=np.array(replies, np.int32),
        prompt_len=np.array([len(p) for p in prompts], np.int32),
        stop=np.cumsum(np.array(lengths, np.int64)),
        tokens=np.array(flat, np.int32),
    )


def joined_texts(parts: Sequence[Texts]) -> Texts:
    """Put texts behind one another. Raises ValueError for none."""
    before = np.cumsum([0, *(len(part.tokens) for part in parts[:-1])])
    return Texts(
        reply=np.concatenate([part.reply for part in parts]),
        prompt_len=np.concatenate([part.prompt_len for part in parts]),
        stop=np.concatenate([p.stop + b for p, b in zip(parts, before, strict=True)]),
        tokens=np.concatenate([part.tokens for part in parts]),
    )
