"""Which backend attends? The one asked for, or by the kind of devices the fastest that can.

Knows nothing of how a backend works: each says by itself what it cannot serve.
"""

from collections.abc import Callable
from dataclasses import dataclass

from model.attention.backend import Backend
from model.attention.paged import BLOCKED, REFERENCE
from model.config import ModelConfig

AUTO = "auto"
PREFERRED = {"gpu": "gpu", "tpu": "tpu"}  # platform -> backend; elsewhere the portable one


# Imported late: whoever does not ask for one must not wait for its kernels' compiler.
def _gpu() -> Backend:
    from model.attention.gpu import Gpu

    return Gpu(interpret=False)


def _tpu() -> Backend:
    from model.attention.tpu import RAGGED

    return RAGGED


BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": lambda: REFERENCE,
    "blocked": lambda: BLOCKED,
    "gpu": _gpu,
    "tpu": _tpu,
}


class AttentionError(ValueError):
    """A backend that cannot serve what is asked of it; one line for a person."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A backend. `refused` says which faster one could not serve, and why."""

    backend: Backend
    refused: str | None

    def __str__(self) -> str:
        """Describe it for people."""
        return self.backend.name + ("" if self.refused is None else f" ({self.refused})")


def choose(
    wanted: str, config: ModelConfig, *, page_size: int, degrees: tuple[int, ...], platform: str
) -> Chosen:
    """Find the backend called `wanted`; `auto` falls back on the portable one.

    `degrees` are the tensor-parallel degrees of the deployment's workers, `platform` is JAX's name
    of its devices: cpu, gpu or tpu. Raises AttentionError for an unknown name, and for a backend
    asked for by name that refuses.
    """
    if wanted != AUTO and wanted not in BACKENDS:
        raise AttentionError(f"{wanted} is unknown; use {AUTO} or {', '.join(BACKENDS)}")
    name = PREFERRED.get(platform, BLOCKED.name) if wanted == AUTO else wanted
    backend = BACKENDS[name]()
    for degree in degrees:
        why = backend.refusal(config, page_size=page_size, degree=degree, platform=platform)
        if why is None:
            continue
        if wanted == AUTO:
            return Chosen(BLOCKED, f"{name} cannot serve: {why}")
        raise AttentionError(f"{name} cannot serve: {why}")
    return Chosen(backend, None)
