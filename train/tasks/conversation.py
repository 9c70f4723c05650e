"""How do problems become conversations, for training and for testing?

A topic is one problem and the follow-ups after it. A training conversation strings topics
together, so that the model learns to work from the last question in a long history. This file
knows no token and no model.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from train.tasks.families import FAMILIES, draw_problem
from train.tasks.problem import Problem

FOLLOW_UP_FAMILY = "follow-up"
# Chance of one more follow-up after each turn of a topic.
FOLLOW_UP_PROBABILITY = 0.35
SYSTEM_PROBABILITY = 0.1
SYSTEM_PROMPTS = (
    "You are a careful calculator.",
    "You are a helpful assistant.",
    "Work in steps.",
)
# Families whose problems have a follow-up; filtering may leave too little to ask about.
FOLLOWED = tuple(name for name in FAMILIES if name not in ("small-talk", "filtering"))


@dataclass(frozen=True)
class Turn:
    """One question and a correct reply to it."""

    question: str
    reply: str


@dataclass(frozen=True)
class Example:
    """A prompt whose right answer is known.

    `messages` hold role and content; the last one is the user's.
    """

    family: str
    messages: tuple[tuple[str, str], ...]
    answer: str


def draw_topic(rng: random.Random) -> list[Turn]:
    """Draw a problem and a geometric number of follow-ups."""
    problem = draw_problem(rng)
    turns = [Turn(problem.ask(rng), problem.reply(rng))]
    while rng.random() < FOLLOW_UP_PROBABILITY:
        follow_up = problem.follow(rng)
        if follow_up is None:
            break
        problem = follow_up.problem
        turns.append(Turn(follow_up.text, problem.reply(rng)))
    return turns


def draw_script(family: str, rng: random.Random) -> list[str]:
    """Draw what a user asks in one session: a problem of a family and its follow-ups."""
    problem = FAMILIES[family](rng)
    questions = [problem.ask(rng)]
    while rng.random() < FOLLOW_UP_PROBABILITY:
        following = problem.follow(rng)
        if following is None:
            break
        problem = following.problem
        questions.append(following.text)
    return questions


def draw_system(rng: random.Random) -> str | None:
    """Draw a system prompt, mostly none."""
    return rng.choice(SYSTEM_PROMPTS) if rng.random() < SYSTEM_PROBABILITY else None


def single_turn(problem: Problem, rng: random.Random) -> Example:
    """Ask one problem in a fresh conversation."""
    return Example(problem.family, (("user", problem.ask(rng)),), problem.answer)


def follow_up(rng: random.Random) -> Example:
    """Ask a follow-up after one or two turns of a topic of any family that has follow-ups.

    Every family is equally likely to open the topic.
    """
    problem = FAMILIES[rng.choice(FOLLOWED)](rng)
    messages = [("user", problem.ask(rng)), ("assistant", problem.reply(rng))]
    depth = rng.choice((1, 1, 2))
    for turn in range(depth):
        following = problem.follow(rng)
        if following is None:
            break
        problem = following.problem
        messages.append(("user", following.text))
        if turn + 1 < depth:
            messages.append(("assistant", problem.reply(rng)))
    if messages[-1][0] == "assistant":
        messages.pop()
    return Example(FOLLOW_UP_FAMILY, tuple(messages), problem.answer)


def examples(count: int, seed: int) -> Iterator[Example]:
    """Yield `count` fresh prompts of every family, then `count` follow-ups."""
    for family, draw in FAMILIES.items():
        rng = random.Random(f"{family} {seed}")
        for _ in range(count):
            yield single_turn(draw(rng), rng)
    rng = random.Random(f"{FOLLOW_UP_FAMILY} {seed}")
    for _ in range(count):
        yield follow_up(rng)
