"""What a profile times, that it goes on where it stopped, and that the file it makes is used."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from model.config import load_config
from serving.config import ConfigError, CostsConfig
from serving.costs.costs import Link
from serving.costs.make import make_costs
from serving.costs.measured import Grid, Measured, Origin, WorkerShape, write_measured
from serving.costs.shape import shape_of
from serving.engine.buckets import make_buckets
from serving.engine.profile import STEPS, Time, Timers, make_timers, measure, plan_step, start_file
from serving.engine.profile_grid import Plan, Work, edges, plan_grid
from serving.engine.programs import ExecutorSizes
from serving.messages import Role
from tests.support.tiny_cluster import MODEL, SIZES

DEMO = Path(__file__).parents[3] / "checkpoints" / "demo"
WORKER = WorkerShape(Role.DECODE, 1, 4, 16, 2, 4, 128)
WORKS = (Work(1, 1, 0, 0), Work(1, 64, 0, 0), Work(0, 0, 16, 0), Work(1, 1, 16, 0))
PLAN = Plan(WORKS, (1, 4))
PAGE_BYTES = 100


class FakeMachine:
    """Takes a second longer with each point, writes down what it was asked, and may be stopped."""

    def __init__(self, most: int = 1000) -> None:
        self.asked: list[Work | int] = []
        self.most = most

    def time(self, point: Work | int) -> Time:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append(point)
        return Time(float(len(self.asked)), 0.5)

    @property
    def timers(self) -> Timers:
        return Timers(self.time, self.time, PAGE_BYTES)


def run(machine: FakeMachine, kept: Grid | None, *, worker=WORKER, plan=PLAN, timers=None):
    saved: list[Grid] = [] if kept is None else [kept]
    done: list[int] = []
    try:
        measure(worker, plan, kept, timers or machine.timers, saved.append, done.append)
    except KeyboardInterrupt:
        assert len(machine.asked) == machine.most
    return (saved[-1] if saved else None), sum(done)


def test_every_point_of_the_plan_is_timed_once_and_in_order():
    machine = FakeMachine()
    grid, done = run(machine, None)
    assert machine.asked == [*WORKS, 1, 4]
    assert grid is not None
    assert [Work(*p[:4]) for p in grid.steps] == list(WORKS)
    assert [p.seconds for p in grid.steps] == [1, 2, 3, 4]
    assert [(p.num_bytes, p.seconds) for p in grid.transfers] == [(100, 5), (400, 6)]
    assert done == len(WORKS) + 2


@pytest.mark.parametrize("stop", range(7))
def test_a_profile_cut_short_goes_on_where_it_stopped(stop):
    first, rest = FakeMachine(most=stop), FakeMachine()
    part, done = run(first, None)
    assert done == stop
    whole, done = run(rest, part)
    assert first.asked + rest.asked == [*WORKS, 1, 4]
    assert done == len(WORKS) + 2
    assert whole is not None
    assert len(whole.steps) == len(WORKS)
    assert len(whole.transfers) == 2
    if part is not None:
        assert whole.steps[: len(part.steps)] == part.steps


def test_other_buckets_are_timed_anew():
    whole, _ = run(FakeMachine(), None)
    again = FakeMachine()
    grid, _ = run(again, whole, worker=replace(WORKER, max_rows=8))
    assert len(again.asked) == len(WORKS) + 2
    assert grid is not None
    assert grid.worker.max_rows == 8


def test_points_that_the_plan_no_longer_asks_for_are_dropped():
    whole, _ = run(FakeMachine(), None)
    machine = FakeMachine()
    other = Work(1, 32, 0, 0)
    grid, _ = run(machine, whole, plan=Plan((WORKS[0], other), (4,)))
    assert machine.asked == [other]
    assert grid is not None
    assert [Work(*p[:4]) for p in grid.steps] == [WORKS[0], other]
    assert [p.num_bytes for p in grid.transfers] == [400]


def test_a_worker_that_no_pages_come_to_has_no_transfers():
    machine = FakeMachine()
    grid, _ = run(machine, None, timers=Timers(machine.time, None, PAGE_BYTES))
    assert machine.asked == list(WORKS)
    assert grid is not None
    assert grid.transfers == ()


def test_a_file_keeps_the_other_workers_grids():
    decode, prefill = Grid(WORKER, (), ()), Grid(replace(WORKER, role=Role.PREFILL), (), ())
    measured = Measured(Origin(shape_of(MODEL), "cpu", "1"), "", (decode, prefill))
    longer = Grid(replace(WORKER, max_rows=9), (), ())
    merged = measured.with_grid(longer, "2026-01-02")
    assert merged.grid(Role.PREFILL, 1) == prefill
    assert merged.grid(Role.DECODE, 1) == longer
    assert len(merged.grids) == 2
    assert merged.date == "2026-01-02"


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "costs.json"
    origin = Origin(shape_of(MODEL), "cpu", "0.10.2")
    assert start_file(path, origin) == Measured(origin, "", ())
    write_measured(path, Measured(origin, "2026-01-02", (Grid(WORKER, (), ()),)))
    assert start_file(path, origin).grid(Role.DECODE, 1) is not None
    shape = shape_of(replace(MODEL, num_layers=3))
    for other, problem in (
        (replace(origin, jax="0.99"), r"jax: measured with 0\.10\.2"),
        (replace(origin, device="TPU v5 lite"), "device: measured on 'cpu'"),
        (replace(origin, model=shape), r"model\.num_layers"),
    ):
        with pytest.raises(ConfigError, match=problem):
            start_file(path, other)


# ---- the grid -----------------------------------------------------------------------------------


def grid(role: Role, **sizes: int) -> Plan:
    own = replace(SIZES, **sizes)
    buckets = make_buckets(
        role,
        min_rows=1,
        max_rows=own.max_rows,
        max_tokens=own.max_chunk_tokens,
        max_chunks=own.max_chunk_rows,
        max_pages=own.max_pages,
    )
    return plan_grid(buckets, own)


def test_both_ends_of_every_bucket_are_asked_for():
    assert edges((1, 4, 16), 100) == [1, 2, 4, 5, 16]
    assert edges((1, 4, 16), 10) == [1, 2, 4, 5, 10]
    assert edges((), 10) == []


def test_a_bucket_of_rows_is_timed_with_nothing_behind_them_and_with_all_that_fits():
    decode = [work for work in grid(Role.DECODE).steps if not work.new_len]
    assert [w.kv_tokens for w in decode if w.rows == 1] == [1, 32, 128]
    assert [w.kv_tokens for w in decode if w.rows == 4] == [4, 4 * 12, 4 * 48]


def test_a_worker_is_timed_in_its_own_buckets():
    assert all(not work.rows for work in grid(Role.PREFILL).steps)
    assert {w.rows for w in grid(Role.DECODE).steps if w.new_len} == {0, 4}
    assert {w.new_len for w in grid(Role.PREFILL, max_chunk_tokens=64).steps} == {1, 32, 33, 64}
    assert grid(Role.DECODE).pages[-1] == SIZES.max_pages


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("num_pages", [2, 5, 33, 49, 1000])
def test_no_step_needs_more_than_the_pool_or_the_model_has(role, num_pages):
    sizes = replace(SIZES, num_pages=num_pages)
    plan = grid(role, num_pages=num_pages)
    assert plan.steps
    assert len(set(plan.steps)) == len(plan.steps)
    for work in plan.steps:
        step = plan_step(work, sizes)  # raises if the pool is too small
        assert work.position < sizes.max_model_len
        assert work.cached_len + work.new_len <= sizes.max_model_len
        assert step.num_new_tokens == work.rows + work.new_len
    assert all(pages < num_pages for pages in plan.pages)


def test_a_step_is_what_its_point_says_and_no_page_is_shared():
    sizes = ExecutorSizes(100, 4, 128, 4, 16, 2)
    step = plan_step(Work(3, 30, 16, 20), sizes)
    assert step.decode.position.tolist() == [9, 9, 9]
    (chunk,) = step.chunks
    assert (chunk.start, len(chunk.tokens)) == (20, 16)
    used = np.concatenate([step.decode.pages.ravel(), chunk.pages])
    used = used[used > 0]
    assert len(used) == len(set(used.tolist())) == 3 * 3 + 9


# ---- the machine --------------------------------------------------------------------------------


def clock():
    ticks = count()
    return lambda: float(next(ticks))


def test_a_real_worker_is_timed_by_the_step(colocated):
    ((_, executor),) = colocated.executors.values()
    timers = make_timers(executor, None, 3, clock())
    for work in (Work(4, 16, 0, 0), Work(0, 0, 16, 4), Work(4, 4, 16, 4)):
        assert timers.step(work) == Time(1 / STEPS, 0.0)
    assert timers.transfer is None


def test_pages_are_moved_to_the_worker_that_is_timed(split):
    (_, prefill), (_, decode), _ = split.executors.values()
    timers = make_timers(decode, prefill, 2, clock())
    assert timers.transfer is not None
    assert timers.transfer(3) == Time(1.0, 0.0)
    assert timers.page_bytes == 4 * MODEL.kv_bytes_per_token


@pytest.mark.slow
def test_the_command_writes_a_file_that_costs_are_made_from_and_does_nothing_twice(tmp_path):
    out = tmp_path / "costs.json"
    flags = "--prefill-workers 1 --max-num-seqs 2 --max-num-batched-tokens 16 --max-model-len 128"
    command = [sys.executable, "-m", "serving.cli", "profile", str(DEMO), "--out", str(out)]
    command += [*flags.split(), "--max-prefill-rows", "1", "--repeats", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    written = json.loads(out.read_text())

    for worker in written["workers"]:  # as if it had been stopped early
        del worker["steps"][-2:], worker["transfers"][-1:]
    out.write_text(json.dumps(written))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    again = json.loads(out.read_text())
    assert "profiling: 100%" in done.stderr
    for worker, before in zip(again["workers"], written["workers"], strict=True):
        kept = len(before["steps"])
        assert worker["steps"][:kept] == before["steps"]
        assert len(worker["steps"]) == kept + 2
        assert len(worker["transfers"]) == len(before["transfers"]) + 1

    model = load_config(DEMO)
    for role in (Role.PREFILL, Role.DECODE):
        costs = make_costs(CostsConfig(costs=str(out)), shape_of(model), "cpu", 1, role)
        assert 0 < costs.prefill(16, 32).seconds < 10
        assert 0 < costs.mixed(2, 100, 16, 32).seconds < 10
        assert 0 < costs.transfer(100_000, Link(1.0, 1.0)).seconds < 10
