"""The integer program against trying every deployment."""

from collections.abc import Sequence
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.messages import Role
from serving.plan.cache import Bound
from serving.plan.capacity import Option, WorkerKind
from serving.plan.program import Program, Proposal, Question, neighbours, propose
from tests.support.fake_costs import LinearCosts

COSTS = LinearCosts()
BOUNDS = (Bound(0.0, 0.01), Bound(0.5, 0.002))


def option(
    role: Role,
    count: int,
    rate: float,
    *,
    degree: int = 1,
    spare: float = 0.0,
    room: float = 0.0,
    row_tokens: float = 0.0,
    recompute: float = 0.0,
    limited_by: str = "compute",
) -> Option:
    kind = WorkerKind(role, degree, COSTS, 0)
    return Option(kind, count, rate, spare, room, row_tokens, 0.01, recompute, limited_by)


def best_rate(options: Sequence[Option], question: Question) -> float:
    """The highest rate of all that fit, by bisection of the rules that program.py states."""
    row_tokens = min((o.row_tokens for o in options if o.row_tokens), default=0.0)
    top = max(max(o.rate, o.spare) for o in options)

    def holds(prefill: Option | None, decode: Option, r: float) -> bool:
        e = max(
            [(1 - b.constant) * r - b.per_token * (decode.room - row_tokens * r)
             for b in question.kept],
            default=0.0,
        )  # fmt: skip
        e = max(0.0, e)
        if r > decode.rate or e > top:
            return False
        if prefill is None:
            return r + decode.recompute * e <= decode.rate
        y = decode.spare * (1 - r / decode.rate)
        return r + prefill.recompute * e <= prefill.rate + y

    best = 0.0
    prefills = [o for o in options if o.kind.role is Role.PREFILL]
    decodes = [o for o in options if o.kind.role is Role.DECODE]
    both = [o for o in options if o.kind.role is Role.BOTH]
    for prefill, decode in [*product(prefills, decodes), *((None, o) for o in both)]:
        if (prefill.gpus if prefill else 0) + decode.gpus > question.gpus:
            continue
        low, high = 0.0, decode.rate
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if holds(prefill, decode, middle) else (low, middle)
        best = max(best, low)
    return best


RATES = st.floats(0.1, 10.0)


@st.composite
def tables(draw: st.DrawFn, most: int = 4) -> list[Option]:
    """Options of one or two degrees; more workers never do less."""
    options: list[Option] = []
    for role in (Role.PREFILL, Role.DECODE, Role.BOTH):
        for degree in draw(st.sampled_from([(1,), (1, 2), (2,)])):
            rate, spare = draw(RATES), draw(RATES)
            room, again = draw(st.floats(0, 300)), draw(st.floats(0, 3))
            for count in range(1, most // degree + 1):
                decodes = role is not Role.PREFILL
                options.append(
                    option(
                        role,
                        count,
                        rate * count * (1 + count / 10),
                        degree=degree,
                        spare=spare * count if role is Role.DECODE else 0.0,
                        room=room * count if decodes else 0.0,
                        row_tokens=5.0 if decodes else 0.0,
                        recompute=0.0 if role is Role.DECODE else again,
                    )
                )
    return options


@given(tables(), st.integers(1, 4), st.sampled_from([(), BOUNDS]))
@settings(max_examples=60)
def test_the_program_finds_what_enumeration_finds(
    options: list[Option], gpus: int, kept: tuple[Bound, ...]
):
    question = Question(gpus, kept, minimise_cost=False)
    found = Program(options, question).best(())
    expected = best_rate(options, question)
    assert (found.rate if found else 0.0) == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert found is None or found.gpus <= gpus


@given(tables())
@settings(max_examples=25)
def test_an_accelerator_more_never_lowers_the_rate(options: list[Option]):
    rates: list[float] = []
    for gpus in range(1, 5):
        found = Program(options, Question(gpus, BOUNDS, minimise_cost=False)).best(())
        rates.append(found.rate if found else 0.0)
    assert all(more >= less * (1 - 1e-3) for less, more in pairwise(rates))


@given(tables(), st.floats(0.2, 12.0))
@settings(max_examples=25)
def test_the_least_cost_is_the_fewest_that_reach_the_rate(options: list[Option], rate: float):
    """The rate that is asked for is always 1, so capacities are divided by it."""
    scaled = [
        option(o.kind.role, o.count, o.rate / rate, degree=o.kind.degree, spare=o.spare / rate)
        for o in options
    ]
    program = Program(scaled, Question(4, (), minimise_cost=True))
    found = program.best(())
    reached = [
        gpus
        for gpus in range(1, 5)
        if best_rate(scaled, Question(gpus, (), minimise_cost=False)) >= 1 + 1e-4
    ]
    assert (found.gpus if found else None) == (min(reached) if reached else None)


PREFILL = option(Role.PREFILL, 1, 3.0, limited_by="compute of prefill")
DECODE = option(Role.DECODE, 1, 4.0, limited_by="compute of decode")
BOTH = option(Role.BOTH, 2, 2.0, limited_by="compute of both")


def solve(*options: Option, gpus: int = 2, kept: tuple[Bound, ...] = ()) -> Proposal:
    found = Program(options, Question(gpus, kept, minimise_cost=False)).best(())
    assert found is not None
    return found


def test_what_binds():
    assert solve(PREFILL, DECODE, BOTH).binds == "compute of prefill"
    assert solve(option(Role.PREFILL, 1, 9.0), DECODE).binds == "compute of decode"
    assert solve(BOTH).binds == "compute of both"
    forgetful = option(Role.BOTH, 2, 2.0, recompute=1.0)
    found = solve(forgetful, kept=(Bound(0.0, 1.0),))
    assert (found.binds, found.rate) == ("memory", pytest.approx(1.0))


def test_decode_workers_take_the_prompts_that_prefill_workers_cannot():
    helping = option(Role.DECODE, 1, 4.0, spare=2.0)
    # r <= 3 + 2 (1 - r / 4)
    assert solve(PREFILL, helping).rate == pytest.approx(10 / 3, rel=1e-3)


def test_proposals_differ_and_one_is_colocated():
    options = [
        *(option(Role.PREFILL, n, 3.0 * n) for n in range(1, 4)),
        *(option(Role.DECODE, n, 2.0 * n) for n in range(1, 4)),
        *(option(Role.BOTH, n, 0.5 * n) for n in range(1, 5)),
    ]
    program = Program(options, Question(4, (), minimise_cost=False))
    found = propose(program, 3)
    names = [(p.prefill.count if p.prefill else 0, p.decode.count) for p in found]
    assert (names[0], names[-1], len(set(names))) == ((2, 2), (0, 4), 3)
    assert [p.rate for p in found] == sorted((p.rate for p in found), reverse=True)


def test_colocated_ones_do_not_crowd_out_the_others():
    options = [
        option(Role.PREFILL, 2, 3.0),
        option(Role.DECODE, 2, 2.0),
        *(option(Role.BOTH, 4 // degree, 9.0, degree=degree) for degree in (1, 2, 4)),
    ]
    found = propose(Program(options, Question(4, (), minimise_cost=False)), 3)
    assert [p.prefill is None for p in found] == [True, True, False]
    (alone,) = propose(Program(options[2:3], Question(4, (), minimise_cost=False)), 3)
    assert alone.prefill is None


def test_neighbours_swap_an_accelerator_a_worker_or_a_degree():
    options = [
        *(option(Role.PREFILL, n, 3.0 * n) for n in range(1, 6)),
        option(Role.PREFILL, 1, 5.0, degree=2),
        *(option(Role.DECODE, n, 2.0 * n) for n in range(1, 6)),
        *(option(Role.DECODE, n, 3.0 * n, degree=2) for n in (1, 2)),
        option(Role.BOTH, 6, 1.0),
    ]
    program = Program(options, Question(6, (), minimise_cost=False))

    def beside(of: Proposal) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        found: list[tuple[tuple[int, int], tuple[int, int]]] = []
        for near in neighbours(program, of):
            assert near.prefill is not None
            one, other = near.prefill, near.decode
            found.append(((one.count, one.kind.degree), (other.count, other.kind.degree)))
        return found

    two_of_two = Proposal(options[1], options[12], 1.0, "compute")  # 2 x TP1, 2 x TP2
    assert set(beside(two_of_two)) == {
        *(((2, 1), (2, 2)), ((2, 1), (4, 1))),  # another degree
        *(((1, 1), (5, 1)), ((3, 1), (3, 1))),  # an accelerator
        *(((4, 1), (1, 2)), ((4, 1), (2, 1))),  # a worker
    }
    assert beside(Proposal(None, options[13], 1.0, "compute")) == []


def test_nothing_to_choose_from():
    assert Program([], Question(2, (), minimise_cost=False)).best(()) is None
    assert Program([PREFILL], Question(2, (), minimise_cost=False)).best(()) is None
    assert Program([BOTH], Question(1, (), minimise_cost=False)).best(()) is None
