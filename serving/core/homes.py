"""What do the workers carry that may own new sessions? Their books in columns, for placement.

A new session looks at all of them, and few have changed since the last one came: columns are kept,
and only what has changed is written again.
"""

from collections.abc import Mapping

import numpy as np

from serving.core.fleet import Fleet, WorkerRecord
from serving.costs.costs import StepModel
from serving.messages import Role, WorkerId
from serving.policy.views import HomesView


class Homes:
    """The columns of a fleet's workers that decode. Changes nothing but these."""

    def __init__(self, fleet: Fleet, *, peers: bool) -> None:
        """Read `fleet`, which belongs to the coordinator. `peers`: workers that do both prefill
        for each other.
        """
        self._fleet = fleet
        self._peers = peers
        self._roles_version = -1
        self._set([])

    def view(
        self,
        cached: Mapping[WorkerId, int],
        sessions: Mapping[WorkerId, int],
        step_models: Mapping[Role, StepModel],
        tpot_s: float | None,
    ) -> HomesView:
        """Return what placement sees now; `cached` is by those that hold any of the prompt."""
        self._refresh()
        cached_len = np.zeros(len(self._records), np.int64)
        for worker, tokens in cached.items():
            if (i := self._index.get(worker)) is not None:
                cached_len[i] = tokens
        all_peers = bool(self._peer.all())
        kv_tokens = sum(record.kv_tokens for record in self._records) if all_peers else 0
        # What a worker's live turns are expected to grow to stands for its load over the horizon.
        return HomesView(
            workers=self._names,
            load=self._load.copy(),
            turns=self._turns.copy(),
            capacity=self._capacity,
            cached_len=cached_len,
            expected_tokens=self._load.astype(np.float64),
            expected_rows=self._turns.astype(np.float64),
            step_models=[step_models[role] for role in self._roles],
            model=self._model,
            peer=self._peer,
            draining=self._draining,
            sessions=sessions,
            kv_tokens=kv_tokens,
            tpot_s=tpot_s,
        )

    def _refresh(self) -> None:
        fleet = self._fleet
        # One that leaves is a home that drains until nothing is left on it: none any more.
        if fleet.roles_version != self._roles_version or self._draining.any():
            records = fleet.workers.values()
            self._set([record for record in records if record.decodes and not record.rests])
            self._roles_version = fleet.roles_version
        else:
            for worker in fleet.loads_changed:
                if (i := self._index.get(worker)) is not None:
                    self._load[i], self._turns[i] = self._records[i].load, self._records[i].turns
        fleet.loads_changed.clear()

    def _set(self, records: list[WorkerRecord]) -> None:
        self._records = records
        self._names = tuple(record.id for record in records)
        self._index = {name: i for i, name in enumerate(self._names)}
        self._load = np.array([record.load for record in records], np.int64)
        self._turns = np.array([record.turns for record in records], np.int64)
        self._capacity = np.array([record.capacity for record in records], np.int64)
        self._roles = sorted({record.role for record in records})
        self._model = np.array([self._roles.index(record.role) for record in records], np.int64)
        is_peer = [self._peers and record.role is Role.BOTH for record in records]
        self._peer = np.array(is_peer, np.bool_)
        self._draining = np.array([record.leaving for record in records], np.bool_)
