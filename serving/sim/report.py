"""What did a simulation, or a replay, show? One object with documented keys, and a text of it.

    policy, rebalance, predictor, seed    what was run
    workload, skipped                     where the turns come from; what was left out, by reason
    turns, finished                       sent; completed
    failed, given_up                      turns without a whole reply, by reason; turns not sent,
                                          because one before them had failed
    ttft.turn1, ttft.later                time to first token of first and later turns
    tpot, itl                             time per token of a turn; single gaps between tokens
                                          each {mean, p50, p90, p99} in seconds, null without any
    slo                                   {ttft_s, tpot_s}, null for no target
    slo_attainment                        share of the turns sent that were completed within both
    throughput_tps                        reply tokens a second, from first arrival to last token
    goodput_tps                           the same, of turns within both targets only
    cached_share                          prompt tokens that were not computed, of all
    kv_bytes_moved, preemptions, moves    transfers between workers; attempts cut short; rows moved
    pauses                                rows that waited for a page and kept theirs
    steps, span_s                         steps run; from first arrival to last token
    busy                                  what the steps of each worker took together, in seconds
    wall_s                                what the run itself took

Percentiles interpolate linearly between order statistics.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.sim.measure import TurnRecord

QUANTILES = {"p50": 50, "p90": 90, "p99": 99}


def summary(
    turns: Sequence[TurnRecord], gaps: Iterable[float], slo: tuple[float | None, float | None]
) -> dict[str, Any]:
    """Say what the turns got. `slo` holds the targets for first token and per token (seconds)."""
    finished = [turn for turn in turns if turn.completed]
    good = [turn for turn in turns if turn.meets(*slo)]
    ends = [turn.last for turn in turns if turn.last is not None]
    begins = min((turn.arrived for turn in turns), default=0.0)
    span_s = max(ends, default=begins) - begins
    prompts = sum(turn.prompt_len for turn in finished)
    return {
        "turns": len(turns),
        "finished": len(finished),
        "ttft": {
            "turn1": spread(t.ttft_s for t in finished if t.number == 0),
            "later": spread(t.ttft_s for t in finished if t.number > 0),
        },
        "tpot": spread(turn.tpot_s for turn in finished),
        "itl": spread(gaps),
        "slo": {"ttft_s": slo[0], "tpot_s": slo[1]},
        "slo_attainment": len(good) / len(turns) if turns else None,
        "throughput_tps": _rate(turns, span_s),
        "goodput_tps": _rate(good, span_s),
        "cached_share": sum(t.cached_len for t in finished) / prompts if prompts else None,
        "span_s": span_s,
    }


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return mean and quantiles of what is not None; None if nothing is."""
    known = np.array([value for value in values if value is not None], np.float64)
    if not len(known):
        return None
    found = np.percentile(known, list(QUANTILES.values())).tolist()
    return {"mean": float(known.mean()), **dict(zip(QUANTILES, found, strict=True))}


def _rate(turns: Sequence[TurnRecord], span_s: float) -> float | None:
    return sum(turn.tokens for turn in turns) / span_s if span_s else None


def text_of(report: Mapping[str, Any]) -> str:
    """Write a report for people."""
    return "\n".join(
        [
            first_line(report),
            f"policy {report['policy']}, rebalance {report['rebalance']},"
            f" predictor {report['predictor']}, seed {report['seed']}",
            *(f"left out: {count} x {why}" for why, count in report["skipped"].items()),
            "",
            *table_of(times_of(report)),
            "",
            *target_lines(report),
            f"{rates_of(report)}; {report['kv_bytes_moved'] / 2**30:.2f} GiB of KV moved,"
            f" {report['preemptions']} preemptions, {report['moves']} moves",
            f"{report['steps']} steps simulated in {report['wall_s']:.1f} s",
            *(f"failed, {reason}: {count} turns" for reason, count in report["failed"].items()),
            *given_up_lines(report),
        ]
    )


def given_up_lines(report: Mapping[str, Any]) -> list[str]:
    """Say how many turns nobody asked for, since their session had ended; nothing if all were."""
    many = report["given_up"]
    return [f"not sent, because a turn before them failed: {many} turns"] if many else []


def first_line(report: Mapping[str, Any]) -> str:
    """Say what was run."""
    return (
        f"{report['workload']}: {report['turns']} turns, {report['finished']} finished,"
        f" in {report['span_s']:.1f} s"
    )


def times_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, float] | None]:
    """Name the distributions that every report has."""
    return {
        "first token, turn 1": report["ttft"]["turn1"],
        "first token, later": report["ttft"]["later"],
        "per token": report["tpot"],
        "between tokens": report["itl"],
    }


def table_of(rows: Mapping[str, Mapping[str, float] | None]) -> list[str]:
    """Write distributions of seconds as the lines of a table."""
    lines = [f"{'seconds':<22}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}"]
    for name, row in rows.items():
        cells = "".join(f"{v:>10.4f}" for v in row.values()) if row else f"{'none':>10}"
        lines.append(f"{name:<22}{cells}")
    return lines


def target_lines(report: Mapping[str, Any]) -> list[str]:
    """Say which share of turns met which targets; nothing if there are none."""
    if not _has_target(report):
        return []
    slo = {key: "any" if v is None else f"{v:g} s" for key, v in report["slo"].items()}
    attained = report["slo_attainment"]
    return [
        f"within {slo['ttft_s']} to the first token and {slo['tpot_s']} per token:"
        f" {'none' if attained is None else f'{attained:.1%}'} of turns"
    ]


def rates_of(report: Mapping[str, Any]) -> str:
    """Say how many tokens came a second, and how many of them in time, if there is a target."""
    all_of_them = f"{report['throughput_tps'] or 0:.0f} tokens/s"
    if not _has_target(report):
        return all_of_them
    return f"{all_of_them}, {report['goodput_tps'] or 0:.0f} of them in time"


def _has_target(report: Mapping[str, Any]) -> bool:
    return any(target is not None for target in report["slo"].values())
