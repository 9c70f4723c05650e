"""Which numbers of a model decide how long its steps take?

Knows nothing of weights, devices or families: a `ModelConfig` in, a handful of sizes out.
"""

from dataclasses import dataclass

from model.config import DTYPE_BYTES, WEIGHT_BYTES, ModelConfig


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes that a latency model reads.

    `matmul_params` counts the weights that a decoded token is multiplied with: every layer's and
    the output head's, not the input embedding. `weight_bytes` are theirs: what a step reads at
    least once. Norms, biases and scales are too small to count. A sliding window is not modelled:
    attention is priced as if it saw everything, which is never too little.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype_bytes: int
    matmul_params: int
    weight_bytes: int
    kv_bytes_per_token: int

    @property
    def attention_flops(self) -> int:
        """Operations of one query attending to one key, over all layers (4 L H d)."""
        return 4 * self.num_layers * self.num_heads * self.head_dim


def shape_of(config: ModelConfig) -> ModelShape:
    """Take the sizes from a model's configuration."""
    hidden, head_dim = config.hidden_size, config.head_dim
    qkv = hidden * (config.num_heads + 2 * config.num_kv_heads) * head_dim
    out = config.num_heads * head_dim * hidden
    mlp = 3 * hidden * config.intermediate_size
    layers, head = config.num_layers * (qkv + out + mlp), config.vocab_size * hidden
    dtype_bytes = DTYPE_BYTES[config.dtype]
    return ModelShape(
        num_layers=config.num_layers,
        hidden_size=hidden,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=head_dim,
        dtype_bytes=dtype_bytes,
        matmul_params=layers + head,
        weight_bytes=read_bytes(layers, head, dtype_bytes, config.quantize),
        kv_bytes_per_token=config.kv_bytes_per_token,
    )


def read_bytes(layers: int, head: int, dtype_bytes: int, quantize: str | None) -> int:
    """Return the bytes of so many parameters, of which only those of layers are quantised."""
    value_bytes = dtype_bytes if quantize is None else WEIGHT_BYTES[quantize]
    return layers * value_bytes + head * dtype_bytes
