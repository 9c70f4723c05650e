"""The start-up part: a cold start finds nothing, the warm one after it finds what was left."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench import QUICK, Bench
from benchmarks.parts import startup


class FakeServer:
    """Takes 30 s to start with an empty cache, which it fills, and 5 s with a filled one."""

    def __init__(self, checkpoint: Path, flags: Sequence[str], env: dict[str, str]) -> None:
        compiled = Path(env["XDG_CACHE_HOME"]) / "compiled"
        self.ready_s = 5.0 if compiled.exists() else 30.0
        compiled.touch()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_every_repeat_starts_cold_and_then_warm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(startup, "Server", FakeServer)
    bench = Bench(
        root=tmp_path,
        checkpoint=tmp_path,
        cache=tmp_path,
        scale=replace(QUICK, repeats=2),
        torch_python=None,
        say=lambda _: None,
    )
    measured = startup.measure(bench)
    assert measured["cold_s"] == {"median": 30.0, "min": 30.0, "max": 30.0, "repeats": 2}
    assert measured["warm_s"] == {"median": 5.0, "min": 5.0, "max": 5.0, "repeats": 2}
