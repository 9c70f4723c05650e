"""What does the demo model say when nothing is asked of it, and what are its shortest replies?

Small talk has fixed replies that are learned by heart. Parity is the one-word task.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from train.tasks.addition import draw_number
from train.tasks.problem import FollowUp, conclude

TALK = {
    "Hello": "Hello! Ask me to add, multiply, sort, count or factor something.",
    "Hi": "Hello! Ask me to add, multiply, sort, count or factor something.",
    "Hello!": "Hello! Ask me to add, multiply, sort, count or factor something.",
    "Who are you?": "I am a tiny demo model. I work in visible steps.",
    "What can you do?": "I add, multiply, sort, reverse, factor, count, write tables, "
    "follow Collatz steps and find common divisors.",
    "Thanks": "You are welcome.",
    "Thank you!": "You are welcome.",
    "Bye": "Goodbye!",
}


@dataclass(frozen=True)
class SmallTalk:
    """A remark with one fixed reply."""

    family: ClassVar[str] = "small-talk"
    remark: str

    @property
    def answer(self) -> str:
        """The whole reply."""
        return TALK[self.remark]

    def ask(self, rng: random.Random) -> str:
        """Say the remark."""
        del rng
        return self.remark

    def reply(self, rng: random.Random) -> str:
        """Give the fixed reply."""
        del rng
        return self.answer

    def follow(self, rng: random.Random) -> None:
        """Nothing follows from small talk."""
        del rng


@dataclass(frozen=True)
class Parity:
    """Whether a number is even or odd."""

    family: ClassVar[str] = "parity"
    number: int

    @property
    def answer(self) -> str:
        """`even` or `odd`."""
        return "odd" if self.number % 2 else "even"

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        return rng.choice((f"Is {self.number} even or odd?", f"Even or odd: {self.number}"))

    def reply(self, rng: random.Random) -> str:
        """Answer at once."""
        del rng
        return conclude("", self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Ask about another number."""
        number = draw_number(rng, 4)
        return FollowUp(f"And {number}?", Parity(number))


def draw_small_talk(rng: random.Random) -> SmallTalk:
    """Draw a remark."""
    return SmallTalk(rng.choice(tuple(TALK)))


def draw_parity(rng: random.Random) -> Parity:
    """Draw a number."""
    return Parity(draw_number(rng, 4))
