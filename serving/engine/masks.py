"""What may each row with a grammar sample next? A mask for every slot whose row has one.

Where a row stands in its grammar is a function of the grammar and of the reply that the batcher
has told: by `LoadSlot`, and then token by token, as it feeds such rows from the host. Hence it does
not matter by which way a row has come, or what became of the slot's former one.

Knows nothing of the device.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.id_masks import mask_words
from serving.core.plan import LoadSlot, StepPlan
from serving.request import GrammarError, SamplingParams

if TYPE_CHECKING:  # a server without grammars needs no llguidance
    from serving.engine.grammars import Grammars, Matcher

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class StepMasks:
    """The masks that a step needs: of `slots` [n], u32 [n, ceil(V / 32)].

    `stuck_rows` and `stuck_chunks`, by their place in the plan, have nothing to sample.
    """

    slots: list[int] = field(default_factory=list[int])
    masks: list[NDArray[np.uint32]] = field(default_factory=list[NDArray[np.uint32]])
    stuck_rows: list[int] = field(default_factory=list[int])
    stuck_chunks: list[int] = field(default_factory=list[int])


class Masks:
    """The rows with grammars of one worker."""

    def __init__(self, grammars: "Grammars | None", vocab_size: int) -> None:
        """Without `grammars` such a row samples nothing, and its turn ends."""
        self._grammars = grammars
        self._vocab_size = vocab_size
        self._rows: dict[int, _Constrained] = {}

    def load(self, load: LoadSlot) -> None:
        """Take note of a slot's new row, or of its reply as it has become elsewhere."""
        self._rows.pop(load.slot, None)
        if load.sampling.grammar is not None:
            row = _Constrained(load.sampling, self._start(load), self._vocab_size)
            self._rows[load.slot] = row

    def of(self, plan: StepPlan) -> StepMasks | None:
        """Return the masks of the rows that a step samples for; None if it has no such rows."""
        if not self._rows:
            return None
        step, decode = StepMasks(), plan.decode
        for i, slot in enumerate(decode.slot.tolist()):
            row = self._rows.get(slot)
            if row is not None:
                row.follow(int(decode.token[i]), int(decode.reply_index[i]))
                self._add(step, slot, row, i, step.stuck_rows)
        for i, chunk in enumerate(plan.chunks):
            row = self._rows.get(chunk.slot) if chunk.sample else None
            if row is not None:
                self._add(step, chunk.slot, row, i, step.stuck_chunks)
        return step if step.slots or step.stuck_rows or step.stuck_chunks else None

    def _start(self, load: LoadSlot) -> "Matcher | None":
        """Find the place of a reply in its grammar; None if there is none, which is logged."""
        grammar = load.sampling.grammar
        if self._grammars is None or grammar is None:
            LOG.warning("a turn has a grammar, and this worker knows no vocabulary for it")
            return None
        try:
            matcher = self._grammars.start(grammar)
        except GrammarError as error:
            LOG.warning("a grammar that was accepted does not compile: %s", error)
            return None
        if load.reply:
            matcher.consume(load.reply)
        return matcher

    def _add(
        self, step: StepMasks, slot: int, row: "_Constrained", place: int, stuck: list[int]
    ) -> None:
        mask = row.mask()
        if mask is not None:
            step.slots.append(slot)
            step.masks.append(mask)
            return
        stuck.append(place)
        if row.matcher is not None and row.matcher.problem:
            LOG.warning("a grammar cannot be followed: %s", row.matcher.problem)
            if self._grammars is not None and row.sampling.grammar is not None:
                self._grammars.forget(row.sampling.grammar)


class _Constrained:
    """One row with a grammar."""

    def __init__(
        self, sampling: SamplingParams, matcher: "Matcher | None", vocab_size: int
    ) -> None:
        self.sampling = sampling
        self.matcher = matcher
        self._stops = as_mask(sampling.stop_ids, vocab_size)
        allowed = sampling.allowed_ids
        self._allowed = None if allowed is None else as_mask(allowed, vocab_size)

    def follow(self, token: int, reply_index: int) -> None:
        """Take the token before `reply_index`, unless it is known already."""
        if self.matcher is not None and self.matcher.consumed < reply_index:
            self.matcher.consume((token,))

    def mask(self) -> NDArray[np.uint32] | None:
        """Return what the row may sample now; None if that is nothing.

        What ends a reply is allowed where its grammar is complete, and before `min_tokens` only if
        nothing else is.
        """
        found = None if self.matcher is None else self.matcher.next_ids()
        if self.matcher is None or found is None:
            return None
        mask = found[0] | self._stops if found[1] else found[0].copy()
        if self._allowed is not None:
            mask &= self._allowed
        if self.matcher.consumed < self.sampling.min_tokens and (mask & ~self._stops).any():
            mask &= ~self._stops
        return mask if mask.any() else None


def as_mask(ids: Sequence[int], vocab_size: int) -> NDArray[np.uint32]:
    """Return a mask of these ids, u32 [ceil(V / 32)]: bit i of word j is id 32 j + i."""
    mask = np.zeros(mask_words(vocab_size), np.uint32)
    places = np.array(ids, np.int64)
    np.bitwise_or.at(mask, places // 32, np.uint32(1) << (places % 32).astype(np.uint32))
    return mask
