"""What cannot be is told in one line, with what could."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.config import load_config
from model.sharding import ShardingError, check_degree
from serving.config import ConfigError
from serving.costs.measured import (
    Grid,
    Measured,
    Origin,
    StepPoint,
    WorkerShape,
    write_measured,
)
from serving.costs.models import find_model
from serving.messages import Role
from serving.plan.demand import demand_of
from serving.plan.kinds import find_kinds
from serving.plan.planner import make_program
from serving.sim.run import simulate
from serving.workload.session import within_context
from tests.serving.plan.requests import CONTEXT, ask, short_replies

DEMAND = demand_of(short_replies())
DEMO = Path(__file__).parents[3] / "checkpoints" / "demo"


def test_kinds_are_the_degrees_that_fit():
    kinds = find_kinds(ask(gpus=4).config.server, 4, DEMAND)
    assert {(k.role, k.degree) for k in kinds} == {(r, d) for r in Role for d in (1, 2, 4)}
    large = find_kinds(ask(model="llama-3.1-70b").config.server, 8, DEMAND)
    assert {k.degree for k in large} == {4, 8}
    few_heads = find_kinds(ask(model="qwen2.5-7b").config.server, 8, DEMAND)
    assert {k.degree for k in few_heads} == {1, 2, 4}  # 4 key and value heads


@pytest.mark.parametrize(
    ("sizes", "degrees"),
    [({}, {1, 2, 4}), ({"vocab_size": 513}, {1}), ({"num_key_value_heads": 2}, {1, 2})],
)
def test_degrees_that_no_server_takes_are_not_planned(
    tmp_path: Path, sizes: dict[str, int], degrees: set[int]
):
    """As where somebody has added a word to the vocabulary."""
    config = json.loads((DEMO / "config.json").read_text()) | sizes
    (tmp_path / "config.json").write_text(json.dumps(config))
    workload = within_context(short_replies(), 4096)
    request = ask(model=str(tmp_path), max_model_len=4096)
    kinds = find_kinds(request.config.server, 8, demand_of(workload))
    assert {kind.degree for kind in kinds} == degrees
    for degree in (1, 2, 4, 8):
        meshes = replace(request.config.server.mesh, prefill_workers=0, decode_tp=degree)
        server = replace(request.config.server, mesh=meshes)
        if degree in degrees:
            check_degree(load_config(tmp_path), degree)
            continue
        with pytest.raises(ShardingError, match=f"degree {degree} does not divide"):
            check_degree(load_config(tmp_path), degree)
        with pytest.raises(ConfigError, match=f"--decode-tp {degree} does not divide"):
            simulate(replace(request.config, server=server), workload, show_progress=False)


@pytest.mark.parametrize(
    ("route", "roles"),
    [
        ("replicas", {Role.BOTH}),
        ("foretoken", set(Role)),
        ("ampd", {Role.PREFILL, Role.DECODE}),
    ],
)
def test_only_workers_that_the_route_has_a_use_for_are_planned(route: str, roles: set[Role]):
    kinds = find_kinds(ask(route_policy=route).config.server, 2, DEMAND)
    assert {kind.role for kind in kinds} == roles


def test_two_kinds_of_workers_need_two_accelerators():
    problem = "--route-policy ampd needs workers of two kinds, at least 2 x .*raise --gpus from 1"
    with pytest.raises(ConfigError, match=problem):
        find_kinds(ask(route_policy="ampd").config.server, 1, DEMAND)


def test_room_for_kv_is_what_the_weights_leave():
    (one,) = {k.kv_tokens for k in find_kinds(ask().config.server, 1, DEMAND)}
    weights = 2 * 8_030_000_000
    per_token = 2 * 32 * 8 * 128 * 2
    assert one == pytest.approx((80e9 * 0.9 - weights) * 0.9 / per_token, rel=0.01)
    fixed = find_kinds(ask(kv_pages=200).config.server, 1, DEMAND)
    assert {k.kv_tokens for k in fixed} == {199 * 64}


def test_no_lower_context_is_advised_where_weights_alone_do_not_fit():
    large = ask(gpus=1, model="llama-3.1-70b").config.server
    with pytest.raises(ConfigError, match=r"for one worker; raise --gpus from 1 to 4$"):
        find_kinds(large, 1, DEMAND)


def test_a_file_of_measured_times_must_have_what_the_route_needs(tmp_path: Path):
    path = tmp_path / "costs.json"
    shape = find_model("llama-3.1-8b", None).shape
    steps = (StepPoint(1, 100, 0, 0, 0.01, 0.0), StepPoint(0, 0, 64, 0, 0.01, 0.0))
    worker = WorkerShape(Role.DECODE, 1, 8, 64, 8, 64, CONTEXT)
    grid = Grid(worker, steps, ())
    write_measured(path, Measured(Origin(shape, "h100", "0"), "today", (grid,)))
    for route in ("ampd", "foretoken"):
        with pytest.raises(ConfigError, match=r"was not measured \(found: decode over 1\)$"):
            make_program(ask(route_policy=route, costs=str(path)), DEMAND)


def test_quantised_weights_fit_fewer_accelerators_and_leave_more_room():
    large = find_kinds(ask(model="llama-3.1-70b", quantize="int8").config.server, 8, DEMAND)
    assert {k.degree for k in large} == {2, 4, 8}
    whole, eighth = (
        find_kinds(ask(quantize=form).config.server, 1, DEMAND) for form in ("none", "fp8")
    )
    per_token = 2 * 32 * 8 * 128 * 2
    saved = 32 * (4096 * 48 * 128 + 32 * 128 * 4096 + 3 * 4096 * 14336)
    more = eighth[0].kv_tokens - whole[0].kv_tokens
    assert more == pytest.approx(saved * 0.9 / per_token, abs=64)
    step_s = [kinds[0].costs.decode(1, 1000).seconds for kinds in (whole, eighth)]
    assert step_s[1] < 0.7 * step_s[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"model": "llama-3.1-70b", "hardware": "tpu-v5e"},
            "llama-3.1-70b on 8 x tpu-v5e, the highest degree: weights of 131.4 GiB in 115.2 GiB"
            " leave no room for KV; use hardware of more than 19 GiB each",
            id="weights",
        ),
        pytest.param(
            {"model": "llama-3.1-70b", "hardware": "tpu-v6e", "max_model_len": 131072,
             "memory_fraction": 0.6},
            "leave room for 65344 of 131072 tokens; lower --max-model-len to 65344",
            id="context",
        ),
        pytest.param(
            {"model": "llama-3.1-70b"},
            "llama-3.1-70b with a context of 8192 tokens needs 4 x h100 for one worker; raise"
            " --gpus from 2 to 4 or lower --max-model-len to 7872",
            id="accelerators",
        ),
        pytest.param(
            {"max_model_len": 64},
            "more than the 64 of a context; cut it with --max-context 64",
            id="workload",
        ),
        pytest.param(
            {"kv_pages": 4}, "--kv-pages 4 hold no context of 8192 tokens; use 129", id="pages"
        ),
        pytest.param(
            {"kv_pages": 100_000},
            "weights of 15.0 GiB in 536.4 GiB leave no room for --kv-pages 100000; use 74379 at"
            " most",
            id="too many pages",
        ),
        pytest.param(
            {"gpus": 1, "kv_pages": 10_000},
            "needs 2 x h100 for one worker; raise --gpus from 1 to 2 or lower --kv-pages to 7622",
            id="too many pages for one",
        ),
        pytest.param(
            {"tpot_s": 0.001},
            "--slo-tpot 0.001: a step of one row over",
            id="step",
        ),
        pytest.param(
            {"ttft_s": 0.001},
            "--slo-ttft 0.001: 90% of the prompts take up to",
            id="prefill",
        ),
        pytest.param({"model": "gpt-5"}, "--model gpt-5 is neither known", id="model"),
        pytest.param({"hardware": "abacus"}, "--hardware abacus is unknown", id="hardware"),
    ],
)  # fmt: skip
def test_infeasible_requests(settings: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as raised:
        make_program(ask(**settings), DEMAND)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
