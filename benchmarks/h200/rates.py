"""How fast does the device copy, read and multiply? What every step's time is held against."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.figures import figure
from benchmarks.h200.part import alone
from benchmarks.h200.rig import Rig
from benchmarks.h200.timing import timed

RUNS = 10  # queued behind each other, so that the host's part does not show


def _rates(rig: Rig) -> dict[str, Any]:
    """Measure bytes a second of a copy (read and written) and of reading, and operations a second.

    The matrix rate is that of the fastest of the matmuls, in the model's dtype.
    """
    words = rig.scale.copied_bytes // 4
    source = jnp.ones(words, jnp.int32)
    copy = jax.jit(lambda x: x + 1)
    read = jax.jit(jnp.sum)
    dtype = rig.config.dtype
    matmuls = {
        " x ".join(map(str, sizes)): _rate(rig, _matmul(sizes, dtype), 2.0 * prod(sizes))
        for sizes in rig.scale.matmuls
    }
    return {
        "copy_bytes_per_s": _rate(rig, lambda: copy(source), 8.0 * words),
        "read_bytes_per_s": _rate(rig, lambda: read(source), 4.0 * words),
        "matmul_dtype": dtype,
        "matmul_flops_per_s": matmuls,
        "best_matmul_flops_per_s": max(rate["median"] for rate in matmuls.values()),
    }


def _matmul(sizes: tuple[int, int, int], dtype: str) -> Callable[[], jax.Array]:
    m, k, n = sizes
    a, b = (
        jax.random.normal(jax.random.key(seed), shape, jnp.dtype(dtype))
        for seed, shape in enumerate(((m, k), (k, n)))
    )
    multiply = jax.jit(lambda a, b: a @ b)
    return lambda: multiply(a, b)


def _rate(rig: Rig, work: Callable[[], jax.Array], amount: float) -> Any:
    """Return how much of `amount` is done in a second."""

    def run() -> None:
        for _ in range(RUNS - 1):
            work()
        jax.block_until_ready(work())

    timed(run, rig.scale.warm_runs, rig.clock)
    return figure([RUNS * amount / s for s in timed(run, rig.scale.repeats, rig.clock)])


RATES = alone(_rates)
