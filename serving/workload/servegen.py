"""ServeGen's client distributions: a stream of single turns drawn from what was measured.

For each client and ten minutes, arrivals are a renewal process with the measured gaps (Gamma or
Weibull); lengths come from the client's distributions of the six hours around. Prompt and reply are
drawn independently; upstream's own generator draws both from one number.
"""

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, cast

from serving.workload.lines import Line, Skipped, json_object, read_lines
from serving.workload.session import SessionShape, TurnShape, Workload, WorkloadError, check_turn

RATE_WINDOW_S = 600.0
PATTERNS = {"Gamma": random.Random.gammavariate, "Weibull": random.Random.weibullvariate}


class _Lengths(NamedTuple):
    """A distribution: values, and the chance of at most each."""

    values: list[int]
    cumulative: list[float]

    def draw(self, noise: random.Random) -> int:
        at = noise.random() * self.cumulative[-1]
        return self.values[bisect_left(self.cumulative, at)]


class _Client(NamedTuple):
    name: str
    lengths: list[tuple[float, _Lengths, _Lengths]]  # from when; prompts; replies
    rates: list[tuple[float, str, float, float]]  # from when; pattern, shape and scale of gaps


def read_servegen(
    path: Path, skipped: Skipped, *, start_s: float, seconds: float, seed: int
) -> Workload:
    """Draw the turns of a span of the day; raises WorkloadError."""
    found = [skipped.attempt(_client, line) for line in read_lines(path)]
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
    for begin, pattern, shape, scale in client.rates:
        if begin + RATE_WINDOW_S <= start_s or begin >= stop_s:
            continue
        gap = PATTERNS[pattern]
        # Gamma is (shape, scale), Weibull (scale, shape) in Python's library.
        pair = (shape, scale) if pattern == "Gamma" else (scale, shape)
        at = begin + gap(noise, *pair) * noise.random()
        while at < min(begin + RATE_WINDOW_S, stop_s):
            if at >= start_s:
                prompts, replies = _lengths_at(client, at)
                turn = TurnShape(0.0, None, (), prompts.draw(noise), replies.draw(noise))
                name = f"servegen-{client.name}-{begin:g}-{len(sessions)}"
                sessions.append(SessionShape(name, at, (turn,)))
            at += gap(noise, *pair)
    return sessions


def _lengths_at(client: _Client, at: float) -> tuple[_Lengths, _Lengths]:
    begun = [pair for pair in client.lengths if pair[0] <= at] or client.lengths[:1]
    return begun[-1][1:]


def _client(line: Line) -> _Client:
    record = json_object(line)
    windows = _mapping(line, record.get("windows"), "windows")
    lengths: list[tuple[float, _Lengths, _Lengths]] = []
    for start, window in windows.items():
        fields = _mapping(line, window, f"windows[{start}]")
        prompts, replies = (
            _lengths(line, fields.get(key), key) for key in ("input_tokens", "output_tokens")
        )
        if prompts.values and replies.values:
            lengths.append((_float(line, start), prompts, replies))
    lengths.sort(key=lambda one: one[0])
    rates = [
        (row[0], row[3], row[4], row[5])
        for row in _rows(line, record.get("trace"))
        if row[1] > 0 and row[3]
    ]
    if rates and not lengths:
        raise WorkloadError(f"{line.where}: the client has a rate and no lengths")
    for _, pattern, shape, scale in rates:
        if pattern not in PATTERNS:
            known = " or ".join(PATTERNS)
            raise WorkloadError(f"{line.where}: the pattern is {pattern!r}, not {known}")
        if not (shape > 0 and scale > 0):
            raise WorkloadError(f"{line.where}: shape {shape} and scale {scale} make no gap")
    return _Client(str(record.get("client")), lengths, rates)


def _rows(line: Line, value: Any) -> list[Sequence[Any]]:
    rows = cast("list[Any]", value) if isinstance(value, list) else [None]
    for row in rows:
        if not isinstance(row, list) or len(cast("list[Any]", row)) != 6:
            raise WorkloadError(f"{line.where}: trace holds {row!r}, not six fields")
    return cast("list[Sequence[Any]]", rows)


def _lengths(line: Line, value: Any, name: str) -> _Lengths:
    chances = {
        round(_float(line, length)): _float(line, chance)
        for length, chance in _mapping(line, value, name).items()
    }
    values = sorted(length for length, chance in chances.items() if length > 0 and chance > 0)
    for length in values[-1:]:
        check_turn(TurnShape(0.0, None, (), length, 1), line.where)
    return _Lengths(values, list(accumulate(chances[length] for length in values)))


def _float(line: Line, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"{line.where}: {value!r} is not a number") from error


def _mapping(line: Line, value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WorkloadError(f"{line.where}: {name} is not an object")
    return cast("Mapping[str, Any]", value)
