"""How do conversations become training batches of a few fixed shapes?

Topics are packed into rows of a few lengths with little room to spare. A topic in a row either goes
on with the conversation before it or starts a fresh one, which attention keeps apart by
segment. Every batch has the same number of tokens. Knows no model.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from train.tasks.conversation import Turn, draw_system, draw_topic
from train.tokenizer import ASSISTANT, END, PAD, USER, encode_prompt, token_id

# Tokens per row; the longest also bounds the length of a topic.
ROW_LENGTHS = (128, 256, 512, 1024, 2048)
BATCH_TOKENS = 2048
# Chance that a topic goes on with the conversation before it in its row.
CONTINUE_PROBABILITY = 0.5
# Shares of the run at which rows of the second and of all lengths come in.
SHORT_UNTIL, MEDIUM_UNTIL = 0.1, 0.2

Encoded = tuple[list[int], list[bool]]
"""A topic's tokens and which of them a reply is made of."""


@dataclass(frozen=True)
class Batch:
    """Token ids, conversation numbers within each row (0 is padding), and what the loss counts.

    All [B, S]. `counted[b, s]` says that predicting `tokens[b, s]` is part of the loss.
    """

    tokens: np.ndarray
    segments: np.ndarray
    counted: np.ndarray


@dataclass
class Row:
    """A row being filled: at most `length` tokens."""

    length: int
    tokens: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)

    @property
    def room(self) -> int:
        """The number of tokens that still fit."""
        return self.length - len(self.tokens)

    def add(self, tokens: list[int], counted: list[bool], *, fresh: bool) -> None:
        """Append a topic, as a fresh conversation or as part of the last one."""
        last = self.segments[-1] if self.segments else 0
        self.segments += [last + (fresh or last == 0)] * len(tokens)
        self.tokens += tokens
        self.counted += counted


def draw_topics(seed: int, chunk: int, count: int) -> list[list[Turn]]:
    """Draw the topics of one chunk of the training stream."""
    rng = random.Random(f"topics {seed} {chunk}")
    return [draw_topic(rng) for _ in range(count)]


def row_lengths(progress: float) -> tuple[int, ...]:
    """Return the row lengths in use at a share (0 to 1) of the run.

    Short topics come first: on them the model learns to copy and to look up soonest.
    """
    if progress < SHORT_UNTIL:
        return ROW_LENGTHS[:1]
    return ROW_LENGTHS[:2] if progress < MEDIUM_UNTIL else ROW_LENGTHS


def batches(
    tokenizer: Tokenizer, topics: list[list[Turn]], seed: str, lengths: tuple[int, ...]
) -> list[Batch]:
    """Pack topics into batches of the given row lengths, shuffled.

    Topics that no row holds are left out, and rows left over at the end are dropped.
    """
    rng = random.Random(seed)
    packed: list[Batch] = []
    full: dict[int, list[Row]] = {length: [] for length in lengths}
    placed = _placed(_encode(tokenizer, topics), lengths)
    rows = [_row(tokenizer, length, parts, rng) for length, parts in placed]
    rng.shuffle(rows)
    for row in rows:
        queue = full[row.length]
        queue.append(row)
        if len(queue) == BATCH_TOKENS // row.length:
            packed.append(_stack(queue, token_id(tokenizer, PAD)))
            queue.clear()
    rng.shuffle(packed)
    return packed


def _placed(topics: Iterable[Encoded], lengths: tuple[int, ...]) -> list[tuple[int, list[Encoded]]]:
    """Assign topics to rows, the longest first, each to the row with the least room for it.

    A topic that fits nowhere opens the shortest row that holds it; one that no row holds is left
    out. Returns each row's length and topics.
    """
    encoded = sorted(topics, key=lambda topic: len(topic[0]), reverse=True)
    rows: list[tuple[int, list[Encoded]]] = []
    room = np.zeros(len(encoded), np.int32)
    for topic in encoded:
        size = len(topic[0])
        if size > lengths[-1]:
            continue
        spare = np.where(room >= size, room, lengths[-1] + 1)
        place = int(spare.argmin())
        if room[place] < size:
            place = len(rows)
            length = next(length for length in lengths if length >= size)
            rows.append((length, []))
            room[place] = length
        rows[place][1].append(topic)
        room[place] -= size
    return rows


def _row(tokenizer: Tokenizer, length: int, topics: list[Encoded], rng: random.Random) -> Row:
    """Fill a row with its topics in random order, with a system prompt where one still fits."""
    row = Row(length)
    room = length - sum(len(tokens) for tokens, _ in topics)
    rng.shuffle(topics)
    for tokens, counted in topics:
        fresh = not row.tokens or rng.random() >= CONTINUE_PROBABILITY
        prompt = draw_system(rng)
        head: list[int] = []
        if fresh and prompt is not None:
            head = encode_prompt(tokenizer, [("system", prompt)])[:-1]
        if len(head) > room:
            head = []
        room -= len(head)
        row.add(head + tokens, [False] * len(head) + counted, fresh=fresh)
    return row


def _encode(tokenizer: Tokenizer, topics: list[list[Turn]]) -> Iterator[Encoded]:
    """Yield each topic's tokens and which of them a reply is made of (its end included)."""
    user, assistant, end = (token_id(tokenizer, name) for name in (USER, ASSISTANT, END))
    texts = [text for turns in topics for turn in turns for text in (turn.question, turn.reply)]
    encoded = iter(tokenizer.encode_batch_fast(texts))
    for turns in topics:
        tokens: list[int] = []
        counted: list[bool] = []
        for _ in turns:
            question, reply = next(encoded).ids, next(encoded).ids
            tokens += [user, *question, end, assistant, *reply, end]
            counted += [False] * (len(question) + 3) + [True] * (len(reply) + 1)
        yield tokens, counted


def _stack(rows: list[Row], pad: int) -> Batch:
    length = rows[0].length

    def padded(values: list[list[int]], filler: int) -> np.ndarray:
        return np.array([value + [filler] * (length - len(value)) for value in values], np.int32)

    return Batch(
        tokens=padded([row.tokens for row in rows], pad),
        segments=padded([row.segments for row in rows], 0),
        counted=padded([[int(c) for c in row.counted] for row in rows], 0).astype(bool),
    )
