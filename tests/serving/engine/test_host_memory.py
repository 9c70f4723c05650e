"""Pages that leave the device and come back: equal, on any mesh, and nothing is kept of them."""

import gc
import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model import kv_pages
from serving.engine import host_memory
from serving.engine.buckets import MOST_APART, Bucket, Buckets
from serving.engine.host_memory import HostMemory
from serving.messages import Role
from tests.support.compiles import no_compiles
from tests.support.one_executor import MAX_PAGES, SIZES, make

WAYS = ("page-locked", "copied")
DEGREES = (1, 2, 4)


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a host memory that is made from now on keeps pages."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "copied":
            patch.setattr(host_memory, "PAGE_LOCKED", "none of them")
        yield request.param


@pytest.fixture(scope="module")
def executors(way: str):
    return {degree: make(Role.DECODE, 8 - degree, degree) for degree in DEGREES}


@pytest.fixture(params=DEGREES)
def executor(executors, request: pytest.FixtureRequest):
    """A warm executor of 1, 2 or 4 devices with an empty host memory and a pool of known pages."""
    found = executors[request.param]
    found._host = HostMemory(found._site.page_sharding)
    refill(found)
    return found


def refill(executor, seed: int = 0) -> None:
    for first in range(0, SIZES.num_pages, MAX_PAGES):
        at = range(first, first + MAX_PAGES)
        like = executor.gather(at)
        values = np.random.default_rng((seed, first)).standard_normal(like.shape)
        payload = jax.device_put(values.astype(like.dtype), executor.payload_sharding)
        executor.scatter(payload, at)


def content(executor, pages) -> np.ndarray:
    """The pages one after the other [n, L, ...]."""
    found = [np.asarray(executor.gather([page]))[:, 0] for page in pages]
    return np.stack(found)


@pytest.mark.parametrize("seed", range(3))
def test_random_pages_come_back_as_they_were(executor, seed: int):
    """Against a plain record of which slot has which content, however slots are used again."""
    draw = np.random.default_rng(seed)
    record: dict[int, np.ndarray] = {}
    for turn in range(6):
        refill(executor, 10 * seed + turn)
        count = int(draw.integers(1, 40))
        pages = draw.choice(np.arange(1, SIZES.num_pages), count, replace=False).tolist()
        slots = draw.choice(64, count, replace=False).tolist()
        record |= dict(zip(slots, content(executor, pages), strict=True))
        with no_compiles():
            executor.offload(pages, slots)
        refill(executor, 1000)
        assert len(executor._host) == len(record)
        back = draw.choice(sorted(record), int(draw.integers(1, len(record) + 1)), replace=False)
        to = draw.choice(np.arange(1, SIZES.num_pages), len(back), replace=False).tolist()
        before = content(executor, range(1, SIZES.num_pages))
        with no_compiles():
            executor.write(executor.fetch(back.tolist()), to)
        wanted = np.stack([record.pop(slot) for slot in back.tolist()])
        np.testing.assert_array_equal(content(executor, to), wanted)
        others = sorted(set(range(1, SIZES.num_pages)) - set(to))
        left = before[[page - 1 for page in others]]
        np.testing.assert_array_equal(content(executor, others), left)
    assert len(executor._host) == len(record)


def test_what_is_written_to_a_page_later_is_not_in_its_copy(executor):
    wanted = content(executor, [5, 6])
    executor.offload([5, 6], [0, 1])
    refill(executor, 7)
    executor.write(executor.fetch([1, 0]), [9, 10])
    np.testing.assert_array_equal(content(executor, [10, 9]), wanted)


def test_more_pages_than_may_be_on_their_way_at_once(executor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.engine.host_memory.MAX_MOVING", 3)
    pages = list(range(1, 50))
    wanted = content(executor, pages)
    executor.offload(pages, range(len(pages)))
    assert len(executor._host._arriving) == 3
    refill(executor, 9)
    executor.write(executor.fetch(range(len(pages))), pages)
    np.testing.assert_array_equal(content(executor, pages), wanted)


def test_pages_lie_in_page_locked_memory_cut_as_on_the_devices(way: str, executors):
    for degree, executor in executors.items():
        host = HostMemory(executor._site.page_sharding)
        (page,) = executor._programs.gather_apart[1](executor._pool, np.array([3], np.int32))
        sharding = executor._site.page_sharding
        assert page.sharding.is_equivalent_to(sharding, page.ndim)
        host.keep([page], [4])
        kept = host._arriving[4]
        assert (kept.sharding.memory_kind == "pinned_host") == (way == "page-locked")
        assert len(kept.addressable_shards) == degree
        assert kept.nbytes == executor.kv_bytes_per_page
        (back,) = host.take([4])
        assert back.sharding.is_equivalent_to(sharding, back.ndim)


SHARDING = NamedSharding(Mesh(np.array(jax.devices()[:2]), ("t",)), P(None, "t"))


def device_page(seed: int) -> jax.Array:
    values = np.random.default_rng(seed).standard_normal((3, 2, 4)).astype(np.float32)
    return jax.device_put(values, SHARDING)


@pytest.mark.parametrize("settled", [False, True])
def test_memory_is_let_go_with_a_page_that_is_taken_or_overwritten(
    way: str, settled: bool, monkeypatch: pytest.MonkeyPatch
):
    """Whether its copy may still be on its way or not."""
    monkeypatch.setattr("serving.engine.host_memory.MAX_MOVING", 0 if settled else 100)
    pages = [device_page(seed) for seed in range(3)]
    host = HostMemory(SHARDING)
    host.keep(pages, [0, 1, 2])
    held = {**host._arriving, **host._pages}
    kept = [weakref.ref(held[slot]) for slot in range(3)]
    del held, pages
    host.keep([device_page(7)], [1])
    taken = host.take([0])
    np.testing.assert_array_equal(np.asarray(taken[0]), np.asarray(device_page(0)))
    del taken
    gc.collect()
    assert [one() is None for one in kept] == [True, True, False]
    assert len(host) == 2
    with pytest.raises(KeyError):
        host.take([0])
    np.testing.assert_array_equal(np.asarray(host.take([1])[0]), np.asarray(device_page(7)))


def test_an_overwritten_page_is_let_go_before_the_next_arrives_and_the_next_counts_as_new(
    way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("serving.engine.host_memory.MAX_MOVING", 2)
    host = HostMemory(SHARDING)
    host.keep([device_page(seed) for seed in range(4)], range(4))
    assert (list(host._pages), list(host._arriving)) == ([0, 1], [2, 3])
    old = weakref.ref(host._pages[0])
    host.keep([device_page(8)], [0])
    gc.collect()
    assert old() is None
    host.keep([device_page(9)], [3])
    assert list(host._arriving) == [0, 3]
    assert len(host) == 4
    for slot, seed in ((0, 8), (1, 1), (2, 2), (3, 9)):
        (back,) = host.take([slot])
        np.testing.assert_array_equal(np.asarray(back), np.asarray(device_page(seed)))


def test_a_restored_page_leaves_no_array_behind(executor):
    executor.offload(range(1, 20), range(19))
    executor.write(executor.fetch(range(19)), range(1, 20))
    gc.collect()
    jax.block_until_ready(executor._pool)
    shape = executor._pool.shape[:1] + executor._pool.shape[2:]
    assert [array for array in jax.live_arrays() if array.shape == shape] == []
    assert len(executor._host) == 0


def test_one_line_says_that_there_is_no_page_locked_memory(way: str, caplog):
    with caplog.at_level(logging.WARNING):
        HostMemory(SHARDING)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == (
        ["JAX has no page-locked memory for cpu: slower ways to the host"]
        if way == "copied"
        else []
    )


def test_an_executor_without_host_memory_says_so(executors, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(executors[1], "_host", None)
    with pytest.raises(ValueError, match="without host memory"):
        executors[1].offload([1], [1])
    with pytest.raises(ValueError, match="without host memory"):
        executors[1].fetch([1])


def test_counts_of_pages_that_move_one_by_one():
    assert Buckets((Bucket(1, 0, 0),), ()).apart == ()
    assert Buckets((), (512,)).apart == (1, 4, MOST_APART)
    assert Buckets((), (1, 4, 9)).apart == (1, 4, 9)
    parts = Buckets((), (512,)).split_apart
    assert [parts(0), parts(1), parts(7), parts(37)] == [[], [1], [4, 1, 1, 1], [16, 16, 4, 1]]
    assert Buckets((), (1, 4, 9)).split_apart(14) == [9, 4, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_pages_one_by_one_are_those_of_a_payload(dtype: str):
    pool = jax.random.normal(jax.random.key(0), (3, 6, 2, 2, 4, 8)).astype(dtype)
    pages = jnp.array([4, 0, 2, 0], np.int32)
    apart = kv_pages.gather_apart(pool, pages)
    stacked = kv_pages.gather(pool, pages)
    for i, page in enumerate(apart):
        np.testing.assert_array_equal(np.asarray(page), np.asarray(stacked[:, i]))
    to = jnp.array([1, 5, 3, 2], np.int32)
    written = kv_pages.scatter_apart(pool, apart, to)
    np.testing.assert_array_equal(
        np.asarray(written), np.asarray(kv_pages.scatter(pool, stacked, to))
    )


def test_moving_pages_one_by_one_copies_no_pool(executors):
    site = replace(executors[2]._site, sizes=replace(SIZES, num_pages=2**14))
    programs = type(executors[2]._programs)(
        site, Buckets((), (MOST_APART,)), constrains=False, offloads=True
    )
    programs.compile(lambda done: None)
    for made in (programs.gather_apart[MOST_APART], programs.scatter_apart[MOST_APART]):
        memory = made.memory_analysis()
        assert memory is not None
        assert memory.temp_size_in_bytes < 2**14 * site.page_bytes / 50
