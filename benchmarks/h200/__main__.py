"""How is an accelerator measured with one command? Part by part, each point kept once it is done.

    python -m benchmarks.h200 --out FILE.json                 what FILE lacks
    python -m benchmarks.h200 --out FILE.json --seconds 480   no more begins after so long
    python -m benchmarks.h200 --out FILE.json --part decode   this part, unless FILE has it
    python -m benchmarks.h200 --out FILE.json --again         everything anew
    python -m benchmarks.h200 --out FILE.json --cpu           this CPU, with the demo model

Every part is meant to end within eight minutes on a device. Numbers are compared with the reference
first: where they differ, nothing is timed. Needs neither an HTTP framework nor a metrics library.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import jax

from benchmarks.h200 import table
from benchmarks.h200.course import PARTS, Course
from benchmarks.h200.record import Record, describe_setting, read, write
from benchmarks.h200.rig import TINY, DisagreementError, Rig, RigError, backend_named
from benchmarks.h200.scale import CHECK, FULL, SMALL, Scale
from benchmarks.machine import describe_code
from model.attention.choice import AUTO
from model.config import ModelConfig, load_config
from model.errors import CheckpointError
from model.quantised import FORMATS
from serving.config import KV_DTYPES, ConfigError
from serving.engine.compile_cache import cache_directory, keep_compiled

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "benchmarks" / "shapes"
FAILED, UNUSABLE, UNFINISHED = 1, 2, 3


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
    made.add_argument("--seconds", type=float, default=inf, help="begin nothing after so long")
    made.add_argument("--code", help="names the code where there is no git checkout")
    made.add_argument("--model", default="llama-3.1-8b", help="a directory of benchmarks/shapes")
    made.add_argument("--quantize", choices=FORMATS, help="weights in eight bits")
    made.add_argument("--kv-dtype", choices=("fp8",), help="pages in eight bits")
    made.add_argument("--cpu", action="store_true", help="measure this CPU, with the demo model")
    made.add_argument("--attention", default=AUTO, help="attention backend, as the engine's")
    made.add_argument("--cpu-check", action="store_true", help="prove the harness; no figures")
    return made


def measure_all(wanted: argparse.Namespace) -> int:
    """Measure the parts; raises RigError, ConfigError or CheckpointError for what cannot be."""
    begun = time.perf_counter()
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
    setting = describe_setting(model, config, attention.name, check=wanted.cpu_check)
    record = read(wanted.out, setting)
    rig = Rig(
        config=config,
        attention=attention,
        scale=scale,
        costs=wanted.out.with_suffix(".costs.json"),
        say=lambda text: print(f"  {time.perf_counter() - begun:.0f} s: {text}", file=sys.stderr),
        clock=time.perf_counter,
        until=begun + wanted.seconds,
    )
    code = wanted.code or describe_code(ROOT)
    chosen = wanted.part or list(PARTS)
    if wanted.again:
        record = record.without(chosen)
        if "grid" in chosen:
            rig.costs.unlink(missing_ok=True)
    # Numbers that were compared with other code say nothing of this one's.
    if record.parts.get("agreement", {}).get("code") != code:
        record, chosen = record.without(["agreement"]), ["agreement", *chosen]
    for name in (name for name in PARTS if name in chosen and record.is_whole(name)):
        print(f"{name}: kept (--again measures it anew)", file=sys.stderr)

    def keep(record: Record) -> None:
        extra = {
            "not_measured": table.not_measured(record, list(PARTS)),
            "table": table.lines(record),
        }
        write(wanted.out, record, extra)

    course = Course(code, ahead=jax.default_backend() != "cpu", keep=keep)
    record = course.run(record, rig, chosen)
    print(table.render(record, list(PARTS)))
    return 0 if all(record.is_whole(name) for name in chosen) else UNFINISHED


def _chosen(wanted: argparse.Namespace) -> tuple[str, ModelConfig, Scale]:
    """Return the model's name and configuration, and what is measured of it."""
    stored = {"quantize": wanted.quantize, "kv_dtype": KV_DTYPES[wanted.kv_dtype or "auto"]}
    if wanted.cpu_check:
        return "tiny", replace(TINY, **stored), CHECK
    if wanted.cpu:
        return "demo", load_config(ROOT / "checkpoints" / "demo", **stored), SMALL
    return wanted.model, load_config(SHAPES / wanted.model, **stored), FULL


if __name__ == "__main__":
    sys.exit(main())
