"""What does a file of measured times hold, and is it a good one? `costs.json`, read and written.

A file belongs to one model on one kind of device; within it, each worker's shape (role, degree,
buckets) has its own points. Knows nothing of what the points are used for.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from model.errors import CheckpointError
from model.json_fields import Fields, read_json_object
from serving.config import ConfigError
from serving.costs.shape import ModelShape
from serving.messages import Role

VERSION = 1


class StepPoint(NamedTuple):
    """A step that was timed: its work, the median, and the repeats' relative deviation.

    `rows` is a whole bucket of decode rows that attend to `kv_tokens` tokens together, or 0;
    `new_len` tokens are prefilled on top of `cached_len`, or 0.
    """

    rows: int
    kv_tokens: int
    new_len: int
    cached_len: int
    seconds: float
    error: float


class TransferPoint(NamedTuple):
    """A transfer that was timed, until its pages could be used."""

    num_bytes: int
    seconds: float
    error: float


@dataclass(frozen=True, slots=True)
class WorkerShape:
    """What decides a worker's buckets, and so its times, on one device: sizes as in the engine."""

    role: Role
    tp: int
    max_rows: int
    max_chunk_tokens: int
    max_chunk_rows: int
    page_size: int
    max_model_len: int


@dataclass(frozen=True, slots=True)
class Grid:
    """What was measured of one worker, complete or not."""

    worker: WorkerShape
    steps: tuple[StepPoint, ...]
    transfers: tuple[TransferPoint, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """What all points of a file have in common: the model, the device's kind, JAX's version."""

    model: ModelShape
    device: str
    jax: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A file: where its points come from, the day of the last one, and the workers' grids."""

    origin: Origin
    date: str
    grids: tuple[Grid, ...]

    def grid(self, role: Role, tp: int) -> Grid | None:
        """Return the grid of a worker; None if it was not measured."""
        return next((g for g in self.grids if (g.worker.role, g.worker.tp) == (role, tp)), None)

    def with_grid(self, grid: Grid, date: str) -> "Measured":
        """Return the file with this grid in place of that of the same role and degree."""
        key = (grid.worker.role, grid.worker.tp)
        others = tuple(g for g in self.grids if (g.worker.role, g.worker.tp) != key)
        return Measured(self.origin, date, (*others, grid))


def read_measured(path: Path) -> Measured:
    """Read a file; raises ConfigError with its name, the place and the problem in one line."""
    try:
        top = Fields(path, read_json_object(path), prefix="")
        version = top.integer("version")
        if version != VERSION:
            raise top.error("version", f"{version} is not known here, {VERSION} is")
        origin = Origin(_read_shape(top.inside("model")), top.text("device"), top.text("jax"))
        return Measured(origin, top.text("date"), tuple(_read_grids(top)))
    except CheckpointError as error:
        raise ConfigError(str(error)) from None


def write_measured(path: Path, measured: Measured) -> None:
    """Write a file whole or not at all; raises ConfigError if it cannot be written."""
    record: dict[str, Any] = {
        "version": VERSION,
        "device": measured.origin.device,
        "jax": measured.origin.jax,
        "date": measured.date,
        "model": asdict(measured.origin.model),
        "workers": [
            {**asdict(g.worker), "role": g.worker.role.value, "steps": g.steps}
            | {"transfers": g.transfers}
            for g in measured.grids
        ],
    }
    text = json.dumps(record, indent=2)
    one_a_line = re.sub(r"\[([^\[\]{}]+)\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(one_a_line + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def check_model(path: Path, found: ModelShape, wanted: ModelShape) -> None:
    """Raise ConfigError naming the first size in which a file's model is another one."""
    for field in fields(ModelShape):
        there, here = getattr(found, field.name), getattr(wanted, field.name)
        if there != here:
            raise ConfigError(
                f"{path}: model.{field.name}: measured for a model with {there}, this one has"
                f" {here}"
            )


def check_device(path: Path, found: str, wanted: str) -> None:
    """Raise ConfigError if a file was measured on another kind of device."""
    if found != wanted:
        raise ConfigError(f"{path}: device: measured on {found!r}, this is {wanted!r}")


def _read_shape(model: Fields) -> ModelShape:
    return ModelShape(**{field.name: model.integer(field.name) for field in fields(ModelShape)})


def _read_grids(top: Fields) -> list[Grid]:
    workers = top.raw("workers")
    if not isinstance(workers, list):
        raise top.error("workers", "expected a list")
    return [_read_grid(top, i, worker) for i, worker in enumerate(cast("list[Any]", workers))]


def _read_grid(top: Fields, number: int, values: Any) -> Grid:
    name = f"workers[{number}]"
    if not isinstance(values, dict):
        raise top.error(name, f"expected an object, found {values!r}")
    worker = Fields(top.path, cast("dict[str, Any]", values), prefix=f"{name}.")
    role = worker.text("role")
    if role not in {known.value for known in Role}:
        raise worker.error("role", f"{role!r} is no role of a worker")
    sizes = [field.name for field in fields(WorkerShape) if field.name != "role"]
    shape = WorkerShape(role=Role(role), **{name: worker.integer(name) for name in sizes})
    return Grid(
        shape,
        tuple(_read_points(worker, "steps", StepPoint)),
        tuple(_read_points(worker, "transfers", TransferPoint)),
    )


Point = TypeVar("Point", StepPoint, TransferPoint)


def _read_points(worker: Fields, name: str, make: Callable[..., Point]) -> list[Point]:
    """Read points: counts, then a time above 0 and its deviation."""
    rows = worker.raw(name)
    if not isinstance(rows, list):
        raise worker.error(name, "expected a list")
    width = 6 if make is StepPoint else 3
    points: list[Point] = []
    for number, row in enumerate(cast("list[Any]", rows)):
        problem = _problem(row, width)
        if problem:
            raise worker.error(f"{name}[{number}]", problem)
        points.append(make(*row))
    return points


def _problem(row: Any, width: int) -> str | None:
    """Say what is wrong with one point as it stands in the file."""
    values = cast("list[Any]", row) if isinstance(row, list) else []
    if len(values) != width:
        return f"expected a list of {width} numbers, found {row!r}"
    *counts, seconds, error = values
    if not all(type(count) is int and count >= 0 for count in counts):
        return f"expected whole numbers before the time, found {counts!r}"
    if not all(type(x) in (int, float) and 0 <= x < float("inf") for x in (seconds, error)):
        return f"expected a time and its deviation, found {seconds!r} and {error!r}"
    return None if seconds > 0 else "a time of 0 s was not measured"
