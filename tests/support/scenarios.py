"""What may happen to a deployment? Conversations, faults and their timing, drawn by hypothesis.

`play` runs a scenario to its end and checks what must hold in every one: each accepted turn ends
exactly once with a prefix of the oracle's reply, whole if it completed, and nothing is held
afterwards. The fleet itself checks pages, order and tokens after every event.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from serving.core.plan import SendPages
from serving.messages import Completed, Dropped, Failed, Rejected, Role, WorkerId
from serving.policy.order import ORDER_POLICIES
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.request import TurnId
from tests.support.channels import Way
from tests.support.fake_fleet import FakeFleet, Reply
from tests.support.fake_model import GRAMMAR, NEVER, VOCABULARY
from tests.support.rules import HASTY, ROUTES
from tests.support.shape import Shape
from tests.support.turns import make_turn


@dataclass(frozen=True)
class Ask:
    """One turn of a conversation: what the client adds, and how the reply is sampled.

    Plain values: the type checker of the tests draws random numbers when it checks ours, which
    hypothesis does not allow while it draws.
    """

    new_tokens: tuple[int, ...]
    max_tokens: int
    stop_ids: tuple[int, ...]
    seed: int
    priority: int
    logprobs: int | None
    prompt_logprobs: int | None
    constrained: bool

    @property
    def sampling(self) -> dict[str, Any]:
        """What the turn samples by."""
        names = ("seed", "stop_ids", "logprobs", "prompt_logprobs")
        follows = {"grammar": GRAMMAR, "stop_ids": self.stop_ids or (NEVER,)}
        return {n: getattr(self, n) for n in names} | (follows if self.constrained else {})


@dataclass(frozen=True)
class Conversation:
    """A client: it asks, waits for the reply, and asks again with the whole history."""

    key: str | None
    salt: str
    asks: tuple[Ask, ...]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong after so many rounds; `number` chooses its victim."""

    after_rounds: int
    kind: str
    number: int


@dataclass(frozen=True)
class Scenario:
    """A deployment, its clients, and what goes wrong."""

    shape: Shape
    conversations: tuple[Conversation, ...]
    seed: int
    faults: tuple[Fault, ...] = ()
    broken_transfers: frozenset[int] = frozenset()
    breaks_at: str = "receiver"
    broken_fetches: frozenset[int] = frozenset()
    lost_acks: frozenset[int] = frozenset()
    silent_losses: bool = True
    slow: frozenset[Way] = frozenset()
    pages_lag: float = 0.0
    twice: bool = False
    expected: frozenset[type] = frozenset({Completed})

    @property
    def may_wait(self) -> bool:
        """Whether something can be left to a deadline."""
        faults = any(fault.kind not in ("move", "role") for fault in self.faults)
        return bool(faults or self.broken_transfers or self.broken_fetches or self.lost_acks)


@dataclass
class Play:
    """A scenario being played."""

    scenario: Scenario
    fleet: FakeFleet
    asking: dict[TurnId, tuple[Conversation, deque[Ask]]] = field(default_factory=dict)
    turns: int = 0
    sends: int = 0
    fetches: int = 0
    acks: int = 0
    joined: int = 0

    def start(self) -> None:
        self.fleet.on_end = self._on_end
        self.fleet.break_transfer = self._breaks
        self.fleet.break_fetch = self._breaks_fetch
        self.fleet.lose_ack = self._loses_ack
        self.fleet.slow = self.scenario.slow
        self.fleet.pages_lag = self.scenario.pages_lag
        self.fleet.twice = self.scenario.twice
        self.fleet.run()  # the workers join
        for conversation in self.scenario.conversations:
            self._ask(conversation, (), deque(conversation.asks))

    def run(self) -> None:
        for fault in sorted(self.scenario.faults, key=lambda fault: fault.after_rounds):
            while self.fleet.rounds < fault.after_rounds and self.fleet.round():
                pass
            self._strike(fault)
        self.fleet.run()
        while not self._is_over() and self.scenario.may_wait and self.fleet.now < 1000:
            self.fleet.advance(self.fleet.shape.transfer_timeout_s + 1)
            self.fleet.run()

    def _is_over(self) -> bool:
        return not any(worker.batcher.holdings.tasks for worker in self.fleet.workers.values())

    def _ask(self, conversation: Conversation, history: tuple[int, ...], asks: deque[Ask]) -> None:
        if not asks:
            return
        ask = asks.popleft()
        tokens = history + ask.new_tokens
        left = self.scenario.shape.max_model_len - len(tokens)
        if left < 1:
            return
        self.turns += 1
        turn = make_turn(
            f"t{self.turns}",
            tokens,
            session=conversation.key,
            salt=conversation.salt,
            priority=ask.priority,
            max_tokens=min(left, ask.max_tokens),
            **ask.sampling,
        )
        self.asking[turn.id] = (conversation, asks)
        self.fleet.submit(turn)

    def _on_end(self, reply: Reply) -> None:
        assert reply.end is not None
        if isinstance(reply.end.outcome, Completed | Dropped):
            conversation, asks = self.asking[reply.turn.id]
            self._ask(conversation, (*reply.turn.tokens, *reply.tokens), asks)

    def _breaks(self, send: SendPages) -> str | None:
        self.sends += 1
        return self.scenario.breaks_at if self.sends in self.scenario.broken_transfers else None

    def _breaks_fetch(self) -> bool:
        self.fetches += 1
        return self.fetches in self.scenario.broken_fetches

    def _loses_ack(self, ack: object) -> bool:
        self.acks += 1
        return self.acks in self.scenario.lost_acks

    def _strike(self, fault: Fault) -> None:
        fleet = self.fleet
        if fault.kind == "cancel":
            live = [turn for turn, reply in fleet.replies.items() if reply.end is None]
            if live:
                turn = live[fault.number % len(live)]
                fleet.cancel(turn, kept=len(fleet.replies[turn].samples))
        elif fault.kind == "move":
            self._move(fault.number)
        elif fault.kind == "role":
            self._set_role(fault.number)
        elif fault.kind == "lose":
            if fleet.workers:
                victim = list(fleet.workers)[fault.number % len(fleet.workers)]
                fleet.lose(victim, silently=self.scenario.silent_losses)
        elif fault.kind == "forget":
            fleet.drop_cached()
        elif fault.kind == "join":
            self._join(fault.number)
        else:
            fleet.advance((0.0, 1.0, fleet.shape.transfer_timeout_s + 1)[fault.number % 3])

    def _move(self, number: int) -> None:
        """Some live turn is to go on at some worker, whether or not that makes sense."""
        live = [turn for turn, reply in self.fleet.replies.items() if reply.end is None]
        workers = list(self.fleet.workers)
        if live and workers:
            self.fleet.move(live[number % len(live)], workers[number // 8 % len(workers)])

    def _set_role(self, number: int) -> None:
        """Some worker is to take another role, or to rest, whether or not that can be done."""
        workers = list(self.fleet.workers)
        if workers:
            worker = workers[number % len(workers)]
            self.fleet.set_role(worker, (*Role, None)[number // 8 % (len(Role) + 1)])

    def _join(self, number: int) -> None:
        """A new worker; half of them come back under the name of a lost one."""
        roles = [Role.DECODE, Role.PREFILL] if self.scenario.shape.prefill_workers else [Role.BOTH]
        role = roles[number % len(roles)]
        name = WorkerId(f"{'p' if role is Role.PREFILL else 'd'}0")
        if number % 4 >= 2 or name in self.fleet.workers or not self.scenario.silent_losses:
            self.joined += 1
            name = WorkerId(f"new{self.joined}")
        self.fleet.join(name, role)


def play(scenario: Scenario) -> FakeFleet:
    """Play a scenario to its end and check what must hold in every one."""
    fleet = FakeFleet(scenario.shape, seed=scenario.seed)
    game = Play(scenario, fleet)
    game.start()
    game.run()
    fleet.check_empty()
    for reply in fleet.replies.values():
        assert reply.end is not None
        outcome = reply.end.outcome
        assert type(outcome) in scenario.expected, outcome
        assert reply.tokens == reply.expected[: len(reply.tokens)]
    return fleet


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    """Deployments of up to 2 + 3 workers, with pools down to one conversation of full length."""
    page_size = draw(st.sampled_from((1, 2, 4, 8)))
    max_model_len = draw(st.sampled_from((16, 24, 40)))
    least = -(-max_model_len // page_size) + 1
    return Shape(
        prefill_workers=draw(st.integers(0, 2)),
        decode_workers=draw(st.integers(1, 3)),
        page_size=page_size,
        num_pages=least + draw(st.sampled_from((0, 1, 3, 20))),
        prefill_pages=least + draw(st.sampled_from((0, 2, 20))),
        max_model_len=max_model_len,
        max_rows=draw(st.sampled_from((1, 2, 4))),
        chunk_tokens=draw(st.sampled_from((1, 2, 3, 8, 100))),
        chunk_rows=draw(st.sampled_from((1, 2, 4))),
        reserve_tokens=draw(st.sampled_from((0, 1, 4, 100))),
        depth=draw(st.sampled_from((1, 2))),
        move_pages=draw(st.sampled_from((1, 2, 100))),
        max_sessions=draw(st.sampled_from((1, 3, 100))),
        session_ttl_s=draw(st.sampled_from((0.5, 600.0))),
        **draw(rules()),
    )


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """How a deployment decides: every policy, with targets that are met, tight or hopeless."""
    rebalance = draw(st.sampled_from(("none", *REBALANCE_POLICIES)))
    return {
        "route": draw(st.sampled_from(tuple(ROUTES))),
        "peers": draw(st.booleans()),
        "rebalance": rebalance,
        "roles": draw(st.sampled_from(("none", "none", "queue"))),
        "rebalance_every_s": draw(st.sampled_from((0.005, 0.02, 0.1))),
        "tick_rounds": draw(st.sampled_from((10, 50) if rebalance != "none" else (None, 50))),
        "order": draw(st.sampled_from(tuple(ORDER_POLICIES))),
        "order_window": draw(st.integers(1, 4)),
        "keep_pace": draw(st.booleans()),
        "stand_aside": draw(st.sampled_from((None, HASTY))),
        "ttft_s": draw(st.sampled_from((None, 0.001, 0.05, 10.0))),
        "tpot_s": draw(st.sampled_from((None, 0.0001, 0.002, 1.0))),
        "host_pages": draw(st.sampled_from((0, 0, 3, 40))),
    }


TOKENS = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6).map(tuple)


@st.composite
def asks(draw: st.DrawFn, system: tuple[int, ...] = ()) -> Ask:
    """One turn; about one in three asks for log-probabilities of some kind."""
    return Ask(
        new_tokens=system + draw(TOKENS),
        max_tokens=draw(st.integers(1, 12)),
        stop_ids=draw(st.sampled_from(((), (1, 2, 3), tuple(range(10)), tuple(range(30))))),
        seed=draw(st.integers(-(2**63), 2**63 - 1)),
        priority=draw(st.sampled_from((0, 0, 1))),
        logprobs=draw(st.sampled_from((None, None, 0))),
        prompt_logprobs=draw(st.sampled_from((None, None, None, 0))),
        constrained=draw(st.sampled_from((False, False, True))),
    )


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """A client with up to four turns; some share a system prompt, a key or a salt."""
    system = draw(st.sampled_from(((), (7, 7, 7), (1, 2, 3, 4, 5, 6, 7, 8))))
    first = draw(asks(system))
    rest = draw(st.lists(asks(), max_size=3))
    return Conversation(
        key=draw(st.sampled_from((None, None, "a", "b"))),
        salt=draw(st.sampled_from(("", "", "tenant"))),
        asks=(first, *rest),
    )


SEEDS = st.integers(0, 2**32 - 1)
LAGS = st.sampled_from((0.0, 0.9, 0.99))
"""Pages that come in one of a hundred rounds come behind whatever else there is to hear."""
PATIENCE = st.sampled_from((30.0, 30.0, 0.3, 0.05))
"""Seconds for a transfer: in virtual time pages that lag take longer than the last ones."""
CLIENTS = st.lists(conversations(), min_size=1, max_size=8).map(tuple)
CHANGES = st.lists(
    st.builds(
        Fault, st.integers(0, 600), st.sampled_from(("move", "move", "role")), st.integers(0, 63)
    ),
    max_size=12,
).map(tuple)


@st.composite
def calm_scenarios(draw: st.DrawFn) -> Scenario:
    """Nothing goes wrong, though rows move and workers change their roles: all turns complete."""
    shape, clients, seed, changes = draw(shapes()), draw(CLIENTS), draw(SEEDS), draw(CHANGES)
    return Scenario(shape, clients, seed, faults=changes, pages_lag=draw(LAGS))


@st.composite
def faulty_scenarios(draw: st.DrawFn) -> Scenario:
    """Clients leave, workers die and join, transfers break, confirmations and patience run out."""
    kinds = st.sampled_from(("cancel", "cancel", "lose", "join", "tick"))
    changes = draw(CHANGES)
    fault = st.builds(Fault, st.integers(0, 600), kinds, st.integers(0, 7))
    few = st.frozensets(st.integers(1, 40), max_size=5)
    shape = replace(
        draw(shapes()),
        queue_timeout_s=draw(st.sampled_from((None, None, 0.1, 1.0))),
        max_queue_size=draw(st.sampled_from((1, 3, 1000))),
        max_attempts=draw(st.sampled_from((1, 3))),
        transfer_timeout_s=draw(PATIENCE),
    )
    return Scenario(
        shape,
        draw(CLIENTS),
        draw(SEEDS),
        faults=(*draw(st.lists(fault, max_size=8)), *changes),
        broken_transfers=draw(few),
        breaks_at=draw(st.sampled_from(("sender", "receiver"))),
        lost_acks=draw(few),
        silent_losses=draw(st.booleans()),
        pages_lag=draw(LAGS),
        twice=draw(st.booleans()),
        expected=frozenset({Completed, Dropped, Failed, Rejected}),
    )
