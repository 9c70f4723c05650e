"""What does the cached prefix save? Time to the first token of each turn of a growing conversation.

Turn by turn, the same messages are sent twice: in the conversation, whose earlier turns are
cached, and under another `cache_salt`, which may share nothing with it. Whichever comes first
alternates between turns, so that neither always meets the warmer machine.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from benchmarks.bench import Bench
from benchmarks.connection import Connection, last_object, post, streamed_text
from benchmarks.figures import figure, ratio
from benchmarks.load import HOST
from benchmarks.server import MODEL, SPLIT, Server

REPLY_LEN = 16
"""Tokens of each reply; the measurement ends with the first."""
LARGEST_NUMBER = 99

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request brought; lengths in tokens."""

    text: str
    first_s: float
    prompt_len: int
    cached_len: int


def measure(bench: Bench) -> dict[str, Any]:
    """Hold conversations with the shape of `make serve`; figures per turn, in its order."""
    with Server(bench.checkpoint, SPLIT, bench.env) as server:
        rounds = asyncio.run(_conversations(bench, server.port))
    turns = [_turn_figures(number, pairs) for number, pairs in enumerate(zip(*rounds, strict=True))]
    return {"flags": " ".join(SPLIT), "reply_len": REPLY_LEN, "turns": turns}


def _turn_figures(number: int, pairs: tuple[tuple[Answer, Answer], ...]) -> dict[str, Any]:
    cached = [cached for cached, _ in pairs]
    cold = [cold for _, cold in pairs]
    return {
        "turn": number + 1,
        "prompt_len": cached[0].prompt_len,
        "cached_len": cached[0].cached_len,
        "cached_first_s": figure([answer.first_s for answer in cached]),
        "cold_first_s": figure([answer.first_s for answer in cold]),
        "ratio": ratio([a.first_s for a in cached], [a.first_s for a in cold]),
    }


async def _conversations(bench: Bench, port: int) -> list[list[tuple[Answer, Answer]]]:
    """One conversation more than repeats: the first only warms the server up."""
    connection = await Connection.open(HOST, port)
    talker = _Talker(connection, port)
    words = await talker.words_for(bench.scale.turn_len)
    rounds: list[list[tuple[Answer, Answer]]] = []
    for number in range(bench.scale.repeats + 1):
        bench.say(f"conversation {number + 1} of {bench.scale.repeats + 1}")
        rounds.append(await _conversation(talker, number, bench.scale.turns, words))
    connection.close()
    return rounds[1:]


async def _conversation(
    talker: "_Talker", number: int, turns: int, words: int
) -> list[tuple[Answer, Answer]]:
    messages: Messages = []
    answers: list[tuple[Answer, Answer]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": _message(f"{number}/{turn}", words)})
        own, other = f"conversation-{number}", f"alone-{number}-{turn}"
        if turn % 2:
            cold, cached = await talker.say(messages, other), await talker.say(messages, own)
        else:
            cached, cold = await talker.say(messages, own), await talker.say(messages, other)
        messages.append({"role": "assistant", "content": cached.text})
        answers.append((cached, cold))
    return answers


def _message(seed: str, words: int) -> str:
    numbers = random.Random(seed)
    return " ".join(str(numbers.randrange(10, LARGEST_NUMBER + 1)) for _ in range(words))


class _Talker:
    """Sends chats over one connection."""

    def __init__(self, connection: Connection, port: int) -> None:
        self._connection = connection
        self._port = port

    async def words_for(self, tokens: int) -> int:
        """How many words of `_message` make about so many tokens."""
        sample = 100
        body = {"model": MODEL, "prompt": _message("sample", sample)}
        reply = await self._connection.send(post("/tokenize", self._port, body))
        return max(1, round(tokens * sample / last_object(reply, stream=False)["count"]))

    async def say(self, messages: Messages, cache_salt: str) -> Answer:
        """Send a chat and note when its first token came."""
        body = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": REPLY_LEN,
            "temperature": 0,
            "cache_salt": cache_salt,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reply = await self._connection.send(post("/v1/chat/completions", self._port, body))
        usage = last_object(reply, stream=True)["usage"]
        return Answer(
            text=streamed_text(reply.body),
            first_s=reply.first_s,
            prompt_len=usage["prompt_tokens"],
            cached_len=usage["prompt_tokens_details"]["cached_tokens"],
        )
