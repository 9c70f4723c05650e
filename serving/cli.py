"""What can a person type? Wires objects together; no logic."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from model.errors import CheckpointError
from serving.bounds import INT32, INT64, Finite
from serving.config import ConfigError, PolicyConfig
from serving.flags import (
    ACCEPTED_SWITCHES,
    as_typed,
    build_config,
    field_option,
    mistyped,
    part_options,
    read_config_file,
    server_options,
)
from serving.outputs import OutFile, OutFolder
from serving.peer_flags import peer_flag
from serving.plan.options import plan_options
from serving.replay.options import replay_options
from serving.sim.options import OneTarget, simulation_options, workload_options

DEFAULT = ParameterSource.DEFAULT
MOST_RUNS = 1000
FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130
ONE_SPELLING = {"token_normalize_func": lambda name: name.replace("_", "-")}


@click.group(context_settings=ONE_SPELLING)
@click.version_option(package_name="foretoken")
def cli() -> None:
    """Serve multi-turn LLM conversations from JAX."""


def _load_file(context: click.Context, _: click.Parameter, path: Path | None) -> Path | None:
    if path is not None:
        context.default_map = read_config_file(path)
    return path


config_option = click.option(
    "--config",
    envvar="FORETOKEN_CONFIG",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_load_file,
    help="TOML file of a server's flags; flags and variables override it.",
)


@cli.command(context_settings=ONE_SPELLING)
@click.argument("checkpoint")
@config_option
@server_options
def serve(checkpoint: str, **values: Any) -> None:
    """Serve CHECKPOINT through OpenAI's API: a directory, or a model's id on the Hugging Face Hub.

    An id, such as Qwen/Qwen3-0.6B, is downloaded to the usual cache first; HF_TOKEN, HF_HUB_OFFLINE
    and HF_HOME have their usual meaning.
    """
    # Imported late: --help and a wrong flag must not wait for JAX.
    from serving.serve import run_server

    for line in mistyped(os.environ):
        click.echo(f"foretoken: {line}", err=True)
    for name in ACCEPTED_SWITCHES:
        values.pop(flag_key(name))
    sys.exit(run_server(build_config(checkpoint, values), given()))


def given() -> frozenset[str]:
    """Name the settings of this command that somebody chose, by flag, variable or file."""
    context = click.get_current_context()
    chosen = {n for n in context.params if context.get_parameter_source(n) is not DEFAULT}
    return frozenset(chosen)


def flag_key(name: str) -> str:
    """Spell a flag as the keyword that click passes it by."""
    return name.replace("-", "_")


@cli.command(context_settings=ONE_SPELLING)
@click.argument("checkpoint")
@click.option(
    "--out",
    type=OutFile(),
    required=True,
    help="File to write; one that was cut short is continued.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, MOST_RUNS),
    default=5,
    show_default=True,
    help="Runs of each point; their median counts.",
)
@config_option
@part_options("model", "mesh", "memory", "batch")
def profile(checkpoint: str, out: Path, repeats: int, **values: Any) -> None:
    """Measure how long steps of CHECKPOINT take on this machine, for `serve --costs`."""
    from serving.engine.profile import profile
    from serving.hub import with_files

    profile(with_files(build_config(checkpoint, values)), given(), out, repeats)


@cli.command(context_settings=ONE_SPELLING)
@click.argument("log", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--turn", default=None, help="One turn, by its id or the beginning of it.")
@click.option(
    "--run",
    "number",
    type=click.IntRange(min=1),
    default=None,
    help="Which run of the server, from 1; else the last one, or the last that has the turn.",
)
def explain(log: Path, turn: str | None, number: int | None) -> None:
    """Tell what happened by the decision log LOG (`serve --decision-log`): all turns, or one."""
    from serving.metrics.explain import explain
    from serving.metrics.history import read_runs

    click.echo(explain(read_runs(log), number, turn))


@cli.command(context_settings=ONE_SPELLING)
@click.argument("checkpoint")
@click.option("--prompt", required=True, help="The text to continue, or the user's message.")
@click.option("--chat/--no-chat", default=False, help="Wrap the prompt in the chat template.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1, INT32),
    default=64,
    show_default=True,
    help="Longest reply.",
)
@click.option(
    "--temperature",
    type=Finite(min=0),
    default=0.0,
    show_default=True,
    help="0 is greedy.",
)
@click.option(
    "--top-p",
    type=Finite(min=0, max=1, min_open=True),
    default=1.0,
    show_default=True,
    help="Draw from the likeliest tokens that have this share together.",
)
@click.option(
    "--top-k",
    type=click.IntRange(1, INT32),
    default=None,
    help="Draw from so many of the likeliest tokens; all if not given.",
)
@click.option(
    "--seed",
    type=click.IntRange(-INT64 - 1, INT64),
    default=0,
    show_default=True,
    help="64-bit seed of the noise.",
)
@field_option("model", "revision")
@field_option("model", "dtype")
@field_option("model", "quantize")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def generate(
    checkpoint: str,
    *,
    revision: str | None,
    dtype: str,
    quantize: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Generate from CHECKPOINT without a server: slow, obvious, the oracle of the engine."""
    from serving.engine.oracle import generate_text
    from serving.hub import with_files

    source = {"revision": revision, "dtype": dtype, "quantize": quantize}
    config = with_files(build_config(checkpoint, source))
    answer = generate_text(Path(config.checkpoint), source=config.model, **options)
    click.echo(json.dumps(answer) if as_json else answer["text"])


def tell_route(policy: PolicyConfig) -> None:
    """Print what a person should know of how turns will be routed, beside the answer."""
    from serving.assembly import route_notice

    if (notice := route_notice(policy)) is not None:
        click.echo(f"foretoken: {notice}", err=True)


@cli.command(cls=OneTarget, context_settings=ONE_SPELLING)
@workload_options
@simulation_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--figures",
    type=OutFolder(),
    default=None,
    help="Directory for pictures: workers over time, page use, latencies by turn.",
)
@config_option
def simulate(*, as_json: bool, figures: Path | None, **values: Any) -> None:
    """Run a workload through the scheduler in virtual time and say what every turn would get."""
    from serving.sim.figures import check_drawing, draw
    from serving.sim.options import simulation_config, workload_choice
    from serving.sim.report import text_of
    from serving.sim.run import simulate as run_simulation
    from serving.workload.read import read_workload

    config = simulation_config(values)
    if figures is not None:
        check_drawing()
    tell_route(config.server.policy)
    workload = read_workload(workload_choice(values))
    outcome = run_simulation(config, workload, show_progress=True)
    if figures is not None:
        draw(outcome, figures)
    click.echo(json.dumps(outcome.report) if as_json else text_of(outcome.report))


@cli.command(cls=OneTarget, context_settings=ONE_SPELLING)
@plan_options
@workload_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--out",
    type=OutFile(),
    default=None,
    help="TOML file to write, for `serve --config`.",
)
def plan(*, as_json: bool, out: Path | None, **values: Any) -> None:
    """Say which workers, and how many, serve a workload best on so many accelerators."""
    from serving.plan.answer import report_of, text_of, toml_of
    from serving.plan.options import plan_request
    from serving.plan.planner import plan as make_plan
    from serving.sim.options import workload_choice
    from serving.workload.read import read_workload

    request = plan_request(values)
    tell_route(request.config.server.policy)
    workload = read_workload(workload_choice(values))
    answer = make_plan(request, workload, show_progress=True)
    if out is not None:
        out.write_text(toml_of(answer))
    click.echo(json.dumps(report_of(answer)) if as_json else text_of(answer))


@cli.command(context_settings=ONE_SPELLING)
@replay_options
@workload_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(*, as_json: bool, **values: Any) -> None:
    """Send a workload to a server at its own pace and say what every turn got.

    Exit status 1 if any turn failed; the report is printed all the same.
    """
    from serving.replay.options import replay_config
    from serving.replay.report import failure_of, text_of
    from serving.replay.run import replay as run_replay
    from serving.sim.options import workload_choice
    from serving.workload.read import read_workload

    config = replay_config(values)
    workload = read_workload(workload_choice(values))
    report = run_replay(config, workload, transport=None, show_progress=True)
    click.echo(json.dumps(report) if as_json else text_of(report))
    if (failure := failure_of(report)) is not None:
        click.echo(f"foretoken: {failure}", err=True)
    if report["interrupted"]:
        sys.exit(INTERRUPTED)
    if failure is not None:
        sys.exit(FAILED)


@cli.command("validate-simulator", context_settings=ONE_SPELLING)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Measured runs (CSV) to fit what the measured system adds to the work itself.",
)
@click.option(
    "--measurements",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Measured runs to compare with; the same file is split by rate.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, MOST_RUNS),
    default=1,
    show_default=True,
    help="Simulations of each run.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def validate_simulator(calibrate: Path, measurements: Path, seeds: int, *, as_json: bool) -> None:
    """Say how far simulations are from measured runs that nothing was fitted to."""
    from serving.sim.sweep import read_sweep
    from serving.sim.validation import text_of, validate

    found = validate(read_sweep(calibrate), read_sweep(measurements), seeds=seeds)
    click.echo(json.dumps(found) if as_json else text_of(found))


def main() -> None:
    """Run the command line; every expected failure is one line and exit status 2."""
    sys.exit(run(cli))


def run(command: Callable[..., Any]) -> int:
    """Run a click command, turning expected failures into one line on standard error."""
    try:
        command(standalone_mode=False)
    except click.ClickException as error:
        if (line := _of_a_peer(error)) is not None:
            click.echo(f"foretoken: {line}", err=True)
        else:
            _with_variable(error).show()
        return error.exit_code
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (ConfigError, CheckpointError) as error:
        click.echo(f"foretoken: {as_typed(str(error), sys.argv[1:])}", err=True)
        return USAGE_ERROR
    except MemoryError as error:
        why = f" ({error})" if str(error) else ""
        click.echo(f"foretoken: this machine has too little memory for it{why}", err=True)
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return 0


def _of_a_peer(error: click.ClickException) -> str | None:
    """Say what an unknown flag of another server is called here."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return None
    options = [one for one in error.ctx.command.params if isinstance(one, click.Option)]
    known = [name for one in options for name in (*one.opts, *one.secondary_opts)]
    return peer_flag(sys.argv[1:], known)


def _with_variable(error: click.ClickException) -> click.ClickException:
    """Let a refusal of a value say which variable brought it: then nobody has typed the flag."""
    if not isinstance(error, click.BadParameter) or error.ctx is None or error.param is None:
        return error
    source = error.ctx.get_parameter_source(error.param.name or "")
    if source is not ParameterSource.ENVIRONMENT:
        return error
    message = f"{error.message} (from {error.param.envvar})"
    return click.BadParameter(message, error.ctx, error.param)


if __name__ == "__main__":
    main()
