"""What is the planner asked? How many accelerators, which targets, and how hard to look."""

from dataclasses import dataclass

from serving.plan.capacity import Targets
from serving.sim.build import SimulationConfig

CLIMBING_GPUS = 16
"""Up to so many accelerators one of them in the other phase is worth a simulation (ours)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What is asked. `gpus`: how many, or with `minimise_cost` the most.

    `candidates` of each number of accelerators are judged, and, for the most goodput of up to
    `CLIMBING_GPUS`, neighbours of the best one. `config`: all settings that the plan does not
    choose. `least_turns` count at least in a simulation of at most `most_workers`; rates are found
    within `tolerance` (0.02: 2 %).
    """

    gpus: int
    minimise_cost: bool
    targets: Targets
    candidates: int
    least_turns: int
    most_workers: int
    tolerance: float
    config: SimulationConfig
