"""Requests and workloads for tests of the planner."""

from typing import Any

from serving.plan.capacity import Targets
from serving.plan.request import PlanRequest
from serving.sim.options import ACCELERATOR, simulation_config
from serving.workload.session import Workload, within_context
from serving.workload.synthetic import Habits, LogNormal, make_sessions

CONTEXT = 8192
SHORT = Habits(
    session_rate=1.0,
    system=16,
    first=LogNormal(1500, 2500),
    later=LogNormal(800, 1500),
    reply=LogNormal(8, 12),
    think=LogNormal(1, 3),
)


def short_replies(turns: int = 200) -> Workload:
    """Made-up sessions of short replies."""
    return within_context(make_sessions(SHORT, turns, 0), CONTEXT)


def ask(
    *, gpus: int = 2, ttft_s: float = 0.2, tpot_s: float = 0.05, **settings: Any
) -> PlanRequest:
    """A request; `settings` are a server's, `model` among them."""
    values: dict[str, Any] = {
        **ACCELERATOR,
        "model": "llama-3.1-8b",
        "max_model_len": CONTEXT,
        "slo_ttft": ttft_s,
        "slo_tpot": tpot_s,
        "predictor": "none",
        "head_sigma": 0.5,
        "step_noise": 0.0,
        "max_launched": 2,
        "seed": 0,
        **settings,
    }
    return PlanRequest(
        gpus=gpus,
        minimise_cost=False,
        targets=Targets(ttft_s, tpot_s, 0.9),
        candidates=2,
        least_turns=40,
        most_workers=2,
        tolerance=0.2,
        config=simulation_config(values),
    )
