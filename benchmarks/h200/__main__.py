"""How is an accelerator measured with one command? Part by part, each kept as soon as it is done.

    python -m benchmarks.h200 --out FILE.json                 what FILE lacks
    python -m benchmarks.h200 --out FILE.json --part decode   this part, unless FILE has it
    python -m benchmarks.h200 --out FILE.json --again         everything anew
    python -m benchmarks.h200 --out FILE.json --cpu           this CPU, with the demo model

Every part is meant to end within eight minutes on a device. Numbers are compared with the reference
first: where they differ, nothing is timed. Needs neither an HTTP framework nor a metrics library.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

from benchmarks.h200 import table
from benchmarks.h200.agreement import agreement
from benchmarks.h200.gaps import gaps
from benchmarks.h200.grid import grid
from benchmarks.h200.pages import pages
from benchmarks.h200.rates import rates
from benchmarks.h200.record import Record, describe_setting, read, write
from benchmarks.h200.rig import TINY, DisagreementError, Rig, RigError, backend_named
from benchmarks.h200.scale import CHECK, FULL, SMALL, Scale
from benchmarks.h200.steps import decode, mixed, prefill, skewed
from benchmarks.machine import describe_code
from model.attention.choice import AUTO
from model.config import ModelConfig, load_config
from model.errors import CheckpointError
from serving.config import ConfigError
from serving.engine.compile_cache import cache_directory, keep_compiled

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "benchmarks" / "shapes"
FAILED, UNUSABLE = 1, 2
PARTS: Mapping[str, Callable[[Rig], dict[str, Any]]] = {
    "agreement": agreement,
    "rates": rates,
    "decode": decode,
    "skewed": skewed,
    "prefill": prefill,
    "mixed": mixed,
    "gaps": gaps,
    "pages": pages,
    "grid": grid,
}
"""In this order: what is not right is not worth timing."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what a file lacks, and print it; returns the exit status."""
    wanted = parser().parse_args(arguments)
    try:
        return measure_all(wanted)
    except (RigError, ConfigError, CheckpointError) as error:
        print(f"benchmarks.h200: {error}", file=sys.stderr)
        return FAILED if isinstance(error, DisagreementError) else UNUSABLE


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.h200", description=__doc__)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    made.add_argument("--out", type=Path, required=True, help="results, as JSON")
    made.add_argument("--part", action="append", choices=PARTS, help="only this; may be repeated")
    made.add_argument("--again", action="store_true", help="measure what the file has already")
    made.add_argument("--model", default="llama-3.1-8b", help="a directory of benchmarks/shapes")
    made.add_argument("--cpu", action="store_true", help="measure this CPU, with the demo model")
    made.add_argument("--attention", default=AUTO, help="attention backend, as the engine's")
    made.add_argument("--cpu-check", action="store_true", help="prove the harness; no figures")
    return made


def measure_all(wanted: argparse.Namespace) -> int:
    """Measure the parts; raises RigError, ConfigError or CheckpointError for what cannot be."""
    if wanted.cpu or wanted.cpu_check:
        jax.config.update("jax_platforms", "cpu")
    elif jax.default_backend() != "gpu":
        raise RigError(
            f"no GPU here (JAX runs on {jax.default_backend()}); --cpu measures the demo model, and"
            " --cpu-check runs every part on a tiny one, to prove the harness"
        )
    else:
        keep_compiled(cache_directory(), least_seconds=0.0)  # for the parts that run another time
    model, config, scale = _chosen(wanted)
    attention = backend_named(wanted.attention, config)
    setting = describe_setting(model, attention.name, check=wanted.cpu_check)
    record = read(wanted.out, setting)
    rig = Rig(
        config=config,
        attention=attention,
        scale=scale,
        costs=wanted.out.with_suffix(".costs.json"),
        say=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        clock=time.perf_counter,
    )
    chosen = wanted.part or list(PARTS)
    # Numbers that were compared with other code say nothing of this one's.
    code = describe_code(ROOT)
    before = record.parts.get("agreement", {})
    if "agreement" not in chosen and before.get("code") != code:
        chosen = ["agreement", *chosen]
    for name in PARTS:
        if name not in chosen:
            continue
        stale = name == "agreement" and before.get("code") != code
        if name in record.parts and not wanted.again and not stale:
            print(f"{name}: kept (--again measures it anew)", file=sys.stderr)
            continue
        if name == "grid" and wanted.again:
            rig.costs.unlink(missing_ok=True)
        record = _measured(record, name, rig, code)
        extra = {
            "not_measured": table.not_measured(record, list(PARTS)),
            "table": table.lines(record),
        }
        write(wanted.out, record, extra)
    print(table.render(record, list(PARTS)))
    return 0


def _chosen(wanted: argparse.Namespace) -> tuple[str, ModelConfig, Scale]:
    """Return the model's name and configuration, and what is measured of it."""
    if wanted.cpu_check:
        return "tiny", TINY, CHECK
    if wanted.cpu:
        return "demo", load_config(ROOT / "checkpoints" / "demo"), SMALL
    return wanted.model, load_config(SHAPES / wanted.model), FULL


def _measured(record: Record, name: str, rig: Rig, code: str) -> Record:
    print(f"{name}:", file=sys.stderr, flush=True)
    start = time.monotonic()
    figures = PARTS[name](rig)
    seconds = round(time.monotonic() - start, 1)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    print(f"{name}: {seconds:g} s", file=sys.stderr, flush=True)
    part = {"code": code, "date": date, "seconds": seconds, "figures": figures}
    return record.with_part(name, part)


if __name__ == "__main__":
    sys.exit(main())
