"""No policy changes a token: real steps under all of them, with moves, roles and host memory.

Each reply is compared with `model.generate`. Moves are forced at random rounds, and nothing may be
compiled after warm-up.
"""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from serving.engine.executor import JaxExecutor
from serving.messages import (
    MoveWanted,
    PagesReady,
    Role,
    SetRole,
    Tick,
    ToWorker,
    WorkerId,
)
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.policy.routes import ROUTE_POLICIES
from serving.request import SamplingParams, TurnId
from tests.support.compiles import no_compiles
from tests.support.local_fleet import Answer, LocalFleet, sampling, turn
from tests.support.tiny_cluster import Cluster, oracle, prompt
from tests.support.tiny_grammar import END, LIST, LONG

SEEDED = {
    "temperature": 0.8,
    "top_k": 20,
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.4,
    "seed": 2**40 + 1,
}
WAYS = {
    "greedy": sampling(12),
    "seeded": sampling(12, **SEEDED),
    "constrained": sampling(12, **SEEDED, grammar=LIST, stop_ids=(END,), logit_bias=LONG),
}
CLIENTS = 3
D0, D1 = WorkerId("decode-0"), WorkerId("decode-1")
P0 = WorkerId("prefill-0")


def first_prompts() -> list[list[int]]:
    return [[*prompt(8), *prompt(3 + client, seed=client)] for client in range(CLIENTS)]


def expected(wanted: SamplingParams) -> list[list[tuple[int, ...]]]:
    """What the oracle says to each client, turn by turn."""
    firsts = [oracle(tokens, wanted) for tokens in first_prompts()]
    seconds = [
        oracle(second_prompt(tokens, reply), wanted)
        for tokens, reply in zip(first_prompts(), firsts, strict=True)
    ]
    return [firsts, seconds]


def second_prompt(tokens: list[int], reply: tuple[int, ...]) -> list[int]:
    return [*tokens, *reply, *prompt(5)]


def converse(
    fleet: LocalFleet, wanted: SamplingParams, each_round: Callable[[], None] | None = None
) -> list[list[tuple[int, ...]]]:
    """Two turns of every client, all clients at once."""
    said: list[list[tuple[int, ...]]] = []
    prompts = first_prompts()
    for number in range(2):
        names = [f"{number}-{client}" for client in range(CLIENTS)]
        answers = [
            fleet.submit(turn(name, tokens, wanted))
            for name, tokens in zip(names, prompts, strict=True)
        ]
        fleet.run(each_round)
        assert all(len(answer.ends) == 1 for answer in answers)
        said.append([answer.tokens for answer in answers])
        prompts = [second_prompt(p, r) for p, r in zip(prompts, said[-1], strict=True)]
    return said


def random_moves(fleet: LocalFleet, seed: int) -> Callable[[], None]:
    """Ask now and then for any live turn to go on at any worker."""
    draw = random.Random(seed)

    def move() -> None:
        live = [name for name, answer in fleet.answers.items() if not answer.ends]
        if live and draw.random() < 0.7:
            to = draw.choice([D0, D1])
            fleet.give(MoveWanted(draw.choice(live), to, "test"))

    return move


def is_empty(fleet: LocalFleet) -> bool:
    reports = [worker.batcher.report() for worker in fleet.workers.values()]
    return all(report.pages_used == report.running == report.waiting == 0 for report in reports)


def moved(fleet: LocalFleet) -> list[str]:
    return [one.choice for one in fleet.decisions if one.kind == "moved"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ROUTE_POLICIES)
def test_no_routing_policy_changes_a_token(split: Cluster, route: str, way: str):
    wanted = WAYS[way]
    known = expected(wanted)
    fleet = split.fleet(route=route)
    with no_compiles():
        assert converse(fleet, wanted) == known
    assert is_empty(fleet)
    assert len(split.connector) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("num_pages", [49, 33])  # 32 pages hold the longest turn
def test_who_prefills_for_whom_changes_no_token(peers: Cluster, num_pages: int, way: str):
    wanted = WAYS[way]
    known = expected(wanted)
    fleet = peers.fleet(route="to-a-peer", peers=True, num_pages=num_pages)
    with no_compiles():
        assert converse(fleet, wanted) == known
    owners = [one.choice for one in fleet.decisions if one.kind == "place"]
    routes = [one.choice for one in fleet.decisions if one.kind == "route"]
    assert owners != routes
    assert is_empty(fleet)
    assert len(peers.connector) == 0


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ROUTE_POLICIES)
def test_moves_at_random_steps_change_no_token(split: Cluster, route: str, way: str):
    wanted = WAYS[way]
    known = expected(wanted)
    fleet = split.fleet(route=route, move_pages=1)
    with no_compiles():
        assert converse(fleet, wanted, random_moves(fleet, 6)) == known
    assert len(moved(fleet)) > 1
    assert is_empty(fleet)
    assert len(split.connector) == 0


@pytest.mark.slow
@pytest.mark.parametrize("rebalance", REBALANCE_POLICIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("route", ROUTE_POLICIES)
def test_no_pair_of_policies_changes_a_token(split: Cluster, route: str, way: str, rebalance: str):
    wanted = WAYS[way]
    known = expected(wanted)
    fleet = split.fleet(route=route, rebalance=rebalance, move_pages=1)
    move = random_moves(fleet, 7)

    def tick_and_move() -> None:
        fleet.give(Tick())
        move()

    with no_compiles():
        assert converse(fleet, wanted, tick_and_move) == known
    assert is_empty(fleet)


# ---- moves --------------------------------------------------------------------------------------


def stops(fleet: LocalFleet) -> list[int]:
    """Gather the KV lengths with which rows leave their workers."""
    lengths: list[int] = []
    post = fleet.post

    def watch(leaving):
        for item in leaving:
            message = item.message if isinstance(item, ToWorker) else None
            if isinstance(message, PagesReady) and message.move and message.reply is not None:
                lengths.append(message.stop)
        post(leaving)

    for worker in fleet.workers.values():
        worker._post = watch
    return lengths


def follow(fleet: LocalFleet, one: TurnId, homes: list[WorkerId], *, after: int = 1):
    """Move a turn to each of these workers in turn, as soon as it is at the one before."""

    def move() -> None:
        arrived = len(moved(fleet))
        if arrived < len(homes) and len(fleet.answers[one].samples) >= after:
            fleet.give(MoveWanted(one, homes[arrived], "test"))

    return move


def test_a_row_may_stop_anywhere_in_a_page(split: Cluster):
    wanted = sampling(16, **SEEDED, logprobs=0)
    known = oracle(prompt(10), wanted)
    lengths: list[int] = []
    with no_compiles():
        for after in range(1, 7):
            fleet = split.fleet()
            mine = stops(fleet)
            answer = fleet.submit(turn("a", prompt(10), wanted))
            fleet.run(follow(fleet, TurnId("a"), [D1], after=after))
            assert answer.tokens == known
            assert moved(fleet) == ["decode-1"]
            lengths += mine
    assert {0, 1, 3} <= {length % 4 for length in lengths}


CROSSINGS = {
    "there-and-back": ("split", None, [D1, D0, D1, D0]),
    "2-to-1-to-2": ("wide_decode", Role.BOTH, [P0, D0, P0]),
}


@pytest.mark.parametrize("crossing", CROSSINGS)
@pytest.mark.parametrize("way", ["greedy", "seeded", "constrained"])
def test_a_row_crosses_meshes_again_and_again(request, crossing: str, way: str):
    """Back and forth, and between degrees of tensor parallelism, log-probabilities included."""
    cluster, role, homes = CROSSINGS[crossing]
    wanted = replace(WAYS[way], max_tokens=40, logprobs=2)
    plain = stay(request.getfixturevalue(cluster), role, wanted)
    assert plain.tokens == oracle(prompt(11), wanted)
    fleet = request.getfixturevalue(cluster).fleet(role=role)
    with no_compiles():
        answer = fleet.submit(turn("a", prompt(11), wanted))
        fleet.run(follow(fleet, TurnId("a"), homes))
    assert answer.tokens == plain.tokens
    assert moved(fleet) == homes
    for sample, other in zip(answer.samples, plain.samples, strict=True):
        assert sample.logprobs is not None
        assert other.logprobs is not None
        assert sample.logprobs.chosen == pytest.approx(other.logprobs.chosen, abs=1e-4)
        assert [i for i, _ in sample.logprobs.top[:2]] == [i for i, _ in other.logprobs.top[:2]]


def stay(cluster: Cluster, role: Role | None, wanted: SamplingParams) -> Answer:
    """What a row that never moves says."""
    return cluster.fleet(role=role).ask(turn("a", prompt(11), wanted))


# ---- host memory and roles ----------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_pages_that_come_back_from_the_host_change_no_token(
    colocated: Cluster, way: str, monkeypatch: pytest.MonkeyPatch
):
    wanted = WAYS[way]
    prompts = [prompt(40, seed=client) for client in range(4)]
    firsts = [oracle(tokens, wanted) for tokens in prompts]
    seconds = [[*p, *r, 5, 6] for p, r in zip(prompts, firsts, strict=True)]
    known = [oracle(tokens, wanted) for tokens in seconds]
    ((_, executor),) = colocated.executors.values()
    assert isinstance(executor, JaxExecutor)
    fetched: list[int] = []

    def fetch(slots):
        fetched.append(len(slots))
        return JaxExecutor.fetch(executor, slots)

    monkeypatch.setattr(executor, "fetch", fetch)
    fleet = colocated.fleet(num_pages=33, host_pages=60)
    with no_compiles():
        for i, tokens in enumerate(prompts):
            assert fleet.ask(turn(f"a{i}", tokens, wanted)).tokens == firsts[i]
        answers = [fleet.ask(turn(f"b{i}", tokens, wanted)) for i, tokens in enumerate(seconds)]
    assert [answer.tokens for answer in answers] == known
    assert sum(fetched) > 20
    assert answers[0].ends[0].cached_len >= 40
    assert is_empty(fleet)


@pytest.mark.parametrize("way", WAYS)
def test_a_live_worker_changes_its_role_and_no_token(wide_decode: Cluster, way: str):
    """The two workers swap their roles while turns run: rows are moved, nothing begins anew."""
    wanted = WAYS[way]
    known = expected(wanted)
    fleet = wide_decode.fleet()
    changes = iter([SetRole(P0, Role.DECODE), SetRole(D0, Role.PREFILL)])

    def swap() -> None:
        fleet.give(Tick())
        if fleet.now in (4.0, 7.0):
            fleet.give(next(changes))

    with no_compiles():
        assert converse(fleet, wanted, swap) == known
    roles = {name: record.role for name, record in fleet.coordinator.fleet.workers.items()}
    assert roles == {P0: Role.DECODE, D0: Role.PREFILL}
    assert not [one for one in fleet.decisions if one.kind == "retry"]
    assert is_empty(fleet)
