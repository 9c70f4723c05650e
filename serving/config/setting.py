"""How is a setting declared, and a value refused? One default, its help, one line for a person.

Knows no setting.
"""

from collections.abc import Sequence
from dataclasses import field
from typing import Any


def setting(default: Any, help: str, **extra: Any) -> Any:
    """Declare a field with its only default and the help text of its flag."""
    return field(default=default, metadata={"help": help, **extra})


class ConfigError(ValueError):
    """A setting, or a combination of settings, cannot work; one line for a person."""


def require(condition: bool, problem: str) -> None:
    """Raise ConfigError(problem) unless the condition holds."""
    if not condition:
        raise ConfigError(problem)


def require_known(flag: str, value: str, known: Sequence[str]) -> None:
    """Raise ConfigError unless the value is one of several names."""
    *most, last = known
    require(value in known, f"{flag} {value} is unknown; use {', '.join(most)} or {last}")
