"""Equal meshes share what is compiled, and say the same; whatever is in the way, it compiles."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax._src import compilation_cache as internals
from jax.sharding import Mesh
from jaxlib import xla_client

from model.attention.paged import BLOCKED
from model.sharding import DECODE, TENSOR, param_shardings
from serving.engine.compile_cache import cache_directory, keep_compiled, on_first_devices
from serving.engine.executor import JaxExecutor
from serving.engine.programs import Moves, Site
from serving.messages import Role
from tests.support.local_fleet import sampling
from tests.support.plans import chunk, plan, row, table
from tests.support.tiny_cluster import MODEL, PARAMS, SIZES, oracle, prompt

FEW = replace(SIZES, max_rows=1, max_chunk_rows=1)  # every bucket is a program to compile


@pytest.fixture(autouse=True)
def kept_as_before(kept_programs: Path) -> Iterator[None]:
    """Whatever a test does to the settings of the process, the next one finds the usual ones."""
    yield
    keep_compiled(kept_programs, least_seconds=0.0)


@pytest.fixture
def cache() -> Iterator[Counter[str]]:
    """Counts what is asked of JAX's cache: `cache_hits` and `cache_misses`."""
    counter: Counter[str] = Counter()

    def listen(event: str, **_: str | int) -> None:
        counter[event.rpartition("/")[2]] += 1

    jax.monitoring.register_event_listener(listen)
    yield counter
    jax.monitoring.unregister_event_listener(listen)


def cold(first_device: int, degree: int) -> JaxExecutor:
    mesh = Mesh(np.array(jax.devices()[first_device : first_device + degree]), (TENSOR,))
    params = jax.device_put(PARAMS, param_shardings(MODEL, mesh, DECODE))
    site = Site(MODEL, mesh, DECODE, FEW, BLOCKED)
    return JaxExecutor(params, site, Role.DECODE, moves=Moves.TO_WORKERS)


def reply(executor: JaxExecutor) -> tuple[list[int], list[float]]:
    """Prefill a prompt, move its pages, and decode ten tokens; with every log-probability."""
    pages, moved = table([1, 2, 3, 4], SIZES.max_pages), table([5, 6, 7, 8], SIZES.max_pages)
    tokens = prompt(6)
    made = plan(chunks=[chunk(0, 0, tokens, pages)], max_pages=SIZES.max_pages, logprobs=True)
    results = [executor.collect(executor.launch(made))]
    executor.scatter(executor.gather([1, 2, 3, 4]), [5, 6, 7, 8])
    for i in range(10):
        rows = [row(0, 6 + i, moved, reply_index=1 + i)]
        made = plan(rows, max_pages=SIZES.max_pages, logprobs=True)
        results.append(executor.collect(executor.launch(made)))
    ids = [token for one in results for token in one.decode_ids + one.chunk_ids]
    kept = [(one.decode_logprobs or []) + (one.chunk_logprobs or []) for one in results]
    return ids, [score.chosen for scores in kept for score in scores]


@pytest.mark.parametrize("degree", [1, 2])
def test_the_second_of_two_equal_meshes_compiles_nothing_and_says_the_same(cache, degree):
    first, second = cold(0, degree), cold(4, degree)
    first.warm_up(lambda _: None)
    cache.clear()
    second.warm_up(lambda _: None)
    assert cache["cache_misses"] == 0
    assert cache["cache_hits"] == cache["compile_requests_use_cache"] >= second.num_programs
    assert reply(second) == reply(first)
    ids, scores = reply(second)
    assert tuple(ids) == oracle(prompt(6), sampling(11))
    assert len(scores) == 11


def options(devices: list[int]) -> Any:
    made = xla_client.CompileOptions()
    made.num_partitions = len(devices)
    made.device_assignment = xla_client.DeviceAssignment.create(np.array([devices]))
    return made


def test_options_of_equal_meshes_are_equal_without_their_devices():
    written = [on_first_devices(options(at)).SerializeAsString() for at in ([0, 1], [4, 5], [6])]
    assert written[0] == written[1] != written[2]


def test_where_a_program_is_loaded_is_not_changed():
    given = options([4, 5])
    before = given.SerializeAsString()
    on_first_devices(given)
    assert given.SerializeAsString() == before


def test_options_that_look_different_are_left_alone():
    placeless = xla_client.CompileOptions()
    assert on_first_devices(placeless) is placeless
    unknown = object()
    assert on_first_devices(unknown) is unknown


def test_a_jax_without_that_function_still_compiles(monkeypatch, kept_programs):
    monkeypatch.delattr(internals, "get_cache_key")
    keep_compiled(kept_programs, least_seconds=0.0)
    assert not hasattr(internals, "get_cache_key")


def test_devices_stay_in_the_key_of_everything_but_a_cpu(monkeypatch, kept_programs):
    seen: list[object] = []

    def key_of(module: object, devices: object, options: object, backend: object) -> str:
        seen.append(options)
        return "key"

    class Backend:
        platform = "tpu"

    monkeypatch.setattr(internals, "get_cache_key", key_of)
    keep_compiled(kept_programs, least_seconds=0.0)
    given = options([4, 5])
    nothing: Any = None
    assert internals.get_cache_key(nothing, nothing, given, Backend()) == "key"
    assert seen == [given]


def test_what_a_crash_left_broken_is_compiled_once_and_kept(cache, tmp_path):
    keep_compiled(tmp_path, least_seconds=0.0)

    @jax.jit
    def program(x: jax.Array) -> jax.Array:
        return x * 3 + 1

    def start() -> tuple[int, int]:
        """Run it as a process does that has compiled nothing; returns hits and misses."""
        jax.clear_caches()
        cache.clear()
        assert program(jax.numpy.float32(2)) == 7
        return cache["cache_hits"], cache["cache_misses"]

    hits, misses = start()
    assert (hits, misses > 0) == (0, True)
    assert start() == (misses, 0)
    entries = list(tmp_path.glob("*-cache"))
    assert len(entries) == misses
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:100])
    with pytest.warns(UserWarning, match="Error reading persistent compilation cache entry"):
        assert start() == (0, misses)
    assert start() == (misses, 0)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, caplog, kept_programs):
    (tmp_path / "file").touch()
    keep_compiled(tmp_path / "file" / "compiled", least_seconds=0.0)
    (line,) = caplog.messages
    assert line.startswith("programs are compiled at every start: ")
    assert "Not a directory; set JAX_COMPILATION_CACHE_DIR" in line
    settings: Any = jax.config
    assert settings.jax_compilation_cache_dir is None


def test_a_folder_that_may_only_be_read_is_read(tmp_path, caplog, monkeypatch, cache):
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    keep_compiled(tmp_path, least_seconds=0.0)
    jax.jit(lambda x: x * 5 + 2)(jax.numpy.float32(2))
    (line,) = caplog.messages
    assert line.endswith("are compiled at every start: read-only")
    assert cache["compile_requests_use_cache"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_compiles_at_every_start(caplog, monkeypatch, kept_programs):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 1_234_567)
    assert cache_directory() is None
    keep_compiled(cache_directory(), least_seconds=0.0)
    (line,) = caplog.messages
    assert "there is no home directory; set JAX_COMPILATION_CACHE_DIR" in line
