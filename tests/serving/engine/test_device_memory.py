"""Whose memory is meant by a fraction: the device's, or what JAX was given of it."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from serving.config import ConfigError
from serving.engine.device_memory import HOST_VARIABLE, claim, claim_host, memory_of, share_of

GIB = 2.0**30


def test_nearly_all_is_claimed_where_nobody_said_how_much():
    env = {"OTHER": "1"}
    claim(env)
    assert env == {"OTHER": "1", "XLA_CLIENT_MEM_FRACTION": "0.95"}
    assert share_of(env) == 0.95


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_what_the_environment_says_is_kept_under_either_name(name: str):
    env = {name: "0.4"}
    claim(env)
    assert env == {name: "0.4"}, "JAX refuses both names at once"
    assert share_of(env) == 0.4


def test_an_empty_variable_says_nothing():
    env = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ""}
    claim(env)
    assert env["XLA_CLIENT_MEM_FRACTION"] == "0.95"
    assert share_of({"XLA_CLIENT_MEM_FRACTION": ""}) == 0.75


@pytest.mark.parametrize(
    ("gib", "workers", "limit"),
    [(0.0, 8, None), (53.0, 1, None), (53.5, 1, "65"), (64.0, 4, "292"), (6.7, 8, "65")],
)
def test_more_of_the_host_is_claimed_where_pages_take_more_than_xla_gives(
    gib: float, workers: int, limit: str | None
):
    """An eighth and 4 GiB more than the pages take, in whole GiB."""
    for env in ({"OTHER": "1"}, {"OTHER": "1", HOST_VARIABLE: ""}):
        claim_host(env, gib, workers)
        assert (env.get(HOST_VARIABLE) or None) == limit
        assert env["OTHER"] == "1"


def test_what_the_environment_says_of_the_host_is_kept_or_refused():
    for said in ("76", "500"):
        env = {HOST_VARIABLE: said}
        claim_host(env, 32.0, 2)
        assert env == {HOST_VARIABLE: said}
    claim_host({HOST_VARIABLE: "1"}, 0.0, 2)
    for said in ("75", "8", "much"):
        with pytest.raises(ConfigError) as caught:
            claim_host({HOST_VARIABLE: said}, 32.0, 2)
        assert str(caught.value) == (
            "--host-kv-gib 32 for 2 worker(s) wants XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB=76 at least,"
            f" and it is {said}: raise it, unset it or lower --host-kv-gib"
        )


def memory(limit_gib: float, share: float, fraction: float, platform: str) -> float | None:
    device = SimpleNamespace(
        platform=platform, memory_stats=lambda: {"bytes_limit": round(limit_gib * GIB)}
    )
    return memory_of(device, fraction, {"XLA_CLIENT_MEM_FRACTION": str(share)})


def test_a_fraction_is_of_the_whole_gpu_as_far_as_jax_was_given_it():
    # 24 GiB, of which JAX was given 0.95: 0.9 of the 24 lie within.
    assert memory(22.8, 0.95, 0.9, "gpu") == pytest.approx(24 * GIB)
    # Given half of it, 0.9 of the half is meant; so where 0.98 of the whole is more than there is.
    assert memory(12.0, 0.5, 0.9, "cuda") == 12 * GIB
    assert memory(22.8, 0.95, 0.98, "gpu") == pytest.approx(22.8 * GIB)


def test_other_devices_are_wholly_jaxs():
    assert memory(16.0, 0.95, 0.9, "tpu") == 16 * GIB


def test_a_share_above_one_of_unified_memory_is_not_the_whole_device():
    assert memory(48.0, 2.0, 0.9, "gpu") == 48 * GIB


def test_a_processor_has_no_memory_of_its_own():
    assert memory_of(SimpleNamespace(platform="cpu", memory_stats=lambda: None), 0.9, {}) is None


SEEN = """
import os
from jaxlib import xla_client
from serving.engine.device_memory import claim
claim(os.environ)
print(xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"])
"""


def test_jax_takes_what_is_claimed_although_it_was_imported_before():
    env = {k: v for k, v in os.environ.items() if "MEM_FRACTION" not in k}
    done = subprocess.run(
        [sys.executable, "-c", SEEN], capture_output=True, text=True, check=True, env=env
    )
    assert float(done.stdout) == 0.95
