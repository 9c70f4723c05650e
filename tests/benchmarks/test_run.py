"""The command: finished parts survive an interruption, and are measured again only when asked."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks import run
from benchmarks.bench import Bench
from benchmarks.child import ChildFailed
from benchmarks.parts import transformers
from benchmarks.server import JAX_CACHE, ServerFailed, own_cache, shared_cache


class Parts:
    """Counts how often each part is measured; `broken` ones fail as a server does."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.broken: set[str] = set()

    def part(self, name: str, figures: dict[str, Any]) -> Callable[[Bench], dict[str, Any]]:
        def measure(bench: Bench) -> dict[str, Any]:
            self.measured.append(name)
            if name in self.broken:
                raise ServerFailed("no port")
            bench.say("half way")
            return figures

        return measure


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Parts:
    found = Parts()
    fakes = {
        "raw": found.part("raw", {"mean_context": 8, "tokens_per_s": {"1": {"median": 1234}}}),
        "memory": found.part("memory", {"peak_bytes": 2**30}),
    }
    monkeypatch.setattr(run, "PARTS", fakes)
    monkeypatch.setattr(run, "describe_code", lambda _: "c1")
    return found


def invoke(out: Path, *flags: str) -> Result:
    return CliRunner().invoke(run.main, ["--out", str(out), *flags])


def test_everything_is_measured_once_and_shown(parts: Parts, tmp_path: Path):
    out = tmp_path / "bench.json"
    first = invoke(out)
    assert (first.exit_code, parts.measured) == (0, ["raw", "memory"])
    assert "1,234 tokens/s" in first.stdout
    again = invoke(out)
    assert parts.measured == ["raw", "memory"]
    assert again.stdout == first.stdout
    assert "kept: raw, memory" in again.stderr


def test_a_run_goes_on_where_it_was_interrupted(parts: Parts, tmp_path: Path):
    out = tmp_path / "bench.json"
    parts.broken.add("memory")
    failed = invoke(out)
    assert failed.exit_code == 1
    assert "memory: no port" in failed.stderr
    assert list(json.loads(out.read_text())["parts"]) == ["raw"]
    parts.broken.clear()
    assert invoke(out).exit_code == 0
    assert parts.measured == ["raw", "memory", "memory"]


@pytest.mark.parametrize(
    ("flags", "measured"),
    [(("--only", "memory"), ["memory"]), (("--again",), ["raw", "memory"])],
)
def test_parts_are_measured_again_when_asked(
    parts: Parts, tmp_path: Path, flags: tuple[str, ...], measured: list[str]
):
    invoke(tmp_path / "bench.json")
    parts.measured.clear()
    assert invoke(tmp_path / "bench.json", *flags).exit_code == 0
    assert parts.measured == measured


def test_a_full_run_keeps_nothing_of_a_quick_one(parts: Parts, tmp_path: Path):
    invoke(tmp_path / "bench.json", "--quick")
    invoke(tmp_path / "bench.json")
    assert parts.measured == ["raw", "memory"] * 2


def test_without_torch_the_comparison_says_why_it_is_skipped(bench: Bench):
    assert transformers.absent(bench) == (
        "the interpreter of --torch-python cannot `import torch, transformers`"
    )


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(
        root=tmp_path,
        checkpoint=tmp_path,
        cache=tmp_path,
        scale=run.QUICK,
        torch_python=str(tmp_path / "no-python-here"),
        say=print,
    )


def test_a_child_answers_every_question(bench: Bench, tmp_path: Path):
    (tmp_path / "echo.py").write_text(
        "import json, sys\nfor line in sys.stdin: print(line.upper(), end='', flush=True)\n"
    )
    with bench.child("echo", python=sys.executable) as child:
        assert child.ask({"a": 1}) == {"A": 1}
        assert child.ask({"b": 2}) == {"B": 2}


def test_a_child_that_ends_gave_no_answer(bench: Bench, tmp_path: Path):
    (tmp_path / "mute.py").write_text("input()\n")
    with bench.child("mute", python=sys.executable) as child, pytest.raises(ChildFailed):
        child.ask({"a": 1})


def test_only_the_shared_cache_is_told_to_jax(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(JAX_CACHE, "elsewhere")
    assert JAX_CACHE not in own_cache(tmp_path)
    assert own_cache(tmp_path)["XDG_CACHE_HOME"] == str(tmp_path)
    assert shared_cache(tmp_path)[JAX_CACHE] == str(tmp_path / "jax")
