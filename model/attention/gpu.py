"""How does the GPU attend? It writes the new keys and values first, then reads everything as pages.

Per layer: one write, then one attention for the decode rows and one for the chunk segment, each cut
into even shares of work (`gpu_work`) that are found once a step. Pages are head-major, as those of
the portable backends. Nothing here leaves the device or depends on lengths, so that a step stays
one program and its kernels can stand in a command buffer.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import kv_pages
from model.attention.backend import StepAttention
from model.attention.gpu_kernels import MOST_GROUP, Segment, Shape, attend_segment, write
from model.attention.gpu_work import chunk_tiles, decode_tiles
from model.attention.inputs import Places, StepInputs
from model.config import ModelConfig

PROGRAMS = 4 * 132
"""Pieces that a step's attention is cut into: several a multiprocessor of an H100 or H200, so that
uneven ends overlap (ours, not measured). Any number gives the right result."""
HEAD_DIMS = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class Gpu:
    """The backend for NVIDIA GPUs. `interpret` runs its kernels anywhere, slowly, for tests."""

    interpret: bool
    programs: int = PROGRAMS
    name: str = "gpu"
    pool_axes: tuple[str, ...] = kv_pages.AXES

    def pool_shape(self, config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
        """Return [L, P, 2, K, page_size, H]."""
        return kv_pages.pool_shape(config, num_pages=num_pages, page_size=page_size)

    def refusal(
        self, config: ModelConfig, *, page_size: int, degree: int, platform: str
    ) -> str | None:
        """Say what the kernels cannot take: they work on tiles whose sides are powers of two."""
        if platform != "gpu" and not self.interpret:
            return f"it needs a GPU, and JAX runs on {platform} here"
        if config.head_dim not in HEAD_DIMS:
            sizes = ", ".join(map(str, HEAD_DIMS))
            return f"head size {config.head_dim} is none of {sizes}"
        if config.queries_per_kv > MOST_GROUP:
            return f"more than {MOST_GROUP} queries share a key-value head: {config.queries_per_kv}"
        return None

    def over(
        self,
        pool: jax.Array,
        inputs: StepInputs,
        places: Places,
        *,
        group: int,
        window: int | None,
    ) -> StepAttention:
        """Attend over pool [L, P, 2, K, page_size, H], which is what kv carries."""
        self._check_addressable(pool)
        rows, tokens = len(inputs.decode_position), len(places.chunk)
        programs = max(1, self.programs // pool.shape[3])
        segments: list[tuple[slice, Segment]] = []
        if rows:
            shape = Shape.of(pool, group=group, tokens=1, window=window)
            segment = Segment.of(shape, decode_tiles(inputs), inputs.decode_pages, programs)
            segments.append((slice(0, rows), segment))
        if tokens:
            shape = Shape.of(pool, group=group, tokens=tokens, window=window)
            tiles = chunk_tiles(inputs, num_chunk_tokens=tokens, tile=shape.tokens)
            segment = Segment.of(shape, tiles, inputs.chunk_pages, programs)
            segments.append((slice(rows, rows + tokens), segment))

        def attend(
            pool: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            with jax.named_scope("write"):
                pool = write(pool, layer, k, v, places, interpret=self.interpret)
            parts = [
                attend_segment(pool, layer, q[where], segment, interpret=self.interpret)
                for where, segment in segments
            ]
            return pool, parts[0] if len(parts) == 1 else jnp.concatenate(parts)

        return StepAttention(pool, attend, lambda pool: pool)

    def read(
        self, pool: jax.Array, layer: int, pages: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n size K H"], Float[Array, "*n size K H"]]:
        """Copy keys and values of a layer out of pool [L, P, 2, K, page_size, H]."""
        return kv_pages.read(pool, layer, pages)

    def _check_addressable(self, pool: jax.Array) -> None:
        """Raise ValueError where the pool is larger than what the kernels count.

        They number its rows of H in 32 bits with a sign; Pallas does so with bytes, and in 64 bits
        from 2**32 bytes on, which is too late for numbers of one byte.
        """
        if pool.size // pool.shape[-1] >= 2**31:
            raise ValueError(
                f"the pages hold 2**31 rows of {pool.shape[-1]} numbers or more, which the gpu"
                " attention cannot count; use fewer --kv-pages or --attention blocked"
            )
        if pool.dtype.itemsize == 1 and 2**31 < pool.size <= 2**32:
            raise ValueError(
                "pages of 1-byte numbers cannot fill between 2 and 4 GiB; change --kv-pages"
            )
