"""Which flags do simulations take? A server's, with defaults for accelerators, and their own."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from serving.bounds import Finite
from serving.config import ConfigError, require
from serving.core.batcher import MAX_LAUNCHED
from serving.flags import build_config, field_option, flag_name, part_options
from serving.hub import with_sizes
from serving.platforms import LARGE_STEPS
from serving.sim.build import PREDICTORS, SimulationConfig
from serving.workload.read import FORMATS, TIMED, WorkloadChoice

Command = Callable[..., Any]

ACCELERATOR = {
    "prefill_workers": 1,
    "page_size": 64,
    **LARGE_STEPS,
    "max_queue_size": 100_000,
    "hardware": "h100",
    "link_gib_per_s": 46.6,
    "host_link_gib_per_s": 46.6,
}
"""Where a simulated server differs from one on a CPU: larger steps and pages, links of 50 GB/s, a
network card's and about what PCIe 5 carries (performance.md 10.1)."""
PARTS = ("mesh", "memory", "batch", "schedule", "policy", "costs")
SECONDS = Finite(min=0, min_open=True)
IN_SECONDS = {"slo_ttft": "slo_ttft_ms", "slo_tpot": "slo_tpot_ms"}
"""A simulation's own flags of targets, and a server's of the same, which are in milliseconds."""
HEAD_SIGMA = 0.5
"""Half of such a head's medians lie within a factor of 1.4 of the truth. A guess, not measured."""


class OneTarget(click.Command):
    """A command whose targets may be typed in seconds or in milliseconds, but not in both."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as ever; raises ConfigError for a target that was typed twice.

        A flag overrides a variable or a file, whatever their units.
        """
        left = super().parse_args(ctx, args)
        for flags in IN_SECONDS.items():
            if all(ctx.get_parameter_source(one) is ParameterSource.COMMANDLINE for one in flags):
                one, other = (f"--{flag_name(flag)}" for flag in flags)
                raise ConfigError(f"{one} and {other} are the same target; leave one out")
        return left


def workload_options(command: Command) -> Command:
    """Add the flags that choose a workload."""
    add = [
        click.option(
            "--workload",
            type=click.Path(path_type=Path),
            default=None,
            help="File of turns, as given or in the folder FORETOKEN_TRACES; .zst may be left out.",
        ),
        click.option(
            "--format",
            "workload_format",
            default="synthetic",
            show_default=True,
            help=f"Format of the file: {', '.join(FORMATS)} (needs none).",
        ),
        click.option("--limit", type=int, default=None, help="Most turns."),
        click.option(
            "--max-context",
            type=int,
            default=None,
            help="End sessions that outgrow so many tokens.",
        ),
        click.option(
            "--rate-scale",
            type=float,
            default=1.0,
            show_default=True,
            help="Sessions begin so much oftener.",
        ),
        click.option(
            "--time-scale",
            type=float,
            default=1.0,
            show_default=True,
            help="Users take so much longer.",
        ),
        click.option("--start", "start_s", type=float, default=0.0, help="Skip the first seconds."),
        click.option("--seconds", type=float, default=None, help="Sessions of so many seconds."),
        click.option(
            "--session-rate",
            type=float,
            default=1.0,
            show_default=True,
            help="Sessions a second, where the source does not say when they begin.",
        ),
        click.option("--skip-bad", is_flag=True, help="Leave bad lines out, and count them."),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Of all that is drawn."
        ),
    ]
    return _all(add, command)


def simulation_options(command: Command) -> Command:
    """Add the flags of the simulated server."""
    add = [
        click.option(
            "--model",
            default="llama-3.1-8b",
            show_default=True,
            help="A known model's name, a checkpoint's directory, or a model's id on the Hugging"
            " Face Hub, of which no weights are fetched.",
        ),
        click.option(
            "--predictor",
            default="head",
            show_default=True,
            help=f"Who forecasts replies: {', '.join(PREDICTORS)}.",
        ),
        click.option(
            "--head-sigma",
            type=click.FloatRange(min=0, min_open=True),
            default=HEAD_SIGMA,
            show_default=True,
            help="Standard deviation of the logarithm of a head's error.",
        ),
        click.option(
            "--step-noise",
            type=click.FloatRange(min=0),
            default=0.0,
            show_default=True,
            help="Standard deviation of the logarithm of step times.",
        ),
        click.option(
            "--max-launched",
            type=click.IntRange(1, 2),
            default=MAX_LAUNCHED,
            show_default=True,
            help="Steps on a device at once; 1 for an engine that waits for each.",
        ),
        click.option(
            "--slo-ttft", type=SECONDS, default=None, help="Target to the first token, s."
        ),
        click.option("--slo-tpot", type=SECONDS, default=None, help="Target per token, s."),
        field_option("model", "revision"),
        field_option("model", "quantize"),
        field_option("model", "kv_dtype"),
        part_options(*PARTS, defaults=ACCELERATOR),
    ]
    return _all(add, command)


def workload_choice(values: Mapping[str, Any]) -> WorkloadChoice:
    """Take what `workload_options` parsed; raises ConfigError for a rate without effect."""
    source = click.get_current_context().get_parameter_source("session_rate")
    require(
        source is ParameterSource.DEFAULT or values["workload_format"] not in TIMED,
        f"--session-rate has no effect with --format {values['workload_format']}, which says when"
        " sessions begin; use --rate-scale",
    )
    return WorkloadChoice(
        path=values["workload"],
        format=values["workload_format"],
        seed=values["seed"],
        limit=values["limit"],
        max_context=values["max_context"],
        rate_scale=values["rate_scale"],
        time_scale=values["time_scale"],
        start_s=values["start_s"],
        seconds=values["seconds"],
        session_rate=values["session_rate"],
        skip_bad=values["skip_bad"],
    )


def simulation_config(values: Mapping[str, Any]) -> SimulationConfig:
    """Take what `simulation_options` parsed, and the seed.

    Raises ConfigError, and CheckpointError for a model that cannot be fetched.
    """
    server = with_sizes(build_config(values["model"], {**ACCELERATOR, **values}))
    own = {
        flag: 1e3 * values[option]
        for option, flag in IN_SECONDS.items()
        if values.get(option) is not None
    }
    return SimulationConfig(
        server=replace(server, policy=replace(server.policy, **own)),
        predictor=values["predictor"],
        head_sigma=values["head_sigma"],
        step_noise=values["step_noise"],
        max_launched=values["max_launched"],
        seed=values["seed"],
    )


def _all(add: list[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(add):
        command = option(command)
    return command
