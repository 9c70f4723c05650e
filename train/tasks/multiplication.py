"""How is long multiplication asked, worked and followed up?

One row per digit of the second factor, then the rows are added. Factors have two or three digits
times one or two digits.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from train.tasks.addition import Addition, draw_number
from train.tasks.digits import row_steps, sum_steps
from train.tasks.problem import FollowUp, conclude


@dataclass(frozen=True)
class Multiplication:
    """The product of two whole numbers; no digit of `right` is zero."""

    family: ClassVar[str] = "multiplication"
    left: int
    right: int

    @property
    def answer(self) -> str:
        """The product in decimal."""
        return str(self.left * self.right)

    def ask(self, rng: random.Random) -> str:
        """Phrase the product."""
        a, b = self.left, self.right
        forms = (
            f"What is {a} * {b}?",
            f"Multiply {a} by {b}.",
            f"Compute {a}*{b}.",
            f"How much is {a} times {b}?",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Multiply digit by digit, then add the rows."""
        del rng
        steps = [f"{self.left}*{self.right}\n"]
        total = 0
        for shift, digit in enumerate(reversed(str(self.right))):
            row = self.left * int(digit) * 10**shift
            steps.append(row_steps(self.left, int(digit)))
            if shift > 0:
                steps.append(f"shift {row}\n")
                steps.append(sum_steps(total, row))
            total += row
        return conclude("".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Add to the result, or replace the second factor."""
        if rng.random() < 0.4:
            number = draw_number(rng, 3)
            text = rng.choice((f"Now add {number}.", f"Add {number} to that."))
            return FollowUp(text, Addition(self.left * self.right, number))
        number = draw_factor(rng)
        text = rng.choice((f"Again with {number}.", f"And with {number} instead of {self.right}?"))
        return FollowUp(text, Multiplication(self.left, number))


def draw_factor(rng: random.Random) -> int:
    """Draw a factor of one or two digits, none of them zero (a zero row teaches nothing)."""
    tens = rng.randint(1, 9) if rng.random() < 0.75 else 0
    return 10 * tens + rng.randint(1, 9)


def draw(rng: random.Random) -> Multiplication:
    """Draw a product."""
    return Multiplication(rng.randint(10, 999), draw_factor(rng))
