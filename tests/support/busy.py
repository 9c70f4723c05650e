"""What happens to a deployment in which much happens? Scenarios drawn by a seed, all of them busy.

Hypothesis (`scenarios`) draws small ones, in which a move, a pull or a loss is rare. Here several
clients talk at length while rows are moved about, roles change, workers come and go, clients leave
and patience runs out, and pages come late.
"""

from dataclasses import replace
from random import Random

from serving.messages import Completed, Dropped, Failed, Rejected
from serving.policy.rebalance import REBALANCE_POLICIES
from tests.support.fake_model import VOCABULARY
from tests.support.rules import ROUTES
from tests.support.scenarios import Ask, Conversation, Fault, Scenario
from tests.support.shape import Shape

LENGTH = 120
"""Of the longest conversation."""
KINDS = (*["move"] * 8, "role", "tick", "cancel", "lose", "join")


def busy(seed: int) -> Scenario:
    """The scenario of this seed."""
    random = Random(seed)
    shape = _shape(random)
    system = _tokens(random, random.choice((0, 8, 16)))
    workers = [f"p{i}" for i in range(shape.prefill_workers)]
    parties = [*workers, *(f"d{i}" for i in range(shape.decode_workers)), "coordinator"]
    within = random.choice((300, 1000))
    return Scenario(
        shape,
        tuple(_conversation(random, system) for _ in range(random.randint(1, 6))),
        seed=random.randrange(2**32),
        faults=tuple(
            Fault(random.randrange(within), random.choice(KINDS), random.randrange(64))
            for _ in range(random.randrange(60))
        ),
        broken_transfers=_some(random, (0, 0, 0, 3)),
        breaks_at=random.choice(("sender", "receiver")),
        lost_acks=_some(random, (0, 0, 3)),
        silent_losses=random.random() < 0.5,
        slow=frozenset(
            (random.choice(parties), random.choice(parties))
            for _ in range(random.choice((0, 0, 3, 6)))
        ),
        pages_lag=random.choice((0.0, 0.9, 0.97, 0.99)),
        twice=random.random() < 0.2,
        expected=frozenset({Completed, Dropped, Failed, Rejected}),
    )


def _shape(random: Random) -> Shape:
    """Workers with room for one conversation of full length, or a few."""
    page_size = random.choice((2, 4, 8))
    least = LENGTH // page_size + 1
    return Shape(
        prefill_workers=random.choice((0, 1, 2)),
        decode_workers=random.choice((2, 3)),
        page_size=page_size,
        num_pages=least + random.choice((0, 10, 60)),
        prefill_pages=least + random.choice((0, 60)),
        max_model_len=LENGTH,
        max_rows=random.choice((1, 2, 4, 8)),
        chunk_tokens=random.choice((2, 4, 8, 100)),
        chunk_rows=random.choice((1, 4)),
        reserve_tokens=random.choice((0, 8, 100)),
        depth=random.choice((1, 2, 3)),
        move_pages=random.choice((1, 2, 100)),
        transfer_timeout_s=random.choice((30.0, 30.0, 1.0, 0.3, 0.1)),
        host_pages=random.choice((0, 0, 20)),
        route=random.choice(tuple(ROUTES)),
        peers=random.random() < 0.5,
        rebalance=random.choice(("none", *REBALANCE_POLICIES)),
        rebalance_every_s=random.choice((0.005, 0.05)),
        roles=random.choice(("none", "none", "queue")),
        tick_rounds=random.choice((10, 50)),
        max_attempts=random.choice((3, 10)),
        keep_pace=random.random() < 0.3,
        ttft_s=random.choice((None, 0.05)),
        tpot_s=random.choice((None, 0.002)),
    )


def _conversation(random: Random, system: tuple[int, ...]) -> Conversation:
    first, *rest = (_ask(random) for _ in range(random.randint(1, 3)))
    return Conversation(
        key=random.choice((None, None, "a", "b")),
        salt=random.choice(("", "", "tenant")),
        asks=(replace(first, new_tokens=system + first.new_tokens), *rest),
    )


def _ask(random: Random) -> Ask:
    return Ask(
        new_tokens=_tokens(random, random.randint(1, 11)),
        max_tokens=random.choice((1, 2, 10, 25, 40)),
        stop_ids=random.choice(((), (), (1, 2, 3))),
        seed=random.randrange(3),
        priority=0,
        logprobs=random.choice((None, 0)),
        prompt_logprobs=random.choice((None, None, None, 0)),
        constrained=random.random() < 0.3,
    )


def _tokens(random: Random, count: int) -> tuple[int, ...]:
    return tuple(random.randrange(VOCABULARY) for _ in range(count))


def _some(random: Random, counts: tuple[int, ...]) -> frozenset[int]:
    return frozenset(random.randint(1, 80) for _ in range(random.choice(counts)))
