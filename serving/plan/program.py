"""Which options together give the highest rate, or cost least? A mixed-integer program.

One binary for each option (a kind of worker in a number) lets capacities be as curved as queues are
and keeps the program linear. With r the rate scale, all capacities in rate scales:

    one of the decode or colocated options; a prefill option exactly with a decode option
    sum of gpus <= gpus
    r <= decode rate                                   turns that end
    r + kappa e <= prefill or colocated rate + y       prompts, and what is computed again
    y <= spare (1 - r / rate) of the decode option     prompts between the rows of decode workers
    e >= (1 - c) r - s (room - v r)                    turns whose history memory did not keep
    maximise r, or minimise gpus with r = 1

`room` tokens fit into memory, of which running rows take v a unit of r (the least of all options,
so that the program stays linear); c + s x bounds the share of histories that x tokens a unit of r
keep (serving/plan/cache), and `kappa` is what a turn costs more with its history computed again.
Rows that depend on which option is chosen hold for all others by a large constant. The sum of gpus
and the pairs of phases follow AMPD (papers.md, section 3.5); y, e and the table of options are
ours, and so is the objective: its planner minimises the worst worker's latency. Where AMPD counts
workers of every degree in a phase, x(n) and y(n), all workers of a phase have one degree here, as
servers have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from serving.messages import Role
from serving.plan.cache import Bound
from serving.plan.capacity import Option

TIE = 1e-6
"""How little a smaller bill counts against a higher rate, and the other way round."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `kept`: bounds of the share of histories that memory keeps (room, rate)."""

    gpus: int
    kept: Sequence[Bound]
    minimise_cost: bool


@dataclass(frozen=True, slots=True)
class Proposal:
    """A deployment of the program: its options, its rate scale and what ends it.

    `prefill` is None in a colocated deployment.
    """

    prefill: Option | None
    decode: Option
    rate: float
    binds: str

    @property
    def gpus(self) -> int:
        """Accelerators that it takes."""
        return self.decode.gpus + (0 if self.prefill is None else self.prefill.gpus)


@dataclass(frozen=True, slots=True)
class Program:
    """The options to choose from, with those that may not be chosen again."""

    options: Sequence[Option]
    question: Question

    def asking(self, gpus: int, *, minimise_cost: bool) -> "Program":
        """Return the same options with another question."""
        question = replace(self.question, gpus=gpus, minimise_cost=minimise_cost)
        return replace(self, question=question)

    def best(self, excluded: Sequence[Proposal]) -> Proposal | None:
        """Return the best deployment that is like none of the excluded; None if there is none."""
        options, question = self.options, self.question
        if not options:
            return None
        top = max(max(option.rate, option.spare) for option in options) or 1.0
        rows = [*self._constraints(top), *self._cuts(excluded)]
        matrix = np.array([row.weights for row in rows])
        gpus = np.array([option.gpus for option in options]) / question.gpus
        cost = np.concatenate([[-1.0, 0.0, 0.0], TIE * gpus])
        least = 0.0
        if question.minimise_cost:
            cost = np.concatenate([[-TIE, 0.0, 0.0], gpus])
            least = min(1.0 / top, 2.0)  # above 1: no option is enough
        ones = np.ones(len(options))
        # scipy declares these as single numbers, and takes arrays.
        smallest: Any = np.concatenate([[least, 0, 0], 0 * ones])
        largest: Any = np.concatenate([[1, 1, 1], ones])
        lower: Any = np.array([row.low for row in rows])
        upper: Any = np.array([row.high for row in rows])
        found = milp(
            cost,
            constraints=LinearConstraint(matrix, lower, upper),
            bounds=Bounds(smallest, largest),
            integrality=np.concatenate([np.zeros(3), ones]),
        )
        if found.x is None:
            return None
        return self._proposal(found.x, top)

    def _proposal(self, solution: np.ndarray, top: float) -> Proposal:
        """Read a solution; rates inside are divided by `top`, so that they are near 1."""
        chosen = [o for o, z in zip(self.options, solution[3:], strict=True) if z > 0.5]
        prefill = next((o for o in chosen if o.kind.role is Role.PREFILL), None)
        decode = next(o for o in chosen if o.kind.role is not Role.PREFILL)
        rate, again = float(solution[0]) * top, float(solution[2])
        return Proposal(prefill, decode, rate, _binds(prefill, decode, rate, again))

    def _constraints(self, top: float) -> list["_Row"]:
        options, question = self.options, self.question
        decodes = [o.kind.role is not Role.PREFILL for o in options]
        pairs = [
            1 if o.kind.role is Role.PREFILL else -(o.kind.role is Role.DECODE) for o in options
        ]
        ends = [o.rate / top if d else 0.0 for o, d in zip(options, decodes, strict=True)]
        rows = [
            _Row((0, 0, 0, *map(float, decodes)), 1, 1),
            _Row((0, 0, 0, *pairs), 0, 0),
            _Row((0, 0, 0, *(o.gpus for o in options)), 0, question.gpus),
            _Row((1, 0, 0, *(-x for x in ends)), -np.inf, 0),
            _Row((0, 1, 0, *(-o.spare / top for o in options)), -np.inf, 0),
        ]
        row_tokens = min((o.row_tokens for o in options if o.row_tokens), default=0.0)
        for constant, per_token in question.kept:
            room = [per_token * o.room / top for o in options]
            lost = 1 - constant + per_token * row_tokens
            rows.append(_Row((lost, 0, -1, *(-x for x in room)), -np.inf, 0))
        return [*rows, *(row for i in range(len(options)) for row in self._own(i, top))]

    def _own(self, index: int, top: float) -> list["_Row"]:
        """Bound r, y and e by an option, if it is chosen; r, y and e are at most 1 here."""
        option = self.options[index]
        if option.kind.role is not Role.DECODE:
            factors, most = (1.0, -1.0, option.recompute), option.rate / top
        elif option.rate:
            factors, most = (option.spare / option.rate, 1.0, 0.0), option.spare / top
        else:
            return []
        slack = sum(factor for factor in factors if factor > 0)
        weights = np.zeros(3 + len(self.options))
        weights[:3] = factors
        weights[3 + index] = slack
        return [_Row(tuple(weights), -np.inf, most + slack)]

    def _cuts(self, excluded: Sequence[Proposal]) -> list["_Row"]:
        """Forbid what was proposed and its near neighbours, which no simulation tells apart."""

        def near(of: Option | None) -> list[float]:
            return [
                float(of is not None and _near(o, of, self.question.gpus)) for o in self.options
            ]

        rows: list[_Row] = []
        for proposal in excluded:
            parts = np.array(near(proposal.decode)) + near(proposal.prefill)
            rows.append(_Row((0, 0, 0, *parts), -np.inf, 0 if proposal.prefill is None else 1))
        return rows


@dataclass(frozen=True, slots=True)
class _Row:
    """low <= weights . (r, y, e, z...) <= high."""

    weights: tuple[float, ...]
    low: float
    high: float


def _near(one: Option, other: Option, gpus: int) -> bool:
    """Say whether two options are alike; colocated workers of a degree are, in any number.

    Fewer of these do less of everything, while fewer of one phase leave more for the other.
    """
    if one.kind.role is not other.kind.role or one.kind.degree != other.kind.degree:
        return False
    return one.kind.role is Role.BOTH or abs(one.gpus - other.gpus) <= gpus // NEAR


NEAR = 16
"""Deployments that differ by at most this part of the accelerators in each phase are alike."""


def propose(program: Program, count: int) -> list[Proposal]:
    """Return up to `count` different deployments, best first: one colocated, others of two phases.

    Further colocated ones only fill up: the program overrates them most, and of four candidates
    three were such while the best deployment was ninth (LOG.md).
    """
    colocated = Program([o for o in program.options if o.kind.role is Role.BOTH], program.question)
    split = Program([o for o in program.options if o.kind.role is not Role.BOTH], program.question)
    both = _best_of(colocated, count)
    phases = _best_of(split, count - min(1, len(both)))
    found = [*both[: count - len(phases)], *phases]
    return sorted(found, key=lambda proposal: -proposal.rate)


def _best_of(program: Program, count: int) -> list[Proposal]:
    found: list[Proposal] = []
    while len(found) < count and (best := program.best(found)) is not None:
        found.append(best)
    return found


def neighbours(program: Program, of: Proposal) -> list[Proposal]:
    """Return the deployments of two phases that lie next to one, best first.

    The phases swap one accelerator, or those of one decode worker, or none; their workers may have
    any degree. There are none beside colocated workers.
    """
    if of.prefill is None:
        return []
    step = of.decode.kind.degree
    found: list[Proposal] = []
    for more in sorted({0, 1, -1, step, -step}):
        prefills = [o for o in program.options if o.kind.role is Role.PREFILL]
        prefills = [o for o in prefills if o.gpus == of.prefill.gpus + more]
        for decode in program.options:
            if decode.kind.role is Role.DECODE and decode.gpus == of.decode.gpus - more:
                best = Program([*prefills, decode], program.question).best(())
                if best is not None:
                    found.append(best)
    return sorted(found, key=lambda proposal: -proposal.rate)


def _binds(prefill: Option | None, decode: Option, rate: float, again: float) -> str:
    """Name what ends the rate: the phase with the least to spare."""
    if again > TIE:
        return "memory"
    if prefill is None or decode.rate <= rate * (1 + 1e-3):
        return decode.limited_by
    return prefill.limited_by
