"""When a reply wakes its reader, and what the reader then gets."""

import asyncio

from serving.engine.reply import LoopReply
from serving.messages import Completed, Deliver, Dropped, End, Outcome, SampledToken
from serving.request import FinishReason, TurnId

TURN = TurnId("t")
WHOLE = Completed(FinishReason.LENGTH)


def sample(index: int) -> SampledToken:
    return SampledToken(index, 10 + index, None)


def end(outcome: Outcome, length: int) -> End:
    return End(TURN, outcome, 4, length, 0)


class Reader:
    """Reads a reply in a task of its own."""

    def __init__(self, reply: LoopReply) -> None:
        self.items: list[Deliver | End] = []
        self._task = asyncio.create_task(self._read(reply))

    async def _read(self, reply: LoopReply) -> None:
        async for item in reply:
            self.items.append(item)

    async def settle(self) -> list[int | None]:
        """Let it run; returns how many tokens each item brought so far (None for the end)."""
        for _ in range(3):
            await asyncio.sleep(0)
        return [len(i.samples) if isinstance(i, Deliver) else None for i in self.items]


def test_tokens_come_as_they_are_pushed_and_together_while_the_reader_is_busy():
    async def main() -> None:
        reply = LoopReply(TURN)
        reader = Reader(reply)
        assert await reader.settle() == []
        reply.push(sample(0))
        assert await reader.settle() == [1]
        reply.push(sample(1))
        reply.push(sample(2))
        assert await reader.settle() == [1, 2]
        assert reply.taken == 3
        reply.close(end(WHOLE, 3))
        assert await reader.settle() == [1, 2, None]

    asyncio.run(main())


def test_a_reader_that_waits_for_the_end_gets_the_rest_at_once():
    async def main() -> None:
        reply = LoopReply(TURN)
        reader = Reader(reply)
        reply.push(sample(0))
        assert await reader.settle() == [1]
        reply.wake_at_end()
        for index in (1, 2, 3):
            reply.push(sample(index))
            assert await reader.settle() == [1]
        reply.close(end(WHOLE, 4))
        assert await reader.settle() == [1, 3, None]
        first, rest = reader.items[0], reader.items[1]
        assert isinstance(first, Deliver)
        assert isinstance(rest, Deliver)
        assert [s.token for s in first.samples + rest.samples] == [10, 11, 12, 13]

    asyncio.run(main())


def test_only_what_the_reader_was_given_counts_as_taken():
    async def main() -> None:
        reply = LoopReply(TURN)
        reader = Reader(reply)
        reply.push(sample(0))
        await reader.settle()
        reply.wake_at_end()
        reply.push(sample(1))
        await reader.settle()
        assert reply.taken == 1
        reply.close(end(Dropped("client disconnected"), 2))
        assert await reader.settle() == [1, 1, None]

    asyncio.run(main())
