"""Which questions about a list of numbers are there, and how do they follow from one another?

Sorting inserts one number at a time and rewrites the sorted part. Reversing answers at once;
filtering and the largest number walk along the list. Every problem leaves a list behind, so a chain
of follow-ups never runs dry. Lists hold distinct numbers from 1 to 99.
"""

import random
from dataclasses import dataclass, replace
from typing import ClassVar

from train.tasks.problem import FollowUp, conclude, join

MAX_LENGTH = 10


@dataclass(frozen=True)
class Sorting:
    """The list in ascending or descending order."""

    family: ClassVar[str] = "sorting"
    numbers: tuple[int, ...]
    descending: bool

    @property
    def sorted_numbers(self) -> tuple[int, ...]:
        """The list in the order asked for."""
        return tuple(sorted(self.numbers, reverse=self.descending))

    @property
    def answer(self) -> str:
        """The sorted list."""
        return join(self.sorted_numbers)

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        text = list_text(self.numbers, rng)
        if self.descending:
            return rng.choice((f"Sort {text} descending.", f"Sort from high to low: {text}"))
        return rng.choice((f"Sort {text}.", f"Sort these numbers: {text}", f"Put {text} in order."))

    def reply(self, rng: random.Random) -> str:
        """Insert the numbers one by one, always in ascending order, then answer."""
        del rng
        done: list[int] = []
        steps = []
        for number in self.numbers:
            done = sorted([*done, number])
            steps.append(f"{number}: {join(tuple(done))}\n")
        return conclude("".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Ask about the sorted list."""
        return follow_list(self.sorted_numbers, rng)


@dataclass(frozen=True)
class Reversing:
    """The list, back to front."""

    family: ClassVar[str] = "reversing"
    numbers: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The reversed list."""
        return join(self.numbers[::-1])

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        text = list_text(self.numbers, rng)
        forms = (f"Reverse {text}.", f"Write {text} backwards.", f"Reverse the list {text}")
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Answer at once."""
        del rng
        return conclude("", self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Ask about the reversed list."""
        return follow_list(self.numbers[::-1], rng)


@dataclass(frozen=True)
class Filtering:
    """The even or the odd numbers of a list, in order."""

    family: ClassVar[str] = "filtering"
    numbers: tuple[int, ...]
    odd: bool

    @property
    def kept(self) -> tuple[int, ...]:
        """The numbers that stay."""
        return tuple(number for number in self.numbers if number % 2 == self.odd)

    @property
    def answer(self) -> str:
        """The numbers that stay, or `none`."""
        return join(self.kept) or "none"

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        text = list_text(self.numbers, rng)
        kind = "odd" if self.odd else "even"
        forms = (f"Which of {text} are {kind}?", f"Keep only the {kind} numbers of {text}.")
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Name the kind of every number and list those that stay so far."""
        del rng
        kinds = ("even", "odd")
        steps = []
        for count, number in enumerate(self.numbers, start=1):
            kept = replace(self, numbers=self.numbers[:count]).answer
            steps.append(f"{number} {kinds[number % 2]}: {kept}\n")
        return conclude("".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp | None:
        """Ask about the numbers that stayed, unless too few did."""
        return follow_list(self.kept, rng) if len(self.kept) > 1 else None


@dataclass(frozen=True)
class Largest:
    """The largest number of a list."""

    family: ClassVar[str] = "largest"
    numbers: tuple[int, ...]

    @property
    def answer(self) -> str:
        """The largest number."""
        return str(max(self.numbers))

    def ask(self, rng: random.Random) -> str:
        """Phrase the question."""
        text = list_text(self.numbers, rng)
        forms = (f"What is the largest of {text}?", f"Find the largest number: {text}")
        return rng.choice(forms)

    def reply(self, rng: random.Random) -> str:
        """Walk along the list and keep the largest number so far."""
        del rng
        best = 0
        steps = []
        for number in self.numbers:
            best = max(best, number)
            steps.append(f"{number}: {best}\n")
        return conclude("".join(steps), self.answer)

    def follow(self, rng: random.Random) -> FollowUp:
        """Ask about the same list."""
        return follow_list(self.numbers, rng)


def follow_list(numbers: tuple[int, ...], rng: random.Random) -> FollowUp:
    """Draw a question about a list that stands in the conversation."""
    match rng.randrange(5):
        case 0:
            return FollowUp(rng.choice(("Reverse it.", "Now backwards.")), Reversing(numbers))
        case 1:
            odd = rng.random() < 0.5
            kind = "odd" if odd else "even"
            text = rng.choice((f"Only the {kind} ones.", f"Which of them are {kind}?"))
            return FollowUp(text, Filtering(numbers, odd))
        case 2:
            text = rng.choice(("Which is the largest?", "And the largest?"))
            return FollowUp(text, Largest(numbers))
        case 3 if list(numbers) == sorted(numbers):
            return FollowUp("Sort it descending.", Reversing(numbers))
        case _:
            descending = rng.random() < 0.5
            text = "Sort it descending." if descending else rng.choice(("Sort it.", "Now sort it."))
            return FollowUp(text, Sorting(numbers, descending))


def list_text(numbers: tuple[int, ...], rng: random.Random) -> str:
    """Write a list as users do, with or without commas."""
    return rng.choice((" ", ", ")).join(str(number) for number in numbers)


def draw_list(rng: random.Random) -> tuple[int, ...]:
    """Draw three or more distinct numbers from 1 to 99."""
    return tuple(rng.sample(range(1, 100), rng.randint(3, MAX_LENGTH)))


def draw_sorting(rng: random.Random) -> Sorting:
    """Draw a list to sort."""
    return Sorting(draw_list(rng), rng.random() < 0.3)


def draw_reversing(rng: random.Random) -> Reversing:
    """Draw a list to reverse."""
    return Reversing(draw_list(rng))


def draw_filtering(rng: random.Random) -> Filtering:
    """Draw a list to filter."""
    return Filtering(draw_list(rng), rng.random() < 0.5)


def draw_largest(rng: random.Random) -> Largest:
    """Draw a list whose largest number is asked for."""
    return Largest(draw_list(rng))
