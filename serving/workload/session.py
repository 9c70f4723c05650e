"""What is asked of a server, without its words? Sessions of turns, as lengths, times and sharing.

A prompt is what the turn keeps of its conversation so far (its last prompt and reply), then new
text. Text is named, not written: equal names mean equal text, so that sessions can share a system
prompt. Closed loop within a session: a turn comes a think time after the reply before it has ended;
open loop across sessions: they begin when the trace says.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

from serving.config import ConfigError


class WorkloadError(ConfigError):
    """A workload that cannot be read or run: one line with the file and the line in it."""


class BadLine(WorkloadError):
    """A line that cannot be used; `reason` leaves the line's own values out, to be counted."""

    def __init__(self, where: str, reason: str, detail: str = "") -> None:
        """Say where and why; `detail` is what stands there, of which the beginning is shown."""
        if len(detail) > LONGEST_DETAIL:
            detail = f"{detail[:LONGEST_DETAIL]}..."
        super().__init__(f"{where}: {reason} ({detail})" if detail else f"{where}: {reason}")
        self.reason = reason


LONGEST_DETAIL = 80
"""Characters of a line that a message shows."""


class Span(NamedTuple):
    """Some text: its name, and its length in tokens. Spans of equal name begin alike."""

    name: int
    tokens: int


@dataclass(frozen=True, slots=True)
class TurnShape:
    """One turn. Lengths in tokens, times in seconds.

    `think_s` passes between the end of the reply before it (or the session's start) and this turn.
    The prompt keeps the first `keep` tokens of the conversation, all of it for None, behind it
    `shared` text that other sessions may have too, then `new` tokens of its own.
    """

    think_s: float
    keep: int | None
    shared: tuple[Span, ...]
    new: int
    reply: int


@dataclass(frozen=True, slots=True)
class SessionShape:
    """One conversation: when it begins, and its turns."""

    id: str
    start_s: float
    turns: tuple[TurnShape, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """Sessions by their start, and where they come from, in words.

    `skipped` counts what was left out, by reason.
    """

    origin: str
    sessions: tuple[SessionShape, ...]
    skipped: dict[str, int]

    @property
    def num_turns(self) -> int:
        """Turns of all sessions."""
        return sum(len(session.turns) for session in self.sessions)


def check_turn(turn: TurnShape, where: str, *, first: bool) -> None:
    """Raise BadLine unless a turn, the first of its session or a later one, is one that can be."""
    text = turn.new + sum(span.tokens for span in turn.shared)
    lengths = (turn.new, turn.reply, turn.keep or 0, *(span.tokens for span in turn.shared))
    if min(lengths) < 0:
        raise BadLine(where, "a length is negative", f"{min(lengths)}")
    if (longest := max(text, *lengths)) > LONGEST:
        raise BadLine(where, f"a length is more than {LONGEST} tokens", f"{longest}")
    if turn.reply == 0:
        raise BadLine(where, "the reply has no token")
    if text == 0 and (first or turn.keep == 0):
        raise BadLine(where, "the prompt has no token")
    if not 0 <= turn.think_s < float("inf"):
        raise BadLine(where, "a think time is not 0 s or more", f"{turn.think_s}")
    if turn.think_s > LONGEST_S:
        raise BadLine(where, f"a think time is more than {LONGEST_S:.0f} s", f"{turn.think_s}")
    for span in turn.shared:
        if not 0 < span.name < END_OF_NAMES:
            problem = f"a name of shared text is not in 1 to {END_OF_NAMES - 1}"
            raise BadLine(where, problem, f"{span.name}")


LONGEST = 2**22
"""Tokens beyond which a length is taken for a mistake."""
LONGEST_S = 1e10
"""Seconds, three centuries, beyond which a time is taken for a mistake: later ones lose the digits
of a step's time."""
END_OF_NAMES = 2**24
"""Names of shared text lie below: a simulation writes the text with the name for a token, and has
the tokens from here on for text that is not shared, and token 0 for the end of a reply."""


def scale_rate(workload: Workload, factor: float) -> Workload:
    """Let sessions begin `factor` times as often; think times stay what they are."""
    if not 0 < factor < float("inf"):
        raise WorkloadError(f"--rate-scale {factor} must be positive")
    sessions = tuple(replace(s, start_s=s.start_s / factor) for s in workload.sessions)
    return replace(workload, sessions=sessions)


def scale_time(workload: Workload, factor: float) -> Workload:
    """Let everything that users do take `factor` times as long: arrivals and think times."""
    if not 0 < factor < float("inf"):
        raise WorkloadError(f"--time-scale {factor} must be positive")

    def stretched(session: SessionShape) -> SessionShape:
        turns = tuple(replace(turn, think_s=turn.think_s * factor) for turn in session.turns)
        return replace(session, start_s=session.start_s * factor, turns=turns)

    return replace(workload, sessions=tuple(map(stretched, workload.sessions)))


def from_first_arrival(workload: Workload) -> Workload:
    """Begin at time zero, whatever time the file begins at; raises WorkloadError."""
    if not workload.sessions:
        reasons = [f"{count} {reason}" for reason, count in workload.skipped.items()]
        why = f" (left out: {', '.join(reasons)})" if reasons else ""
        raise WorkloadError(f"{workload.origin}: no session is left to run{why}")
    first = workload.sessions[0].start_s
    sessions = tuple(replace(s, start_s=s.start_s - first) for s in workload.sessions)
    longest_s = max(sessions[-1].start_s, *(t.think_s for s in sessions for t in s.turns))
    if not longest_s <= LONGEST_S:
        problem = f"a session begins or a user thinks for {longest_s:g} s, more than {LONGEST_S:g}"
        raise WorkloadError(f"{workload.origin}: {problem}; see --session-rate and the scales")
    return replace(workload, sessions=sessions)


def window(workload: Workload, start_s: float, seconds: float) -> Workload:
    """Keep the sessions that begin in this span of the workload's time."""
    kept = [s for s in workload.sessions if start_s <= s.start_s < start_s + seconds]
    return from_first_arrival(_keep(workload, kept, "outside the window"))


def first_turns(workload: Workload, limit: int) -> Workload:
    """Keep the first sessions, with at most `limit` turns in all: the last one may be cut."""
    return _keep(workload, take_turns(workload.sessions, limit), "beyond the limit")


def take_turns(sessions: Iterable[SessionShape], limit: int) -> list[SessionShape]:
    """Take sessions, maybe of an endless number, until they have `limit` turns, 1 or more."""
    taken: list[SessionShape] = []
    left = limit
    for session in sessions:
        taken.append(replace(session, turns=session.turns[:left]))
        left -= len(taken[-1].turns)
        if not left:
            break
    return taken


def within_context(workload: Workload, max_len: int) -> Workload:
    """End each session before its first turn that would outgrow `max_len` tokens."""
    kept: list[SessionShape] = []
    for session in workload.sessions:
        turns = session.turns[: _turns_within(session.turns, max_len)]
        if turns:
            kept.append(replace(session, turns=turns))
    return _keep(workload, kept, f"beyond a context of {max_len} tokens")


def check_fits(workload: Workload, max_len: int) -> None:
    """Raise WorkloadError unless every turn, prompt and reply, has room in `max_len` tokens."""
    lengths = [
        (f"{session.id}.{number}", turn.reply, context)
        for session in workload.sessions
        for number, (turn, context) in enumerate(
            zip(session.turns, _contexts(session.turns), strict=True)
        )
        if context > max_len
    ]
    if lengths:
        name, reply, context = lengths[0]
        others = f", and so in {len(lengths)} turns" if len(lengths) > 1 else ""
        raise WorkloadError(
            f"turn {name}: {context - reply} tokens of prompt and {reply} of reply are more than"
            f" --max-model-len {max_len}{others}; raise it, or cut the workload with --max-context"
        )


def _turns_within(turns: Sequence[TurnShape], max_len: int) -> int:
    return sum(1 for _ in takewhile(lambda context: context <= max_len, _contexts(turns)))


def _contexts(turns: Sequence[TurnShape]) -> Iterator[int]:
    """Yield the tokens of each turn's prompt and reply, where all before it have been replied."""
    context = 0
    for turn in turns:
        kept = context if turn.keep is None else min(turn.keep, context)
        # A prompt has one token at least, as in `sim/clients`.
        prompt = max(1, kept + sum(span.tokens for span in turn.shared) + turn.new)
        context = prompt + turn.reply
        yield context


def _keep(workload: Workload, kept: Sequence[SessionShape], reason: str) -> Workload:
    left_out = workload.num_turns - sum(len(session.turns) for session in kept)
    skipped = {**workload.skipped, f"turns {reason}": left_out} if left_out else workload.skipped
    return Workload(workload.origin, tuple(kept), skipped)
