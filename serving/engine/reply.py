"""How does a client's coroutine get its tokens? A buffer between the loop and one reader.

Knows nothing of text or HTTP. One writer and one reader, both in the event loop's thread.
"""

import asyncio
from collections.abc import AsyncIterator

from serving.messages import Deliver, End, SampledToken
from serving.request import TokenLogprobs, TurnId


class LoopReply:
    """Any number of `Deliver`, then exactly one `End`, then StopAsyncIteration.

    Tokens that gathered while the reader was busy come as one `Deliver`. `taken` counts the tokens
    that the reader was given, which is what a client can have seen when it leaves.
    """

    def __init__(self, turn: TurnId) -> None:
        """Start empty."""
        self.turn = turn
        self.taken = 0
        self._samples: list[SampledToken] = []
        self._prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        self._end: End | None = None
        self._over = False
        self._at_end = False
        self._waiter: asyncio.Future[None] | None = None

    def wake_at_end(self) -> None:
        """From now on keep tokens back until the end: the reader has no use for them before."""
        self._at_end = True

    def push(self, sample: SampledToken) -> None:
        """Add a token."""
        self._samples.append(sample)
        if not self._at_end:
            self._wake()

    def push_prompt(self, logprobs: tuple[TokenLogprobs | None, ...]) -> None:
        """Add the prompt's log-probabilities; they go out with the first tokens."""
        self._prompt_logprobs = logprobs

    def close(self, end: End) -> None:
        """Add the end."""
        self._end = end
        self._wake()

    def __aiter__(self) -> AsyncIterator[Deliver | End]:
        """Return itself."""
        return self

    async def __anext__(self) -> Deliver | End:
        """Wait for tokens or the end."""
        while self._end is None and (self._at_end or not self._samples):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._samples:
            deliver = Deliver(self.turn, tuple(self._samples), self._prompt_logprobs)
            self.taken += len(self._samples)
            self._samples = []
            self._prompt_logprobs = None
            return deliver
        if self._over or self._end is None:
            raise StopAsyncIteration
        self._over = True
        return self._end

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
