"""A tiny random model on real executors, and what it says without them.

Shared by the tests of the engine, because compiling is what they pay for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from threading import Event as Signal

import jax
import numpy as np
from jax.sharding import NamedSharding

from model.attention.paged import BLOCKED
from model.config import ModelConfig, RopeConfig
from model.generate import Sampling, generate
from model.parameters import init_params
from model.sharding import param_shardings
from predictor.reading import Reader
from predictor.saved import HeadSpec
from serving.config import MeshConfig
from serving.core.limits import BatcherLimits
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.executor import JaxExecutor
from serving.engine.meshes import make_meshes
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.messages import Role, TransferId, WorkerId
from serving.request import SamplingParams, Slo
from tests.support.local_fleet import LocalFleet
from tests.support.rules import coordinator_rules
from tests.support.tiny_grammar import LIST, allowed_after, grammars
from tests.support.tiny_head import HIDDEN_SIZE, head_weights

MODEL = ModelConfig(
    family="qwen3",
    vocab_size=64,
    num_layers=2,
    hidden_size=HIDDEN_SIZE,
    intermediate_size=48,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    rope=RopeConfig(theta=10_000.0, scaling=None),
    norm_eps=1e-6,
    tie_embeddings=True,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=True,
    sliding_window=None,
    max_position=128,
    dtype="float32",
    eos_ids=(),
    bos_id=None,
)
PARAMS = init_params(MODEL, jax.random.key(7))
GRAMMARS = grammars()
SIZES = ExecutorSizes(
    num_pages=49,
    page_size=4,
    max_model_len=128,
    max_rows=4,
    max_chunk_tokens=16,
    max_chunk_rows=2,
)
LIMITS = BatcherLimits(
    num_pages=49,
    page_size=4,
    max_model_len=128,
    max_rows=4,
    max_chunk_tokens=16,
    max_chunk_rows=2,
    transfer_timeout_s=1e6,
    move_pages=4,
    host_pages=0,
)

Connects = Callable[[Mapping[WorkerId, NamedSharding]], InProcessConnector]
"""Makes a connector from how pages lie on each worker."""


class Waiting(InProcessConnector):
    """Waits for payloads itself: who drives round by round counts no time, and has no threads."""

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        here = Signal()
        super().when_here(transfer, here.set, computed=computed)
        assert here.wait(30)
        then()


class Cluster:
    """Warm executors of one mesh configuration; every fleet on them starts with fresh accounts.

    Pools and slots are not cleared between fleets: leftovers must not matter. With `any_role` each
    can do what any worker does. Steps read `head`, if there is one; a fleet without a reader does
    not listen.
    """

    def __init__(
        self, mesh: MeshConfig, *, any_role: bool = False, head: HeadSpec | None = None
    ) -> None:
        self.executors = {}
        probe = None if head is None else Probe(head)
        weights = None if head is None else head_weights(head)
        for one in make_meshes(mesh, MODEL, jax.devices()):
            site = Site(MODEL, one.mesh, one.table, SIZES, BLOCKED, probe)
            params = jax.device_put(PARAMS, param_shardings(MODEL, one.mesh, one.table))
            role = Role.BOTH if any_role else one.role
            executor = JaxExecutor(
                params,
                site,
                role,
                moves=Moves.TO_HOST,
                head_weights=weights,
                grammars=GRAMMARS,
            )
            executor.warm_up(lambda _: None)
            self.executors[one.worker] = (one.role, executor)
        connector = self.reconnect()
        for _, executor in self.executors.values():
            connector.warm_up(executor.blank_payloads())

    def reconnect(self, by: Connects = InProcessConnector) -> InProcessConnector:
        """Connect the workers anew: a connector remembers whom it has given up."""
        self.connector = by({name: e.payload_sharding for name, (_, e) in self.executors.items()})
        return self.connector

    def fleet(
        self,
        *,
        forecast: int = 16,
        route: str = "pd-delta",
        rebalance: str = "none",
        peers: bool = False,
        slo: Slo = Slo(None, None),  # noqa: B008
        role: Role | None = None,
        reader: Reader | None = None,
        **limits,
    ) -> LocalFleet:
        """Start a fleet; with `role` all workers have that one. `reader` reads every step."""
        rules = coordinator_rules(route=route, rebalance=rebalance, peers=peers, slo=slo)
        own = replace(LIMITS, **limits)
        executors = {
            name: (role or planned, executor)
            for name, (planned, executor) in self.executors.items()
        }
        return LocalFleet(executors, self.reconnect(Waiting), own, rules, forecast, reader)


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng([seed, length]).integers(0, 64, length).tolist()


def oracle(tokens: Sequence[int], wanted: SamplingParams) -> tuple[int, ...]:
    return _oracle(tuple(tokens), wanted)


@cache
def _oracle(tokens: tuple[int, ...], wanted: SamplingParams) -> tuple[int, ...]:
    names = Sampling.__dataclass_fields__.keys() - {"allowed_next"}
    assert wanted.grammar in (None, LIST)
    allowed_next = None if wanted.grammar is None else allowed_after
    fields = {name: getattr(wanted, name) for name in names}
    how = Sampling(**fields, allowed_next=allowed_next)
    return generate(PARAMS, MODEL, tokens, how, wanted.max_tokens).tokens
