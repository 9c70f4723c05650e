"""What does a simulated device do with a step? It takes as long as the costs say, and samples.

Knows which reply each slot writes. Pages have no content here: the batcher keeps the accounts.
"""

import math
import random
from collections.abc import Sequence
from operator import mul

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
        self._ahead: list[float] = []  # drawn for steps that are not launched yet

    def factor(self) -> float:
        """Draw the next step's factor."""
        return self._ahead.pop(0) if self._ahead else self._draw()

    def look_ahead(self, steps: int) -> list[float]:
        """Return the factors of the next steps, which are still to be drawn."""
        ahead = self._ahead
        ahead += [self._draw() for _ in range(steps - len(ahead))]
        return ahead[:steps]

    def skip(self, steps: int) -> None:
        """Draw the factors of so many steps, which were looked at before."""
        del self._ahead[:steps]

    def _draw(self) -> float:
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
        self._slots: list[int] = []
        self._places: list[int] = []  # in their replies, when they were looked at
        self._looked_at = 0  # so many steps ago
        self._goes_on = 0  # for so many steps more
        self._unread = StepResult([], [], None, None, {})

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
        if plan.decode.slot is self._rows and self._goes_on:
            (result,) = self.sample_more((plan.reads,))
        else:
            self._look_at(plan.decode)
            result = self._decoded(0) if plan.reads else self._unread
        if not plan.chunks:
            return result
        chunks = plan.chunks
        chunk_ids = [
            STOP if chunk.reply_index == self._last[chunk.slot] else self._token[chunk.slot]
            for chunk in chunks
        ]
        chunked = None
        if plan.samples_chunk:
            chunked = self._read([c.slot for c in chunks], [c.reply_index for c in chunks])
        return result._replace(chunk_ids=chunk_ids, chunk_readings=chunked)

    @property
    def goes_on(self) -> int:
        """How many steps more sample what the last one did, if its rows go on: no reply ends."""
        return self._goes_on

    def sample_more(self, reads: Sequence[bool]) -> list[StepResult]:
        """Say what the next steps sample, no more than `goes_on` counts, and what heads read."""
        first = self._looked_at + 1
        self._goes_on -= len(reads)
        self._looked_at += len(reads)
        return [
            self._decoded(step) if read else self._unread for step, read in enumerate(reads, first)
        ]

    def _decoded(self, step: int) -> StepResult:
        """Read the head in a step, so many after the rows were looked at."""
        places = [place + step for place in self._places]
        return self._unread._replace(decode_readings=self._read(self._slots, places))

    def seconds_ahead(self, plan: StepPlan, steps: int) -> list[float]:
        """Price the next steps after a step without chunks, if its rows go on."""
        rows, kv_tokens = plan.num_decode, plan.decode.kv_tokens
        ahead_s = self._costs.decode_ahead(rows, kv_tokens + rows, steps)
        return list(map(mul, ahead_s, self._noise.look_ahead(steps)))

    def go_on(self, steps: int) -> None:
        """So many steps that were priced ahead are launched."""
        self._noise.skip(steps)

    def _look_at(self, decode: DecodeRows) -> None:
        """Say what these rows sample, and how many steps more they will sample the same."""
        self._slots, self._places = decode.slot.tolist(), decode.reply_index.tolist()
        self._looked_at = 0
        pairs = zip(self._slots, self._places, strict=True)
        left = [self._last[slot] - place for slot, place in pairs]
        ids = [
            STOP if more == 0 else self._token[slot]
            for slot, more in zip(self._slots, left, strict=True)
        ]
        self._rows = decode.slot
        self._unread = StepResult(ids, [], None, None, {})
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
