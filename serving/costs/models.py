"""Which sizes do well-known models have? For simulations where no checkpoint is at hand.

Sizes are those of the models' published `config.json`; weights and KV are bfloat16, unless weights
are quantised.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from model.config import DTYPE_BYTES, KV_DTYPE_BYTES, load_config
from model.degrees import Shared
from serving.config import ConfigError
from serving.costs.shape import ModelShape, read_bytes, shape_of

BYTES = DTYPE_BYTES["bfloat16"]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model's sizes: what a step costs, what the weights take, how long a context may be.

    `shared`: what devices share, and so which degrees there can be.
    """

    shape: ModelShape
    weight_bytes: int
    max_position: int
    shared: Shared

    def with_kv_as(self, kv_dtype: str | None) -> "KnownModel":
        """Return the model with keys and values kept in this dtype; None: as they are."""
        if kv_dtype is None:
            return self
        shape = self.shape
        numbers = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim
        kept = numbers * KV_DTYPE_BYTES[kv_dtype]
        return replace(self, shape=replace(shape, kv_bytes_per_token=kept))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """A dense decoder with heads of 128, gated MLPs and untied embeddings."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    mlp: int
    vocab: int
    max_position: int

    def model(self, quantize: str | None) -> KnownModel:
        """Describe it with its layers' weights in that format; None: in bfloat16."""
        head_dim = 128
        qkv = self.hidden * (self.heads + 2 * self.kv_heads) * head_dim
        out = self.heads * head_dim * self.hidden
        layers = self.layers * (qkv + out + 3 * self.hidden * self.mlp)
        head = self.vocab * self.hidden
        shape = ModelShape(
            num_layers=self.layers,
            hidden_size=self.hidden,
            num_heads=self.heads,
            num_kv_heads=self.kv_heads,
            head_dim=head_dim,
            dtype_bytes=BYTES,
            matmul_params=layers + head,
            weight_bytes=read_bytes(layers, head, BYTES, quantize),
            kv_bytes_per_token=2 * self.layers * self.kv_heads * head_dim * BYTES,
        )
        shared = Shared(self.kv_heads, self.mlp, self.vocab)
        return KnownModel(shape, shape.weight_bytes + head * BYTES, self.max_position, shared)


MODELS = {
    "llama-3.1-8b": _Sizes(32, 4096, 32, 8, 14336, 128256, 131072),
    "llama-3.1-70b": _Sizes(80, 8192, 64, 8, 28672, 128256, 131072),
    "qwen2.5-7b": _Sizes(28, 3584, 28, 4, 18944, 152064, 32768),
    "qwen3-8b": _Sizes(36, 4096, 32, 8, 12288, 151936, 40960),
    "qwen3-32b": _Sizes(64, 5120, 64, 8, 25600, 151936, 40960),
}
"""Every model known by its name."""


def find_model(name: str, quantize: str | None) -> KnownModel:
    """Return a model by its name, or that of a checkpoint's directory, with weights in a format.

    Raises ConfigError for neither, CheckpointError for a directory that is no checkpoint.
    """
    if name in MODELS:
        return MODELS[name].model(quantize)
    path = Path(name)
    if not path.is_dir():
        known = ", ".join(MODELS)
        raise ConfigError(
            f"--model {name} is neither known ({known}), nor a checkpoint's directory, nor an id on"
            " the Hugging Face Hub, such as Qwen/Qwen3-0.6B"
        )
    config = load_config(path, dtype=None, quantize=quantize)
    shape = shape_of(config)
    embedding = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    weights = shape.weight_bytes + embedding * shape.dtype_bytes
    return KnownModel(shape, weights, config.max_position, config.shared)
