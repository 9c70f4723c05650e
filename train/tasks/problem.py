"""What is a problem, and how is an answer read out of a reply?

A problem is a small frozen value that can phrase its question, write a worked reply and say which
follow-ups make sense after it. This file knows no family, no tokenizer and no model.

An answer is what follows the last `Answer:` of a reply, up to the end of its line. A reply without
that mark (small talk) is its own answer.
"""

import random
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

ANSWER_MARK = "Answer:"
RECHECK = "Check again."
# Below one half, so that the likeliest reply never rechecks, while sampled replies often do.
RECHECK_PROBABILITY = 0.3


@runtime_checkable
class Problem(Protocol):
    """A question with one right answer; `family` names its kind.

    All randomness (phrasing, number of rechecks, choice of follow-up) comes from the caller's
    generator, so equal seeds give equal text.
    """

    family: ClassVar[str]

    @property
    def answer(self) -> str:
        """The one right answer, as `extract_answer` returns it."""
        ...

    def ask(self, rng: random.Random) -> str:
        """Phrase the question so that it stands alone."""
        ...

    def reply(self, rng: random.Random) -> str:
        """Write a worked reply that ends with the answer."""
        ...

    def follow(self, rng: random.Random) -> "FollowUp | None":
        """Draw a question that needs this one, or None where the family has none."""
        ...


@dataclass(frozen=True)
class FollowUp:
    """A question that only makes sense after an earlier turn.

    `problem` is the question in full: its reply and its answer are those of the follow-up.
    """

    text: str
    problem: Problem


def extract_answer(reply: str) -> str:
    """Read the final answer out of a reply, as the module docstring says."""
    _, mark, tail = reply.rpartition(ANSWER_MARK)
    if not mark:
        return reply.strip()
    return tail.strip().split("\n", maxsplit=1)[0].strip()


def conclude(steps: str, answer: str) -> str:
    """Close worked steps (each line ended by a newline) with the answer."""
    return f"{steps}{ANSWER_MARK} {answer}"


def with_rechecks(steps: str, rng: random.Random) -> str:
    """Repeat the steps a geometric number of times, so that one prompt has replies of many lengths.

    The answer stays determined: every pass writes the same lines.
    """
    passes = 0
    while rng.random() < RECHECK_PROBABILITY:
        passes += 1
    return steps + f"{RECHECK}\n{steps}" * passes


def join(numbers: tuple[int, ...]) -> str:
    """Write numbers separated by single spaces."""
    return " ".join(str(number) for number in numbers)
