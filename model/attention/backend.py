"""What does a backend of attention decide? How its pages look, and how a step attends over them.

Common to all backends, so that whoever moves pages need not know which one it serves: axis 0 of a
pool is the layer, axis 1 the page, and page 0 is written by padding alone. What lies behind those
two axes is the backend's own. All workers of a deployment have one backend, so pages that move
between them mean the same on both sides.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int

from model.attention.inputs import Places, StepInputs
from model.config import ModelConfig
from model.transformer import Attend


class StepAttention(NamedTuple):
    """A step's attention over one pool. The decoder carries `kv` through its layers.

    A backend either collects fresh keys and values in `kv` and stores them at the end, or carries
    the pool itself and writes it layer by layer. Both are rounded to the pool's dtype
    (`kv_pages.kept`) before any token sees them, so that it does not matter which step they are of.
    """

    kv: Any  # what the first layer's `attend` takes
    attend: Attend
    store: Callable[[Any], jax.Array]  # what the last layer's `attend` returned -> the new pool


@runtime_checkable  # beartype checks what tests pass
class Backend(Protocol):
    """One way to lay out pages and to attend over them; hashable, so that programs can be keyed."""

    @property
    def name(self) -> str:
        """The word by which people choose it."""
        ...

    @property
    def pool_axes(self) -> tuple[str, ...]:
        """The logical axes of a pool, for `model.sharding`: layers, pages, then its own."""
        ...

    def pool_shape(self, config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
        """Return the shape of a pool of `num_pages` pages, the write-off page among them."""
        ...

    def refusal(
        self, config: ModelConfig, *, page_size: int, degree: int, platform: str
    ) -> str | None:
        """Say why it cannot serve this model, page size and tensor-parallel degree; None: it can.

        `platform` is JAX's name of the devices: cpu, gpu or tpu.
        """
        ...

    def over(
        self,
        pool: jax.Array,
        inputs: StepInputs,
        places: Places,
        *,
        group: int,
        window: int | None,
    ) -> StepAttention:
        """Prepare a step over `pool`, of which a shard may be given: fewer key-value heads.

        `group` is the number of queries per key-value head. A token sees `window` positions,
        itself included; None sees all.
        """
        ...

    def read(
        self, pool: jax.Array, layer: int, pages: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n size K H"], Float[Array, "*n size K H"]]:
        """Copy keys and values of a layer, counted from 0, out of pages.

        K are the key-value heads of this shard; keys are rotated, and both as rounded as pages are.
        """
        ...
