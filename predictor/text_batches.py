"""How do texts become batches of a few shapes, with the records that lie in them?

A record lies at the token before the one that it is about: the last of the prompt, or of the reply
so far. Knows no model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.records import Records
from predictor.texts import Texts

Ints = NDArray[np.int32]

LENGTHS = (32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2560)
"""What rows are padded to; longer ones to a multiple of the last."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """A text as far as it is read, and its records: numbers, and the positions where they lie."""

    tokens: Ints
    records: NDArray[np.int64]
    positions: NDArray[np.int64]

    @property
    def padded(self) -> int:
        """What the row is padded to."""
        length = len(self.tokens)
        longest = LENGTHS[-1]
        return next((some for some in LENGTHS if some >= length), -(-length // longest) * longest)


class TextBatch(NamedTuple):
    """Token ids [B, S], and the number of the record at each position, -1 where there is none.

    Rows are padded behind, with zeros.
    """

    tokens: Ints
    record: NDArray[np.int64]


def text_rows(texts: Texts, records: Records, prompt_window: int) -> list[TextRow]:
    """Return a row for every text that records lie in.

    Of a prompt its last `prompt_window` tokens are kept; what stands behind the last record is not
    read.
    """
    order = np.lexsort((records.generated, records.reply))
    replies, starts = np.unique(records.reply[order], return_index=True)
    rows: list[TextRow] = []
    for i, own in zip(
        np.searchsorted(texts.reply, replies), np.split(order, starts[1:]), strict=True
    ):
        prompt_len = int(texts.prompt_len[i])
        dropped = max(0, prompt_len - prompt_window)
        positions = prompt_len - 1 - dropped + records.generated[own].astype(np.int64)
        tokens = texts.text(int(i))[dropped : dropped + int(positions[-1]) + 1]
        rows.append(TextRow(tokens, own, positions))
    return rows


def text_batches(
    rows: Sequence[TextRow], tokens: int, rng: np.random.Generator | None
) -> Iterator[TextBatch]:
    """Deal rows of like length to batches of about so many tokens; each row to one.

    `rng` shuffles rows and batches. Without it they come in the order of their lengths.
    """
    dealt: list[tuple[int, list[TextRow]]] = []
    for length in sorted({row.padded for row in rows}):
        own = [row for row in rows if row.padded == length]
        if rng is not None:
            own = [own[i] for i in rng.permutation(len(own))]
        count = max(1, tokens // length)
        dealt += [(count, own[i : i + count]) for i in range(0, len(own), count)]
    if rng is not None:
        dealt = [dealt[i] for i in rng.permutation(len(dealt))]
    return (_batch(own, count) for count, own in dealt)


def _batch(rows: Sequence[TextRow], count: int) -> TextBatch:
    """Put rows under one another, with empty ones up to `count`."""
    tokens = np.zeros((count, rows[0].padded), np.int32)
    record = np.full(tokens.shape, -1, np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row.tokens)] = row.tokens
        record[i, row.positions] = row.records
    return TextBatch(tokens, record)


def counts_of(records: Records) -> Ints:
    """Return what `predictor/features` takes beside states, [N, 3]."""
    return np.stack([records.generated, records.prompt_len, records.turn], axis=-1)
