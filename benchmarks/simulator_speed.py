"""How fast is the simulator, in how much memory, and does a token cost more in a larger fleet?

Every run is a process of its own, on one core, timed by its processor time.

    hour      requests of the Mooncake conversation hour on 16 workers (4 prefill, 12 decode);
              needs --traces, or FORETOKEN_TRACES; a file with fewer goes on from its beginning,
              as other conversations (their common first block stays)
    scaling   made-up sessions, equally many and equally frequent per worker, on growing fleets

    python -m benchmarks.simulator_speed --out benchmarks/results/simulator_speed.json
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from serving.workload.lines import read_lines
from serving.workload.mooncake import TIME_STEP_S

FLEETS = (4, 16, 64, 256)
TURNS_PER_WORKER = 16
SESSIONS_PER_WORKER_S = 0.25
HOUR = "mooncake_conversation.jsonl.zst"
COMMON_BLOCKS = 1
"""Hashes below this number are of what all its conversations begin with."""


def child(flags: list[str]) -> dict[str, float]:
    """Simulate in this process; returns what it took."""
    from serving.cli import cli

    began = time.process_time()
    cli(["simulate", *flags, "--json"], standalone_mode=False)
    return {
        "cpu_s": time.process_time() - began,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(flags: list[str]) -> dict[str, Any]:
    """Simulate in a process of its own; returns its report's counts and what it took."""
    command = [sys.executable, "-m", "benchmarks.simulator_speed", "--child", "--", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report, took = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    tokens = report["throughput_tps"] * report["span_s"]
    return {
        "turns": report["turns"],
        "finished": report["finished"],
        "steps": report["steps"],
        "tokens": round(tokens),
        **took,
        "us_per_step": 1e6 * took["cpu_s"] / report["steps"],
        "us_per_token": 1e6 * took["cpu_s"] / tokens,
    }


def fleet(workers: int) -> list[str]:
    """Flags of a fleet of which a quarter prefills."""
    split = [f"--prefill-workers={workers // 4}", f"--decode-workers={workers - workers // 4}"]
    return [*split, "--slo-ttft=2", "--slo-tpot=0.03"]


def lengthen(source: Path, limit: int, out: Path) -> None:
    """Write a trace's first `limit` requests; if it has fewer, it goes on from its beginning."""
    rows = [json.loads(line.text) for line in read_lines(source)]
    span_ms = rows[-1]["timestamp"] + round(TIME_STEP_S * 1e3)
    hashes = 1 + max(one for row in rows for one in row["hash_ids"])
    with out.open("w") as file:
        for i in range(limit):
            again, row = i // len(rows), rows[i % len(rows)]
            ids = [one if one < COMMON_BLOCKS else one + again * hashes for one in row["hash_ids"]]
            later = {"timestamp": row["timestamp"] + again * span_ms, "hash_ids": ids}
            file.write(json.dumps({**row, **later}) + "\n")


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--child", "is_child", is_flag=True, hidden=True)
@click.option("--traces", type=click.Path(path_type=Path), envvar="FORETOKEN_TRACES")
@click.option("--limit", type=int, default=12_000, show_default=True, help="Turns of the hour.")
@click.option("--out", type=click.Path(path_type=Path))
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def main(
    *, is_child: bool, traces: Path | None, limit: int, out: Path | None, flags: tuple[str, ...]
) -> None:
    """Measure, and write what came."""
    if is_child:
        print(json.dumps(child(list(flags))))
        return
    found: dict[str, Any] = {"machine": describe_machine(), "scaling": {}}
    for workers in FLEETS:
        turns = f"--limit={TURNS_PER_WORKER * workers}"
        made = ["--format=synthetic", "--max-context=65536", turns]
        rate = f"--session-rate={SESSIONS_PER_WORKER_S * workers}"
        found["scaling"][workers] = run([*made, rate, *fleet(workers)])
        print(workers, found["scaling"][workers], file=sys.stderr)
    if traces is not None:
        with tempfile.TemporaryDirectory() as folder:
            lengthen(traces / HOUR, limit, whole := Path(folder) / "hour.jsonl")
            found["hour"] = run([f"--workload={whole}", "--format=mooncake", *fleet(16)])
        print("hour", found["hour"], file=sys.stderr)
    if out is not None:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
