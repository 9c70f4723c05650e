"""Which problems write a long regular list, and how are they followed up?

Counting in steps, and times tables. Their lengths are drawn log-uniformly, mostly up to a moderate
bound and now and then up to a large one: most are short, and the longest run to far more than a
thousand tokens.
"""

import math
import random
from dataclasses import dataclass, replace
from typing import ClassVar

from train.tasks.problem import FollowUp, conclude

MAX_COUNT = 400
STEP_SIZES = (1, 2, 5, 10)
MOST_ITEMS, MAX_ITEMS = 30, 200
MOST_ROWS, MAX_ROWS = 16, 60
LONG_PROBABILITY = 0.15
MAX_TABLE = 12


@dataclass(frozen=True)
class Counting:
    """Say `items` numbers from `start` on in steps of `step` (negative counts down)."""

    family: ClassVar[str] = "counting"
    start: int
    items: int
    step: int

    @property
    def numbers(self) -> range:
        """The numbers said."""
        return range(self.start, self.start + self.items * self.step, self.step)

    @property
    def answer(self) -> str:
        """The last number said."""
        return str(self.numbers[-1])

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        verb = "Count" if self.step > 0 else "Count down"
        size = abs(self.step)
        if size == 1:
            return f"{verb} {self.items} numbers from {self.start}."
        forms = (
            f"{verb} {self.items} numbers from {self.start} by {size}.",
            f"{verb} {self.items} numbers from {self.start} in steps of {size}.",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Say the step, which a long list would else carry far from the question; then count."""
        del rng
        way = "Up" if self.step > 0 else "Down"
        lines = [f"{i}:{number}\n" for i, number in enumerate(self.numbers, start=1)]
        return conclude(f"{way} by {abs(self.step)}:\n" + "".join(lines), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Count the same numbers backwards, or other ones from the same start."""
        if rng.random() < 0.5:
            backwards = Counting(self.numbers[-1], self.items, -self.step)
            return FollowUp(rng.choice(("Now backwards.", "Count back.")), backwards)
        room = MAX_COUNT - self.start if self.step > 0 else self.start
        size = rng.choice([size for size in STEP_SIZES if size * (self.items - 1) <= room])
        text = rng.choice((f"Again by {size}.", f"Now in steps of {size}."))
        return FollowUp(text, replace(self, step=size if self.step > 0 else -size))


@dataclass(frozen=True)
class Table:
    """The first `rows` rows of the times table of `base`."""

    family: ClassVar[str] = "table"
    base: int
    rows: int

    @property
    def answer(self) -> str:
        """The product in the last row."""
        return str(self.base * self.rows)

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        forms = (
            f"Write the times table of {self.base} up to {self.rows}.",
            f"Table of {self.base}, {self.rows} rows.",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Write one row per line."""
        del rng
        rows = [f"{i}*{self.base}={i * self.base}\n" for i in range(1, self.rows + 1)]
        return conclude("".join(rows), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Change the base, or the number of rows."""
        if rng.random() < 0.5:
            base = rng.randint(2, MAX_TABLE)
            text = rng.choice((f"Again with {base}.", f"Now the same for {base}."))
            return FollowUp(text, replace(self, base=base))
        rows = log_uniform(rng, 3, 20)
        return FollowUp(f"Again up to {rows}.", replace(self, rows=rows))


def log_uniform(rng: random.Random, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high` whose logarithm is uniform."""
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def draw_counting(rng: random.Random) -> Counting:
    """Draw a count; one in five counts down."""
    size = rng.choice(STEP_SIZES)
    most = MAX_ITEMS if rng.random() < LONG_PROBABILITY else MOST_ITEMS
    items = log_uniform(rng, 4, min(most, MAX_COUNT // size))
    low = rng.randint(0, MAX_COUNT - size * (items - 1))
    if rng.random() < 0.2:
        return Counting(low + size * (items - 1), items, -size)
    return Counting(low, items, size)


def draw_table(rng: random.Random) -> Table:
    """Draw a table."""
    most = MAX_ROWS if rng.random() < LONG_PROBABILITY else MOST_ROWS
    return Table(rng.randint(2, MAX_TABLE), log_uniform(rng, 3, most))
