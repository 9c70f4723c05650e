"""What did a replay show? The simulator's report of the same workload, as a client can know it.

The keys are those of `serving/sim/report`; what only a server knows about itself is null. More:

    url, model, prompts                  where to, and whether in token ids or in chats
    lengths                              exact, or approximate: chats count words as tokens
    messages                             the first message of each reason in `failed`
    odd_lengths                          whole replies of another length than asked for
    late                                 how long after its time a turn was sent, as ttft
    interrupted                          whether the replay was ended early

`turns` are those sent; `ttft` counts from sending. `cached_share` is null unless the server says
it of every turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.replay.recorder import Recorder
from serving.replay.sessions import INTERRUPTED
from serving.replay.settings import CHAT, ReplayConfig
from serving.sim.report import (
    first_line,
    given_up_lines,
    rates_of,
    spread,
    summary,
    table_of,
    target_lines,
    times_of,
)
from serving.workload.session import Workload

ONLY_BEFORE = ("policy", "rebalance", "predictor")
ONLY_AFTER = ("kv_bytes_moved", "preemptions", "pauses", "moves", "steps", "busy")
"""What a server is run with, and what it does inside."""
LONGEST = 200
"""Characters of a server's message that are repeated."""


@dataclass(frozen=True, slots=True)
class Played:
    """A replay that is over: what was asked, what came, and how long it took in seconds."""

    model: str
    recorder: Recorder
    interrupted: bool
    wall_s: float


def report_of(config: ReplayConfig, workload: Workload, played: Played) -> dict[str, Any]:
    """Say what the turns got."""
    recorder = played.recorder
    slo = (config.slo_ttft_s, config.slo_tpot_s)
    report = {
        **dict.fromkeys(ONLY_BEFORE),
        "seed": config.seed,
        "workload": workload.origin,
        "skipped": workload.skipped,
        **summary(recorder.turns, recorder.gaps, slo),
        **dict.fromkeys(ONLY_AFTER),
        "wall_s": played.wall_s,
        "url": config.url,
        "model": played.model,
        "prompts": config.prompts,
        "lengths": "approximate" if config.prompts == CHAT else "exact",
        "failed": dict(recorder.failed),
        "messages": recorder.messages,
        "given_up": recorder.given_up,
        "odd_lengths": recorder.odd_lengths,
        "late": spread(recorder.late),
        "interrupted": played.interrupted,
    }
    if not recorder.cached_known:
        report["cached_share"] = None
    return report


def text_of(report: Mapping[str, Any]) -> str:
    """Write a report for people."""
    share = report["cached_share"]
    cached = "an unknown share" if share is None else f"{share:.1%}"
    return "\n".join(
        [
            first_line(report),
            f"{report['url']}, model {report['model']}, prompts as {report['prompts']}"
            f" (lengths {report['lengths']}), seed {report['seed']}",
            "",
            *table_of({**times_of(report), "sent late by": report["late"]}),
            "",
            *target_lines(report),
            f"{rates_of(report)}; {cached} of prompt tokens cached",
            *_troubles(report),
        ]
    )


def failure_of(report: Mapping[str, Any]) -> str | None:
    """Say in one line that turns failed, and why most of them did; None if none did.

    Those that an interrupt ended did not fail.
    """
    failed = {why: n for why, n in report["failed"].items() if why != INTERRUPTED.reason}
    if not failed:
        return None
    why = max(failed, key=lambda reason: failed[reason])
    few = "" if report["finished"] else ", and none finished"
    said = " ".join(report["messages"][why].split())[:LONGEST]  # it may be a whole page
    return (
        f"{sum(failed.values())} of {report['turns']} turns failed{few};"
        f" {failed[why]} x {why} ({said})"
    )


def _troubles(report: Mapping[str, Any]) -> list[str]:
    lines = [
        f"failed, {reason}: {count} turns ({report['messages'][reason]})"
        for reason, count in report["failed"].items()
    ]
    lines += given_up_lines(report)
    if report["odd_lengths"]:
        lines.append(f"replies of another length than asked for: {report['odd_lengths']}")
    if report["interrupted"]:
        lines.append("interrupted: this is what had come until then")
    return lines
