"""Which of a checkpoint's modules lie in its files in which scheme? By patterns of their names.

Knows nothing of arrays, files or of how config.json says it: no JAX or numpy import.
"""

import re
from dataclasses import dataclass

from model.encodings.schemes import Scheme

PROJECTIONS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
"""The matmuls of a layer."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A scheme, and the modules that it is for: patterns, as `re.match` takes them."""

    scheme: Scheme
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Encodings:
    """How the weights of a checkpoint lie in its files; the first rule that fits a module holds.

    `method` is its name in config.json, `skipped` are patterns of modules that are whole, and
    `unheeded` what else the settings ask for. Without rules everything is whole.
    """

    method: str
    rules: tuple[Rule, ...]
    skipped: tuple[str, ...]
    unheeded: tuple[str, ...]

    def of(self, module: str) -> Scheme | None:
        """Return the scheme of a module, such as `model.layers.0.mlp.up_proj`; None: whole."""
        if _fits(self.skipped, module):
            return None
        return next((rule.scheme for rule in self.rules if _fits(rule.patterns, module)), None)

    def kept_as(self, num_layers: int) -> str | None:
        """Return the format of `model.quantised` that all matmuls of all layers are stored in.

        None if any of them is not.
        """
        schemes = {
            self.of(f"model.layers.{layer}.{name}")
            for layer in range(num_layers)
            for name in PROJECTIONS
        }
        forms = {None if scheme is None else scheme.kept_as for scheme in schemes}
        return forms.pop() if len(forms) == 1 else None

    def __str__(self) -> str:
        schemes = dict.fromkeys(str(rule.scheme) for rule in self.rules)
        return f"{self.method}, {' and '.join(schemes)}"


WHOLE = Encodings("", (), (), ())
"""Every weight as it is."""
LINEAR = (r"(?!.*\bembed_tokens\Z)",)
"""Patterns of every module with a matmul: all but the embedding table."""


def _fits(patterns: tuple[str, ...], module: str) -> bool:
    return any(re.match(pattern, module) for pattern in patterns)
