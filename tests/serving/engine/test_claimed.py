"""Every command that fills a device claims its memory before it counts what there is."""

import os
from pathlib import Path

import pytest

import predictor.collect
import serving.engine.profile
import serving.serve
from serving.engine.device_memory import HOST_VARIABLE
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


GIVEN = {"host_kv_gib": 64.0, "prefill_workers": 1, "decode_workers": 2}


def serve_pages() -> None:
    serving.serve.run_server(build_config(DEMO, GIVEN), ())


def profile_pages() -> None:
    serving.engine.profile.profile(build_config(DEMO, GIVEN), (), Path("nowhere"), 1)


@pytest.mark.parametrize(("command", "workers"), [(serve_pages, 3), (profile_pages, 2)])
def test_host_memory_is_claimed_for_all_workers(
    command, workers: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(HOST_VARIABLE, "")
    seen: list[str] = []

    def stop(config):
        seen.append(os.environ[HOST_VARIABLE])
        raise Settled

    for module in (serving.serve, serving.engine.profile):
        monkeypatch.setattr(module, "settle", stop)
        monkeypatch.setattr(module, "make_cpu_devices", lambda count: None)
    with pytest.raises(Settled):
        command()
    assert seen == [str(72 * workers + 4)]
