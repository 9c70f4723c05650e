"""How does a tree of settings become flags, variables and file keys? One table for all of them.

Every field of the config tree is `--field-name`, `FORETOKEN_FIELD_NAME` and `field-name = ...` in
a TOML file, in this order of precedence; the default stands in the dataclass alone. Knows nothing
of what the settings mean.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import click

from serving.bounds import check_numbers
from serving.config import (
    BatchConfig,
    ConfigError,
    CostsConfig,
    EndpointConfig,
    ForecastConfig,
    MemoryConfig,
    MeshConfig,
    ModelSource,
    PolicyConfig,
    ScheduleConfig,
    ServerConfig,
)
from serving.peer_flags import peer_flag

PARTS: dict[str, type[Any]] = {
    "model": ModelSource,
    "mesh": MeshConfig,
    "memory": MemoryConfig,
    "batch": BatchConfig,
    "schedule": ScheduleConfig,
    "policy": PolicyConfig,
    "forecast": ForecastConfig,
    "costs": CostsConfig,
    "endpoint": EndpointConfig,
}
ACCEPTED_SWITCHES = (
    "enable-auto-tool-choice",
    "enable-prefix-caching",
    "enable-chunked-prefill",
    "enable-prompt-tokens-details",
    "enable-server-load-tracking",
)
"""Flags of other servers for what is always on here: taken, and without effect."""


NO_DEFAULTS: Mapping[str, Any] = {}
PREFIX = "FORETOKEN_"
OTHERS = frozenset(f"{PREFIX}{name}" for name in ("CONFIG", "SESSIONS", "TRACES"))
"""Variables that are no setting's: of the command line, the notebooks and the workloads."""
SCALARS: Mapping[type[Any], str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
"""What a file's value must be, in words."""


def flag_name(field: str) -> str:
    """Spell a field as its flag and file key, without dashes in front."""
    return field.replace("_", "-")


def variable_name(field: str) -> str:
    """Spell a field as its environment variable."""
    return f"{PREFIX}{field.upper()}"


def part_options(
    *names: str, defaults: Mapping[str, Any] = NO_DEFAULTS
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add a flag for every field of these parts of the tree to a click command.

    `defaults` replace those of a server where a command serves another purpose.
    """

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            for field in reversed(fields(PARTS[name])):
                command = _option(field, defaults.get(field.name, field.default))(command)
        return command

    return add


def field_option(part: str, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what adds the flag of one field of a part of the tree to a click command."""
    (field,) = (field for field in fields(PARTS[part]) if field.name == name)
    return _option(field, field.default)


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every field of the tree to a click command."""
    command = part_options(*PARTS)(command)
    for name in ACCEPTED_SWITCHES:
        option = click.option(f"--{name}", is_flag=True, hidden=True, help="Always on.")
        command = option(command)
    return command


def build_config(checkpoint: str, values: Mapping[str, Any]) -> ServerConfig:
    """Make the tree from parsed flags, with defaults for parts whose flags were not offered.

    Raises ConfigError for what cannot work together, and for what nobody means.
    """
    parts = {
        name: part(**{f.name: values[f.name] for f in fields(part) if f.name in values})
        for name, part in PARTS.items()
    }
    for part in parts.values():
        check_numbers(part)
    return ServerConfig(checkpoint=checkpoint, name=checkpoint.rstrip("/"), **parts)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a flat TOML file of flag names; raises ConfigError naming file, key and line."""
    try:
        text = path.read_text()
        raw = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    known = {f.name: f for part in PARTS.values() for f in fields(part)}
    by_alias = {
        alias.replace("-", "_"): name
        for name, field in known.items()
        for alias in field.metadata.get("aliases", ())
    }
    settings: dict[str, Any] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        name = by_alias.get(name, name)
        where = f"{path}:{_line_of(text, key)}"
        if name not in known:
            raise ConfigError(f"{where}: unknown setting {key!r}; {_instead(key, known)}")
        if name in settings:
            raise ConfigError(f"{where}: {key!r} is set twice")
        if isinstance(value, dict):
            raise ConfigError(f"{where}: {key!r} is a table; the file is a flat list of settings")
        settings[name] = _of_type(known[name], value, f"{where}: {key!r}")
    return settings


def _instead(key: str, known: Iterable[str]) -> str:
    """Say what a key of a file should have been, by its name in another server or its spelling."""
    flags = [f"--{flag_name(name)}" for name in known]
    if (line := peer_flag([f"--{key}"], flags)) is not None:
        return line
    near = get_close_matches(flag_name(key), map(flag_name, known), n=1)
    return f"did you mean {near[0]!r}?" if near else "foretoken serve --help lists all"


def _of_type(field: Field[Any], value: Any, where: str) -> Any:
    """Return a file's value for a setting, of which click converts too much; raises ConfigError."""
    if isinstance(field.default, tuple):
        values = [value] if isinstance(value, str) else value
        wanted, fits = "a text or a list of texts", isinstance(values, list)
        fits = fits and all(isinstance(one, str) for one in values)
        value = values
    else:
        scalar = _scalar(field.type)
        wanted = SCALARS[scalar]
        taken = (int, float) if scalar is float else scalar
        fits = isinstance(value, taken) and isinstance(value, bool) == (scalar is bool)
    if not fits:
        shown = "" if field.metadata.get("secret") else f", not {value!r}"
        raise ConfigError(f"{where} must be {wanted}{shown}")
    return value


def mistyped(environment: Iterable[str]) -> list[str]:
    """Say of variables that are almost a setting's that they are not.

    Others are none of our business: systems set variables after the names of services.
    """
    known = {variable_name(field.name) for part in PARTS.values() for field in fields(part)}
    strange = sorted(n for n in environment if n.startswith(PREFIX) and n not in known | OTHERS)
    near = {name: get_close_matches(name, known, n=1, cutoff=0.85) for name in strange}
    return [
        f"{name} is no setting and has no effect; did you mean {found[0]}?"
        for name, found in near.items()
        if found
    ]


def describe(config: ServerConfig) -> str:
    """Print the settings that are set as a file that starts the same server; secrets are masked."""
    lines = [f"# {config.name}"]
    for name, part in PARTS.items():
        for field in fields(part):
            value = getattr(getattr(config, name), field.name)
            if value is None or value == ():
                continue
            if field.metadata.get("secret"):
                lines.append(f"# {flag_name(field.name)} is set")
            else:
                lines.append(f"{flag_name(field.name)} = {_toml(value)}")
    return "\n".join(lines)


def as_typed(message: str, arguments: Sequence[str]) -> str:
    """Name settings in a message as somebody did who typed an alias."""
    typed = {argument.split("=")[0].replace("_", "-") for argument in arguments}
    for part in PARTS.values():
        for field in fields(part):
            name = f"--{flag_name(field.name)}"
            aliases = [f"--{alias}" for alias in field.metadata.get("aliases", ())]
            used = [alias for alias in aliases if alias in typed]
            if used and name not in typed:
                message = re.sub(rf"{name}(?![\w-])", used[0], message)
    return message


def masked(config: ServerConfig) -> dict[str, Any]:
    """List the effective settings by flag name, for operators to read; secrets are masked."""
    shown: dict[str, Any] = {"checkpoint": config.name}
    for name, part in PARTS.items():
        for field in fields(part):
            value = getattr(getattr(config, name), field.name)
            secret = field.metadata.get("secret") and value
            shown[flag_name(field.name)] = "***" if secret else value
    return shown


def _line_of(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if line.split("=")[0].strip().strip("\"'") == key:
            return number
    return 1


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
        case tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return str(value)


def _option(field: Field[Any], default: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    assert field.default is not MISSING
    name = flag_name(field.name)
    aliases = [f"--{alias}" for alias in field.metadata.get("aliases", ())]
    shared: dict[str, Any] = {
        "default": default,
        "help": field.metadata["help"],
        "show_default": default is not None and default != (),
        "envvar": variable_name(field.name),
    }
    if field.type is bool:
        return click.option(f"--{name}/--no-{name}", field.name, **shared)
    if isinstance(field.default, tuple):
        if field.metadata.get("json_list"):
            shared["callback"] = _listed
        return click.option(f"--{name}", *aliases, field.name, multiple=True, **shared)
    return click.option(f"--{name}", *aliases, field.name, type=_scalar(field.type), **shared)


def _listed(_: click.Context, parameter: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Take one JSON list in place of repeated flags, as vLLM wants it.

    A variable comes cut at its spaces. Raises BadParameter for what is no list of texts.
    """
    text = " ".join(values)
    if not text.startswith("["):
        return tuple(values)
    try:
        listed: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise click.BadParameter(f"{text}: not valid JSON: {error.msg}", param=parameter) from error
    if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
        raise click.BadParameter(f"{text}: no list of texts", param=parameter)
    return tuple(listed)


def _scalar(annotation: Any) -> type[Any]:
    """Find the one type that a flag's text is read as."""
    if isinstance(annotation, UnionType):
        return next(t for t in get_args(annotation) if t is not type(None))
    return annotation
