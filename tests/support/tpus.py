"""TPUs that are only described: programs can be lowered for them, not compiled or run."""

import jax
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

KINDS = ("TPU v5 lite", "TPU v6 lite")


def mesh(kind: str, devices: int = 1) -> AbstractMesh:
    """A mesh of TPUs of one kind, for tensor parallelism."""
    device = AbstractDevice(device_kind=kind, num_cores=1, platform="tpu")
    auto = (AxisType.Auto,)
    return AbstractMesh((devices,), ("tp",), axis_types=auto, abstract_device=device)


def lowered(function, *arguments, on: AbstractMesh, **static) -> str:
    """Lower a jitted function; arrays among the arguments are to be abstract."""
    with jax.sharding.use_abstract_mesh(on):
        return function.trace(*arguments, **static).lower(lowering_platforms=("tpu",)).as_text()
