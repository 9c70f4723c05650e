"""How do a request's turns run? From submission to the last end, cancellation included.

Knows nothing of JSON or sockets. Lifecycle of an `Exchange`:

1. `open` submits every choice and waits until the engine has accepted: until the first item of
   the first reply is there. Refusals so far raise; no status line is out yet. Further choices of
   a prompt follow its first one: the engine starts them with that one's first token, so that they
   find the prompt's pages, and refuses them only with it.
2. `pieces` is run once per strand, concurrently.
3. `cancel` and `abandon` may come at any time; every reply still ends by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from serving.api.choice import Choice, Piece
from serving.api.engine import Engine, Reply
from serving.api.errors import of_outcome
from serving.forecast.forecast import Prediction
from serving.messages import Completed, Deliver, Dropped, End, Outcome
from serving.metrics.observer import STOPPED
from serving.request import FinishReason, Turn, TurnId


@dataclass(slots=True)
class Strand:
    """One choice and the turn that fills it; `leader` is the first choice of the same prompt.

    Without a turn nothing is computed: the client asked for no token. `predictions` are what the
    length head said of the reply, once it has ended.
    """

    choice: Choice
    prompt: tuple[int, ...]
    turn: Turn | None
    leader: "Strand | None"
    reply: Reply | None = None
    first: asyncio.Task[Deliver | End] | None = None
    cached_len: int = 0
    predictions: Sequence[Prediction] = ()


EXCHANGE = "foretoken.exchange"
"""The key in an ASGI scope of the exchange that answers the request."""


class ClientLeft(Exception):
    """Nobody waits for the rest."""


class Exchange:
    """The turns of one HTTP request, identified to the client as `id`.

    `first_token_at`: when the first token of any of them was here, by the running loop's clock.
    """

    def __init__(self, engine: Engine, id: str, strands: Sequence[Strand]) -> None:
        self.id = id
        self.strands = strands
        self.first_token_at: float | None = None
        self._engine = engine
        self._live: set[TurnId] = set()
        self._dropped: Dropped | None = None
        self._abandoned = False

    async def open(self) -> None:
        """Submit the turns and wait for acceptance; raises ApiError, or ClientLeft."""
        firsts: list[asyncio.Task[Deliver | End]] = []
        for strand in self.strands:
            if firsts and strand.leader is None:
                await asyncio.sleep(0)  # a request may have thousands of prompts; others go on
            firsts.append(self._submit(strand))
        done, _ = await asyncio.wait(firsts, return_when=asyncio.FIRST_COMPLETED)
        for first in done:
            item = first.result()
            if isinstance(item, End):
                self._check(item.outcome)

    async def pieces(self, strand: Strand, *, at_end: bool) -> AsyncIterator[Piece]:
        """Yield a strand's text as it comes; the choice is closed with the last piece.

        With `at_end` the reader can wait for the whole text: it comes in as few pieces as the
        choice's stop strings allow, which have to be looked for in every token.
        Raises ApiError when its turn fails and ClientLeft when nobody reads any more.
        """
        if strand.reply is None or strand.first is None:
            raise RuntimeError("a strand's reply is read before it is submitted")
        choice, reply = strand.choice, strand.reply
        item = await strand.first
        if at_end and not choice.watches_text:
            reply.wake_at_end()
        while isinstance(item, Deliver):
            if item.prompt_logprobs is not None:
                choice.prompt_logprobs = item.prompt_logprobs
            open_before = choice.finish is None
            piece = choice.push(item.samples)
            if choice.finish is not None and open_before and strand.turn is not None:
                self._engine.cancel(strand.turn.id, STOPPED)
            if piece.samples or piece.text:
                yield piece
            item = await anext(reply)
        yield self._end(strand, item)

    def cancel(self, reason: str) -> None:
        """Cancel every turn that still runs, and submit none; the client gets an error."""
        self._dropped = Dropped(reason)
        for turn in tuple(self._live):
            self._engine.cancel(turn, reason)

    def abandon(self, reason: str) -> None:
        """Cancel because nobody reads the answer; no effect on an exchange that has ended."""
        self._abandoned = True
        self.cancel(reason)

    def _submit(self, strand: Strand) -> asyncio.Task[Deliver | End]:
        if self._dropped is not None:
            self._check(self._dropped)
        if strand.turn is None:
            strand.reply = _Nothing(strand)
        else:
            self._live.add(strand.turn.id)
            strand.reply = self._engine.submit(strand.turn)
        strand.first = asyncio.create_task(self._first(strand.reply))
        return strand.first

    async def _first(self, reply: Reply) -> Deliver | End:
        item = await anext(reply)
        if self.first_token_at is None and isinstance(item, Deliver):
            self.first_token_at = asyncio.get_running_loop().time()
        return item

    def _end(self, strand: Strand, end: End) -> Piece:
        self._live.discard(end.turn)
        strand.cached_len = end.cached_len
        strand.predictions = end.predictions
        if strand.choice.finish is None:
            self._check(end.outcome)
        reason = end.outcome.reason if isinstance(end.outcome, Completed) else FinishReason.STOP
        return strand.choice.close(reason)

    def _check(self, outcome: Outcome) -> None:
        """Raise what a turn's end means, unless its reply is whole."""
        if isinstance(outcome, Dropped) and self._abandoned:
            raise ClientLeft(outcome.reason)
        problem = of_outcome(outcome, self.id)
        if problem is not None:
            raise problem


class _Nothing:
    """The reply to a request for no tokens at all."""

    def __init__(self, strand: Strand) -> None:
        self._prompt_len = len(strand.prompt)

    def wake_at_end(self) -> None:
        """The end is all there is."""

    def __aiter__(self) -> AsyncIterator[Deliver | End]:
        return self

    async def __anext__(self) -> Deliver | End:
        return End(TurnId(""), Completed(FinishReason.LENGTH), self._prompt_len, 0, 0)
