"""What was measured of turns prefilled on their owner, and of others prefilled remotely? For PPD.

Classes as in PPD's code (papers: PPD 2.2, 2.3). Knows nothing of files, nor of who reads a cell.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, NamedTuple, cast

SCHEMA = 1

CONTEXT_CLASSES = ("small", "large")
"""Up to 512 tokens of history, and more. PPD has a third, above 4,096, without data: it reads the
cells of `large`."""
SMALL_CONTEXT = 512

WORKLOAD_CLASSES = (
    "tiny",
    "short_gen",
    "long_gen",
    "very_long_gen",
    "small_bal",
    "mid_bal",
    "mid_paste",
    "big_paste",
    "huge_paste",
)


class CellKey(NamedTuple):
    """The workload of a measurement; `turns_per_s` is the whole deployment's rate."""

    context: str
    workload: str
    turns_per_s: float


@dataclass(frozen=True, slots=True)
class Cell:
    """Means over the measured second turns, in seconds."""

    ttft_remote_s: float
    ttft_local_s: float
    tpot_remote_s: float
    tpot_local_s: float

    def score(self, w_ttft: float, w_tpot: float) -> float:
        """Return PPD's S: weighted gain in TTFT less weighted loss in TPOT, both relative.

        A zero denominator counts as no change (PPD 2.3).
        """
        d_ttft = _relative(self.ttft_remote_s - self.ttft_local_s, self.ttft_remote_s)
        d_tpot = _relative(self.tpot_local_s - self.tpot_remote_s, self.tpot_remote_s)
        return w_ttft * d_ttft - w_tpot * d_tpot


@dataclass(frozen=True, slots=True)
class PpdTable:
    """Measured cells and the rates at which anything was measured, ascending."""

    cells: Mapping[CellKey, Cell]
    rates: tuple[float, ...]

    @staticmethod
    def of(cells: Mapping[CellKey, Cell]) -> "PpdTable":
        """Make a table of cells."""
        return PpdTable(dict(cells), tuple(sorted({key.turns_per_s for key in cells})))

    @staticmethod
    def parse(document: object) -> "PpdTable":
        """Read the JSON document that `to_json` makes.

        {"schema": 1, "cells": [{"context", "workload", "turns_per_s", "ttft_remote_s",
        "ttft_local_s", "tpot_remote_s", "tpot_local_s"}, ...]}; other keys beside `cells` are
        notes. Raises ValueError that names what is wrong.
        """
        found = _mapping(document, "table")
        if found.get("schema") != SCHEMA:
            raise ValueError(f"not a PPD table of schema {SCHEMA}")
        listed = found.get("cells")
        if not isinstance(listed, list):
            raise ValueError("cells: expected a list")
        cells: dict[CellKey, Cell] = {}
        for i, entry in enumerate(cast("list[object]", listed)):
            key, cell = _cell(_mapping(entry, f"cells[{i}]"), f"cells[{i}]")
            if key in cells:
                raise ValueError(f"cells[{i}]: measured twice")
            cells[key] = cell
        return PpdTable.of(cells)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `parse` reads."""
        cells = [
            key._asdict() | {field.name: getattr(cell, field.name) for field in fields(Cell)}
            for key, cell in sorted(self.cells.items())
        ]
        return {"schema": SCHEMA, "cells": cells}

    def nearest(
        self, *, context_len: int, new_len: int, reply_len: float, rate: float
    ) -> Cell | None:
        """Return the cell of a turn's classes at the nearest measured rate; None if it is missing.

        Of two rates equally near the higher counts (PPD 2.3).
        """
        if not self.rates:
            return None
        nearest = min(self.rates, key=lambda measured: (abs(measured - rate), -measured))
        workload = workload_class(new_len, reply_len)
        return self.cells.get(CellKey(context_class(context_len), workload, nearest))


def context_class(context_len: int) -> str:
    """Return the class of a history's length."""
    return "small" if context_len <= SMALL_CONTEXT else "large"


def workload_class(new_len: int, reply_len: float) -> str:
    """Return PPD's class of a turn with `new_len` new tokens and a reply of `reply_len`."""
    ratio = new_len / max(reply_len, 1)
    if ratio < 0.25:
        return _class_up_to(
            reply_len, (64, 256, 512), ("tiny", "short_gen", "long_gen", "very_long_gen")
        )
    if ratio <= 2:
        return _class_up_to(new_len, (64,), ("small_bal", "mid_bal"))
    return _class_up_to(new_len, (256, 512), ("mid_paste", "big_paste", "huge_paste"))


def _class_up_to(length: float, limits: tuple[int, ...], names: tuple[str, ...]) -> str:
    return names[sum(length > limit for limit in limits)]


def _relative(change: float, base: float) -> float:
    return change / base if base else 0.0


def _mapping(found: object, where: str) -> Mapping[str, object]:
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected an object")
    return cast("dict[str, object]", found)


def _cell(entry: Mapping[str, object], where: str) -> tuple[CellKey, Cell]:
    times = {field.name: _time(entry, field.name, where) for field in fields(Cell)}
    context, workload = entry.get("context"), entry.get("workload")
    if context not in CONTEXT_CLASSES or workload not in WORKLOAD_CLASSES:
        raise ValueError(f"{where}: no such class: {context}, {workload}")
    key = CellKey(str(context), str(workload), _time(entry, "turns_per_s", where))
    return key, Cell(**times)


def _time(entry: Mapping[str, object], name: str, where: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}.{name}: expected a number")
    if not isfinite(value) or value < 0:
        raise ValueError(f"{where}.{name}: expected a finite number of at least 0")
    return float(value)
