"""Every command that fills a device claims its memory before it counts what there is."""

import os
from pathlib import Path

import pytest

import predictor.collect
import serving.engine.profile
import serving.serve
from serving.flags import build_config

DEMO = "checkpoints/demo"
NEW, OLD = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"


class Settled(Exception):
    """Everything that comes before the sizes is over."""


def serve() -> None:
    serving.serve.run_server(build_config(DEMO, {}), ())


def profile() -> None:
    serving.engine.profile.profile(build_config(DEMO, {}), (), Path("nowhere"), 1)


def collect() -> None:
    predictor.collect.run(Path(DEMO), Path("nowhere"), 1, None, 1, {})


@pytest.mark.parametrize("command", [serve, profile, collect])
def test_a_gpu_is_claimed_before_anything_is_counted(command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(NEW, "")
    monkeypatch.setenv(OLD, "")
    seen: list[str] = []

    def stop(config):
        seen.append(os.environ[NEW])
        raise Settled

    for module in (serving.serve, serving.engine.profile, predictor.collect):
        monkeypatch.setattr(module, "settle", stop)
    for module in (serving.serve, serving.engine.profile):
        monkeypatch.setattr(module, "make_cpu_devices", lambda count: None)
    with pytest.raises(Settled):
        command()
    assert seen == ["0.95"]
