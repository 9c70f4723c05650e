"""What does a simulated device do with a step? It takes as long as the costs say, and samples.

Knows which reply each slot writes. Pages have no content here: the batcher keeps the accounts.
"""

import math
import random

import numpy as np
from numpy.typing import NDArray

from serving.core.plan import DecodeRows, LoadSlot, StepPlan, StepResult
from serving.costs.costs import Costs
from serving.sim.readings import Floats, Readings
from serving.sim.replies import STOP, Replies, reply_token


class StepNoise:
    """By what factor real steps miss their price: log-normal with median 1, seeded."""

    def __init__(self, sigma: float, seed: str) -> None:
        """A `sigma` of 0 is no noise."""
        self._sigma = sigma
        self._random = random.Random(seed)

    def factor(self) -> float:
        """Draw the next step's factor."""
        return math.exp(self._random.gauss(0.0, self._sigma)) if self._sigma else 1.0


class SimExecutor:
    """The device of one worker."""

    def __init__(
        self,
        costs: Costs,
        replies: Replies,
        readings: Readings | None,
        noise: StepNoise,
        slots: int,
    ) -> None:
        """Start with empty slots. Without `readings` there is no length head."""
        self._costs = costs
        self._replies = replies
        self._readings = readings
        self._noise = noise
        self._number = [0] * slots
        self._token = [0] * slots
        self._last = [0] * slots  # index of the reply's last token
        # While the same rows go on they sample the same tokens, until the first of them ends.
        self._rows: NDArray[np.int32] | None = None
        self._ids: list[int] = []
        self._goes_on = 0  # steps

    def load_slot(self, load: LoadSlot) -> None:
        """A slot writes this turn's reply from now on."""
        number = load.sampling.seed
        self._rows = None
        self._number[load.slot] = number
        self._token[load.slot] = reply_token(number)
        self._last[load.slot] = self._replies.length(number) - 1

    def seconds(self, plan: StepPlan) -> float:
        """Price a step: rows and chunks as the batcher's own clock prices them, times the noise."""
        rows, kv_tokens = plan.num_decode, plan.decode.kv_tokens
        if not plan.chunks:
            estimate = self._costs.decode(rows, kv_tokens)
        else:
            new_len = sum(len(chunk.tokens) for chunk in plan.chunks)
            past = sum(len(chunk.tokens) * chunk.start for chunk in plan.chunks) // new_len
            if rows:
                estimate = self._costs.mixed(rows, kv_tokens, new_len, past)
            else:
                estimate = self._costs.prefill(new_len, past)
        return estimate.seconds * self._noise.factor()

    def sample(self, plan: StepPlan) -> StepResult:
        """Say the next token of every row, and what the head reads where it is asked to."""
        decode = plan.decode
        if decode.slot is self._rows and self._goes_on:
            self._goes_on -= 1
        else:
            self._look_at(decode)
        decoded = None
        if plan.reads:
            decoded = self._read(decode.slot.tolist(), decode.reply_index.tolist())
        if not plan.chunks:
            return StepResult(self._ids, [], None, None, {}, decoded, None)
        chunks = plan.chunks
        chunk_ids = [
            STOP if chunk.reply_index == self._last[chunk.slot] else self._token[chunk.slot]
            for chunk in chunks
        ]
        chunked = None
        if plan.samples_chunk:
            chunked = self._read([c.slot for c in chunks], [c.reply_index for c in chunks])
        return StepResult(self._ids, chunk_ids, None, None, {}, decoded, chunked)

    def _look_at(self, decode: DecodeRows) -> None:
        """Say what these rows sample, and how many steps more they will sample the same."""
        slots, places = decode.slot.tolist(), decode.reply_index.tolist()
        left = [self._last[slot] - place for slot, place in zip(slots, places, strict=True)]
        self._rows = decode.slot
        self._ids = [
            STOP if more == 0 else self._token[slot] for slot, more in zip(slots, left, strict=True)
        ]
        # What a row samples behind its end is dropped, but it must not end again.
        self._goes_on = min((more for more in left if more > 0), default=1) - 1
        if 0 in left:
            self._goes_on = 0

    def _read(self, slots: list[int], places: list[int]) -> Floats | None:
        if self._readings is None or not slots:
            return None
        numbers = [self._number[slot] for slot in slots]
        # A row that has ended meanwhile is still in its last launched step: what is read of it is
        # dropped, but must be something.
        within = [min(p, self._last[s]) for s, p in zip(slots, places, strict=True)]
        return np.asarray(self._readings.read(numbers, within), np.float32)
