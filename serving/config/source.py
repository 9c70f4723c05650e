"""Which model, in which precision, and what attends over its KV?"""

from dataclasses import dataclass

from serving.config.setting import require_known, setting

KV_DTYPES = {"auto": None, "bfloat16": "bfloat16", "fp8": "float8_e4m3fn"}
"""Names for what keys and values are kept as; None: as the model computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which weights, in which precision, and what attends over their KV."""

    revision: str | None = setting(
        None, "Branch, tag or commit of a model of the Hugging Face Hub; main if not given."
    )
    dtype: str = setting("auto", "auto, float32 or bfloat16.")
    quantize: str = setting(
        "none",
        "Round the weights of the layers' matmuls to eight bits: int8 or fp8; none: keep them in"
        " eight bits if the checkpoint has them so, a scale for each channel, else whole.",
    )
    kv_dtype: str = setting(
        "auto",
        "Precision of KV pages: auto (the model's), bfloat16, or fp8 (e4m3 without scales).",
        aliases=("kv-cache-dtype",),
    )
    attention: str = setting(
        "auto",
        "What attends over KV pages: reference (slow), blocked (any device), gpu or tpu; auto: the "
        "fastest that can serve the model here.",
    )
    chat_template: str | None = setting(None, "A Jinja file instead of the checkpoint's template.")
    generation_config: str = setting(
        "auto", "Sampling that requests leave open: auto (by generation_config.json) or none."
    )
    random_weights: bool = setting(
        False, "Draw random weights of the size that config.json says, to measure speed."
    )
    seed: int = setting(0, "Seeds the seeds of turns that bring none, and random weights.")
    compilation_cache: bool = setting(True, "Keep compiled steps on disk for the next start.")

    def __post_init__(self) -> None:
        """Raise ConfigError for a name that there is not."""
        require_known("--dtype", self.dtype, ("auto", "float32", "bfloat16"))
        require_known("--generation-config", self.generation_config, ("auto", "none"))
        require_known("--quantize", self.quantize, ("none", "int8", "fp8"))
        require_known("--kv-dtype", self.kv_dtype, tuple(KV_DTYPES))

    @property
    def weight_format(self) -> str | None:
        """The format that weights are rounded to; None: to none."""
        return None if self.quantize == "none" else self.quantize

    @property
    def kv_kept_as(self) -> str | None:
        """The dtype of keys and values between steps; None: as the model computes."""
        return KV_DTYPES[self.kv_dtype]
