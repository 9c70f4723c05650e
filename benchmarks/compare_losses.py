"""Which turns does a policy lose to another one, and what does the decision log say of each?

    python -m benchmarks.compare_losses --traces DIR --cell 4 servegen 0.7 10 foretoken replicas

Simulates both policies of a cell of `benchmarks/compare` again, and tells the turns that are in
time under one of them only. Without `--cell`: every cell that the summary counts as lost.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from benchmarks.compare import RESULTS, prepare
from benchmarks.compare_tables import losses_of
from benchmarks.comparison import FIRST_SEED, SOURCES, Cell, Source, lacking
from serving.metrics.history import read_history
from serving.metrics.stories import Story
from serving.sim.measure import TurnRecord
from serving.sim.run import simulate

Run = tuple[Mapping[str, TurnRecord], Mapping[str, Story]]
"""What a policy made of a cell: every turn, as its client and as the decision log tells it."""
LOSSES = Path("benchmarks/results/losses.json")
Named = tuple[str, str, float, int, str, str]
"""A cell by cluster, workload, rate, seed and its policy, and the other policy."""
KEY = itemgetter(*Cell.__dataclass_fields__, "other")
MOST_TOLD = 100  # turns of a cell; all of them are counted
ALIKE = 0.05  # a difference below this share of a turn's own prompt is not what made it late


def run(cell: Cell, traces: str) -> Run:
    """Simulate a cell."""
    config, workload = prepare(cell, traces, None)
    with TemporaryDirectory() as folder:
        log = Path(folder) / "decisions.jsonl"
        policy = replace(config.server.policy, decision_log=str(log))
        config = replace(config, server=replace(config.server, policy=policy))
        outcome = simulate(config, workload, show_progress=False)
        return {turn.id: turn for turn in outcome.turns}, read_history(log).stories


def compare(cell: Cell, ours: Run, other: str, theirs: Run) -> dict[str, Any]:
    """Set a cell's policy beside another one: counts, and the turns that only one has late."""
    source, runs = SOURCES[cell.workload], {cell.policy: ours, other: theirs}
    late = {
        policy: {t.id for t in turns.values() if not t.meets(source.ttft_s, source.tpot_s)}
        for policy, (turns, _) in runs.items()
    }
    differ: list[dict[str, Any]] = []
    for turn in sorted(late[cell.policy] ^ late[other]):
        fates = {policy: fate(one, turn, source) for policy, one in runs.items()}
        loser, winner = (cell.policy, other) if turn in late[cell.policy] else (other, cell.policy)
        why = cause(fates[loser], fates[winner])
        differ.append({"turn": turn, "late_under": loser, "cause": why, **fates})
    causes = Counter((one["late_under"], one["cause"]) for one in differ)
    return {
        **asdict(cell),
        "other": other,
        "turns": len(ours[0]),
        "late": {policy: len(those) for policy, those in late.items()},
        "late_under_both": len(late[cell.policy] & late[other]),
        "causes": [[*key, count] for key, count in sorted(causes.items())],
        "differ": differ[:MOST_TOLD],
    }


def fate(one: Run, turn: str, source: Source) -> dict[str, Any]:
    """Tell what a turn got, and what was decided of it. Times in milliseconds, lengths in tokens.

    `missed_by`: the TTFT and the TPOT target, 0 if met. `options`: who could prefill, predicted
    TTFT, targets missed, score; the chosen one first. `older`, `younger`: of prompts that came
    before or after it and were computed there before its own was. `rows`: began to decode there
    before its first token came, and ended after it. `room_after`: its wait to be admitted.
    """
    record, story = one[0][turn], one[1][turn]
    if record.ttft_s is None or story.first is None:
        return {"outcome": record.outcome}
    attempt, until = story.attempts[-1], story.first.t
    told = [(s, s.first, s.end) for s in one[1].values() if s is not story]
    there = [(s.arrived, f.t, f.computed) for s, f, _ in told if f and f.worker == attempt.prefill]
    before = [(arrived, tokens) for arrived, t, tokens in there if story.arrived < t <= until]
    rows = [s for s, f, end in told if f and f.t <= until and (end is None or end.t > until)]
    admitted = [r.t for r in story.rooms if r.kind == "admit" and r.worker == attempt.prefill]
    over = record.ttft_s - source.ttft_s, (record.tpot_s or 0.0) - source.tpot_s
    priced = [(o["choice"], o["ttft_s"], o["missed"], o["score"]) for o in attempt.options]
    return {
        "ttft": _ms(record.ttft_s),
        "tpot": _ms(record.tpot_s or 0.0),
        "missed_by": [_ms(max(0.0, seconds)) for seconds in over],
        "owner": [attempt.owner, attempt.place_reason],
        "prefill": [attempt.prefill, attempt.route_reason],
        "options": [[who, _ms(s), missed, round(score, 3)] for who, s, missed, score in priced],
        "prompt": story.prompt_len,
        "computed": story.first.computed,
        "older": sum(tokens for arrived, tokens in before if arrived <= story.arrived),
        "younger": sum(tokens for arrived, tokens in before if arrived > story.arrived),
        "rows": sum(s.attempts[-1].owner == attempt.prefill for s in rows),
        "room_after": _ms(max(admitted, default=story.arrived) - story.arrived),
        "waits": [[r.kind, r.reason] for r in story.rooms if r.kind in ("defer", "pause")],
        "moves": [[m.reason, m.outcome, m.stop_s and _ms(m.stop_s)] for m in story.moves],
        "retries": [a.again for a in story.attempts if a.again is not None],
    }


def cause(late: Mapping[str, Any], in_time: Mapping[str, Any]) -> str:
    """Name what most of the difference is between a turn that was late and the same in time."""
    if "ttft" not in late or "ttft" not in in_time:
        return "no token"
    if not late["missed_by"][0]:
        return "TPOT, moved" if late["moves"] else "TPOT"
    if late["room_after"] - in_time["room_after"] > (late["ttft"] - in_time["ttft"]) / 2:
        return "TTFT, no room"
    more = {name: late[name] - in_time[name] for name in ("computed", "older", "younger")}
    most = max(more, key=lambda name: more[name])
    if more[most] <= ALIKE * late["computed"]:
        return "TTFT, beside rows" if late["rows"] else "TTFT, alone"
    why = {"computed": "history gone", "older": "behind others", "younger": "passed over"}
    return f"TTFT, {why[most]}"


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 1)


@click.command()
@click.option("--traces", envvar="FORETOKEN_TRACES", help="Their folder (docs/workloads.md).")
@click.option("--cell", "named", type=(str, str, float, int, str, str), default=None)
@click.option("--out", type=click.Path(path_type=Path), default=LOSSES)
def main(
    traces: str | None, named: tuple[str, str, float, int, str, str] | None, out: Path
) -> None:
    """Simulate cells, given by cluster, workload, rate, seed and two policies, and compare."""
    cells = [c for c in json.loads(RESULTS.read_text())["cells"] if not c["variant"]]
    wanted = [named] if named else [
        (a["cluster"], a["workload"], a["rate"], FIRST_SEED + i, a["policy"], b["policy"])
        for a, b in losses_of(cells) for i in range(a["seeds"])
    ]  # fmt: skip
    if (problem := lacking([workload for _, workload, *_ in wanted], traces)) is not None:
        raise click.UsageError(problem)
    for cluster, workload, rate, seed, policy, other in wanted:
        cell = Cell(cluster, workload, rate, policy, seed)
        ours, theirs = (run(one, str(traces)) for one in (cell, replace(cell, policy=other)))
        found = compare(cell, ours, other, theirs)
        click.echo(json.dumps(found, indent=1))
        held = {KEY(one): one for one in (json.loads(out.read_text()) if out.exists() else [])}
        held[KEY(found)] = found
        out.write_text(json.dumps([held[key] for key in sorted(held)], indent=1) + "\n")


if __name__ == "__main__":
    main()
