"""What are the sizes and switches of a model? One frozen value that the whole package reads.

Knows nothing of arrays, devices or files: no JAX import, so that planners can use it.
"""

from dataclasses import dataclass

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling: long wavelengths slowed down, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every rotary angle divided by `factor`."""

    factor: float


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position settings: the base `theta` and how its frequencies are rescaled."""

    theta: float
    scaling: Llama3Scaling | LinearScaling | None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a dense decoder.

    `sliding_window` is the number of positions a query sees, itself included; None sees all.
    `max_position` is the longest context, in tokens, that the checkpoint claims to support.
    Raises ValueError at construction when the sizes contradict each other.
    """

    family: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_window: int | None
    max_position: int
    dtype: str
    eos_ids: tuple[int, ...]
    bos_id: int | None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "num_layers", "hidden_size", "intermediate_size")
        for name in (*sizes, "num_heads", "num_kv_heads", "head_dim", "max_position"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window must be at least 1, not {self.sliding_window}")
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype {self.dtype!r} is none of {', '.join(DTYPE_BYTES)}")

    @property
    def queries_per_kv(self) -> int:
        """G: query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token position, over all layers, in `dtype`."""
        heads = 2 * self.num_layers * self.num_kv_heads
        return heads * self.head_dim * DTYPE_BYTES[self.dtype]
