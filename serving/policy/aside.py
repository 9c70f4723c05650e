"""Which row stands aside, so that a turn has memory before its first token is late?

And which where rows have run short of pages, so that somebody has to.

A row's target is a mean over its reply: what its tokens came faster is time that it can spare. It
gives its pages up, has its KV computed or fetched again later, and is within its target all the
same; the turn that came meanwhile is, too. Where no row has time to spare, more turns ask than
memory could ever serve in time, and what is given up is what holds most of it: Moore's and
Hodgson's rule (policy/on_time), by token-seconds of memory instead of seconds. Ours; vLLM, SGLang
and the three papers let turns wait until a reply ends.

The first in (priority, arrival) of those that hold pages never stands aside, so that it goes on and
ends, nor does one that has come back without a token yet; see policy/preempt for why nobody waits
for ever then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from serving.policy.views import AsideView, AskingView


@dataclass(frozen=True, slots=True)
class AsideConfig:
    """When rows stand aside. All ours, chosen on seeds that are not reported (LOG.md).

    `ask_from`: share of a first token's target that is left when a turn asks; until then a reply
    may end. `back_before_s`: how long before its time is spent a row that stood aside asks.
    `least_spare_s`: what a row must be able to spare, since it would ask again at once with less.
    `stay_s`: how long one that has come back stays before it spares any: else it comes for moments,
    and most of what the worker does is to compute KV again.
    `again`: share of the time for which a row gives its memory, which it can spare or would decode
    yet, that having its KV again may take: long prompts cost others more time than they gain.
    `counted_left`: share of the tokens expected yet by which a row counts on making up time, since
    it may end sooner. `longer`: how many times as much memory over time a row must be expected to
    hold as the turn that asks, so that its target is given up for that turn's. `most`: how many may
    stand aside for one turn; if there is no room for it even so, nobody does. Times in seconds.
    """

    ask_from: float = 0.6
    back_before_s: float = 4.0
    least_spare_s: float = 16.0
    stay_s: float = 60.0
    again: float = 0.1
    counted_left: float = 0.5
    longer: float = 1.5
    most: int = 4


@dataclass(frozen=True, slots=True)
class Aside:
    """Row number `row` stands aside. `reason`: `late`, `spare` or `longer`."""

    row: int
    reason: str


def asks(asking: AskingView) -> bool:
    """Say whether it is time for a task to ask, and not too late to be in time.

    One that nobody may go before any more asks in any case, since all others wait for it.
    """
    return asking.blocks or 0 <= asking.left_s <= asking.ask_from_s


def aside(asking: AskingView, rows: Sequence[AsideView], config: AsideConfig) -> Aside | None:
    """Choose the row that stands aside for a task; None: nobody does.

    Never one of a more urgent priority, nor the first of those that hold pages (`leads`). Before
    others one whose targets are missed in any case (`late`), of these the one that would hold most
    memory over time; then the one with most time to spare; then, if one of them has to miss its
    target, the one that would hold most memory over time, if that is much more than what the asking
    one will. Ties: the first.
    """
    able = [i for i, row in enumerate(rows) if not row.leads and row.priority >= asking.priority]
    return _choose(able, rows, config, above=config.longer * _token_steps(asking))


def give_way(rows: Sequence[AsideView], priority: int, config: AsideConfig) -> Aside | None:
    """Choose the row that stands aside where rows have run short of pages; None: nobody may.

    Of those of class `priority`, or less urgent ones, in the same order; but one of them has to,
    and so nobody's size is asked for.
    """
    able = [i for i, row in enumerate(rows) if not row.leads and row.priority >= priority]
    return _choose(able, rows, config, above=-inf)


def _choose(
    able: Sequence[int], rows: Sequence[AsideView], config: AsideConfig, *, above: float
) -> Aside | None:
    """Choose from the rows `able`; `above`: token-steps, which who gives its target up exceeds."""
    able = [i for i in able if rows[i].again_s <= config.again * rows[i].left_s]
    late = [i for i in able if rows[i].late]
    if late:
        return Aside(max(late, key=lambda i: _token_steps(rows[i])), "late")
    spare = [i for i in able if _spares(rows[i], config)]
    if spare:
        return Aside(max(spare, key=lambda i: rows[i].spare_s), "spare")
    longer = [i for i in able if _token_steps(rows[i]) > above]
    if longer:
        return Aside(max(longer, key=lambda i: _token_steps(rows[i])), "longer")
    return None


def _spares(row: AsideView, config: AsideConfig) -> bool:
    worth = row.again_s <= config.again * row.spare_s
    return worth and row.back_s >= config.stay_s and row.spare_s >= config.least_spare_s


def _token_steps(view: AsideView | AskingView) -> float:
    """Return the tokens that a row will hold, one more with each step, summed over its steps."""
    return view.left * (view.tokens + view.left / 2)
