"""Sessions made up where no trace is at hand: seeded, and shaped like those of the traces.

Lengths and times are log-normal through a median and a 90 % quantile, each measured:

    first prompt     1,020 and 2,735 tokens    Azure 2023, prompts
    later new text     270 and 2,812 tokens    Weka, prompt beyond what came before
    reply              356 and   606 tokens    Mooncake conversation
    think time         123 and   438 s         Mooncake, gaps between turns (sessions rebuilt)
    turns a session     3.1 on average         WildChat, as PPD reports it; geometric here

Sessions begin as a Poisson process. Each has the same system prompt before its first text.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from math import exp, log

from serving.workload.session import SessionShape, Span, TurnShape, Workload, take_turns

SYSTEM_NAME = 1
NORMAL_Q90 = 1.2816


@dataclass(frozen=True, slots=True)
class LogNormal:
    """A log-normal distribution by its median and 90 % quantile."""

    median: float
    q90: float

    def draw(self, noise: random.Random) -> float:
        """Draw a value."""
        spread = log(self.q90 / self.median) / NORMAL_Q90
        return exp(noise.gauss(log(self.median), spread))


@dataclass(frozen=True, slots=True)
class Habits:
    """How sessions are shaped. Lengths in tokens, times in seconds."""

    session_rate: float
    mean_turns: float = 3.1
    system: int = 128
    first: LogNormal = LogNormal(1020, 2735)
    later: LogNormal = LogNormal(270, 2812)
    reply: LogNormal = LogNormal(356, 606)
    think: LogNormal = LogNormal(123, 438)


def make_sessions(habits: Habits, turns: int, seed: int) -> Workload:
    """Make sessions until they have `turns` turns."""
    sessions = take_turns(_endless(habits, seed), turns)
    return Workload(f"made up, seed {seed}", tuple(sessions), {})


def make_span(habits: Habits, seconds: float, seed: int) -> Workload:
    """Make the sessions that begin within `seconds` of the first."""
    endless = _endless(habits, seed)
    first = next(endless)
    later = takewhile(lambda session: session.start_s < first.start_s + seconds, endless)
    return Workload(f"made up, seed {seed}", (first, *later), {})


def _endless(habits: Habits, seed: int) -> Iterator[SessionShape]:
    noise = random.Random(f"synthetic {seed}")
    now = 0.0
    for index in count():
        now += noise.expovariate(habits.session_rate)
        turns = 1
        while noise.random() > 1 / habits.mean_turns:
            turns += 1
        shapes = tuple(_turn(habits, noise, first=i == 0) for i in range(turns))
        yield SessionShape(f"made-{index}", now, shapes)


def _turn(habits: Habits, noise: random.Random, *, first: bool) -> TurnShape:
    reply = max(1, round(habits.reply.draw(noise)))
    if first:
        shared = (Span(SYSTEM_NAME, habits.system),) if habits.system else ()
        return TurnShape(0.0, None, shared, max(1, round(habits.first.draw(noise))), reply)
    new = max(1, round(habits.later.draw(noise)))
    return TurnShape(habits.think.draw(noise), None, (), new, reply)
