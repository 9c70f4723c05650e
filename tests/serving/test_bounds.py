"""A number that nobody means is one line, whichever flag it was typed for."""

import subprocess
import sys
from typing import Any

import click
import pytest

from serving.bounds import INT64, MOST_WORKERS, Finite
from serving.cli import cli, run

NEEDED = {
    "explain": ["log"],
    "generate": ["checkpoint", "--prompt", "x"],
    "plan": ["--gpus", "2", "--slo-ttft", "1", "--slo-tpot", "0.03", "--limit", "1"],
    "profile": ["checkpoint", "--out", "out.json"],
    "replay": ["--limit", "1"],
    "serve": ["checkpoint"],
    "simulate": ["--limit", "1"],
    "validate-simulator": ["--calibrate", "file", "--measurements", "file"],
}
WORK = (
    "serving.engine.oracle.generate_text",
    "serving.engine.profile.profile",
    "serving.metrics.explain.explain",
    "serving.metrics.history.read_runs",
    "serving.plan.answer.text_of",
    "serving.plan.planner.plan",
    "serving.replay.report.text_of",
    "serving.replay.run.replay",
    "serving.sim.report.text_of",
    "serving.sim.run.simulate",
    "serving.sim.sweep.read_sweep",
    "serving.sim.validation.text_of",
    "serving.sim.validation.validate",
)
"""What the commands do with their flags; here they do nothing."""
HUGE = "1" + 30 * "0"
INTEGERS = ("", "abc", "1.5", "nan", "inf", "1e99", HUGE, f"-{HUGE}", 5000 * "1")
REALS = ("", "abc", "nan", "inf", "-inf", "1e99", "5e-324", "1e999", HUGE, f"-{HUGE}")


class Nothing(dict[str, Any]):
    """The result of work that was not done."""

    report: Any = None

    def __missing__(self, key: str) -> None:
        return None


def options_of(kinds: tuple[type[click.ParamType], ...]) -> list[tuple[str, str]]:
    """Every flag of every command whose value is of these kinds."""
    return [
        (name, option.opts[0])
        for name, command in sorted(cli.commands.items())
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.type, kinds)
    ]


INTEGER_FLAGS = options_of((type(click.INT), click.IntRange))
REAL_FLAGS = options_of((type(click.FLOAT), click.FloatRange))


@pytest.fixture
def _idle(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("log", "file"):
        (tmp_path / name).write_text("")
    (tmp_path / "checkpoint").mkdir()
    for name in WORK:
        monkeypatch.setattr(name, lambda *_, **__: Nothing(text=""))
    monkeypatch.setattr("serving.replay.report.failure_of", lambda _: None)
    monkeypatch.setattr("serving.serve.run_server", lambda *_: 0)


def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, flag: str
) -> tuple[int, list[str]]:
    """The exit status and what is told, but for click's two lines on how to call the command."""
    monkeypatch.setattr(sys, "argv", ["foretoken", command, *NEEDED[command], flag])
    try:
        status = run(cli)
    except SystemExit as stop:
        status = stop.code
    assert isinstance(status, int)
    told = capsys.readouterr().err.splitlines()
    return status, [line for line in told if line and not line.startswith(("Usage", "Try"))]


@pytest.mark.usefixtures("_idle")
@pytest.mark.parametrize(("command", "flag"), INTEGER_FLAGS, ids="".join)
def test_a_whole_number_that_is_none_or_too_large_is_one_line(
    command: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for value in INTEGERS:
        status, told = typed(monkeypatch, capsys, command, f"{flag}={value}")
        harmless = (command, flag) in ANY_NUMBER and value.lstrip("-") == HUGE
        assert status == 2 or harmless, value
        if status:
            assert len(told) == 1, told
            assert flag in told[0]


ANY_NUMBER = [
    *((command, flag) for command in ("replay",) for flag in ("--seed", "--concurrency-limit")),
    *(
        (command, flag)
        for command in ("plan", "replay", "simulate")
        for flag in ("--max-context", "--limit")
    ),
    ("explain", "--run"),
]
"""Limits that nothing reaches, and a seed that is only written down."""


@pytest.mark.usefixtures("_idle")
@pytest.mark.parametrize(("command", "flag"), REAL_FLAGS, ids="".join)
def test_a_number_that_is_none_is_one_line(
    command: str, flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for value in REALS:
        status, told = typed(monkeypatch, capsys, command, f"{flag}={value}")
        assert status in (0, 2), value
        assert status == 2 or value not in ("", "abc", "nan", "-inf", f"-{HUGE}"), value
        if status:
            assert len(told) == 1, told
            assert flag in told[0] or "outside the window" in told[0]


def test_there_are_numbers_in_every_command():
    assert {command for command, _ in INTEGER_FLAGS} == set(cli.commands) == set(NEEDED)
    assert len(REAL_FLAGS) > 50


@pytest.mark.usefixtures("_idle")
@pytest.mark.parametrize(
    ("command", "flag", "status"),
    [
        ("serve", f"--decode-workers={MOST_WORKERS}", 0),
        ("serve", f"--decode-workers={MOST_WORKERS + 1}", 2),
        ("serve", f"--seed={INT64}", 0),
        ("serve", f"--seed={-INT64 - 1}", 0),
        ("serve", f"--seed={-INT64 - 2}", 2),
        ("serve", "--step-timeout-seconds=inf", 0),
        ("simulate", "--rate-scale=1e6", 0),
        ("simulate", "--rate-scale=1.1e6", 2),
        ("simulate", "--seconds=1e6", 2),
    ],
)
def test_the_greatest_number_is_taken_and_the_next_is_not(
    command: str,
    flag: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    assert typed(monkeypatch, capsys, command, flag)[0] == status


def test_nan_is_in_no_range():
    with pytest.raises(click.BadParameter, match="nan is not a finite number"):
        Finite(min=0).convert("nan", None, None)


def test_more_memory_than_there_is_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def hungry(**_: object) -> None:
        raise MemoryError("Unable to allocate 2.00 GiB")

    assert run(hungry) == 1
    assert capsys.readouterr().err == (
        "foretoken: this machine has too little memory for it (Unable to allocate 2.00 GiB)\n"
    )


def test_help_does_not_wait_for_jax():
    code = "import sys; from serving.cli import cli, run; run(cli); print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"
