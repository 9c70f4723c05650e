"""Which workers, with which limits? A proposal in the words of a server's settings."""

from dataclasses import dataclass, replace

from serving.config import MeshConfig
from serving.plan.capacity import Targets, chunk_size, row_limit
from serving.plan.demand import Demand
from serving.plan.program import Proposal
from serving.sim.build import SimulationConfig


@dataclass(frozen=True, slots=True)
class Deployment:
    """Workers by phase (no prefill workers: colocated), and what a step of theirs may hold.

    The pages of a worker are what the devices' memory comes to; those of prefill workers are zero
    in a colocated deployment. The decode workers' pages hold `kv_tokens` together, and their
    running rows `row_tokens` of these per unit of rate scale; a token of a reply is expected to
    take `token_s` at its limit.
    """

    prefill_workers: int
    prefill_tp: int
    decode_workers: int
    decode_tp: int
    max_num_seqs: int
    max_num_batched_tokens: int
    prefill_pages: int
    decode_pages: int
    kv_tokens: float
    row_tokens: float
    token_s: float

    @property
    def gpus(self) -> int:
        """Accelerators that it takes."""
        return self.prefill_workers * self.prefill_tp + self.decode_workers * self.decode_tp

    def idle_room(self, rate: float) -> float:
        """Return how many tokens of sessions between turns fit beside the rows at a rate scale."""
        return max(0.0, self.kv_tokens - self.row_tokens * rate)

    def __str__(self) -> str:
        """Name it as people do: 2 x TP1 prefill + 6 x TP1 decode."""
        decode = f"{self.decode_workers} x TP{self.decode_tp}"
        if not self.prefill_workers:
            return f"{decode} colocated"
        return f"{self.prefill_workers} x TP{self.prefill_tp} prefill + {decode} decode"


def deploy(proposal: Proposal, demand: Demand, targets: Targets, page_size: int) -> Deployment:
    """Give a proposal its limits."""
    prefill, decode = proposal.prefill, proposal.decode
    prompts = decode if prefill is None else prefill
    return Deployment(
        prefill_workers=0 if prefill is None else prefill.count,
        prefill_tp=1 if prefill is None else prefill.kind.degree,
        decode_workers=decode.count,
        decode_tp=decode.kind.degree,
        max_num_seqs=row_limit(decode.kind, demand, targets),
        max_num_batched_tokens=chunk_size(prompts.kind.costs),
        prefill_pages=0 if prefill is None else prefill.kind.kv_tokens // page_size,
        decode_pages=decode.kind.kv_tokens // page_size,
        kv_tokens=decode.room,
        row_tokens=decode.row_tokens,
        token_s=decode.token_s,
    )


def configure(base: SimulationConfig, deployment: Deployment) -> SimulationConfig:
    """Make the settings that run a deployment, all others as in `base`."""
    mesh = MeshConfig(
        prefill_workers=deployment.prefill_workers,
        decode_workers=deployment.decode_workers,
        prefill_tp=deployment.prefill_tp,
        decode_tp=deployment.decode_tp,
    )
    batch = replace(
        base.server.batch,
        max_num_seqs=deployment.max_num_seqs,
        max_num_batched_tokens=deployment.max_num_batched_tokens,
    )
    return replace(base, server=replace(base.server, mesh=mesh, batch=batch))


def shrink(deployment: Deployment, most_workers: int) -> tuple[Deployment, float]:
    """Find the slice of a deployment to simulate, and how often the deployment contains it.

    What a slice of up to `most_workers` sustains, the whole sustains so many times: a larger pool
    queues less (ours). Of all slices it is the one that leaves least of the whole out.
    """
    prefills, decodes = deployment.prefill_workers, deployment.decode_workers
    if prefills + decodes <= most_workers:
        return deployment, 1.0
    if not prefills:
        return replace(deployment, decode_workers=most_workers), decodes / most_workers

    def times(part: tuple[int, int]) -> float:
        return min(prefills / part[0], decodes / part[1])

    parts = [
        (p, d)
        for p in range(1, most_workers)
        for d in range(1, most_workers - p + 1)
        if p <= prefills and d <= decodes
    ]
    # A slice of p and d workers, `times` as often, takes so much of the whole.
    best = max(parts, key=lambda part: (times(part) * sum(part), sum(part)))
    small = replace(deployment, prefill_workers=best[0], decode_workers=best[1])
    return small, times(best)
