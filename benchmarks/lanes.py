"""Where was each turn, when? A run's stories as spans of time in the lanes of its workers.

Knows nothing of drawing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from serving.metrics.stories import History, Move, Story


class Doing(StrEnum):
    """What a turn does in a span."""

    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True)
class Span:
    """A turn at one worker from `start` to `stop` (seconds)."""

    story: Story
    worker: str
    doing: Doing
    start: float
    stop: float


@dataclass(frozen=True, slots=True)
class Lane:
    """One worker: its spans, each with the row it is drawn in; no two in a row overlap."""

    worker: str
    role: str
    spans: Sequence[tuple[int, Span]]
    rows: int

    def row_at(self, story: Story, t: float) -> int | None:
        """Return the row that a turn is in at a time; None if it is not here then."""
        for row, span in self.spans:
            if span.story is story and span.start <= t <= span.stop:
                return row
        return None


def lanes(history: History) -> list[Lane]:
    """Put a run's turns into lanes, workers in the order of the log."""
    spans = [span for story in history.stories.values() for span in spans_of(story, history.until)]
    workers: Mapping[str, str] = history.opening["workers"]
    out: list[Lane] = []
    for worker, role in workers.items():
        placed = _placed([span for span in spans if span.worker == worker])
        rows = 1 + max((row for row, _ in placed), default=0)
        out.append(Lane(worker, role, placed, rows))
    return out


def spans_of(story: Story, until: float) -> list[Span]:
    """Follow one turn; what the log does not end goes on `until` its last record."""
    if not story.attempts:
        return []
    stop = until if story.end is None else story.end.t
    first = story.first
    if first is None:
        return [Span(story, story.attempts[-1].prefill, Doing.QUEUE, story.arrived, stop)]
    began = max(story.arrived, first.t - first.prefill_s)
    out = [
        Span(story, first.worker, Doing.QUEUE, story.arrived, began),
        Span(story, first.worker, Doing.PREFILL, began, first.t),
    ]
    stays = _stays(story, first.t)
    leaves = [left for _, _, left in stays[1:]] + [stop]
    for (worker, since, _), left in zip(stays, leaves, strict=True):
        out.append(Span(story, worker, Doing.DECODE, since, left))
    return [span for span in out if span.stop > span.start]


def moved(story: Story) -> list[Move]:
    """Return the moves of a turn's row that were carried out."""
    return [move for move in story.moves if move.resumed_t is not None]


def _stays(story: Story, first_t: float) -> list[tuple[str, float, float]]:
    """Return where its row decoded: the worker, since when, and when the one before let it go."""
    owner = [attempt.owner for attempt in story.attempts if attempt.t <= first_t][-1]
    stays = [(owner, first_t, first_t)]
    stays += [(a.owner, a.t, a.t) for a in story.attempts if a.t > first_t]
    for move in moved(story):
        assert move.resumed_t is not None
        assert move.stop_s is not None
        stays.append((move.to, move.resumed_t, move.resumed_t - move.stop_s))
    return sorted(stays, key=lambda stay: stay[1])


def _placed(spans: Iterable[Span]) -> list[tuple[int, Span]]:
    """Give every stay at a worker the lowest row that is free all the time."""
    stays: dict[int, list[list[Span]]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        own = stays.setdefault(id(span.story), [])
        if own and own[-1][-1].stop == span.start:
            own[-1].append(span)
        else:
            own.append([span])
    free_at: list[float] = []
    out: list[tuple[int, Span]] = []
    for stay in sorted((s for own in stays.values() for s in own), key=lambda s: s[0].start):
        row = next((i for i, t in enumerate(free_at) if t <= stay[0].start), len(free_at))
        free_at[row:] = [stay[-1].stop, *free_at[row + 1 :]]
        out += [(row, span) for span in stay]
    return out
