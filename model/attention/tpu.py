"""How is paged attention computed on a TPU? By JAX's ragged paged attention kernel.

The kernel takes all rows of a step at once, decode rows and chunks alike: each is a run of packed
tokens and the pages that its tokens' keys are read from. It reads no keys from anywhere else, so
each layer first writes its new keys and values to the pages:

    tokens      | d0 d1 .. dR-1 | c0 c0 c0 c1 c2 c2 . . |    as model/attention/inputs packs them
    cu_q_lens   0  1  2  ..    R          +3 +1    +2        ends of the rows
    kv_lens       past + what the row runs in this step
    num_seqs    R + chunks that are not padding

A page holds [page_size, 2K, H]: of each position, key and value of the first head, then those of
the second, and so on. The pool [L, P, ...] is read as [L * P, ...] with page numbers that count
from the layer's first page, so that no layer is ever sliced out of it. Knows nothing of slots,
sampling or what the tokens are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ragged_paged_attention
from jaxtyping import Array, Float, Int

from model.attention.backend import StepAttention
from model.attention.inputs import Places, StepInputs
from model.config import KV_DTYPE_BYTES, ModelConfig
from model.kv_pages import kept

LANES = 128  # of a vector register
TABLE_BYTES = 2**19
"""Most bytes of page tables that one call may bring. The kernel keeps them in scalar memory, of
which libtpu grants it 1 MiB on TPU v5e and v6e; half of it is left to everything else (ours)."""
BLOCK_BYTES, BLOCK_PAGES, BLOCK_QUERIES = 2 * 2**20, 16, 32
"""How much the kernel takes on at once: keys and values, and queries. What most entries come to of
the table of tuned sizes that JAX has for TPU v5e and v6e. The table itself ends at contexts of 4096
tokens, and what the kernel falls back to behind it does not fit its memory with large pages."""


class Rows(NamedTuple):
    """The rows of one call, as the kernel wants them; all int32. S rows, M pages a row."""

    kv_len: jax.Array  # [S]
    pages: jax.Array  # [S, M]; within a layer
    ends: jax.Array  # [S + 1]; row s runs the tokens ends[s] .. ends[s + 1] - 1
    real: jax.Array  # [1]; how many rows there are, those behind them are padding


class Call(NamedTuple):
    """One call of the kernel: which of the step's tokens it runs, and their rows."""

    tokens: slice
    rows: Rows


@dataclass(frozen=True, slots=True)
class Ragged:
    """The backend. `kernel` has the signature of JAX's `ragged_paged_attention`."""

    kernel: Callable[..., jax.Array]
    name: str = "tpu"
    pool_axes: tuple[str, ...] = ("layers", "pages", "position", "kv_heads", "head_dim")

    def pool_shape(self, config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
        """Return [L, P, page_size, 2K, H]."""
        heads = (2 * config.num_kv_heads, config.head_dim)
        return (config.num_layers, num_pages, page_size, *heads)

    def refusal(
        self, config: ModelConfig, *, page_size: int, degree: int, platform: str
    ) -> str | None:
        """Say what the kernel cannot take, or that there is no TPU; None: it can serve."""
        if platform != "tpu":
            return f"it needs a TPU, and the devices here are of the kind {platform}"
        # The kernel accepts multiples, which libtpu then cannot compile (benchmarks/compile_tpu).
        if config.head_dim != LANES:
            return f"its heads must be of {LANES}, and are of {config.head_dim}"
        # Keys and values of a position fill whole tiles: a sublane holds 4 bytes.
        heads = config.num_kv_heads // degree
        tile_rows, rest = divmod(2 * heads * KV_DTYPE_BYTES[config.kept_as], 4)
        if rest or (tile_rows not in (1, 2, 4, 8) and tile_rows % 8):
            return f"{heads} key-value heads a device, in {config.kept_as}, do not fill its tiles"
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
        """Attend over pool [L, P, page_size, 2K, H]; kv is that pool as [L * P, ...]."""
        layers, pages, *page_shape = pool.shape
        calls = plan_calls(inputs, len(places.position))

        def attend(
            kv: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            first = layer * pages
            fresh = jnp.stack([k, v], axis=2).reshape(len(k), -1, k.shape[-1])
            kv = kv.at[first + places.page, places.offset].set(kept(fresh, kv.dtype))
            queries = q.reshape(len(q), -1, q.shape[-1])
            outs = [self._call(queries[tokens], kv, first, rows, window) for tokens, rows in calls]
            return kv, jnp.concatenate(outs).reshape(q.shape)

        def store(kv: jax.Array) -> jax.Array:
            return kv.reshape(pool.shape)

        return StepAttention(pool.reshape(layers * pages, *page_shape), attend, store)

    def read(
        self, pool: jax.Array, layer: int, pages: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n size K H"], Float[Array, "*n size K H"]]:
        """Copy keys and values of a layer out of pool [L, P, page_size, 2K, H]."""
        copied = pool[layer, pages]
        return copied[..., 0::2, :], copied[..., 1::2, :]

    def _call(
        self, q: jax.Array, kv: jax.Array, first: jax.Array, rows: Rows, window: int | None
    ) -> jax.Array:
        """Attend from q [T, K * G, H]; 0 for tokens of no row."""
        page_bytes = prod(kv.shape[1:]) * kv.dtype.itemsize
        out = self.kernel(
            q,
            kv,
            rows.kv_len,
            first + rows.pages,
            rows.ends,
            rows.real,
            sm_scale=q.shape[-1] ** -0.5,
            sliding_window=window,
            # Any scale makes it turn what it read into the queries' dtype.
            k_scale=None if kv.dtype == q.dtype else 1.0,
            v_scale=None if kv.dtype == q.dtype else 1.0,
            num_kv_pages_per_block=pages_per_block(page_bytes, rows.pages.shape[1]),
            num_queries_per_block=min(BLOCK_QUERIES, len(q)),
        )
        # The kernel writes nothing for padding. What lies there may be NaN, which must not get
        # into the write-off page, where padding rows would attend to it for ever after.
        real = jnp.arange(len(q), dtype=jnp.int32) < rows.ends[rows.real[0]]
        return jnp.where(real[:, None, None], out, 0)


def pages_per_block(page_bytes: int, table_len: int) -> int:
    """Return how many pages of a layer the kernel reads at once."""
    return min(max(1, BLOCK_BYTES // page_bytes), BLOCK_PAGES, table_len)


def plan_calls(inputs: StepInputs, num_tokens: int) -> list[Call]:
    """Share a step's rows out over as few calls as their page tables allow.

    One as a rule; else decode rows in equal parts, and the chunks by themselves.
    """
    rows, chunks = len(inputs.decode_position), len(inputs.chunk_len)
    table_len = inputs.decode_pages.shape[-1] if rows else inputs.chunk_pages.shape[-1]
    row_bytes = 4 * (-(-table_len // LANES) * LANES)
    most = max(1, TABLE_BYTES // row_bytes)
    if rows == 0 or rows + chunks <= most:
        return [Call(slice(0, num_tokens), pack_rows(inputs))]
    calls: list[Call] = []
    for start in range(0, rows, most):
        some = slice(start, min(start + most, rows))
        calls.append(Call(some, pack_rows(_without_chunks(inputs, some))))
    if chunks:
        calls.append(Call(slice(rows, num_tokens), pack_rows(_without_rows(inputs))))
    return calls


def pack_rows(inputs: StepInputs) -> Rows:
    """Describe decode rows and chunks to the kernel, at least one of them as real."""
    rows, chunk_len = len(inputs.decode_position), inputs.chunk_len
    if rows == 0:
        # Without any row the kernel would begin to read a page and never wait for it. A chunk of
        # padding has token 0 to itself, whose key lies in the write-off page.
        chunk_len = chunk_len.at[0].max(1)
    chunk_ends = rows + jnp.cumsum(chunk_len, dtype=jnp.int32)
    chunks = jnp.sum(chunk_len > 0, dtype=jnp.int32)
    return Rows(
        kv_len=jnp.concatenate([inputs.decode_position + 1, inputs.chunk_start + chunk_len]),
        pages=jnp.concatenate([inputs.decode_pages, inputs.chunk_pages]),
        ends=jnp.concatenate([jnp.arange(rows + 1, dtype=jnp.int32), chunk_ends]),
        real=(rows + chunks)[None],
    )


def _without_chunks(inputs: StepInputs, rows: slice) -> StepInputs:
    return StepInputs(
        inputs.decode_position[rows],
        inputs.decode_pages[rows],
        inputs.chunk_len[:0],
        inputs.chunk_start[:0],
        inputs.chunk_pages[:0],
    )


def _without_rows(inputs: StepInputs) -> StepInputs:
    return inputs._replace(
        decode_position=inputs.decode_position[:0], decode_pages=inputs.decode_pages[:0]
    )


RAGGED = Ragged(ragged_paged_attention)
