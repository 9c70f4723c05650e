"""Which flags does the planner take? The question, and the settings of servers that are judged."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from serving.bounds import MOST_WORKERS, Finite
from serving.core.batcher import MAX_LAUNCHED
from serving.flags import field_option, part_options
from serving.plan.capacity import Targets
from serving.plan.request import CLIMBING_GPUS, PlanRequest
from serving.sim.options import ACCELERATOR, HEAD_SIGMA, SECONDS, simulation_config

Command = Callable[..., Any]
PARTS = ("memory", "schedule", "policy", "costs")
MOST_CANDIDATES, MOST_TURNS = 1000, 1_000_000
TOLERANCE = 0.02
JUDGE: Mapping[str, Any] = {
    "predictor": "head",
    "head_sigma": HEAD_SIGMA,
    "step_noise": 0.0,
    "max_launched": MAX_LAUNCHED,
}
"""What only a simulation is told, as the judge tells it."""


def plan_options(command: Command) -> Command:
    """Add the planner's flags to a click command."""
    add = [
        click.option(
            "--gpus",
            type=click.IntRange(1, MOST_WORKERS),
            required=True,
            help="Accelerators; the most, for a cost.",
        ),
        click.option(
            "--model",
            default="llama-3.1-8b",
            show_default=True,
            help="A known model's name, a checkpoint's directory, or a model's id on the Hugging"
            " Face Hub, of which no weights are fetched.",
        ),
        click.option(
            "--slo-ttft", type=SECONDS, required=True, help="Target to the first token, s."
        ),
        click.option("--slo-tpot", type=SECONDS, required=True, help="Target per token, s."),
        click.option(
            "--attainment",
            type=Finite(min=0.5, max=1, max_open=True),
            default=0.9,
            show_default=True,
            help="Share of turns that shall meet both targets.",
        ),
        click.option(
            "--minimise-cost",
            is_flag=True,
            help="Fewest accelerators for the workload's own rate, not most goodput of all.",
        ),
        click.option(
            "--candidates",
            type=click.IntRange(1, MOST_CANDIDATES),
            default=4,
            show_default=True,
            help="Deployments that are simulated, of each number of accelerators that is looked at."
            f" For the most goodput of up to {CLIMBING_GPUS}, neighbours of the best one come on"
            " top.",
        ),
        click.option(
            "--judged-turns",
            type=click.IntRange(1, MOST_TURNS),
            default=300,
            show_default=True,
            help="Turns of a simulation that count, at least.",
        ),
        click.option(
            "--judged-workers",
            type=click.IntRange(2, MOST_WORKERS),
            default=4,
            show_default=True,
            help="Most workers of a simulation; of more, a slice is simulated.",
        ),
        field_option("model", "revision"),
        field_option("model", "quantize"),
        field_option("model", "kv_dtype"),
        part_options(*PARTS, defaults=ACCELERATOR),
    ]
    for option in reversed(add):
        command = option(command)
    return command


def plan_request(values: Mapping[str, Any]) -> PlanRequest:
    """Take what `plan_options` parsed, and the workload's seed; raises ConfigError."""
    return PlanRequest(
        gpus=values["gpus"],
        minimise_cost=values["minimise_cost"],
        targets=Targets(values["slo_ttft"], values["slo_tpot"], values["attainment"]),
        candidates=values["candidates"],
        least_turns=values["judged_turns"],
        most_workers=values["judged_workers"],
        tolerance=TOLERANCE,
        config=simulation_config({**JUDGE, **values}),
    )
