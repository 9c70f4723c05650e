"""How are sessions played through the engine? Questions in, the model's own replies out.

A session's next question is asked once its last reply has ended; many sessions run at once. Works
on any engine that takes turns. Knows no records and no hidden states.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from model.sampling_defaults import SamplingDefaults
from model.tokenizer import ChatTokenizer
from serving.messages import Completed, Deliver, End
from serving.request import (
    GREEDY,
    FinishReason,
    SamplingParams,
    SessionId,
    Slo,
    Turn,
    TurnId,
)


@runtime_checkable
class Engine(Protocol):
    """Takes turns, and returns their replies token by token."""

    def submit(self, turn: Turn) -> AsyncIterator[Deliver | End]:
        """Start a turn."""
        ...


@dataclass(frozen=True, slots=True)
class Script:
    """What a user asks in one session, and how its replies are sampled.

    `caps[i]` bounds the i-th reply in tokens. `number` names the session within its run; samples of
    the same questions share it and differ in `seed`.
    """

    number: int
    family: int
    questions: tuple[str, ...]
    caps: tuple[int, ...]
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: token ids of its prompt and of itself, its end token included.

    `limit`: how long it might have been, by its cap and the context. `censored`: cut off there.
    """

    script: Script
    turn: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    limit: int
    censored: bool


class LostReply(RuntimeError):
    """A reply ended in a way that says nothing of its length."""


def left_open(defaults: SamplingDefaults) -> SamplingParams:
    """Return how a server samples where requests do not say (serving/api/params), but greedily."""
    return replace(
        GREEDY,
        top_p=defaults.top_p,
        top_k=defaults.top_k if defaults.top_k > 0 else None,
        min_p=defaults.min_p,
        repetition_penalty=defaults.repetition_penalty,
    )


async def play(
    engine: Engine,
    tokenizer: ChatTokenizer,
    scripts: Sequence[Script],
    *,
    sampling: SamplingParams,
    max_total: int,
    room: asyncio.Semaphore,
) -> list[Reply]:
    """Play all scripts, as many at once as `room` lets in; returns the replies by script and turn.

    `sampling` is what scripts leave open: all but temperature, seed and where a reply ends.
    A session ends early where the context of `max_total` tokens leaves no room for another reply.
    Raises LostReply if the engine fails a turn.
    """

    async def one(script: Script) -> list[Reply]:
        async with room:
            return await _play_one(engine, tokenizer, script, sampling, max_total)

    played = await asyncio.gather(*(one(script) for script in scripts))
    return [reply for replies in played for reply in replies]


async def _play_one(
    engine: Engine,
    tokenizer: ChatTokenizer,
    script: Script,
    sampling: SamplingParams,
    max_total: int,
) -> list[Reply]:
    messages: list[dict[str, str]] = []
    replies: list[Reply] = []
    for turn, (question, cap) in enumerate(zip(script.questions, script.caps, strict=True)):
        messages.append({"role": "user", "content": question})
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        prompt = tuple(tokenizer.encode(text, add_special_tokens=False))
        limit = min(cap, max_total - len(prompt))
        if limit < 1:
            break
        name = f"{script.number}.{script.temperature}.{script.seed}"
        own = replace(
            sampling,
            max_tokens=limit,
            temperature=script.temperature,
            stop_ids=tokenizer.eos_ids,
            seed=script.seed + turn,
        )
        asked = Turn(
            id=TurnId(f"{name}.{turn}"),
            session=SessionId(name),
            tokens=prompt,
            sampling=own,
            slo=Slo(None, None),
            priority=0,
            salt="",
            number=turn,
        )
        tokens, reason = await _read(engine, asked)
        censored = reason is FinishReason.LENGTH
        replies.append(Reply(script, turn, prompt, tokens, limit, censored))
        answer = tokenizer.decode(tokens, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})
    return replies


async def _read(engine: Engine, turn: Turn) -> tuple[tuple[int, ...], FinishReason]:
    tokens: list[int] = []
    async for item in engine.submit(turn):
        if isinstance(item, End):
            if not isinstance(item.outcome, Completed):
                raise LostReply(f"turn {turn.id} was not answered: {item.outcome}")
            return tuple(tokens), item.outcome.reason
        tokens += [sample.token for sample in item.samples]
    raise LostReply(f"turn {turn.id} had no end")
