"""Which problems follow one number, or a pair, step by step until a rule says stop?

Collatz trajectories, Euclid's algorithm by subtraction, and factoring by trial division. Their
lengths depend on the input in ways that are hard to see, which is what makes them interesting to a
length predictor. Ranges are small: the Collatz starts and the factored numbers are few enough that
a trained model has seen them all.
"""

import random
from dataclasses import dataclass
from typing import ClassVar

from train.tasks.problem import FollowUp, conclude, with_rechecks

MAX_COLLATZ = 250
MAX_EUCLID = 60
MAX_FACTORED = 250


@dataclass(frozen=True)
class Collatz:
    """The number of steps from `start` to 1 (halve when even, else triple and add one)."""

    family: ClassVar[str] = "collatz"
    start: int

    @property
    def trajectory(self) -> tuple[int, ...]:
        """The numbers after `start`, down to 1."""
        number, seen = self.start, []
        while number != 1:
            number = number // 2 if number % 2 == 0 else 3 * number + 1
            seen.append(number)
        return tuple(seen)

    @property
    def answer(self) -> str:
        """The number of steps."""
        return str(len(self.trajectory))

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        n = self.start
        forms = (
            f"Collatz from {n}.",
            f"How many Collatz steps does {n} take?",
            f"Follow the Collatz rule from {n} to 1.",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Write each step with its number."""
        del rng
        steps = [f"{i}:{number}\n" for i, number in enumerate(self.trajectory, start=1)]
        return conclude(f"0:{self.start}\n" + "".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Start from another number."""
        other = draw_collatz(rng)
        return FollowUp(again(other.start, rng), other)


@dataclass(frozen=True)
class Euclid:
    """The greatest common divisor of two numbers."""

    family: ClassVar[str] = "euclid"
    left: int
    right: int

    @property
    def answer(self) -> str:
        """The greatest common divisor."""
        larger, smaller = max(self.left, self.right), min(self.left, self.right)
        while smaller:
            larger, smaller = smaller, larger % smaller
        return str(larger)

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        a, b = self.left, self.right
        forms = (
            f"What is gcd({a}, {b})?",
            f"Find the greatest common divisor of {a} and {b}.",
            f"Use Euclid on {a} and {b}.",
        )
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Subtract the smaller from the larger until nothing is left."""
        del rng
        larger, smaller = max(self.left, self.right), min(self.left, self.right)
        steps = []
        while smaller:
            rest = larger - smaller
            steps.append(f"{larger}-{smaller}={rest}\n")
            larger, smaller = max(smaller, rest), min(smaller, rest)
        return conclude("".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Keep the first number and replace the second."""
        number = rng.randint(2, MAX_EUCLID)
        return FollowUp(again(number, rng), Euclid(self.left, number))


@dataclass(frozen=True)
class Factoring:
    """The prime factors of a number, smallest first."""

    family: ClassVar[str] = "factoring"
    number: int

    @property
    def answer(self) -> str:
        """The prime factors joined by `*`."""
        rest, prime, factors = self.number, 2, []
        while rest > 1:
            while rest % prime == 0:
                factors.append(str(prime))
                rest //= prime
            prime += 1
        return "*".join(factors)

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        n = self.number
        forms = (f"Factor {n}.", f"What are the prime factors of {n}?", f"Factorize {n}.")
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Try the primes in order until the rest must be prime."""
        rest = self.number
        steps = []
        for prime in (2, 3, 5, 7, 11, 13, 17):
            while rest % prime == 0 and prime * prime <= rest:
                steps.append(f"{rest}/{prime}={rest // prime}\n")
                rest //= prime
            if prime * prime > rest:
                break
            steps.append(f"{rest}/{prime} no\n")
        steps.append(f"{rest} prime\n")
        return conclude(with_rechecks("".join(steps), rng), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Factor another number."""
        number = rng.randint(2, MAX_FACTORED)
        return FollowUp(again(number, rng), Factoring(number))


def again(number: int, rng: random.Random) -> str:
    """Ask for the same kind of problem with another number."""
    forms = (f"Again with {number}.", f"And {number}?", f"Now the same for {number}.")
    return rng.choice(forms)


def draw_collatz(rng: random.Random) -> Collatz:
    """Draw a start: of two, the one with the shorter way, since a few ways are very long."""
    starts = (Collatz(rng.randint(2, MAX_COLLATZ)), Collatz(rng.randint(2, MAX_COLLATZ)))
    return min(starts, key=lambda collatz: len(collatz.trajectory))


def draw_euclid(rng: random.Random) -> Euclid:
    """Draw a pair; half of them are made to share a divisor."""
    if rng.random() < 0.5:
        return Euclid(rng.randint(2, MAX_EUCLID), rng.randint(2, MAX_EUCLID))
    shared = rng.randint(2, 20)
    most = MAX_EUCLID // shared
    return Euclid(shared * rng.randint(1, most), shared * rng.randint(1, most))


def draw_factoring(rng: random.Random) -> Factoring:
    """Draw a number to factor."""
    return Factoring(rng.randint(2, MAX_FACTORED))
