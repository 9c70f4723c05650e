"""Who asks, and when? Sessions begin at their times, whatever the server does.

Within a session each turn comes a think time after the reply before it. A session whose turn fails
ends there, as a person would give up.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from serving.replay.conversation import Conversation
from serving.replay.failure import TurnFailed
from serving.replay.recorder import Recorder
from serving.replay.reply import Chunk, Reply
from serving.replay.server import Server
from serving.request import TurnId
from serving.workload.session import SessionShape

INTERRUPTED = TurnFailed("interrupted", "the replay was ended before the reply")


def places(limit: int | None) -> AbstractAsyncContextManager[Any]:
    """Return what a turn holds while it is in the server: one of `limit` places, or nothing."""
    return nullcontext() if limit is None else asyncio.Semaphore(limit)


@dataclass(frozen=True, slots=True)
class Player:
    """Plays sessions. Times in seconds on `clock`; `on_turns` counts turns that are over."""

    server: Server
    recorder: Recorder
    clock: Callable[[], float]
    places: AbstractAsyncContextManager[Any]
    on_turns: Callable[[int], object]

    async def play(self, session: SessionShape, conversation: Conversation, begin: float) -> None:
        """Send the turns of a session that begins at `begin`; raises ReplayError."""
        due = begin
        for number, turn in enumerate(session.turns):
            due += turn.think_s
            await asyncio.sleep(max(0.0, due - self.clock()))
            whole = await self._turn(session, number, conversation, due)
            self.on_turns(1)
            if not whole:
                left = len(session.turns) - number - 1
                self.recorder.on_given_up(left)
                self.on_turns(left)
                return
            due = self.clock()

    async def _turn(
        self, session: SessionShape, number: int, conversation: Conversation, due: float
    ) -> bool:
        """Send a turn and read its reply; False if it failed."""
        turn = session.turns[number]
        name = f"{session.id}.{number}"
        async with self.places:
            ask = conversation.ask(turn, name)
            request = self.server.request(ask, turn.reply, session.id)
            reply = Reply()
            # Not before: writing a long prompt is the client's time, not the server's.
            now = self.clock()
            record = self.recorder.on_sent(TurnId(name), number, ask.prompt_len, due, now)

            def take(chunk: Chunk) -> None:
                self.recorder.on_tokens(record, chunk.tokens, self.clock())
                reply.add(chunk)

            try:
                await self.server.send(request, take)
                reply.check_whole()
            except TurnFailed as failure:
                self.recorder.on_failure(record, failure)
                return False
            except asyncio.CancelledError:
                self.recorder.on_failure(record, INTERRUPTED)
                raise
            self.recorder.on_whole(record, reply.usage, turn.reply)
        conversation.heard(reply)
        return True
