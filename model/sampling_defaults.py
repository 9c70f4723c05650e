"""How does a checkpoint want to be sampled where a request does not say? Its own file tells.

Reads `generation_config.json`. Its `do_sample` is not obeyed, as other servers do not: without a
temperature of its own a request is sampled at the one that the file names, else at 1. Knows nothing
of requests.
"""

from dataclasses import dataclass, fields
from pathlib import Path

from model.checkpoint_files import GENERATION_CONFIG
from model.json_fields import Fields, read_json_object

_BOUNDS = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, 2**31 - 1),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
}
"""What a request may ask for."""


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """What an absent field means; made without arguments, what it means in OpenAI's API.

    `top_k` 0 and -1 are all tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __str__(self) -> str:
        """Name those that are not OpenAI's."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = SamplingDefaults()
        return ", ".join(
            f"{name} {value:g}" for name, value in own.items() if value != getattr(plain, name)
        )


def read_sampling_defaults(checkpoint_dir: Path | str) -> SamplingDefaults:
    """Read what a checkpoint directory says; plain defaults if it says nothing.

    Raises CheckpointError for a file that is malformed, and for what no request could ask for.
    """
    path = Path(checkpoint_dir) / GENERATION_CONFIG
    if not path.exists():
        return SamplingDefaults()
    said = Fields(path, read_json_object(path), prefix="")
    found: dict[str, float] = {}
    for name, (least, most) in _BOUNDS.items():
        if name not in said:
            continue
        value = said.integer(name) if name == "top_k" else said.number(name)
        if not least <= value <= most:
            raise said.error(name, f"{value:g} is not between {least:g} and {most:g}")
        found[name] = value
    return SamplingDefaults(**found)  # pyright: ignore[reportArgumentType]
