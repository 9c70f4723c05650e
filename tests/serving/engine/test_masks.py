"""What a row may sample next: a mask made of its grammar, its reply and what else was asked."""

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.core.plan import LoadSlot
from serving.engine.masks import Masks, StepMasks, as_mask
from serving.request import Grammar, GrammarKind, SamplingParams
from tests.support.local_fleet import sampling
from tests.support.plans import chunk, plan, row
from tests.support.tiny_grammar import END, LIST, PIECES, allowed_after, grammars

V = 64
TABLE = np.array([1, 2])


def wanted(**changes) -> SamplingParams:
    return sampling(50, **{"grammar": LIST, "stop_ids": (END,), **changes})


def ids(*pieces: str) -> list[int]:
    return [PIECES.index(piece.encode()) for piece in pieces]


def set_in(mask: NDArray[np.uint32]) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


class Bench:
    """Masks of one worker, and steps by hand."""

    def __init__(self, *, known: bool = True) -> None:
        self.masks = Masks(grammars() if known else None, V)

    def load(self, slot: int, how: SamplingParams, reply: list[int]) -> None:
        self.masks.load(LoadSlot(slot, how, (1, 2, 3), tuple(reply), 0))

    def step(self, *rows: tuple[int, int, int], ends: tuple[int, ...] = ()) -> StepMasks | None:
        """A step of rows (slot, token, place in the reply), and chunks that end in these slots."""
        decode = [row(slot, 10, TABLE, reply_index=at, token=token) for slot, token, at in rows]
        chunks = [chunk(slot, 0, [1, 2], TABLE) for slot in ends]
        return self.masks.of(plan(decode, chunks, max_pages=2))


def only(step: StepMasks | None) -> list[int]:
    assert step is not None
    assert not step.stuck_rows
    assert not step.stuck_chunks
    (mask,) = step.masks
    return set_in(mask)


def test_a_reply_is_followed_as_the_batcher_tells_it():
    bench, reply = Bench(), ids("[a", "abc", ",", "1,2", "3", "]")
    bench.load(0, wanted(), [])
    assert only(bench.step(ends=(0,))) == allowed_after([])
    for place, token in enumerate(reply, 1):
        assert only(bench.step((0, token, place))) == allowed_after(reply[:place])


def test_it_does_not_matter_how_much_of_the_reply_the_slot_was_loaded_with():
    reply = ids("[a", ",", "1", "2")
    for known in range(3, 5):
        bench = Bench()
        bench.load(1, wanted(), reply[:known])
        assert only(bench.step((1, reply[-1], 4))) == allowed_after(reply)
    bench = Bench()
    bench.load(1, wanted(), reply)
    assert only(bench.step(ends=(1,))) == allowed_after(reply)


def test_a_slot_belongs_to_the_row_that_it_was_loaded_for_last():
    bench = Bench()
    bench.load(0, wanted(), ids("[a", ","))
    bench.load(0, wanted(), [])
    assert only(bench.step(ends=(0,))) == allowed_after([])
    bench.load(0, sampling(50), [])
    assert bench.step((0, 5, 1)) is None


def test_only_rows_that_sample_and_have_a_grammar_get_masks():
    bench = Bench()
    bench.load(0, wanted(), [])
    bench.load(1, sampling(50), [])
    bench.load(2, wanted(), ids("[a"))
    step = bench.step((1, 5, 1), (2, ids("c")[0], 2))
    assert step is not None
    assert step.slots == [2]
    whole = [chunk(0, 0, [1, 2], TABLE, sample=False)]
    assert bench.masks.of(plan((), whole, max_pages=2)) is None
    assert Bench().step((0, 5, 1)) is None


def test_where_the_grammar_is_complete_just_what_ends_the_reply_is_left():
    bench = Bench()
    bench.load(0, wanted(stop_ids=(END, 7)), ids("[a"))
    closed = ids("]")[0]
    assert only(bench.step((0, closed, 2))) == sorted((END, 7))


def test_a_reply_may_go_on_where_it_may_end():
    word = Grammar(GrammarKind.REGEX, "a+")
    bench = Bench()
    bench.load(0, wanted(grammar=word), ids("a"))
    assert only(bench.step(ends=(0,))) == [*ids("a"), *ids("aa"), END]


def test_before_min_tokens_a_reply_ends_only_if_it_cannot_go_on():
    word = Grammar(GrammarKind.REGEX, "a{1,2}")
    bench = Bench()
    bench.load(0, wanted(grammar=word, min_tokens=9), ids("a"))
    assert only(bench.step(ends=(0,))) == ids("a")
    assert only(bench.step((0, ids("a")[0], 2))) == [END]
    bench.load(0, wanted(grammar=word, min_tokens=1), ids("a"))
    assert only(bench.step(ends=(0,))) == [*ids("a"), END]


def test_ids_that_are_not_allowed_stay_so():
    bench = Bench()
    bench.load(0, wanted(allowed_ids=(*ids("[", "a", "]"), END)), [])
    assert only(bench.step(ends=(0,))) == ids("[")
    assert only(bench.step((0, ids("[")[0], 1))) == ids("a")


STUCK = {
    "nothing_that_is_allowed": (wanted(allowed_ids=(3, END)), [], True),
    "no_vocabulary": (wanted(), [], False),
    "a_grammar_that_does_not_compile": (wanted(grammar=Grammar(GrammarKind.REGEX, "a(")), [], True),
    "a_reply_that_is_none": (wanted(), [*ids("a")], True),
}


@pytest.mark.parametrize("case", STUCK)
def test_a_row_that_cannot_go_on_is_named_and_its_neighbours_go_on(case: str):
    how, reply, known = STUCK[case]
    bench = Bench(known=known)
    bench.load(0, how, reply)
    bench.load(1, sampling(50), [])
    bench.load(2, how, reply)
    step = bench.step((1, 5, 1), (0, 5, len(reply)), ends=(2,))
    assert step is not None
    assert (step.slots, step.stuck_rows, step.stuck_chunks) == ([], [1], [0])


def test_a_mask_has_the_bit_of_each_id():
    assert set_in(as_mask((0, 31, 32, 63, 64), 65)) == [0, 31, 32, 63, 64]
    assert len(as_mask((), 65)) == 3
