"""How is carried addition asked, worked and followed up?

Numbers have one to five digits, so almost every longer sum of a new seed was never trained on.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from train.tasks.digits import sum_steps
from train.tasks.problem import FollowUp, conclude, with_rechecks

MAX_DIGITS = 5


@dataclass(frozen=True)
class Addition:
    """The sum of two whole numbers."""

    family: ClassVar[str] = "addition"
    left: int
    right: int

    @property
    def answer(self) -> str:
        """The sum in decimal."""
        return str(self.left + self.right)

    def ask(self, rng: random.Random) -> str:
        """Phrase the sum."""
        a, b = self.left, self.right
        forms = (
            f"What is {a} + {b}?",
            f"Add {a} and {b}.",
            f"Compute {a}+{b}.",
            f"How much is {a} plus {b}?",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Add column by column, rechecking now and then."""
        return conclude(with_rechecks(sum_steps(self.left, self.right), rng), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Add to the result, or replace the second number."""
        number = draw_number(rng, 3)
        if rng.random() < 0.5:
            total = self.left + self.right
            text = rng.choice((f"Now add {number}.", f"Add {number} to that."))
            return FollowUp(text, Addition(total, number))
        text = rng.choice((f"Again with {number}.", f"And with {number} instead of {self.right}?"))
        return FollowUp(text, Addition(self.left, number))


def draw_number(rng: random.Random, max_digits: int) -> int:
    """Draw a number whose digit count is uniform from one to `max_digits`."""
    digits = rng.randint(1, max_digits)
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def draw(rng: random.Random) -> Addition:
    """Draw a sum."""
    return Addition(draw_number(rng, MAX_DIGITS), draw_number(rng, MAX_DIGITS))
