"""Which rotary positions does a checkpoint want? The settings, and how config.json spells them.

Knows nothing of arrays: the angles are computed in `model.rope`. No JAX import.
"""

from dataclasses import dataclass

from model.json_fields import Fields

_DEFAULT_THETA = 10000.0  # RoFormer's base, meant by Llama configs that name none


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's rotary scaling: long wavelengths slowed down, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        if self.factor <= 0 or self.original_max_position < 1:
            raise ValueError("factor and original_max_position_embeddings must be positive")
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError("low_freq_factor must be positive and below high_freq_factor")


@dataclass(frozen=True)
class LinearScaling:
    """Position interpolation: every rotary angle divided by `factor`."""

    factor: float

    def __post_init__(self) -> None:
        if self.factor <= 0:
            raise ValueError("factor must be positive")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position settings: the base `theta` and how its frequencies are rescaled."""

    theta: float
    scaling: Llama3Scaling | LinearScaling | None

    def __post_init__(self) -> None:
        if self.theta <= 0:
            raise ValueError("rope_theta must be positive")


def read_rope(fields: Fields) -> RopeConfig:
    """Read the rotary settings of a config.json in either form.

    Old: `rope_theta` beside `rope_scaling`; new: both inside `rope_parameters`. Raises
    CheckpointError where both forms stand and differ, for types other than default, linear and
    llama3, for settings per layer type and for rotation of a part of each head.
    """
    _refuse_partial(fields)
    # An empty object would carry the type nowhere: the plain form, as if absent.
    forms = [name for name in ("rope_parameters", "rope_scaling") if fields.raw(name)]
    found = [_read_form(fields, name) for name in forms] or [
        RopeConfig(_theta(fields, fields), None)
    ]
    if found[0] != found[-1]:
        # Whoever adds the one form to a file that has the other means it, but not all readers do.
        raise fields.error(forms[-1], f"contradicts {forms[0]}; leave one of them out")
    return found[0]


def _read_form(fields: Fields, nested: str) -> RopeConfig:
    settings = fields.inside(nested)
    _refuse_partial(settings)
    for name in settings.names():
        if isinstance(settings.raw(name), dict):
            raise settings.error(name, "rotary settings per layer type are not supported")
    kind_name = "rope_type" if "rope_type" in settings else "type"
    kind = settings.text(kind_name, "default" if nested == "rope_parameters" else None)
    theta = _theta(settings, fields)
    try:
        return RopeConfig(theta, _scaling(kind, kind_name, settings, fields))
    except ValueError as error:
        raise settings.error(kind_name, str(error)) from None


def _theta(settings: Fields, fields: Fields) -> float:
    source = settings if "rope_theta" in settings else fields
    theta = source.number("rope_theta", _DEFAULT_THETA)
    if theta <= 0:
        raise source.error("rope_theta", f"must be positive, not {theta}")
    return theta


def _scaling(
    kind: str, kind_name: str, settings: Fields, fields: Fields
) -> Llama3Scaling | LinearScaling | None:
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(settings.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=settings.number("factor"),
                low_freq_factor=settings.number("low_freq_factor"),
                high_freq_factor=settings.number("high_freq_factor"),
                original_max_position=_original_length(settings, fields),
            )
        case other:
            raise settings.error(
                kind_name, f"rope type {other!r} is not supported (default, linear, llama3 are)"
            )


def _original_length(settings: Fields, fields: Fields) -> int:
    """Return the context length before scaling, which some configs keep outside the scaling."""
    name = "original_max_position_embeddings"
    source = fields if name in fields else settings
    return source.integer(name)


def _refuse_partial(settings: Fields) -> None:
    for name in ("partial_rotary_factor", "rotary_pct"):
        if settings.number(name, 1.0) != 1.0:
            raise settings.error(name, "rotation of a part of each head is not supported")
