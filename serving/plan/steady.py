"""What would a workload look like in the long run, in as few turns as show it?

A simulation starts with empty workers and no session, while a server that has run for a while has
sessions of every age. So sessions also begin before the start, and enter with their first turn
behind it. Their history up to there is given beforehand as a prompt of its own, one session after
the other, so that it is cached by then; what memory would not keep (serving/plan/cache) is left
out of that and comes as new text. Think times are shortened to half a reply's time, because idle
sessions cost simulations nothing but length. Turns count behind a warm-up in which rows fill. All
of this is ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import ceil
from statistics import fmean

from serving.workload.session import SessionShape, TurnShape, Workload

WARM_LIVES = 1.2
COUNTED_LIVES = 1.2
"""Mean times that a reply takes, before turns count and while they do."""
COUNTED_QUEUES = 8.0
"""Targets to the first token for which turns count at least."""
LONGEST_THINK = 0.5
"""Mean think time in mean times that a reply takes."""
MOST_BEFORE_S = 200.0
"""Time in which histories are given beforehand: well below that for which sessions are known."""


@dataclass(frozen=True, slots=True)
class Steady:
    """Turns to simulate, and the times between which those that arrive count (seconds)."""

    workload: Workload
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How it is played: rate scale, seconds per token, and for how long memory keeps sessions.

    `ttft_s` is the target to the first token; `least_turns` count at least.
    """

    rate: float
    token_s: float
    keep_s: float
    ttft_s: float
    least_turns: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """A session's turns with the times they are expected at; `begins` is that of its first."""

    turns: tuple[TurnShape, ...]
    lengths: tuple[int, ...]  # of the conversation behind each turn
    at: tuple[float, ...]


def steady(workload: Workload, pace: Pace) -> Steady:
    """Make the turns that show the long run of a workload."""
    sessions = workload.sessions
    replies = fmean(turn.reply for s in sessions for turn in s.turns)
    life_s = replies * pace.token_s
    thinks = [turn.think_s for s in sessions for turn in s.turns[1:]]
    mean_think = fmean(thinks) if thinks else 0.0
    factor = min(1.0, LONGEST_THINK * life_s / mean_think) if mean_think else 1.0
    period_s = _period(sessions) / pace.rate
    turns_per_s = workload.num_turns / period_s
    # Few turns count for little, and a queue takes time to grow until prompts are late.
    least_s = max(pace.least_turns / turns_per_s, COUNTED_QUEUES * pace.ttft_s)
    counted_s = max(COUNTED_LIVES * life_s, least_s)
    warm_s = WARM_LIVES * life_s
    plans = [_expect(session, pace, factor) for session in sessions]
    end_s = warm_s + counted_s
    entries = list(_enter(plans, sessions, pace.rate, period_s, end_s))
    histories = sum(entry.history > 0 for entry in entries)
    apart_s = min(pace.ttft_s, MOST_BEFORE_S / max(1, histories))
    start_s = apart_s * histories
    entered = sorted(_begin(entries, start_s, apart_s), key=lambda session: session.start_s)
    made = Workload(workload.origin, tuple(entered), workload.skipped)
    return Steady(made, start_s + warm_s, start_s + end_s)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A session that enters with these turns, the first `at` seconds behind the start.

    `history`: tokens of it to be given beforehand.
    """

    history: int
    turns: tuple[TurnShape, ...]
    at: float


def _period(sessions: Sequence[SessionShape]) -> float:
    """Return the time after which the sessions begin again, as one follows the last."""
    span_s = sessions[-1].start_s - sessions[0].start_s
    return span_s * len(sessions) / (len(sessions) - 1)


def _expect(session: SessionShape, pace: Pace, factor: float) -> _Plan:
    turns = tuple(_remembered(session.turns, pace.keep_s))
    turns = tuple(replace(turn, think_s=turn.think_s * factor) for turn in turns)
    lengths: list[int] = []
    at: list[float] = []
    now, context = 0.0, 0
    for number, turn in enumerate(turns):
        now += turn.think_s if number else 0.0
        at.append(now)
        now += turn.reply * pace.token_s
        context = _prompt(turn, context) + turn.reply
        lengths.append(context)
    return _Plan(turns, tuple(lengths), tuple(at))


def _remembered(turns: Sequence[TurnShape], keep_s: float) -> Iterator[TurnShape]:
    """Write what was not kept as text of the turn's own, of the same length."""
    context = 0
    for number, turn in enumerate(turns):
        prompt = _prompt(turn, context)
        context = prompt + turn.reply
        if number and turn.think_s > keep_s:
            yield replace(turn, keep=0, shared=(), new=prompt)
        else:
            yield turn


def _prompt(turn: TurnShape, context: int) -> int:
    kept = context if turn.keep is None else min(turn.keep, context)
    return max(1, kept + sum(span.tokens for span in turn.shared) + turn.new)


def _enter(
    plans: Sequence[_Plan],
    sessions: Sequence[SessionShape],
    rate: float,
    period_s: float,
    end_s: float,
) -> Iterator[_Entry]:
    """Let sessions begin again and again, so long ago that none of them is left out."""
    first_s = sessions[0].start_s
    oldest_s = max(plan.at[-1] for plan in plans)
    for copy in count(-ceil(oldest_s / period_s)):
        if copy * period_s >= end_s:
            return
        for plan, session in zip(plans, sessions, strict=True):
            begins = copy * period_s + (session.start_s - first_s) / rate
            later = [i for i, at in enumerate(plan.at) if 0 <= begins + at < end_s]
            if later:
                yield _entry(plan, begins, later)


def _entry(plan: _Plan, begins: float, later: Sequence[int]) -> _Entry:
    turns = plan.turns[later[0] : later[-1] + 1]
    at = begins + plan.at[later[0]]
    if later[0] == 0:
        return _Entry(0, turns, at)
    first, context = turns[0], plan.lengths[later[0] - 1]
    kept = context if first.keep is None else min(first.keep, context)
    # The history ends with a reply of one token, and is then as long as it was.
    return _Entry(max(0, kept - 1), (replace(first, keep=None), *turns[1:]), at)


def _begin(entries: Sequence[_Entry], start_s: float, apart_s: float) -> Iterator[SessionShape]:
    """Name sessions and give them their start, those with a history one after the other."""
    before = 0
    for number, entry in enumerate(entries):
        name, enters_s = f"steady-{number}", start_s + entry.at
        first, *later = entry.turns
        if not entry.history:
            yield SessionShape(name, enters_s, (replace(first, think_s=0.0), *later))
            continue
        begins_s = before * apart_s
        before += 1
        told = TurnShape(0.0, None, (), entry.history, 1)
        yield SessionShape(
            name, begins_s, (told, replace(first, think_s=enters_s - begins_s), *later)
        )
