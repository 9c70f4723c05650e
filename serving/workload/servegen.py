"""ServeGen's client distributions: a stream of single turns drawn from what was measured.

For each client and ten minutes, arrivals are a renewal process of the measured rate, whose gaps
have the measured shape (Gamma or Weibull). The scale beside it is not used: the mean gap that it
makes is far from the rate where few requests were measured, and would make the stream a quarter
faster than it was. Lengths come from the client's distributions of the six hours around; where
these are empty, of the hours before. Prompt and reply are drawn independently; upstream's own
generator draws both from one number.
"""

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import gamma
from pathlib import Path
from typing import Any, NamedTuple, cast

from serving.workload.lines import (
    Line,
    Once,
    Skipped,
    json_object,
    listed,
    mapping,
    name_of,
    number,
    read_lines,
)
from serving.workload.session import BadLine, SessionShape, TurnShape, Workload, check_turn

RATE_WINDOW_S = 600.0
LEAST_APART_S = 1.0
COLUMNS = ("start", "rate", "cv", "pattern", "shape", "scale")
PATTERNS = ("Gamma", "Weibull")
LEAST_SHAPE, MOST_SHAPE = 0.01, 1e6
"""Below and above, gaps leave the range of a float; 0.012 to 19.9 were measured."""
HIGHEST_RATE = 1e4
"""Requests a second of one client beyond which a rate is taken for a mistake."""


class _Lengths(NamedTuple):
    """A distribution: values, and the weight of all up to each."""

    values: list[int]
    cumulative: list[float]

    def draw(self, noise: random.Random) -> int:
        at = noise.random() * self.cumulative[-1]
        return self.values[bisect_left(self.cumulative, at)]


class _Arrivals(NamedTuple):
    """The renewal process of ten minutes."""

    begin_s: float
    rate: float
    pattern: str
    shape: float

    def gap(self, noise: random.Random) -> float:
        """Draw the time between two arrivals."""
        if self.pattern == "Gamma":
            return noise.gammavariate(self.shape, 1 / (self.rate * self.shape))
        return noise.weibullvariate(self._weibull_scale, self.shape)

    def first(self, noise: random.Random) -> float:
        """Draw the time to the first arrival of a process that has run for ever.

        Its gap is met with a chance in proportion to its length, and anywhere in it: so the
        expected number of arrivals is the rate times the time, however short that is.
        """
        if self.pattern == "Gamma":
            met = noise.gammavariate(self.shape + 1, 1 / (self.rate * self.shape))
        else:
            power = noise.gammavariate(1 + 1 / self.shape, 1.0)
            met = self._weibull_scale * power ** (1 / self.shape)
        return noise.random() * met

    @property
    def _weibull_scale(self) -> float:
        return 1 / (self.rate * gamma(1 + 1 / self.shape))


class _Client(NamedTuple):
    name: str
    lengths: list[tuple[float, _Lengths, _Lengths]]  # from when; prompts; replies
    arrivals: list[_Arrivals]


def read_servegen(
    path: Path, skipped: Skipped, *, start_s: float, seconds: float, seed: int
) -> Workload:
    """Draw the turns of a span of the day; raises WorkloadError."""
    once = Once()

    def read(line: Line) -> _Client:
        client = _client(line)
        once.check(line, client.name)
        return client

    found = [skipped.attempt(read, line) for line in read_lines(path)]
    sessions: list[SessionShape] = []
    for client in found:
        if client is not None:
            noise = random.Random(f"servegen {seed} {client.name}")
            sessions += _draw(client, noise, start_s, start_s + seconds)
    sessions.sort(key=lambda session: session.start_s)
    return Workload(f"drawn from {path.name}", tuple(sessions), skipped.counts)


def _draw(
    client: _Client, noise: random.Random, start_s: float, stop_s: float
) -> list[SessionShape]:
    sessions: list[SessionShape] = []
    for arrivals in client.arrivals:
        end_s = min(arrivals.begin_s + RATE_WINDOW_S, stop_s)
        if end_s <= start_s:
            continue
        at = arrivals.begin_s + arrivals.first(noise)
        while at < end_s:
            if at >= start_s:
                prompts, replies = _lengths_at(client, at)
                turn = TurnShape(0.0, None, (), prompts.draw(noise), replies.draw(noise))
                name = f"servegen-{client.name}-{len(sessions)}"
                sessions.append(SessionShape(name, at, (turn,)))
            at += arrivals.gap(noise)
    return sessions


def _lengths_at(client: _Client, at: float) -> tuple[_Lengths, _Lengths]:
    begun = [pair for pair in client.lengths if pair[0] <= at] or client.lengths[:1]
    return begun[-1][1:]


def _client(line: Line) -> _Client:
    record = json_object(line)
    windows = mapping(line, record.get("windows"), "windows")
    lengths: list[tuple[float, _Lengths, _Lengths]] = []
    for start, value in windows.items():
        window = mapping(line, value, "a window")
        prompts, replies = (
            _lengths(line, window, name) for name in ("input_tokens", "output_tokens")
        )
        if prompts.values and replies.values:
            lengths.append((_start_s(line, start), prompts, replies))
    lengths.sort(key=lambda one: one[0])
    _check_apart(line, "two windows begin at once", [one[0] for one in lengths], LEAST_APART_S)
    rows = [_row(line, row) for row in listed(line, record, "trace")]
    arrivals = [_arrivals(line, row) for row in rows if row["rate"] != 0]
    begins = sorted(one.begin_s for one in arrivals)
    _check_apart(line, "two rows of trace overlap", begins, RATE_WINDOW_S)
    if arrivals and not lengths:
        raise BadLine(line.where, "the client has a rate and no lengths")
    return _Client(name_of(line, record, "client"), lengths, arrivals)


def _check_apart(line: Line, problem: str, starts: Sequence[float], least_s: float) -> None:
    """Raise BadLine unless starts, in order, lie apart: of two of one time both would count."""
    for before, after in pairwise(starts):
        if after - before < least_s:
            raise BadLine(line.where, problem, f"{before} s and {after} s")


def _row(line: Line, value: Any) -> Mapping[str, Any]:
    row = cast("Sequence[Any]", value) if isinstance(value, list) else ()
    if len(row) != len(COLUMNS):
        raise BadLine(line.where, f"trace is not rows of {', '.join(COLUMNS)}", f"{value!r}")
    return dict(zip(COLUMNS, row, strict=True))


def _arrivals(line: Line, row: Mapping[str, Any]) -> _Arrivals:
    begin_s, rate, shape = (number(line, row, name) for name in ("start", "rate", "shape"))
    if row["pattern"] not in PATTERNS:
        raise BadLine(line.where, f"pattern is not {' or '.join(PATTERNS)}", f"{row['pattern']!r}")
    if not 0 < rate <= HIGHEST_RATE:
        raise BadLine(line.where, f"rate is not in 0 to {HIGHEST_RATE:g}", f"{rate}")
    if not LEAST_SHAPE <= shape <= MOST_SHAPE:
        raise BadLine(line.where, f"shape is not in {LEAST_SHAPE} to {MOST_SHAPE:g}", f"{shape}")
    return _Arrivals(begin_s, rate, row["pattern"], shape)


def _lengths(line: Line, window: Mapping[str, Any], name: str) -> _Lengths:
    table = mapping(line, window.get(name), name)
    try:
        lengths = [int(text) for text in table]
    except ValueError as error:
        raise BadLine(line.where, f"{name} is not by whole numbers", str(error)) from error
    for length in (min(lengths, default=1), max(lengths, default=1)):
        check_turn(TurnShape(0.0, None, (), length, length), line.where, first=True)
    chances = [number(line, {"a chance": value}, "a chance") for value in table.values()]
    for chance in (min(chances, default=0.0), max(chances, default=0.0)):
        if not 0 <= chance <= 1:
            raise BadLine(line.where, "a chance is not in 0 to 1", f"{chance}")
    pairs = sorted(pair for pair in zip(lengths, chances, strict=True) if pair[1])
    return _Lengths([pair[0] for pair in pairs], list(accumulate(pair[1] for pair in pairs)))


def _start_s(line: Line, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise BadLine(line.where, "the start of a window is not a number", f"{text!r}") from error
    return number(line, {"the start of a window": value}, "the start of a window")
