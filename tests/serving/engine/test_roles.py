"""Roles through the engine loop: what is asked for is done, or refused in one line."""

import asyncio

import pytest

from serving.messages import Completed, Role, WorkerId
from tests.serving.engine.test_loop import Running, read
from tests.support.local_fleet import sampling, turn
from tests.support.tiny_cluster import Cluster, oracle, prompt

P0, D0, D1 = WorkerId("prefill-0"), WorkerId("decode-0"), WorkerId("decode-1")


def test_a_worker_drains_while_turns_run_and_loses_none(split: Cluster):
    async def main() -> None:
        wanted = sampling(60, temperature=0.9, seed=3)
        prompts = [prompt(5 + i, seed=i) for i in range(4)]
        async with Running(split) as engine:
            readers = [
                asyncio.create_task(read(engine, turn(f"t{i}", tokens, wanted)))
                for i, tokens in enumerate(prompts)
            ]
            await asyncio.sleep(0.05)
            assert engine.set_role(D0, None) is None
            assert [s.leaving for s in engine.workers() if s.worker == D0] == [True]
            answers = await asyncio.gather(*readers)
            late = await read(engine, turn("late", prompts[0], wanted))
            (left,) = [s for s in engine.workers() if s.worker == D0]
        assert [tokens for tokens, _ in answers] == [oracle(p, wanted) for p in prompts]
        assert all(isinstance(end.outcome, Completed) for _, end in (*answers, late))
        assert (left.leaving, left.turns, left.tokens) == (True, 0, 0)

    asyncio.run(main())


def test_a_drained_worker_comes_back_in_its_own_role(split: Cluster):
    async def main() -> None:
        async with Running(split) as engine:
            assert engine.set_role(D0, None) is None
            assert engine.set_role(D0, Role.DECODE) is None
            assert [(s.role, s.leaving) for s in engine.workers() if s.worker == D0] == [
                (Role.DECODE, False)
            ]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("worker", "role", "problem"),
    [
        (P0, Role.DECODE, "--flexible-roles"),
        (D0, Role.BOTH, "--flexible-roles"),
        (WorkerId("x"), None, "There is no worker x"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(
    split: Cluster, worker: WorkerId, role: Role | None, problem: str
):
    async def main() -> None:
        async with Running(split) as engine:
            said = engine.set_role(worker, role)
            assert said is not None
            assert problem in said
            assert "\n" not in said
            assert not any(status.leaving for status in engine.workers())

    asyncio.run(main())


def test_flexible_workers_take_any_role_but_one_must_decode(split: Cluster):
    async def main() -> None:
        async with Running(split, flexible_roles=True) as engine:
            assert engine.set_role(D0, Role.PREFILL) is None
            assert [s.role for s in engine.workers()] == [Role.PREFILL, Role.PREFILL, Role.DECODE]
            said = engine.set_role(D1, Role.PREFILL)
            assert said is not None
            assert "last that decodes" in said

    asyncio.run(main())
