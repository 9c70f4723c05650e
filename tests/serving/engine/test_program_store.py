"""A program is compiled once for all meshes that are equal, and does the same on each."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental import serialize_executable
from jax.sharding import Mesh, SingleDeviceSharding
from jax.stages import Compiled

from model.sharding import DECODE, TENSOR, param_shardings
from serving.engine import program_store
from serving.engine.executor import JaxExecutor
from serving.engine.program_store import ProgramStore
from serving.engine.programs import Site
from serving.engine.relocate import RelocationError, relocate
from serving.messages import Role
from tests.support.compiles import no_compiles
from tests.support.local_fleet import sampling
from tests.support.plans import chunk, plan, row, table
from tests.support.tiny_cluster import MODEL, PARAMS, SIZES, STORE, oracle, prompt


def cold(first_device: int, degree: int, store: ProgramStore) -> JaxExecutor:
    mesh = Mesh(np.array(jax.devices()[first_device : first_device + degree]), (TENSOR,))
    params = jax.device_put(PARAMS, param_shardings(MODEL, mesh, DECODE))
    site = Site(MODEL, mesh, DECODE, SIZES, "blocked")
    return JaxExecutor(params, site, Role.DECODE, store, moves_pages=True)


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
def test_the_second_of_two_equal_meshes_compiles_nothing_and_says_the_same(degree):
    first, second = cold(0, degree, STORE), cold(4, degree, STORE)
    first.warm_up(lambda _: None)
    with no_compiles():
        second.warm_up(lambda _: None)
        there = reply(second)
    assert there == reply(first)
    assert tuple(there[0]) == oracle(prompt(6), sampling(11))
    assert len(there[1]) == 11


class Builds:
    """Builds adders of one vector on a device, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def on(self, device: int) -> tuple[list[Any], Callable[[], Compiled]]:
        where = jax.devices()[device]

        def build() -> Compiled:
            self.count += 1
            shape = jax.ShapeDtypeStruct((3,), np.float32, sharding=SingleDeviceSharding(where))
            return jax.jit(lambda x: x + 1).lower(shape).compile()

        return [where], build


def added(program: Compiled, device: int) -> tuple[list[float], int]:
    """What an adder makes of zeros on a device, and on which device that is."""
    where = jax.devices()[device]
    out = program(jax.device_put(np.zeros(3, np.float32), where))
    return out.tolist(), next(iter(out.devices())).id


def test_equal_keys_share_one_compilation_and_others_do_not():
    store, builds = ProgramStore(), Builds()
    for key, device, count in (("a", 1, 1), ("a", 2, 1), ("b", 2, 2), ("a", 1, 2)):
        program = store.get(key, *builds.on(device))
        assert builds.count == count
        assert added(program, device) == ([1.0, 1.0, 1.0], device)


def test_a_program_that_cannot_be_moved_is_compiled_again(monkeypatch):
    def refuse(*_: object) -> Compiled:
        raise RelocationError("not here")

    monkeypatch.setattr(program_store, "relocate", refuse)
    store, builds = ProgramStore(), Builds()
    programs = [store.get("a", *builds.on(device)) for device in (1, 2)]
    assert builds.count == 2
    assert added(programs[1], 2) == ([1.0, 1.0, 1.0], 2)


def test_whatever_breaks_while_a_program_is_moved_is_a_relocation_error(monkeypatch):
    own, build = Builds().on(1)
    program = build()

    def broken(_: object) -> object:
        raise AttributeError("this version of JAX has no such thing")

    monkeypatch.setattr(serialize_executable, "serialize", broken)
    with pytest.raises(RelocationError, match="no such thing"):
        relocate(program, own, jax.devices()[2:3])


def test_a_program_that_cannot_be_compiled_is_everybodys_error():
    def broken() -> Compiled:
        raise ValueError("too large")

    store = ProgramStore()
    for device in (1, 2):
        with pytest.raises(ValueError, match="too large"):
            store.get("a", jax.devices()[device : device + 1], broken)
