"""What does a workload ask for a second? Means over its turns, at the rate it has.

All of it grows in proportion to the rate scale, which is what the integer program maximises. What a
prompt shares with what was sent before it, by its own session or by another, counts as cached: the
cache that never forgets. What memory makes of that is the matter of serving/plan/cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from serving.plan.cache import Rest, Rests
from serving.workload.session import SessionShape, Span, Workload, WorkloadError


class TurnWork(NamedTuple):
    """One turn in tokens: computed anew, found cached at best, replied."""

    new: int
    cached: int
    reply: int


@dataclass(frozen=True, slots=True)
class Demand:
    """A workload at rate scale 1. Lengths in tokens.

    `context` is what a row attends to and `footprint` what it will hold at its end, both as means
    over the time that rows decode; `rests` is what sessions hold between their turns; `longest` is
    the longest prompt and reply.
    """

    turns: tuple[TurnWork, ...]
    turns_per_s: float
    context: float
    footprint: float
    rests: Rests
    longest: int

    @property
    def new(self) -> float:
        """Mean prompt tokens of a turn that are to be computed."""
        return fmean(turn.new for turn in self.turns)

    @property
    def cached(self) -> float:
        """Mean prompt tokens of a turn that a cache holds at best."""
        return fmean(turn.cached for turn in self.turns)

    @property
    def reply(self) -> float:
        """Mean tokens of a reply."""
        return fmean(turn.reply for turn in self.turns)


def demand_of(workload: Workload) -> Demand:
    """Take the means; raises WorkloadError for a workload that has no rate.

    A row decodes for a time in proportion to its reply, hence the weights.
    """
    rate = _session_rate(workload.sessions)
    seen = _Seen(0, {})
    turns: list[TurnWork] = []
    rests: list[Rest] = []
    own_name = 0
    for session in workload.sessions:
        thinks = [turn.think_s for turn in session.turns[1:]]
        works = list(_works(session, seen, own_name))
        own_name -= 2 * len(works)
        turns += works
        rests += [Rest(s, _length(work)) for work, s in zip(works, thinks, strict=False)]
    replied = sum(turn.reply for turn in turns)
    return Demand(
        turns=tuple(turns),
        turns_per_s=rate * len(turns) / len(workload.sessions),
        context=sum(t.reply * (_length(t) - t.reply / 2) for t in turns) / replied,
        footprint=sum(t.reply * _length(t) for t in turns) / replied,
        rests=Rests(tuple(rests), rate * len(rests) / len(workload.sessions)),
        longest=max(map(_length, turns)),
    )


def _session_rate(sessions: Sequence[SessionShape]) -> float:
    span_s = sessions[-1].start_s - sessions[0].start_s
    if span_s <= 0:
        raise WorkloadError(
            "the workload has no rate: it needs sessions that begin at different times"
        )
    return (len(sessions) - 1) / span_s


def _length(turn: TurnWork) -> int:
    return turn.new + turn.cached + turn.reply


@dataclass(slots=True)
class _Seen:
    """A text that was sent before, up to `tokens` of it, and what came behind it, by name."""

    tokens: int
    behind: dict[int, "_Seen"] = field(default_factory=dict[int, "_Seen"])

    def add(self, text: Sequence[Span]) -> int:
        """Remember a text; returns how many tokens of it were known from its start on."""
        node, known, still_known = self, 0, True
        for name, tokens in text:
            child = node.behind.setdefault(name, _Seen(0, {}))
            if still_known:
                known += min(tokens, child.tokens)
                still_known = tokens == child.tokens
            child.tokens = max(tokens, child.tokens)
            node = child
        return known


def _works(session: SessionShape, seen: _Seen, own_name: int) -> Iterator[TurnWork]:
    """Follow a conversation. Names below zero are of text that nobody else has."""
    text: list[Span] = []
    for turn in session.turns:
        text = text if turn.keep is None else _cut(text, turn.keep)
        text = [*text, *turn.shared]
        # As a client does (serving/sim/clients): a prompt has a token to answer to.
        new = max(turn.new, 1 - sum(span.tokens for span in text))
        if new:
            text.append(Span(own_name - 1, new))
        prompt = sum(span.tokens for span in text)
        cached = min(seen.add(text), prompt - 1)
        yield TurnWork(prompt - cached, cached, turn.reply)
        text.append(Span(own_name - 2, turn.reply))
        seen.add(text)
        own_name -= 2


def _cut(text: Sequence[Span], keep: int) -> list[Span]:
    kept: list[Span] = []
    for name, tokens in text:
        if keep <= 0:
            break
        kept.append(Span(name, min(tokens, keep)))
        keep -= tokens
    return kept
