"""What does the file hold, and which parts of it are kept? One JSON document, written part by part.

    {"schema", "setting": {...},
     "parts": {name: {"code", "date", "seconds", "figures", "missing": {point: why}}},
     "not_measured": {what: why}, "table": [...]}

A file belongs to one setting: machine, device, versions, flags, model, backend, and whether it is a
mere check. Parts of another setting are never mixed in. Knows nothing of what figures mean.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from benchmarks.h200.rig import RigError
from benchmarks.machine import describe_machine
from model.config import ModelConfig

SCHEMA = 1
RANDOM = "random"
CHECK_NOTE = "a check of the harness on a tiny model: none of its numbers is a figure"
FLAGS = ("XLA_FLAGS", "XLA_PYTHON_CLIENT_PREALLOCATE", "XLA_PYTHON_CLIENT_MEM_FRACTION")
PLUGINS = ("jax-cuda13-plugin", "jax-cuda12-plugin", "triton", "jax-triton")


@dataclass(frozen=True, slots=True)
class Record:
    """A file as it stands: its setting, and its parts by name."""

    setting: Mapping[str, Any]
    parts: Mapping[str, Any]

    def with_part(self, name: str, part: Mapping[str, Any]) -> "Record":
        """Add a part, or put it in place of the one before."""
        return Record(self.setting, {**self.parts, name: dict(part)})

    def without(self, names: Iterable[str]) -> "Record":
        """Forget parts."""
        gone = set(names)
        return Record(self.setting, {n: part for n, part in self.parts.items() if n not in gone})

    def is_whole(self, name: str) -> bool:
        """Say whether a part has been measured, and all of its points."""
        return name in self.parts and not self.parts[name].get("missing")

    def figures(self, name: str) -> Mapping[str, Any] | None:
        """Return a part's figures; None if nothing of it was measured."""
        return self.parts.get(name, {}).get("figures") or None


def describe_setting(
    model: str, config: ModelConfig, attention: str, *, check: bool
) -> dict[str, Any]:
    """Describe all that a figure depends on beside the code."""
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return {
        "cpu_check": check,
        "note": CHECK_NOTE if check else "",
        "machine": dict(describe_machine()),
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "count": len(jax.devices()),
            "memory_bytes_for_jax": limit,
            "runtime": "; ".join(device.client.platform_version.splitlines()),
        },
        "packages": {name: found for name in PLUGINS if (found := _version(name))},
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "model": model,
        "weights": _described(config),
        "attention": attention,
    }


def read(path: Path, setting: Mapping[str, Any]) -> Record:
    """Read a file of this setting, or begin one; raises RigError for a file of another."""
    if not path.exists():
        return Record(setting, {})
    try:
        document = json.loads(path.read_text())
        found, parts = document["setting"], document["parts"]
        known = document["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError) as error:
        raise RigError(f"{path}: not a file of this program; choose another --out") from error
    if not known:
        raise RigError(f"{path}: of another schema than {SCHEMA}; choose another --out")
    for name, value in setting.items():
        if _compared(found.get(name)) != _compared(value):
            raise RigError(
                f"{path}: {name}: measured with {found.get(name)}, this is {value}; choose another"
                " --out"
            )
    return Record(found, parts)


def write(path: Path, record: Record, extra: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; `extra` comes behind the parts."""
    document = {"schema": SCHEMA, "setting": record.setting, "parts": record.parts, **extra}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)


def _described(config: ModelConfig) -> str:
    """Say what weights are, and pages where they are other than the model computes in."""
    quantised = "" if config.quantize is None else f", {config.quantize}"
    pages = "" if config.kept_as == config.dtype else f", over pages of {config.kept_as}"
    return f"{RANDOM}{quantised}{pages}"


def _compared(value: Any) -> Any:
    """Leave out the memory of the host, which grows under a virtual machine while it is used."""
    if not isinstance(value, dict):
        return value
    return {name: own for name, own in value.items() if name != "ram_gib"}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
