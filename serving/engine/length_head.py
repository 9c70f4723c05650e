"""Is there a length head for this checkpoint, and does it fit? If not, why not, in one line.

A server works without one: reply lengths are then forecast from past replies. So a head that lies
beside a checkpoint and does not fit it is told of and left out; only one that was asked for by name
must fit. Knows nothing of steps.
"""

from dataclasses import dataclass
from pathlib import Path

from model.checkpoint_files import LENGTH_HEAD
from model.config import ModelConfig
from model.errors import CheckpointError
from predictor.fingerprint import checkpoint_fingerprint, tokenizer_fingerprint
from predictor.head import Weights, num_parameters
from predictor.reading import Reader
from predictor.saved import HeadError, HeadSpec, load_head, load_reader
from serving.config import ConfigError, ForecastConfig

AUTO, NONE = "auto", "none"
ADVICE = "name one that fits, or none to serve without"


@dataclass(frozen=True, slots=True)
class LengthHead:
    """A head that fits the checkpoint served."""

    path: Path
    spec: HeadSpec
    weights: Weights
    reader: Reader

    def __str__(self) -> str:
        """Describe it for people."""
        layers = ", ".join(str(layer) for layer in self.spec.layers)
        size = num_parameters(self.weights)
        glance = "" if self.spec.glance is None else ", with a glance at the prompt"
        return f"{self.path} ({self.spec.kind}, {size:,} parameters, on layers {layers}{glance})"


@dataclass(frozen=True, slots=True)
class NoHead:
    """There is none. `problem`: there should be one, and this is what is wrong with it."""

    problem: str | None

    def __str__(self) -> str:
        """Describe it for people."""
        reason = "" if self.problem is None else f" ({self.problem})"
        return f"none{reason}; reply lengths are forecast from past replies"


def find_length_head(
    how: ForecastConfig, checkpoint: Path, model: ModelConfig, max_model_len: int
) -> LengthHead | NoHead:
    """Load the head wanted: of a directory, `auto` for the checkpoint's own, or `none`.

    Raises ConfigError if the one of a directory cannot be read or does not fit.
    """
    wanted = how.length_head
    if wanted == NONE:
        return NoHead(None)
    path = checkpoint / LENGTH_HEAD if wanted == AUTO else Path(wanted)
    if wanted == AUTO and not path.exists():
        return NoHead(None)
    if wanted != AUTO and not path.is_dir():
        raise ConfigError(f"--length-head {path}: no such directory; {ADVICE}")
    try:
        spec, weights = load_head(path)
        reader = load_reader(path)
        _check(path, spec, checkpoint, model, max_model_len)
    except (HeadError, CheckpointError) as error:
        if wanted != AUTO:
            raise ConfigError(f"--length-head {error}; {ADVICE}") from error
        return NoHead(str(error))
    reader = reader.switched(smoothing=how.smooth_readings, calibration=how.calibrate_readings)
    return LengthHead(path, spec, weights, reader)


def _check(
    path: Path, spec: HeadSpec, checkpoint: Path, model: ModelConfig, max_model_len: int
) -> None:
    """Raise HeadError unless a head belongs to this model and covers its context."""
    if spec.hidden_size != model.hidden_size:
        raise HeadError(
            f"{path}: reads states of size {spec.hidden_size}, this model's are {model.hidden_size}"
        )
    glance = spec.glance
    looked_at = spec.layers if glance is None else (*spec.layers, glance.layer)
    if any(not 1 <= layer <= model.num_layers for layer in looked_at):
        raise HeadError(f"{path}: reads layers {looked_at}, this model has {model.num_layers}")
    heads = model.num_kv_heads, model.head_dim
    if glance is not None and (glance.kv_heads, glance.head_dim) != heads:
        raise HeadError(
            f"{path}: glances at {glance.kv_heads} heads of {glance.head_dim}, "
            f"this model has {heads[0]} of {heads[1]}"
        )
    if spec.horizon < max_model_len:
        raise HeadError(
            f"{path}: looks {spec.horizon} tokens ahead, the context has {max_model_len}; "
            "lower --max-model-len or train it with a longer --horizon"
        )
    if spec.checkpoint != checkpoint_fingerprint(checkpoint):
        raise HeadError(f"{path}: was trained for another checkpoint; train one for this")
    if spec.tokenizer != tokenizer_fingerprint(checkpoint):
        raise HeadError(f"{path}: was trained with another tokenizer; train one for this")
