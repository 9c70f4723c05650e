"""How does a program compiled for one mesh come to run on an equal one? Without compiling again.

JAX can write a compiled program out and read it back, but a reader expects the very devices of the
writer. Here every device id in the written form is replaced by the device that stands in its place
on the other mesh, and XLA is given the new assignment. Knows nothing of what the program computes.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.experimental import serialize_executable
from jax.stages import Compiled

Devices = Sequence[Any]
"""Of one mesh, in its order."""


class RelocationError(RuntimeError):
    """A program cannot be moved; compiling it for its new place always can."""


def relocate(program: Compiled, own: Devices, devices: Devices) -> Compiled:
    """Return the same program on other devices, which take the places of its `own` in order.

    The way leads through parts of JAX that promise nothing, so any failure there is raised as
    RelocationError. Only CPU devices are tried: a GPU's entry in JAX's own compilation cache serves
    equal meshes already, and a TPU has crashed on such an entry (jax-ml/jax#38004).
    """
    if devices[0].platform != "cpu":
        raise RelocationError("only programs for CPU devices are moved")
    try:
        written, in_tree, out_tree = serialize_executable.serialize(program)
        places = {old.id: new for old, new in zip(own, devices, strict=True)}
        unloaded, info, no_kwargs = _Reader(written, places).load()
        moved = Compiled(
            unloaded.load(), [], in_tree.unflatten(info), out_tree, no_kwargs=no_kwargs
        )
        at: Any = moved.runtime_executable()
        arrived = set(at.local_devices())
    except Exception as error:
        raise RelocationError(f"{type(error).__name__}: {error}") from error
    if arrived != set(devices):
        raise RelocationError(f"the program came out on {arrived}")
    return moved


class _Reader(pickle.Unpickler):
    """Reads what `serialize_executable` writes, with other devices in place of those named."""

    def __init__(self, written: bytes, places: dict[int, Any]) -> None:
        super().__init__(io.BytesIO(written))
        self._places = places
        self._devices = tuple(places.values())
        self._client = self._devices[0].client

    def persistent_load(self, pid: tuple[Any, ...]) -> Any:
        match pid:
            case ("device", id):
                return self._places[id]
            case ("client",):
                return self._client
            case ("exec", written):
                return self._load(written)
            case _:
                raise pickle.UnpicklingError(f"{pid[0]!r} is unknown")

    def _load(self, written: bytes) -> Any:
        from jaxlib import xla_client  # not public: an absent name must stay a RelocationError

        options = xla_client.CompileOptions()
        options.num_replicas, options.num_partitions = 1, len(self._devices)
        ids = np.array([[device.id for device in self._devices]])
        options.device_assignment = xla_client.DeviceAssignment.create(ids)
        return self._client.deserialize_executable(
            written,
            executable_devices=xla_client.DeviceList(self._devices),
            compile_options=options,
        )
