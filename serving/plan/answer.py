"""How is a plan told? As text for people, one JSON object, and a file that starts the servers.

JSON keys:

    objective, gpus, model, hardware    what was asked: "goodput" or "cost"
    targets                             {ttft_s, tpot_s, attainment}
    deployment                          prefill_workers, prefill_tp, decode_workers, decode_tp,
                                        max_num_seqs, max_num_batched_tokens, prefill_pages,
                                        decode_pages (pages per worker), gpus
    rate_scale, turns_per_s             the highest rate seen to be sustained
    attainment, goodput_tps             predicted at that rate; reply tokens/s within both targets
    binds                               what ends the rate, by the latency model
    cache_kept                          share of histories that memory has kept at their next turn
    program_rate_scale                  what the integer program expected
    runners_up                          deployments that were judged too: deployment, rate_scale
                                        (null: none seen), and where that ended: failed_rate_scale
                                        with its attainment, late_first, late_tokens
    demand                              means a turn, and tokens of idle sessions at rate scale 1
    simulations, wall_s                 what the answer took
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from serving.flags import build_config, describe, flag_name
from serving.plan.deployment import Deployment, configure
from serving.plan.judge import Verdict
from serving.plan.planner import Candidate, Plan
from serving.sim.options import ACCELERATOR

CHOSEN = (
    "prefill_workers",
    "prefill_tp",
    "decode_workers",
    "decode_tp",
    "max_num_seqs",
    "max_num_batched_tokens",
    "prefill_pages",
    "decode_pages",
)


def report_of(plan: Plan) -> dict[str, Any]:
    """Return the plan as one JSON object."""
    request, demand, chosen = plan.request, plan.demand, plan.chosen
    verdict = _verdict(chosen)
    return {
        "objective": "cost" if request.minimise_cost else "goodput",
        "gpus": request.gpus,
        "model": request.config.server.name,
        "hardware": request.config.server.costs.hardware,
        "targets": asdict(request.targets),
        "deployment": _fields(chosen.deployment),
        "rate_scale": verdict.rate,
        "turns_per_s": verdict.rate * demand.turns_per_s,
        "attainment": verdict.attainment,
        "goodput_tps": verdict.goodput_tps,
        "binds": chosen.proposal.binds,
        "cache_kept": _cache_kept(plan),
        "program_rate_scale": chosen.proposal.rate,
        "runners_up": [_runner_up(candidate) for candidate in plan.others],
        "demand": {
            "turns_per_s": demand.turns_per_s,
            "new": demand.new,
            "cached": demand.cached,
            "reply": demand.reply,
            "idle_tokens": demand.rests.idle_tokens,
        },
        "simulations": plan.simulations,
        "wall_s": plan.wall_s,
    }


def text_of(plan: Plan) -> str:
    """Write the plan for people."""
    report = report_of(plan)
    chosen, targets = plan.chosen.deployment, plan.request.targets
    lines = [
        f"{chosen}: {chosen.gpus} of {plan.request.gpus} {report['hardware']}",
        f"  --max-num-seqs {chosen.max_num_seqs}"
        f" --max-num-batched-tokens {chosen.max_num_batched_tokens};"
        f" pages per worker: {_pages(chosen)}",
        f"  rate scale {report['rate_scale']:.3g} ({report['turns_per_s']:.3g} turns/s):"
        f" {report['attainment']:.1%} of turns within {targets.ttft_s:g} s to the first token and"
        f" {targets.tpot_s:g} s per token, {report['goodput_tps']:.0f} reply tokens/s in time",
        f"  binds: {report['binds']}; {report['cache_kept']:.0%} of histories are still in"
        " memory at the next turn",
    ]
    if plan.others:
        lines += ["", "runners-up:", *map(_runner_up_line, plan.others)]
    lines += ["", f"{plan.simulations} simulations, {plan.wall_s:.0f} s"]
    return "\n".join(lines)


ALWAYS_SAID = frozenset(map(flag_name, ACCELERATOR))
"""Settings whose default depends on the device, or on the command that reads them."""


def toml_of(plan: Plan) -> str:
    """Write the settings that differ from a server's own, for `foretoken serve --config`.

    And those that would be others on accelerators, or in a simulation, if they were not said. Pages
    stay out of it: the server counts them by the memory that it finds free.
    """
    server = configure(plan.request.config, plan.chosen.deployment).server
    usual = set(describe(build_config(server.name, {})).splitlines())
    settings = [
        line
        for line in describe(server).splitlines()
        if line not in usual or line.split(" = ")[0] in ALWAYS_SAID
    ]
    if server.memory.kv_pages is None:
        settings.insert(0, f"# pages per worker, as planned: {_pages(plan.chosen.deployment)}")
    return "\n".join([f"# {plan.chosen.deployment}, for {server.name}", *settings, ""])


def _verdict(candidate: Candidate) -> Verdict:
    verdict = candidate.found.sustained
    assert verdict is not None, "only what sustains a rate is chosen"
    return verdict


def _fields(deployment: Deployment) -> dict[str, int]:
    fields = {name: value for name, value in asdict(deployment).items() if name in CHOSEN}
    return {**fields, "gpus": deployment.gpus}


def _pages(deployment: Deployment) -> str:
    if not deployment.prefill_workers or deployment.prefill_tp == deployment.decode_tp:
        return str(deployment.decode_pages)
    return f"{deployment.prefill_pages} (prefill), {deployment.decode_pages} (decode)"


def _cache_kept(plan: Plan) -> float:
    """Return the share of histories that are found again, at the rate that was found."""
    rests, rate = plan.demand.rests, plan.chosen.rate
    return rests.found(rests.keep_s(plan.chosen.deployment.idle_room(rate), rate))


def _runner_up(candidate: Candidate) -> dict[str, Any]:
    failed = candidate.found.failed
    return {
        "deployment": _fields(candidate.deployment),
        "rate_scale": candidate.rate or None,
        "program_rate_scale": candidate.proposal.rate,
        "failed_rate_scale": None if failed is None else failed.rate,
        "attainment": None if failed is None else failed.attainment,
        "late_first": None if failed is None else failed.late_first,
        "late_tokens": None if failed is None else failed.late_tokens,
    }


def _runner_up_line(candidate: Candidate) -> str:
    failed = candidate.found.failed
    parts: Sequence[str] = [
        *([f"sustains {candidate.rate:.3g}"] if candidate.rate else []),
        *(
            [
                f"at {failed.rate:.3g} only {failed.attainment:.1%} in time"
                f" (late: first token {failed.late_first:.1%}, per token {failed.late_tokens:.1%})"
            ]
            if failed is not None
            else []
        ),
    ]
    return f"  {candidate.deployment}: {', '.join(parts)}"
