"""Which sizes suit the devices that are there? For settings that nobody has chosen.

Knows nothing of how many devices there are, nor of what they hold.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace

from serving.config import ServerConfig

LARGE_STEPS: Mapping[str, int] = {
    "max_num_seqs": 256,
    "max_num_batched_tokens": 2048,
    "min_prefill_tokens": 128,
}
"""Steps that keep an accelerator busy (ours; a CPU's are the defaults)."""
ON_PLATFORM: Mapping[str, Mapping[str, int]] = {
    "gpu": LARGE_STEPS,
    "tpu": {
        **LARGE_STEPS,
        "page_size": 128,
    },  # with 16 its kernel is nine times as slow (sglang-jax)
}


def suited(config: ServerConfig, platform: str, given: Collection[str]) -> ServerConfig:
    """Return the sizes that suit JAX's `platform`, but for the fields that were `given`."""
    sizes = {n: size for n, size in ON_PLATFORM.get(platform, {}).items() if n not in given}
    page_size = sizes.pop("page_size", config.memory.page_size)
    return replace(
        config,
        memory=replace(config.memory, page_size=page_size),
        batch=replace(config.batch, **sizes),
    )
