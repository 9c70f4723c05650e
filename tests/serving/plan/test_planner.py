"""From a command to a plan, on turns that are quickly simulated."""

import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from serving.cli import cli, run
from serving.config import ConfigError
from serving.flags import build_config, read_config_file
from serving.plan.answer import report_of, text_of, toml_of
from serving.plan.demand import Demand, demand_of
from serving.plan.deployment import Deployment, configure, deploy
from serving.plan.judge import Court, Verdict
from serving.plan.options import JUDGE
from serving.plan.planner import Plan, _most_goodput, make_court, make_program, plan
from serving.plan.program import propose
from serving.plan.request import CLIMBING_GPUS
from serving.platforms import suited
from serving.sim.build import SimulationConfig
from serving.sim.options import simulation_config
from serving.sim.run import Outcome
from serving.workload.session import Workload, scale_rate
from tests.serving.plan.requests import ask, short_replies


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan(ask(), short_replies(), show_progress=False)


def test_the_chosen_one_beats_the_others(planned: Plan):
    assert planned.chosen.found.sustained is not None
    assert planned.chosen.found.sustained.attainment >= 0.9
    assert planned.chosen.deployment.gpus == 2
    assert planned.others
    for other in planned.others:
        assert other.rate <= planned.chosen.rate
        assert other.found.failed is not None


def test_the_report_has_its_keys(planned: Plan):
    report = json.loads(json.dumps(report_of(planned)))
    assert set(report) == {
        "objective", "gpus", "model", "hardware", "targets", "deployment", "rate_scale",
        "turns_per_s", "attainment", "goodput_tps", "binds", "cache_kept", "program_rate_scale",
        "runners_up", "demand", "simulations", "wall_s",
    }  # fmt: skip
    assert report["objective"] == "goodput"
    assert report["deployment"]["gpus"] == 2
    assert 0 <= report["cache_kept"] <= 1
    assert report["turns_per_s"] == report["rate_scale"] * report["demand"]["turns_per_s"]


def test_the_text_names_the_deployment_and_the_others(planned: Plan):
    text = text_of(planned)
    assert text.startswith(str(planned.chosen.deployment))
    assert f"binds: {planned.chosen.proposal.binds}" in text
    for other in planned.others:
        assert f"  {other.deployment}: " in text


def test_the_file_starts_the_same_deployment(planned: Plan, tmp_path: Path):
    path = tmp_path / "plan.toml"
    path.write_text(toml_of(planned))
    server = build_config("llama-3.1-8b", read_config_file(path))
    chosen = planned.chosen.deployment
    assert server.mesh.prefill_workers == chosen.prefill_workers
    assert server.mesh.decode_workers == chosen.decode_workers
    assert (server.mesh.prefill_tp, server.mesh.decode_tp) == (
        chosen.prefill_tp,
        chosen.decode_tp,
    )
    assert server.batch.max_num_seqs == chosen.max_num_seqs
    assert server.batch.max_num_batched_tokens == chosen.max_num_batched_tokens
    assert server.memory == planned.request.config.server.memory
    assert server.policy == planned.request.config.server.policy
    assert f"as planned: {chosen.decode_pages}" in path.read_text()


def test_a_model_that_was_fetched_is_called_by_its_id(planned: Plan):
    config = planned.request.config
    server = replace(config.server, checkpoint="/cache/models--org--tiny", name="org/tiny")
    request = replace(planned.request, config=replace(config, server=server))
    fetched = replace(planned, request=request)
    assert report_of(fetched)["model"] == "org/tiny"
    assert f"# {planned.chosen.deployment}, for org/tiny\n" in toml_of(fetched)
    assert "/cache" not in toml_of(fetched)
    assert toml_of(fetched).count("\n") == toml_of(planned).count("\n")


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_the_file_means_the_same_on_every_device_and_in_a_simulation(
    planned: Plan, tmp_path: Path, platform: str
):
    """Also where a plan has just the sizes that a server has on a CPU if none are said."""
    usual = build_config("llama-3.1-8b", {})
    deployment = replace(
        planned.chosen.deployment,
        prefill_workers=0,
        prefill_tp=1,
        decode_workers=2,
        max_num_seqs=usual.batch.max_num_seqs,
        max_num_batched_tokens=usual.batch.max_num_batched_tokens,
    )
    request = ask(page_size=usual.memory.page_size)
    chosen = replace(planned.chosen, deployment=deployment)
    path = tmp_path / "plan.toml"
    path.write_text(toml_of(replace(planned, request=request, chosen=chosen)))
    said = read_config_file(path)
    wanted = configure(request.config, deployment).server
    assert suited(build_config("llama-3.1-8b", said), platform, said) == wanted
    assert simulation_config({"model": "llama-3.1-8b", **JUDGE, "seed": 0, **said}).server == wanted


def test_a_light_load_needs_one_accelerator():
    request = replace(ask(gpus=3), minimise_cost=True)
    found = plan(request, scale_rate(short_replies(), 0.1), show_progress=False)
    assert found.chosen.deployment.gpus == 1
    assert report_of(found)["objective"] == "cost"
    assert found.chosen.rate == 1.0


def test_a_heavy_load_is_more_than_there_are():
    request = replace(ask(gpus=1), minimise_cost=True)
    with pytest.raises(ConfigError, match=r"no deployment of up to 1 accelerators .* raise --gpus"):
        plan(request, scale_rate(short_replies(), 1e4), show_progress=False)


COMMAND = [
    "plan", "--gpus", "1", "--slo-ttft", "2", "--slo-tpot", "0.1", "--limit", "40",
    "--max-context", "3000", "--max-model-len", "4096", "--candidates", "1",
    "--minimise-cost", "--rate-scale", "0.1", "--judged-turns", "15",
]  # fmt: skip


def test_the_command(tmp_path: Path):
    out = tmp_path / "plan.toml"
    done = CliRunner().invoke(cli, [*COMMAND, "--json", "--out", str(out)])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["deployment"]["decode_workers"] == 1
    assert tomllib.loads(out.read_text())["max-num-seqs"] == report["deployment"]["max_num_seqs"]
    assert "judging" in done.stderr


def test_help_says_that_more_than_the_candidates_are_judged():
    told = " ".join(CliRunner().invoke(cli, ["plan", "--help"]).stdout.split())
    assert f"of up to {CLIMBING_GPUS}, neighbours of the best one come on top" in told
    asked = ask(gpus=8)
    _, judge = searched(8, by_split(3))
    assert len(set(judge.asked)) > asked.candidates


def test_a_share_that_is_no_number_is_one_line():
    done = CliRunner().invoke(cli, [*COMMAND, "--attainment", "nan"])
    assert done.exit_code == 2
    assert "Invalid value for '--attainment': nan is not a finite number" in done.stderr


def test_what_is_infeasible_ends_with_one_line(capsys: pytest.CaptureFixture[str]):
    status = run(lambda **_: cli.main([*COMMAND, "--model", "llama-3.1-70b"], **_))
    assert status == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("foretoken: llama-3.1-70b with a context of 4096 tokens needs 2 x")


# ---- the search ---------------------------------------------------------------------------------


class Judge:
    """Stands in for simulations: a deployment's limit is known, and who was asked about it."""

    def __init__(self, demand: Demand, limit: Callable[[Deployment], float]) -> None:
        self.demand = demand
        self.asked: list[tuple[int, int]] = []
        self._limit = limit

    def judge(self, deployment: Deployment, rate: float) -> Verdict:
        self.asked.append((deployment.prefill_workers, deployment.decode_workers))
        held = rate <= self._limit(deployment)
        return Verdict(rate, 1.0 if held else 0.0, float(not held), 0.0, rate, 100)


def searched(gpus: int, limit: Callable[[Deployment], float]) -> tuple[Deployment, Judge]:
    request = replace(ask(gpus=gpus), tolerance=0.02)
    demand = demand_of(short_replies())
    judge = Judge(demand, limit)
    program = make_program(request, demand)
    court = cast("Court", judge)
    judged = list(_most_goodput(request, program, court))
    return max(judged, key=lambda candidate: candidate.rate).deployment, judge


def by_split(best_prefills: int) -> Callable[[Deployment], float]:
    """Workers of one accelerator each, best with so many that prefill; others do less."""

    def limit(one: Deployment) -> float:
        if not one.prefill_workers or (one.prefill_tp, one.decode_tp) != (1, 1):
            return 3.0
        return 10 - abs(one.prefill_workers - best_prefills)

    return limit


@pytest.mark.parametrize("best", [1, 3, 5])
def test_the_search_climbs_to_the_best_split_wherever_the_program_puts_it(best: int):
    found, _ = searched(8, by_split(best))
    assert (found.prefill_workers, found.decode_workers) == (best, 8 - best)


def test_a_large_fleet_is_split_as_the_program_says():
    _, judge = searched(32, by_split(16))
    assert len(set(judge.asked)) <= 2


def test_a_generous_target_takes_no_longer_to_judge_than_a_queue_of_turns_does(
    monkeypatch: pytest.MonkeyPatch,
):
    played: list[int] = []

    def watched(config: SimulationConfig, workload: Workload, *, show_progress: bool) -> Outcome:
        del config, show_progress
        played.append(workload.num_turns)
        return Outcome({}, [], [], [], [])

    monkeypatch.setattr("serving.plan.judge.simulate", watched)
    workload = short_replies()
    demand = demand_of(workload)
    proposal = propose(make_program(ask(), demand), 1)[0]
    for ttft_s in (0.2, 60.0, 240.0):
        request = ask(ttft_s=ttft_s)
        deployment = deploy(proposal, demand, request.targets, 16)
        make_court(request, workload, demand, lambda: None).judge(deployment, 20.0)
    tight, generous, more_generous = played
    assert tight < generous == more_generous
    # Sixteen queues of 200 turns count, behind those in which rows fill.
    assert generous == pytest.approx(16 * 200, rel=0.05)
