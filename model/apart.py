"""How does a program whose layers are unrolled get its weights? Each layer's in arrays of its own.

Cut out of a stack, a weight would be another slice in every layer: XLA for GPUs would tune and
compile the matmuls of every layer anew, and copy in every step what it cannot multiply in place,
eight-bit weights above all. Knows nothing of what the parameters are for.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from model.parameters import Params

Layered = Params
"""Parameters whose `layers` are a tuple of trees, one a layer, in place of a tree of stacks."""


def each_layer(params: Params, one: Callable[[Any, int], Any]) -> Layered:
    """Replace every stack of `layers` by what `one(stack, layer)` returns for each layer."""
    stacks = params["layers"]
    count = jax.tree.leaves(stacks)[0].shape[0]
    layers = [jax.tree.map(lambda leaf, i=i: one(leaf, i), stacks) for i in range(count)]
    return {**params, "layers": tuple(layers)}


def apart(params: Params) -> Layered:
    """Take stacked parameters apart where they lie, on one mesh; they must not be used again.

    A stack is given up as soon as its layers have been copied, so that there is never more than one
    of them twice.
    """
    stacks, tree = jax.tree.flatten(params["layers"])
    copied = [_layers_of(stack) for stack in stacks]
    layers = tuple(jax.tree.unflatten(tree, list(own)) for own in zip(*copied, strict=True))
    return {**params, "layers": layers}


def _layers_of(stack: jax.Array) -> list[jax.Array]:
    where = stack.sharding
    assert isinstance(where, NamedSharding)
    # `layers` is split over no mesh axis, and comes first.
    own = NamedSharding(where.mesh, P(*where.spec[1:]))
    take = jax.jit(lambda stack, i: stack[i], out_shardings=own)
    found = [take(stack, i) for i in range(stack.shape[0])]
    jax.block_until_ready(found)
    stack.delete()
    return found
